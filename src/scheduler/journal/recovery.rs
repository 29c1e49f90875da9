//! `Recovered`: reads the journals of a run folder into plan, sessions and runs.
//!
//! A last line without a line break is torn: it was never acknowledged and is ignored. Any other damaged line is an error with its
//! number. Several journals of one folder are merged as a set: an entry present in two of them counts once.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::Path,
};

use serde::de::DeserializeOwned;

use super::{
    format::{
        Counts, EntryHead, EntryKind, FORMAT, PREFIX, SessionFormat, SessionStart, SessionStop, value_of, verify,
    },
    recovered_run::{RecoveredRun, value},
};
use crate::plan::Plan;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, Session, timestamp};

/// Contents of the journals of a folder.
#[derive(Default)]
pub struct Recovered {
    pub runs: HashMap<String, RecoveredRun>,
    /// Start of the latest session with a plan (Unix time in ms), and its plan.
    pub plan: Option<(u64, Plan)>,
    pub accepted_drift: Vec<Drift>,
    /// Sessions with their start (Unix time in ms).
    pub sessions: Vec<(u64, Session)>,
    /// Number of runs planned by the latest session.
    pub planned_runs: usize,
    pub totals: Counts,
    /// Limits of the latest session, for the batch and for each run.
    pub limits: (Option<u64>, Option<u64>),
    /// Unix time in ms of the latest entry.
    pub last_activity: Option<u64>,
}

/// End of a journal file.
pub struct FileEnd {
    /// Length of the file without a torn last line.
    pub good_bytes: u64,
    /// Number of complete lines.
    pub lines: u64,
    /// Whether the file has a `session` entry, and so its plan.
    pub has_session: bool,
}

/// Why a line cannot be used.
enum Rejected {
    Damaged(String),
    /// The version of another format.
    Format(u32),
}

impl<T: Into<String>> From<T> for Rejected {
    fn from(reason: T) -> Self {
        Self::Damaged(reason.into())
    }
}

impl Recovered {
    /// Work of all runs by unit; of a run in progress, as of its latest step.
    pub fn work(&self) -> Counts {
        let mut work = Counts::new();
        for (unit, n) in self.runs.values().flat_map(|run| &run.counts) {
            *work.entry(unit.clone()).or_default() += n;
        }
        work
    }

    /// Attributes everything read so far to other workers.
    pub fn attribute_to_others(&mut self) {
        for run in self.runs.values_mut() {
            run.paid_by_others = run.cost();
            run.done_by_others = run.done.is_some();
        }
    }

    /// Reads one journal file from its beginning and adds its entries.
    pub fn read(&mut self, path: &Path, mut file: &File) -> Result<FileEnd, Problem> {
        let unreadable =
            |error: std::io::Error| Problem::new(format!("cannot read: {error}")).at(path.display().to_string());
        file.rewind().map_err(unreadable)?;
        // Ignore lines that are appended while this reads.
        let length = file.metadata().map_err(unreadable)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file.take(length));
        let mut end = FileEnd { good_bytes: 0, lines: 0, has_session: false };
        let mut open_session = None;
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(unreadable)?;
            if line.last() != Some(&b'\n') {
                // A first line that a crash cut off is overwritten; a file of another program must not be.
                let foreign = line.iter().zip(PREFIX).any(|(found, expected)| found != expected);
                if end.lines == 0 && foreign {
                    return Err(Problem::new("this file is not a journal of tiltmeter")
                        .at(path.display().to_string())
                        .hint("it is left untouched: move it away, or choose another folder with --out"));
                }
                return Ok(end);
            }
            line.pop();
            let added = self.add(&line, &mut end, &mut open_session);
            added.map_err(|rejected| rejected.problem(path, end.lines))?;
            end.lines += 1;
            end.good_bytes += bytes as u64;
        }
    }

    fn add(&mut self, line: &[u8], end: &mut FileEnd, open_session: &mut Option<usize>) -> Result<(), Rejected> {
        verify(line)?;
        let head: EntryHead = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if head.n != end.lines {
            return Err(
                format!("it is line {} of the original file, so lines were removed or inserted", head.n + 1).into()
            );
        }
        if end.lines == 0 && head.kind != EntryKind::Session {
            return Err("the first line must contain the plan and the format".into());
        }
        let at = head.at;
        self.last_activity = self.last_activity.max(Some(at));
        match head.kind {
            EntryKind::Session => {
                let SessionFormat { format } = value(line)?;
                if format != FORMAT {
                    return Err(Rejected::Format(format));
                }
                end.has_session = true;
                *open_session = Some(self.sessions.len());
                self.start_session(at, value(line)?);
                return Ok(());
            }
            EntryKind::End => {
                let stop: SessionStop = value(line)?;
                if let Some(index) = open_session.take() {
                    let session = &mut self.sessions[index].1;
                    (session.ended, session.how, session.work) = (Some(moment(at)), stop.how, stop.work);
                }
                return Ok(());
            }
            _ => {}
        }
        let id = head.run.as_deref().ok_or("it names no run")?;
        if !self.runs.contains_key(id) {
            self.runs.insert(id.to_owned(), RecoveredRun::default());
        }
        let Some(run) = self.runs.get_mut(id) else { return Ok(()) };
        Ok(run.of_pass(head.pass).add(id, &head, line)?)
    }

    fn start_session(&mut self, at: u64, start: SessionStart) {
        let session = Session { started: moment(at), environment: start.environment, ..Session::default() };
        self.sessions.push((at, session));
        self.accepted_drift.extend(start.accepted_drift);
        if self.plan.as_ref().is_none_or(|(latest, _)| *latest <= at) {
            self.planned_runs = start.runs;
            self.totals = start.totals;
            self.limits = (start.limit_micro_usd, start.run_limit_micro_usd);
            if let Some(document) = start.plan {
                self.plan = Some((at, Plan::freeze(document)));
            }
        }
    }
}

impl Rejected {
    /// `lines`: number of good lines before the rejected one.
    fn problem(self, path: &Path, lines: u64) -> Problem {
        let number = lines + 1;
        match self {
            Self::Damaged(reason) => Problem::new(format!("line {number} of the journal is damaged: {reason}"))
                .at(format!("{}:{number}", path.display()))
                .hint(format!(
                    "put back an undamaged copy of the file, or keep only its first {lines} lines: later steps are executed again"
                )),
            Self::Format(format) => {
                Problem::new(format!("the journal has format {format}; this version reads format {FORMAT} only"))
                    .at(format!("{}:{number}", path.display()))
                    .hint("resume with the version that wrote it, or start over in another folder with --out")
            }
        }
    }
}

/// The value of an entry as a type that depends on the program version.
pub fn parsed<T: DeserializeOwned>(json: &[u8], what: impl FnOnce() -> String) -> Result<T, Problem> {
    value_of(json).map_err(|error| {
        Problem::new(format!("the journal entry does not have the form that this version reads: {error}"))
            .at(what())
            .hint("resume with the version that wrote it, or start over in another folder with --out")
    })
}

/// Unix time in ms as RFC 3339.
pub fn moment(at_ms: u64) -> String {
    let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    timestamp(time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH))
}
