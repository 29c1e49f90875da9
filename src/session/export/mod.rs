//! The files of a run folder that follow from its plan and journal: one module per format and one row of `EXPORTERS` each.

mod jsonl;
mod kind_files;
mod parquet;
mod records;
mod report;
mod transcripts;
mod vectors;

use std::path::{Path, PathBuf};

use super::artifact_writer::write_file;
use super::report::Reported;
use tiltmeter_experiments::{Exports, Kind, Ledger, RunFile, RunRecord};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::Plan;
use tiltmeter_store::RunFolder;

/// Input of the exporters.
pub struct Batch<'a> {
    pub folder: &'a RunFolder,
    pub plan: &'a Plan,
    pub kind: &'a dyn Kind,
    /// All planned runs, cell by cell.
    pub runs: &'a [RunRecord],
    pub ledger: &'a Ledger,
    pub exports: Exports,
    /// `None` if no condition has a finished run.
    pub reported: Option<Reported>,
    /// Folder for backups instead of the run folder.
    pub backups: Option<&'a Path>,
}

impl Batch<'_> {
    /// Writes a file of the kind.
    fn write(&self, file: &RunFile) -> Result<PathBuf, Problem> {
        write_file(self.folder, self.backups, file)
    }
}

/// Writes the files of one format and returns their paths.
type Exporter = fn(&Batch) -> Result<Vec<PathBuf>, Problem>;

/// In the order in which the files are listed.
const EXPORTERS: &[Exporter] = &[
    kind_files::write,
    records::write,
    transcripts::write,
    parquet::write,
    jsonl::write,
    vectors::write,
    report::write,
];

/// Writes the files of every format.
pub fn write_all(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let mut files = Vec::new();
    for write in EXPORTERS {
        files.extend(write(batch)?);
    }
    Ok(files)
}
