//! Retries and reruns: the command that a run folder was started with, so that it can be resumed by its path alone; runs whose flag file
//! was removed; and archiving the files of failed runs before they are retried.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{OffsetDateTime, macros::format_description};

use super::artifact_writer::place;
use super::collect::runs;
use super::{ModelOptions, PreparedRun, RunOptions, find_folder, load, prepare};
use tiltmeter_experiments::{Kind, RunEnd, RunFile, RunRecord, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::recorded;
use tiltmeter_store::RunFolder;

const INVOCATION: &str = "invocation.json";

/// The command that a run folder was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// Absolute path of the experiment file, and the pairs of `--set`.
    pub file: PathBuf,
    pub set: Vec<(String, String)>,
    /// Folder that relative paths in the file refer to.
    pub directory: PathBuf,
}

impl Invocation {
    pub fn new(file: &Path, set: &[(String, String)]) -> Result<Self, Problem> {
        let no_path =
            |error| Problem::new(format!("cannot find the absolute path: {error}")).at(file.display().to_string());
        Ok(Self {
            file: std::path::absolute(file).map_err(no_path)?,
            set: set.to_vec(),
            directory: std::env::current_dir().map_err(no_path)?,
        })
    }

    /// The file in the run folder.
    pub(super) fn file(&self) -> RunFile {
        RunFile { path: INVOCATION.to_owned(), text: format!("{:#}\n", json!(self)) }
    }

    fn read(folder: &RunFolder) -> Result<Self, Problem> {
        let path = folder.dir().join(INVOCATION);
        let unusable = |what: String| {
            Problem::new(format!("cannot read the command that started this folder: {what}"))
                .at(path.display().to_string())
                .hint("continue with: tiltmeter run FILE --resume --out DIR")
        };
        let text = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))
    }
}

/// A retry that is ready to run.
pub struct Retry {
    pub prepared: PreparedRun,
    pub running: RunOptions,
    pub failed: usize,
    pub not_finished: usize,
    /// Folder to which the files of failed runs were moved; `None` if there were none.
    pub archive: Option<PathBuf>,
}

/// Prepares the unfinished runs of a folder for a retry with the original file and settings. `None` if all runs are done.
/// Changes the current directory to that of the original command.
pub fn retry(dir: &Path, models: &ModelOptions) -> Result<Option<Retry>, Vec<Problem>> {
    let one = |problem| vec![problem];
    let folder = find_folder(dir).map_err(one)?;
    let dir = std::path::absolute(folder.dir())
        .map_err(|error| one(Problem::new(format!("no absolute path: {error}")).at(dir.display().to_string())))?;
    let folder = RunFolder::at(&dir);
    let recorded = recorded(&folder).map_err(one)?;
    let kind = kind_of(recorded.plan.document()).map_err(one)?;
    let runs = runs(kind.as_ref(), &recorded);
    let failed: Vec<&RunRecord> = runs.iter().filter(|run| matches!(run.end, RunEnd::Failed(_))).collect();
    let done = runs.iter().filter(|run| run.end == RunEnd::Done).count();
    if done == recorded.planned {
        return Ok(None);
    }
    let invocation = Invocation::read(&folder).map_err(one)?;
    std::env::set_current_dir(&invocation.directory).map_err(|error| {
        let problem = Problem::new(format!("cannot enter the folder of the original command: {error}"));
        one(problem
            .at(invocation.directory.display().to_string())
            .hint("continue from another folder with: tiltmeter run FILE --resume --out DIR"))
    })?;
    let prepared = prepare(load(&invocation.file, &invocation.set)?, models)?;
    let backups = prepared.conduct().local_backup_dir.clone();
    let archive = archive_files(&folder, kind.as_ref(), &failed, backups.as_deref()).map_err(one)?;
    let not_finished = recorded.planned.saturating_sub(done + failed.len());
    let running = RunOptions { out: Some(dir), resume: true, invocation: Some(invocation), ..RunOptions::default() };
    Ok(Some(Retry { prepared, running, failed: failed.len(), not_finished, archive }))
}

/// Moves the files of failed runs to `archive/<time>/` in the run folder.
fn archive_files(
    folder: &RunFolder,
    kind: &dyn Kind,
    failed: &[&RunRecord],
    backups: Option<&Path>,
) -> Result<Option<PathBuf>, Problem> {
    let format = format_description!("[year][month][day]-[hour][minute][second]");
    let moment = OffsetDateTime::now_utc().format(&format).unwrap_or_default();
    let archive = folder.dir().join("archive").join(moment);
    let mut any = false;
    for file in failed.iter().flat_map(|run| kind.run_files(run)) {
        let path = place(folder, backups, &file)?;
        if !path.is_file() {
            continue;
        }
        let kept = archive.join(&file.path);
        let refused = |error: std::io::Error| {
            Problem::new(format!("cannot archive a file of a failed run: {error}"))
                .at(kept.display().to_string())
                .hint("free space and make the folder writable; nothing was run")
        };
        fs::create_dir_all(kept.parent().unwrap_or(&archive)).map_err(refused)?;
        // Backups may be on another disk, where renaming fails.
        fs::rename(&path, &kept).or_else(|_| fs::copy(&path, &kept).map(drop)).map_err(refused)?;
        any = true;
    }
    Ok(any.then_some(archive))
}

/// Ids of finished runs whose flag file was removed, which requests a rerun. The flag is written before the other files of a run, so if
/// only the flag is missing, it was removed on purpose. If the other files are missing too, the folder was cleaned up and nothing is
/// requested.
pub fn requested_reruns(folder: &RunFolder, kind: &dyn Kind, backups: Option<&Path>) -> Vec<String> {
    // A damaged journal is reported when it is resumed.
    let Ok(recorded) = recorded(folder) else { return Vec::new() };
    let found = |file: &RunFile| fs::read_to_string(place(folder, backups, file).ok()?).ok();
    // A flag that cannot be accessed does not count as removed.
    let gone =
        |file: &RunFile| place(folder, backups, file).is_ok_and(|path| path.try_exists().is_ok_and(|there| !there));
    let requested = |run: &&RunRecord| {
        let Some(flag) = kind.flag(run) else { return false };
        let (flags, others): (Vec<_>, Vec<_>) = kind.run_files(run).into_iter().partition(|file| file.path == flag);
        let whole = |file: &RunFile| found(file).is_some_and(|found| found.trim_end() == file.text.trim_end());
        flags.first().is_some_and(gone) && !others.is_empty() && others.iter().all(whole)
    };
    let runs = runs(kind, &recorded);
    runs.iter().filter(|run| run.end == RunEnd::Done).filter(requested).map(|run| run.key.id()).collect()
}
