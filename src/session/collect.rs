//! Writes every file that follows from a folder's plan and journal. `run` ends with it, and `collect` calls it alone.

use std::path::{Path, PathBuf};

use super::artifact_writer::write_file;
use super::export::{self, Batch};
use super::manifest::{self, Environment};
use super::methods::methods;
use super::report::{Reported, analyse_outcomes};
use tiltmeter_experiments::{Kind, RunRecord, finished, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_report::Options;
use tiltmeter_scheduler::{Plan, Recorded, RunEnd, recorded};
use tiltmeter_store::{Outcome, RunFolder, RunKey, write_atomic, write_text_atomic};

/// The files of a run folder and the results they show.
pub struct Collected {
    /// The analysis; `None` if no condition has a finished run.
    pub reported: Option<Reported>,
    /// The kind's summary for the terminal.
    pub closing: Option<String>,
    pub files: Vec<PathBuf>,
}

/// The run folder at `path`, or the newest run of the experiment folder at `path`.
pub fn find_folder(path: &Path) -> Result<RunFolder, Problem> {
    let folder = RunFolder::at(path);
    if folder.holds_journal()? {
        return Ok(folder);
    }
    let runs = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| RunFolder::at(entry.path()));
    // Names begin with the time, so the greatest is the newest.
    let newest = runs.filter(|run| run.holds_journal().unwrap_or(false)).max_by_key(|run| run.dir().to_owned());
    newest.ok_or_else(|| {
        if !path.exists() {
            return Problem::new("there is no such folder")
                .at(path.display().to_string())
                .hint("check the path; it is relative to the current folder");
        }
        Problem::new("no run is recorded in this folder")
            .at(path.display().to_string())
            .hint("give a run folder, as `tiltmeter run` names it at its end")
    })
}

/// Writes every file of a run folder from its journal.
pub fn collect(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    super::declare_source();
    Ok(write(&find_folder(path)?)?.files)
}

/// Writes every file of a folder that its journal determines, the manifest included.
pub(super) fn write(folder: &RunFolder) -> Result<Collected, Problem> {
    let recorded = recorded(folder)?;
    let environment = Environment::of(&recorded);
    let plan = &recorded.plan;
    plan.write(&folder.plan())?;
    let kind = kind_of(plan.document())?;
    let runs = runs(kind.as_ref(), &recorded);
    let outcomes: Vec<(RunKey, Outcome)> = finished(&runs).map(|(key, run)| (key.clone(), run.clone())).collect();
    let exports = kind.exports(&runs, &recorded.ledger);
    // A report that cannot be made does not keep the other files from being written.
    let (reported, failure) = match analyse_outcomes(plan, &outcomes, &Options::default(), &exports.notes) {
        Ok(reported) => (reported, None),
        Err(problem) => (None, Some(problem)),
    };
    let batch = Batch {
        folder,
        plan,
        kind: kind.as_ref(),
        runs: &runs,
        ledger: &recorded.ledger,
        reported,
        exports,
        backups: environment.local_backup_dir.as_deref(),
    };
    for file in &environment.files {
        write_file(folder, None, file)?;
    }
    let mut files = export::write_all(&batch)?;
    files.push(manifest::write(folder, &recorded, &environment, &files)?);
    // The methods list interruptions, which are no result, so the manifest does not vouch for them.
    write_text_atomic(&folder.methods(), &methods(&batch, &environment))?;
    files.push(folder.methods());
    match failure {
        Some(problem) => Err(problem),
        None => Ok(Collected { reported: batch.reported, closing: kind.closing(&runs), files }),
    }
}

/// Copies transcripts and figures of a run in the default place to `data/generated_transcripts/` and `images/`.
pub(super) fn publish(folder: &RunFolder, files: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let mut copies = Vec::new();
    for path in files {
        let Some(copy) = folder.shared_copy(path) else { continue };
        copy_file(path, &copy)?;
        copies.push(copy);
    }
    Ok(copies)
}

fn copy_file(path: &Path, copy: &Path) -> Result<(), Problem> {
    let bytes = std::fs::read(path)
        .map_err(|error| Problem::new(format!("cannot read: {error}")).at(path.display().to_string()))?;
    write_atomic(copy, &bytes)
}

/// Writes the files that depend on the plan alone.
pub(super) fn write_plan_files(
    folder: &RunFolder,
    plan: &Plan,
    backups: Option<&Path>,
) -> Result<Vec<PathBuf>, Problem> {
    kind_of(plan.document())?.plan_files().iter().map(|file| write_file(folder, backups, file)).collect()
}

/// All planned runs, cell by cell. Runs that the plan no longer contains are left out.
pub(super) fn runs(kind: &dyn Kind, recorded: &Recorded) -> Vec<RunRecord> {
    let found: std::collections::HashMap<String, &RunRecord> =
        recorded.runs.iter().map(|run| (run.key.id(), run)).collect();
    let run = |key: RunKey| match found.get(&key.id()) {
        Some(run) => RunRecord { key, ..(*run).clone() },
        None => RunRecord { key, outcome: None, end: RunEnd::Pending },
    };
    kind.run_keys().into_iter().map(run).collect()
}
