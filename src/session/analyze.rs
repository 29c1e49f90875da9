//! The analysis of a batch that its kind adds to the report, from the journal of a finished or running batch.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::artifact_writer::write_file;
use super::collect::{find_folder, runs};
use tiltmeter_experiments::{BatchAnalysis, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{RunEnd, Snapshot, recorded, status};
use tiltmeter_store::RunFolder;

/// An analysis and the files it was written to.
pub struct Analysed {
    pub analysis: BatchAnalysis,
    /// State of the batch: `{"folder": …, "under_way": false, "runs_planned": 40, "runs_completed": 38, "runs_failed": 1}`.
    pub standing: Map<String, Value>,
    /// Warnings for the reader.
    pub notes: Vec<Problem>,
    pub files: Vec<PathBuf>,
}

/// Computes the analysis of a batch from its journal and writes its files, the Markdown page only if `page`. Unfinished runs of a batch
/// that is still running are left out.
///
/// # Errors
/// No run has ended, or the kind has no analysis.
pub fn analyse(path: &Path, page: bool) -> Result<Analysed, Problem> {
    let folder = find_folder(path)?;
    let under_way = status(&folder)?.writer_active;
    let recorded = recorded(&folder)?;
    let kind = kind_of(recorded.plan.document())?;
    let mut runs = runs(kind.as_ref(), &recorded);
    if under_way {
        runs.retain(|run| run.end != RunEnd::Pending);
    }
    let place = || folder.dir().display().to_string();
    let Some(analysis) = kind.analysis(&runs, &recorded.ledger) else {
        return Err(Problem::new(format!("`kind: {}` has no `analyze` step", kind.name()))
            .at(place())
            .hint(format!("its numbers are in its report: tiltmeter report {}", place())));
    };
    if runs.iter().all(|run| run.end == RunEnd::Pending && run.outcome.is_none()) {
        let hint = match under_way {
            true => "it is still running: wait for its first run",
            false => "finish it: tiltmeter run FILE --resume",
        };
        return Err(Problem::new("no run of this batch has ended yet, so there is nothing to analyse")
            .at(place())
            .hint(hint));
    }
    let count = |end: fn(&RunEnd) -> bool| runs.iter().filter(|run| end(&run.end)).count();
    let (done, failed) = (count(|end| *end == RunEnd::Done), count(|end| matches!(end, RunEnd::Failed(_))));
    let planned = recorded.planned;
    let mut notes = Vec::new();
    if under_way {
        let what = format!("the batch is still running: {done} of {planned} runs are done, {failed} failed");
        notes.push(Problem::new(what).hint("the others are left out; analyze it again when they have ended"));
    } else if done < planned {
        let what = format!("the batch is not complete: {done} of {planned} runs are done, {failed} failed");
        notes.push(Problem::new(what).hint("finish it: tiltmeter run FILE --resume"));
    }
    let mut files = Vec::new();
    for file in analysis.files().chain(page.then(|| analysis.page.clone())) {
        files.push(write_file(&folder, None, &file)?);
    }
    let standing = [
        ("folder", json!(place())),
        ("under_way", json!(under_way)),
        ("runs_planned", json!(planned)),
        ("runs_completed", json!(done)),
        ("runs_failed", json!(failed)),
    ];
    let standing = standing.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Analysed { analysis, standing, notes, files })
}

/// The latest progress of a running session; `None` if no process writes the folder.
pub fn live(folder: &RunFolder) -> Result<Option<Snapshot>, Problem> {
    if !status(folder)?.writer_active {
        return Ok(None);
    }
    let text = std::fs::read_to_string(folder.progress()).unwrap_or_default();
    Ok(serde_json::from_str(&text).ok())
}
