//! Owns carrying runs out once more: what a folder was begun with, so that it can be gone on with by its name alone, the runs that a
//! person asks for by removing their flag, and what failed runs left, which is put aside before they are tried again.
//! Must not know: flags, terminal.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{OffsetDateTime, macros::format_description};

use super::afterwards::runs;
use super::keeping::place;
use super::{ModelOptions, PreparedRun, RunOptions, find_folder, load, prepare};
use tiltmeter_experiments::{Kind, RunEnd, RunFile, RunRecord, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::recorded;
use tiltmeter_store::RunFolder;

const INVOCATION: &str = "invocation.json";

/// What a run folder was begun with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// The experiment file, whole, and the pairs of `--set`.
    pub file: PathBuf,
    pub set: Vec<(String, String)>,
    /// Where its relative paths begin.
    pub directory: PathBuf,
}

impl Invocation {
    pub fn new(file: &Path, set: &[(String, String)]) -> Result<Self, Problem> {
        let nowhere = |error| Problem::new(format!("this folder has no path: {error}")).at(file.display().to_string());
        Ok(Self {
            file: std::path::absolute(file).map_err(nowhere)?,
            set: set.to_vec(),
            directory: std::env::current_dir().map_err(nowhere)?,
        })
    }

    /// As it is noted in the folder.
    pub(super) fn file(&self) -> RunFile {
        RunFile { path: INVOCATION.to_owned(), text: format!("{:#}\n", json!(self)) }
    }

    fn read(folder: &RunFolder) -> Result<Self, Problem> {
        let path = folder.dir().join(INVOCATION);
        let unusable = |what: String| {
            Problem::new(format!("what this folder was begun with cannot be read: {what}"))
                .at(path.display().to_string())
                .hint("go on with: tiltmeter run FILE --resume --out DIR")
        };
        let text = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))
    }
}

/// What there is to try again.
pub struct Retry {
    pub prepared: PreparedRun,
    pub running: RunOptions,
    pub failed: usize,
    pub not_finished: usize,
    /// Where the files of the failed runs were put; `None`: there were none.
    pub archive: Option<PathBuf>,
}

/// Everything that is not done in a folder, to be carried on from where and with what it was begun. `None`: all is done.
pub fn retry(dir: &Path, opening: &ModelOptions) -> Result<Option<Retry>, Vec<Problem>> {
    let one = |problem| vec![problem];
    let folder = find_folder(dir).map_err(one)?;
    let dir = std::path::absolute(folder.dir())
        .map_err(|error| one(Problem::new(format!("no absolute path: {error}")).at(dir.display().to_string())))?;
    let folder = RunFolder::at(&dir);
    let recorded = recorded(&folder).map_err(one)?;
    let runs = runs(&recorded);
    let failed: Vec<&RunRecord> = runs.iter().filter(|run| matches!(run.end, RunEnd::Failed(_))).collect();
    let done = runs.iter().filter(|run| run.end == RunEnd::Done).count();
    if done == recorded.planned {
        return Ok(None);
    }
    let invocation = Invocation::read(&folder).map_err(one)?;
    std::env::set_current_dir(&invocation.directory).map_err(|error| {
        let problem = Problem::new(format!("the folder it was begun in cannot be entered: {error}"));
        one(problem
            .at(invocation.directory.display().to_string())
            .hint("go on from another one with: tiltmeter run FILE --resume --out DIR"))
    })?;
    let prepared = prepare(load(&invocation.file, &invocation.set)?, opening)?;
    let kind = kind_of(recorded.plan.document()).map_err(one)?;
    let backups = prepared.conduct().local_backup_dir.clone();
    let archive = put_aside(&folder, kind.as_ref(), &failed, backups.as_deref()).map_err(one)?;
    let not_finished = recorded.planned.saturating_sub(done + failed.len());
    let running = RunOptions { out: Some(dir), resume: true, invocation: Some(invocation), ..RunOptions::default() };
    Ok(Some(Retry { prepared, running, failed: failed.len(), not_finished, archive }))
}

/// Moves what these runs left to a folder named after the moment.
fn put_aside(
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
            Problem::new(format!("what a failed run left cannot be put aside: {error}"))
                .at(kept.display().to_string())
                .hint("make room and leave to write there; nothing was run")
        };
        fs::create_dir_all(kept.parent().unwrap_or(&archive)).map_err(refused)?;
        // Copied and not moved where the backups lie on another disk.
        fs::rename(&path, &kept).or_else(|_| fs::copy(&path, &kept).map(drop)).map_err(refused)?;
        any = true;
    }
    Ok(any.then_some(archive))
}

/// Finished runs whose flag a person removed. A flag is written before the other files of a finished run, so one that is missing
/// beside them was there once; where the others are missing, too, somebody tidied up, and the journal stands.
pub fn asked_again(folder: &RunFolder, kind: &dyn Kind, backups: Option<&Path>) -> Vec<String> {
    // Whatever is wrong with the journal is said when it is gone on with.
    let Ok(recorded) = recorded(folder) else { return Vec::new() };
    let found = |file: &RunFile| fs::read_to_string(place(folder, backups, file).ok()?).ok();
    // A flag that cannot be looked at is not one that was removed.
    let gone =
        |file: &RunFile| place(folder, backups, file).is_ok_and(|path| path.try_exists().is_ok_and(|there| !there));
    let asked = |run: &&RunRecord| {
        let Some(flag) = kind.flag(run) else { return false };
        let (flags, others): (Vec<_>, Vec<_>) = kind.run_files(run).into_iter().partition(|file| file.path == flag);
        let whole = |file: &RunFile| found(file).is_some_and(|found| found.trim_end() == file.text.trim_end());
        flags.first().is_some_and(gone) && !others.is_empty() && others.iter().all(whole)
    };
    let runs = runs(&recorded);
    runs.iter().filter(|run| run.end == RunEnd::Done).filter(asked).map(|run| run.key.id()).collect()
}
