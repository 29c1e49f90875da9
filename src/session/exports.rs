//! Owns what a sitting leaves on disk: documents, tables, vectors, figures, report, summary, manifest. All of it can be made again
//! from the journal, and every file is written whole or not at all.
//! Must not know: flags, terminal.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::afterwards::methods;
use super::keeping::{ArtifactWriter, write_file};
use super::pages::write_report;
use super::report::{Reported, analyse_outcomes, title};
use tiltmeter_experiments::{Exports, Kind, Ledger, NamedTensor, RunRecord, finished};
use tiltmeter_model::EngineStats;
use tiltmeter_model::problem::Problem;
use tiltmeter_report::Options;
use tiltmeter_scheduler::Plan;
use tiltmeter_store::{
    FileEntry, Manifest, Outcome, RunFolder, RunKey, Tensor, TensorData, write_json_atomic, write_tensors,
    write_text_atomic,
};

/// What was written.
pub struct Written {
    /// The analysis; `None` if there is nothing to analyse yet.
    pub reported: Option<Reported>,
    pub files: Vec<PathBuf>,
}

/// Writes everything that the outcomes give.
pub fn write(
    plan: &Plan,
    folder: &RunFolder,
    ran: &[RunRecord],
    books: &Ledger,
    keeper: &ArtifactWriter,
    work: EngineStats,
    manifest: &mut Manifest,
) -> Result<Written, Problem> {
    let outcomes: Vec<(RunKey, Outcome)> = finished(ran).map(|(key, outcome)| (key.clone(), outcome.clone())).collect();
    let outcomes = outcomes.as_slice();
    let Exports { documents, tables, tensors, notes } = keeper.kind().exports(ran, books);
    let mut files = records(folder, ran, books, keeper.kind(), keeper.backups())?;
    for (stem, document) in &documents {
        for path in folder.transcript_places(&format!("{stem}.json"))? {
            write_json_atomic(&path, document)?;
            files.push(path);
        }
    }
    for table in &tables {
        let path = folder.dir().join(format!("{}.parquet", table.name));
        table.write_parquet(&path)?;
        files.push(path);
    }
    if !tensors.is_empty() {
        write_vectors(&folder.vectors(), &tensors)?;
        files.push(folder.vectors());
    }
    let reported = analyse_outcomes(plan, outcomes, &Options::default(), &notes)?;
    if let Some(reported) = &reported {
        write_report(title(plan), folder, reported, &mut files)?;
    }
    manifest.work.extend([
        ("forward_tokens".to_owned(), work.forward_tokens),
        ("unique_tokens".to_owned(), work.unique_tokens),
        ("engine_steps".to_owned(), work.steps),
    ]);
    let roots = [folder.dir(), Path::new(".")];
    manifest.files = files.iter().map(|path| FileEntry::of(path, &roots)).collect::<Result<_, _>>()?;
    manifest.write(&folder.manifest())?;
    files.push(folder.manifest());
    // It tells how the runs were interrupted, so it is no result that the manifest could vouch for.
    write_text_atomic(&folder.methods(), &methods(keeper.kind(), plan, ran, &manifest.sessions))?;
    files.push(folder.methods());
    Ok(Written { reported, files })
}

/// What a kind makes of its plan alone.
pub fn plan_files(folder: &RunFolder, kind: &dyn Kind, backups: Option<&Path>) -> Result<Vec<PathBuf>, Problem> {
    kind.plan_files().iter().map(|file| write_file(folder, backups, file)).collect()
}

/// What a kind leaves besides: files of runs and of the batch, one record a run.
pub fn records(
    folder: &RunFolder,
    ran: &[RunRecord],
    books: &Ledger,
    kind: &dyn Kind,
    backups: Option<&Path>,
) -> Result<Vec<PathBuf>, Problem> {
    let mut files = plan_files(folder, kind, backups)?;
    for file in ran.iter().flat_map(|run| kind.run_files(run)) {
        files.push(write_file(folder, backups, &file)?);
    }
    for file in kind.batch_files(ran) {
        files.push(write_file(folder, backups, &file)?);
    }
    // Some of these take the place of what was written above.
    let mut written: BTreeSet<PathBuf> = files.iter().cloned().collect();
    for file in kind.accounts(ran, books) {
        let path = write_file(folder, backups, &file)?;
        if written.insert(path.clone()) {
            files.push(path);
        }
    }
    // What is not finished may still change, and a dataset is only ever added to; backups hold it.
    let done = ran.iter().filter(|run| run.end == tiltmeter_experiments::RunEnd::Done);
    let records: Vec<_> = done.filter_map(|run| kind.record(run)).collect();
    if !records.is_empty() {
        let lines: String = records.iter().map(|record| format!("{}\n", record.value)).collect();
        write_text_atomic(&folder.game_logs(), &lines)?;
        files.push(folder.game_logs());
    }
    Ok(files)
}

/// Turn-mean vectors.
fn write_vectors(path: &Path, tensors: &[NamedTensor]) -> Result<(), Problem> {
    let tensor = |(name, values): &NamedTensor| {
        Tensor::new(name, values.shape(), TensorData::F32(values.iter().copied().collect()))
    };
    let texts =
        [("format", "tiltmeter-vectors-v1"), ("layout", "[samples, turns, hidden]; NaN where a turn was not measured")];
    write_tensors(path, &texts, &tensors.iter().map(tensor).collect::<Vec<_>>())
}
