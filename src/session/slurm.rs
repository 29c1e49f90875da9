//! Owns a batch on a cluster: a plan is frozen and handed to Slurm task by task, what is not done is handed in again, and what the
//! tasks left is put together.
//! Must not know: flags, terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Opening, Prepared, Running, find_folder, load, prepare};
use crate::cluster::{
    Array, Queued, Resources, Submission, absolute, max_array_size, pack, parts, queued, script, submit,
};
use crate::problem::Problem;
use crate::record::{RunFolder, write_text_atomic};
use crate::scheduler::{Plan, recorded};

/// Slurm's own default.
const MAX_ARRAY_SIZE: usize = 1001;

/// What is to be submitted.
#[derive(Clone, Debug)]
pub struct SlurmRequest {
    pub file: PathBuf,
    pub set: Vec<(String, String)>,
    /// The run folder; `None` is a new one in the default place.
    pub out: Option<PathBuf>,
    pub runs_per_task: usize,
    pub resources: Resources,
    /// Write the script and submit nothing.
    pub dry_run: bool,
}

/// What was submitted.
pub struct Submitted {
    pub folder: RunFolder,
    pub submission: Submission,
    pub script: String,
    pub runs: usize,
}

/// Freezes the plan of a new folder and hands all of its runs in.
pub fn slurm_submit(request: &SlurmRequest, opening: &Opening) -> Result<Submitted, Vec<Problem>> {
    let file = absolute(&request.file).map_err(one)?;
    let mut prepared = prepare(load(&file, &request.set)?, opening)?;
    if prepared.conduct().budget_limit.is_some() {
        return Err(one(Problem::new("a budget_limit cannot be shared between the tasks of a cluster")
            .at("budget_limit")
            .hint("limit each run instead, with cost_per_run_limit")));
    }
    let running = Running { out: request.out.clone(), ..Running::default() };
    if request.dry_run {
        // Where it would be; nothing is made.
        let place = request.out.clone().unwrap_or_else(|| Path::new("data/runs").join(prepared.name()).join("NEW"));
        let folder = RunFolder::at(absolute(&place).map_err(one)?);
        let (plan, runs) = (prepared.plan(), prepared.run_ids());
        return hand_in(&folder, &prepared, &plan, &file, runs, request).map_err(one);
    }
    let folder = prepared.folder(&running).map_err(one)?;
    let folder = RunFolder::at(absolute(folder.dir()).map_err(one)?);
    let plan = prepared.plan();
    plan.write(&folder.plan()).map_err(one)?;
    let runs = prepared.run_ids();
    hand_in(&folder, &prepared, &plan, &file, runs, request).map_err(one)
}

/// Hands in again what is neither done nor in the queue. `None`: there is nothing.
pub fn slurm_retry(dir: &Path, request: &SlurmRequest, opening: &Opening) -> Result<Option<Submitted>, Vec<Problem>> {
    let folder = find_submitted(dir).map_err(one)?;
    let submissions = Submission::all(&folder).map_err(one)?;
    let Some(last) = submissions.last() else { return Err(one(never(dir))) };
    let prepared = prepare(load(&last.file, &last.set)?, opening)?.following(&folder);
    let plan = prepared.plan();
    if plan.hash() != last.plan_hash {
        return Err(one(Problem::new("the experiment is no longer the one that was submitted")
            .at(last.file.display().to_string())
            .hint("undo the change, or submit it anew")));
    }
    let done = done(&folder).map_err(one)?;
    let busy = busy(&submissions).map_err(one)?;
    let left: Vec<String> =
        prepared.run_ids().into_iter().filter(|id| !done.contains(id) && !busy.contains(id)).collect();
    if left.is_empty() {
        return Ok(None);
    }
    let request = SlurmRequest { set: last.set.clone(), ..request.clone() };
    hand_in(&folder, &prepared, &plan, &last.file, left, &request).map(Some).map_err(one)
}

fn hand_in(
    folder: &RunFolder,
    prepared: &Prepared,
    plan: &Plan,
    file: &Path,
    runs: Vec<String>,
    request: &SlurmRequest,
) -> Result<Submitted, Problem> {
    let count = runs.len();
    let mut submission = Submission {
        number: Submission::all(folder)?.len() + 1,
        plan_hash: plan.hash().to_owned(),
        file: file.to_owned(),
        set: request.set.clone(),
        tasks: pack(&runs, request.runs_per_task),
        arrays: Vec::new(),
    };
    let program = std::env::current_exe().map_err(|error| Problem::new(format!("which program is this? {error}")))?;
    let text = script(&submission, prepared.name(), folder.dir(), &program, &request.resources);
    if request.dry_run {
        return Ok(Submitted { folder: folder.clone(), submission, script: text, runs: count });
    }
    let dir = folder.cluster_dir();
    // Slurm does not make the folder of its logs, and loses them without a word.
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs).map_err(|error| {
        Problem::new(format!("cannot make the folder of the logs: {error}")).at(logs.display().to_string())
    })?;
    let path = dir.join(format!("task-{}.sh", submission.number));
    write_text_atomic(&path, &text)?;
    // The tasks look their runs up here, so it stands before the first of them can begin.
    submission.write(folder)?;
    let most = max_array_size().unwrap_or(MAX_ARRAY_SIZE);
    for (offset, tasks) in parts(submission.tasks.len(), most) {
        submission.arrays.push(submit(&path, offset, tasks, request.resources.at_once)?);
        submission.write(folder)?;
    }
    Ok(Submitted { folder: folder.clone(), submission, script: text, runs: count })
}

/// Tasks in the queue by their state.
pub fn slurm_queue(dir: &Path) -> Result<BTreeMap<String, usize>, Problem> {
    let folder = find_submitted(dir)?;
    let arrays: Vec<Array> = Submission::all(&folder)?.into_iter().flat_map(|one| one.arrays).collect();
    let mut states = BTreeMap::new();
    for Queued { state, .. } in queued(&arrays)? {
        *states.entry(state).or_default() += 1;
    }
    Ok(states)
}

/// The experiment of a submitted folder, to be carried on here with no run of its own: what the tasks left is put together.
pub fn slurm_collect(dir: &Path, opening: &Opening) -> Result<(Prepared, Running), Vec<Problem>> {
    let folder = find_submitted(dir).map_err(one)?;
    let Some(last) = Submission::all(&folder).map_err(one)?.pop() else { return Err(one(never(dir))) };
    let prepared = prepare(load(&last.file, &last.set)?, opening)?;
    let out = Some(folder.dir().to_owned());
    Ok((prepared, Running { out, resume: true, only: Some(Vec::new()), ..Running::default() }))
}

fn done(folder: &RunFolder) -> Result<BTreeSet<String>, Problem> {
    if !folder.holds_journal()? {
        return Ok(BTreeSet::new());
    }
    let recorded = recorded(folder)?;
    Ok(recorded.runs.into_iter().filter(|(_, run)| run.done).map(|(id, _)| id).collect())
}

/// Runs of tasks that are waiting or under way.
fn busy(submissions: &[Submission]) -> Result<BTreeSet<String>, Problem> {
    let mut busy = BTreeSet::new();
    for submission in submissions {
        for task in queued(&submission.arrays)? {
            let array = submission.arrays.iter().find(|array| array.job == task.job);
            let runs = array.and_then(|array| submission.tasks.get(array.offset + task.index));
            busy.extend(runs.into_iter().flatten().cloned());
        }
    }
    Ok(busy)
}

/// The folder itself, or the newest of an experiment.
fn find_submitted(dir: &Path) -> Result<RunFolder, Problem> {
    let folder = RunFolder::at(dir);
    if folder.cluster_dir().is_dir() { Ok(folder) } else { find_folder(dir) }
}

fn never(dir: &Path) -> Problem {
    Problem::new("nothing of this folder was ever submitted")
        .at(dir.display().to_string())
        .hint("tiltmeter slurm submit FILE")
}

fn one(problem: Problem) -> Vec<Problem> {
    vec![problem]
}
