//! Owns the books of a run folder: which record went to which dataset in which commit (`uploads.json`), what is still to be sent, and the
//! order that keeps both true: first the commit, then the entry. An entry that could not be written is made up for by the next
//! sending, which finds the records there. The file is a convenience, never the only witness: deleting it costs one download.
//! Must not know: requests, what a record means.

use std::{collections::BTreeMap, fs, io};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Appended, Dataset, Record};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{RunFolder, cannot_read, timestamp, write_json_atomic};

/// What one run folder sent, to every place it was ever sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uploads {
    places: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// Address of the Hub.
    hub: String,
    /// `name/dataset`
    repo: String,
    file: String,
    /// By `run_id`.
    sent: BTreeMap<String, Sent>,
}

/// Where a record is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The commit it came with, or the one at which it was found.
    pub commit: String,
    /// RFC 3339, UTC.
    pub time: String,
}

impl Uploads {
    /// The books of this folder; empty where none were begun.
    ///
    /// # Errors
    /// A file that cannot be read, or is something else.
    pub fn of(folder: &RunFolder) -> Result<Self, Problem> {
        let path = folder.uploads();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(cannot_read(&path, &error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Problem::new(format!("the list of what was uploaded is damaged: {error}"))
                .at(path.display().to_string())
                .hint("delete it and send again: records that are in the dataset already are not added a second time")
        })
    }

    /// The records that are not known to be in `file` of this dataset.
    pub fn pending(&self, dataset: &Dataset, file: &str, records: &[Record]) -> Vec<Record> {
        let place = self.places.iter().find(|place| place.is(dataset, file));
        let sent = |record: &&Record| place.is_some_and(|place| place.sent.contains_key(&record.id));
        records.iter().filter(|record| !sent(record)).cloned().collect()
    }

    /// Where a record of this name was sent.
    pub fn sent(&self, dataset: &Dataset, file: &str, id: &str) -> Option<&Sent> {
        self.places.iter().find(|place| place.is(dataset, file))?.sent.get(id)
    }

    fn book(&mut self, dataset: &Dataset, file: &str, records: &[Record], sent: &Sent) {
        let at = self.places.iter().position(|place| place.is(dataset, file)).unwrap_or_else(|| {
            let (hub, repo) = (dataset.endpoint().to_string(), dataset.repo_id().to_string());
            self.places.push(Place { hub, repo, file: file.to_string(), sent: BTreeMap::new() });
            self.places.len() - 1
        });
        self.places[at].sent.extend(records.iter().map(|record| (record.id.clone(), sent.clone())));
    }
}

impl Place {
    fn is(&self, dataset: &Dataset, file: &str) -> bool {
        self.hub == dataset.endpoint() && self.repo == dataset.repo_id() && self.file == file
    }
}

/// Sends the pending ones among the records to `file`, in one commit, and books them. Where none is pending, nothing is asked.
///
/// # Errors
/// As `Dataset::append`, and where the books cannot be read or written. All stay pending then; the next call sends, or finds, them.
pub async fn send(dataset: &Dataset, folder: &RunFolder, file: &str, records: &[Record]) -> Result<Appended, Problem> {
    let pending = Uploads::of(folder)?.pending(dataset, file, records);
    if pending.is_empty() {
        return Ok(Appended { already_there: records.len(), ..Appended::default() });
    }
    let (mut appended, commit) = dataset.append_all(file, &pending).await?;
    appended.already_there += records.len() - pending.len();
    // Read anew: another process may have booked its own while this one waited for the Hub.
    let mut uploads = Uploads::of(folder)?;
    uploads.book(dataset, file, &pending, &Sent { commit, time: timestamp(OffsetDateTime::now_utc()) });
    write_json_atomic(&folder.uploads(), &uploads).map_err(|problem| Problem {
        what: format!("the records are in the dataset, but that could not be noted: {}", problem.what),
        hint: Some("see to the disk and send again: nothing is added twice".into()),
        ..problem
    })?;
    Ok(appended)
}

/// The finished records of a run folder, in the order of its `game_logs.jsonl`; none where it has no such file.
///
/// # Errors
/// A file that cannot be read; a line that is no record.
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
