//! `uploads.json` of a run folder: which record was sent to which dataset in which commit.
//!
//! The commit comes first, then the entry. A missing entry is harmless: the next upload downloads the file and finds the records.

use std::{collections::BTreeMap, fs, io};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::hub::{Appended, Dataset};
use crate::merge::Record;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{RunFolder, cannot_read, timestamp, write_json_atomic};

/// The records that a run folder has sent, by destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uploads {
    destinations: Vec<Destination>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    /// Address of the Hub.
    hub: String,
    /// `name/dataset`
    repo: String,
    file: String,
    /// By `run_id`.
    sent: BTreeMap<String, Sent>,
}

/// The commit that contains a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The commit that added it, or one at which it was found.
    pub commit: String,
    /// RFC 3339, UTC.
    pub time: String,
}

impl Uploads {
    /// Reads `uploads.json`; empty if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or parsed.
    pub fn of(folder: &RunFolder) -> Result<Self, Problem> {
        let path = folder.uploads();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(cannot_read(&path, &error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Problem::new(format!("the list of uploaded records is damaged: {error}"))
                .at(path.display().to_string())
                .hint("delete it and upload again: records in the dataset are not added twice")
        })
    }

    /// The records not recorded as sent to `file` of this dataset.
    pub fn pending(&self, dataset: &Dataset, file: &str, records: &[Record]) -> Vec<Record> {
        let destination = self.destinations.iter().find(|destination| destination.is(dataset, file));
        let sent = |record: &&Record| destination.is_some_and(|destination| destination.sent.contains_key(&record.id));
        records.iter().filter(|record| !sent(record)).cloned().collect()
    }

    /// The commit that contains the record `id`.
    pub fn sent(&self, dataset: &Dataset, file: &str, id: &str) -> Option<&Sent> {
        self.destinations.iter().find(|destination| destination.is(dataset, file))?.sent.get(id)
    }

    fn record(&mut self, dataset: &Dataset, file: &str, records: &[Record], sent: &Sent) {
        let at = self.destinations.iter().position(|destination| destination.is(dataset, file)).unwrap_or_else(|| {
            let (hub, repo) = (dataset.endpoint().to_string(), dataset.repo_id().to_string());
            self.destinations.push(Destination { hub, repo, file: file.to_string(), sent: BTreeMap::new() });
            self.destinations.len() - 1
        });
        self.destinations[at].sent.extend(records.iter().map(|record| (record.id.clone(), sent.clone())));
    }
}

impl Destination {
    fn is(&self, dataset: &Dataset, file: &str) -> bool {
        self.hub == dataset.endpoint() && self.repo == dataset.repo_id() && self.file == file
    }
}

/// Appends the pending records to `file` in one commit and records that. Without pending records no request is made.
///
/// # Errors
/// See [`Dataset::append`]; also if `uploads.json` cannot be read or written. The records then stay pending, and the next call sends or
/// finds them.
pub async fn send(dataset: &Dataset, folder: &RunFolder, file: &str, records: &[Record]) -> Result<Appended, Problem> {
    let pending = Uploads::of(folder)?.pending(dataset, file, records);
    if pending.is_empty() {
        return Ok(Appended { already_there: records.len(), ..Appended::default() });
    }
    let (mut appended, commit) = dataset.append_all(file, &pending).await?;
    appended.already_there += records.len() - pending.len();
    // Read again: another process may have written while this one waited for the Hub.
    let mut uploads = Uploads::of(folder)?;
    uploads.record(dataset, file, &pending, &Sent { commit, time: timestamp(OffsetDateTime::now_utc()) });
    write_json_atomic(&folder.uploads(), &uploads).map_err(|problem| Problem {
        what: format!("the records are in the dataset, but uploads.json cannot be written: {}", problem.what),
        hint: Some("check the disk and upload again: nothing is added twice".into()),
        ..problem
    })?;
    Ok(appended)
}

/// The finished records of a run folder, in the order of its `game_logs.jsonl`; empty without that file.
///
/// # Errors
/// A file that cannot be read, or a line that is not a record.
pub fn records_of(folder: &RunFolder) -> Result<Vec<Record>, Problem> {
    let path = folder.game_logs();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot_read(&path, &error)),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let record = |(i, line): (usize, &str)| {
        Record::from_line(line).map_err(|problem| problem.at(format!("{}:{}", path.display(), i + 1)))
    };
    lines.map(record).collect()
}
