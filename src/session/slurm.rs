//! Batches on Slurm: freezes a plan and submits its runs, resubmits unfinished runs, and collects the results.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{ModelOptions, PreparedRun, RunOptions, find_folder, load, prepare, workers::leases_up_to};
use crate::cluster::{
    Array, Queued, Resources, Submission, absolute, max_array_size, pack, parts, queued, script, submit,
};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{BudgetLeases, Plan, recorded, spent_by_worker};
use tiltmeter_store::{RunFolder, write_text_atomic};

/// Slurm's default.
const MAX_ARRAY_SIZE: usize = 1001;

/// A submission to make.
#[derive(Clone, Debug)]
pub struct SlurmRequest {
    pub file: PathBuf,
    pub set: Vec<(String, String)>,
    /// The run folder; `None` creates one in the default place.
    pub out: Option<PathBuf>,
    pub runs_per_task: usize,
    /// Number of tasks that claim runs one by one, instead of tasks with fixed lists of runs.
    pub pull: Option<usize>,
    pub resources: Resources,
    /// Create the script without submitting it.
    pub dry_run: bool,
}

/// A submission that was made.
pub struct Submitted {
    pub folder: RunFolder,
    pub submission: Submission,
    pub script: String,
    pub runs: usize,
}

/// Freezes the plan of a new folder and submits all of its runs.
pub fn slurm_submit(request: &SlurmRequest, models: &ModelOptions) -> Result<Submitted, Vec<Problem>> {
    let file = absolute(&request.file).map_err(single)?;
    let mut prepared = prepare(load(&file, &request.set)?, models)?;
    let running = RunOptions { out: request.out.clone(), ..RunOptions::default() };
    if request.dry_run {
        // The path it would have; nothing is created.
        let place = request.out.clone().unwrap_or_else(|| Path::new("data/runs").join(prepared.name()).join("NEW"));
        let folder = RunFolder::at(absolute(&place).map_err(single)?);
        let (plan, runs) = (prepared.plan(), prepared.run_ids());
        return submit_runs(&folder, &prepared, &plan, &file, runs, request).map_err(single);
    }
    let folder = prepared.folder(&running).map_err(single)?;
    // There is no journal yet if no task has started.
    if !Submission::all(&folder).map_err(single)?.is_empty() {
        return Err(single(
            Problem::new("the runs of this folder were submitted already")
                .at(folder.dir().display().to_string())
                .hint("tiltmeter slurm retry DIR submits the runs that are neither done nor in the queue"),
        ));
    }
    let folder = RunFolder::at(absolute(folder.dir()).map_err(single)?);
    let plan = prepared.plan();
    plan.write(&folder.plan()).map_err(single)?;
    let runs = prepared.run_ids();
    submit_runs(&folder, &prepared, &plan, &file, runs, request).map_err(single)
}

/// Submits the runs that are neither done nor queued, with changed settings. `None` if there are none.
pub fn slurm_retry(
    dir: &Path,
    request: &SlurmRequest,
    models: &ModelOptions,
) -> Result<Option<Submitted>, Vec<Problem>> {
    let folder = find_submitted(dir).map_err(single)?;
    let submissions = Submission::all(&folder).map_err(single)?;
    let Some(last) = submissions.last() else { return Err(single(not_submitted(dir))) };
    let set: Vec<_> = last.set.iter().chain(&request.set).cloned().collect();
    let prepared = prepare(load(&last.file, &set)?, models)?.following(&folder);
    let plan = prepared.plan();
    if plan.hash() != last.plan_hash {
        return Err(single(Problem::new("the experiment is no longer the one that was submitted")
            .at(last.file.display().to_string())
            .hint("undo the change, or submit it into another folder; only settings of the execution can change, such as budget_limit")));
    }
    let queue = Queue::now(&submissions).map_err(single)?;
    let busy = queue.busy(&folder, &submissions).map_err(single)?;
    let done = done(&folder).map_err(single)?;
    let left: Vec<String> =
        prepared.run_ids().into_iter().filter(|id| !done.contains(id) && !busy.contains(id)).collect();
    if left.is_empty() {
        return Ok(None);
    }
    let budget_limit = prepared.conduct().budget_limit;
    if let Some(other) = queue.with_other_budget(&submissions, budget_limit.is_some()) {
        return Err(single(
            Problem::new("tasks with and without a budget_limit cannot share a folder")
                .at(format!("submission {}, still in the queue", other.number))
                .hint("wait until they end, or cancel them with scancel"),
        ));
    }
    if let Some(limit) = budget_limit {
        release_leases(&folder, limit, &queue.workers()).map_err(single)?;
    }
    let request = SlurmRequest { set, ..request.clone() };
    submit_runs(&folder, &prepared, &plan, &last.file, left, &request).map(Some).map_err(single)
}

/// Releases the unspent leases of all workers that are not in the queue.
fn release_leases(folder: &RunFolder, limit: u64, queued: &BTreeSet<String>) -> Result<(), Problem> {
    leases_up_to(folder, SUBMITTER, limit)?;
    let mut workers = BudgetLeases::workers(folder)?;
    // Workers that spent before there was a limit have no leases yet.
    workers.extend(folder.workers()?);
    for worker in workers.difference(queued).filter(|worker| *worker != SUBMITTER) {
        let spent = spent_by_worker(&folder.for_worker(worker)?)?;
        BudgetLeases::open(folder, worker)?.release_unspent(spent)?;
    }
    // Costs of a process that was not a worker.
    BudgetLeases::open(folder, SUBMITTER)?.release_unspent(spent_by_worker(folder)?)
}

/// Worker name of the submitting process: it raises the limit and holds the leases for costs outside of tasks.
const SUBMITTER: &str = "submitter";

/// Queued tasks by submission.
struct Queue(BTreeMap<usize, BTreeSet<usize>>);

impl Queue {
    fn now(submissions: &[Submission]) -> Result<Self, Problem> {
        let mut found: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for submission in submissions {
            for task in queued(&submission.arrays)? {
                let array = submission.arrays.iter().find(|array| array.job == task.job);
                let number = array.map(|array| array.offset + task.index);
                found.entry(submission.number).or_default().extend(number);
            }
        }
        Ok(Self(found))
    }

    fn tasks(&self, submission: &Submission) -> BTreeSet<usize> {
        self.0.get(&submission.number).cloned().unwrap_or_default()
    }

    /// Runs that queued tasks may still execute.
    fn busy(&self, folder: &RunFolder, submissions: &[Submission]) -> Result<BTreeSet<String>, Problem> {
        let mut busy = BTreeSet::new();
        for submission in submissions {
            busy.extend(submission.busy(folder, &self.tasks(submission))?);
        }
        Ok(busy)
    }

    fn workers(&self) -> BTreeSet<String> {
        let workers = |(number, tasks): (&usize, &BTreeSet<usize>)| -> Vec<String> {
            tasks.iter().map(|task| Submission::worker(*number, *task)).collect()
        };
        self.0.iter().flat_map(workers).collect()
    }

    /// A queued submission with a budget if the new one has none, or without one if the new one has one.
    fn with_other_budget<'a>(&self, submissions: &'a [Submission], limited: bool) -> Option<&'a Submission> {
        let differs = |other: &&Submission| other.budget_limit.is_some() != limited && !self.tasks(other).is_empty();
        submissions.iter().find(differs)
    }
}

fn submit_runs(
    folder: &RunFolder,
    prepared: &PreparedRun,
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
        tasks: match request.pull {
            Some(_) => vec![runs],
            None => pack(&runs, request.runs_per_task),
        },
        // More tasks than runs would have nothing to do.
        pull: request.pull.map(|workers| workers.clamp(1, count.max(1))),
        budget_limit: prepared.conduct().budget_limit,
        arrays: Vec::new(),
    };
    let program = std::env::current_exe()
        .map_err(|error| Problem::new(format!("cannot find the path of this program: {error}")))?;
    let text = script(&submission, prepared.name(), folder.dir(), &program, &request.resources);
    if request.dry_run {
        return Ok(Submitted { folder: folder.clone(), submission, script: text, runs: count });
    }
    let dir = folder.cluster_dir();
    // Slurm does not create the folder of its logs and silently drops them if it is missing.
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs).map_err(|error| {
        Problem::new(format!("cannot create the folder for logs: {error}")).at(logs.display().to_string())
    })?;
    let path = dir.join(format!("task-{}.sh", submission.number));
    write_text_atomic(&path, &text)?;
    if let Some(limit) = submission.budget_limit {
        leases_up_to(folder, SUBMITTER, limit)?;
    }
    // Tasks read their runs from this file, so it is written before the first of them can start.
    submission.write(folder)?;
    let most = max_array_size().unwrap_or(MAX_ARRAY_SIZE);
    for (offset, tasks) in parts(submission.count(), most) {
        submission.arrays.push(submit(&path, offset, tasks, request.resources.at_once)?);
        submission.write(folder)?;
    }
    Ok(Submitted { folder: folder.clone(), submission, script: text, runs: count })
}

/// Number of queued tasks by state.
pub fn slurm_queue(dir: &Path) -> Result<BTreeMap<String, usize>, Problem> {
    let folder = find_submitted(dir)?;
    let arrays: Vec<Array> = Submission::all(&folder)?.into_iter().flat_map(|one| one.arrays).collect();
    let mut states = BTreeMap::new();
    for Queued { state, .. } in queued(&arrays)? {
        *states.entry(state).or_default() += 1;
    }
    Ok(states)
}

/// The experiment of a submitted folder, to be opened here without executing runs, in order to write all files.
pub fn slurm_collect(dir: &Path, models: &ModelOptions) -> Result<(PreparedRun, RunOptions), Vec<Problem>> {
    let folder = find_submitted(dir).map_err(single)?;
    let Some(last) = Submission::all(&folder).map_err(single)?.pop() else { return Err(single(not_submitted(dir))) };
    let prepared = prepare(load(&last.file, &last.set)?, models)?;
    let out = Some(folder.dir().to_owned());
    Ok((prepared, RunOptions { out, resume: true, only: Some(Vec::new()), ..RunOptions::default() }))
}

fn done(folder: &RunFolder) -> Result<BTreeSet<String>, Problem> {
    if !folder.holds_journal()? {
        return Ok(BTreeSet::new());
    }
    let recorded = recorded(folder)?;
    Ok(recorded.runs.iter().filter(|run| run.done().is_some()).map(|run| run.key.id()).collect())
}

/// The folder itself, or the newest run folder of an experiment.
fn find_submitted(dir: &Path) -> Result<RunFolder, Problem> {
    let folder = RunFolder::at(dir);
    if folder.cluster_dir().is_dir() { Ok(folder) } else { find_folder(dir) }
}

fn not_submitted(dir: &Path) -> Problem {
    Problem::new("this folder was never submitted").at(dir.display().to_string()).hint("tiltmeter slurm submit FILE")
}

fn single(problem: Problem) -> Vec<Problem> {
    vec![problem]
}
