//! `WorkerAssignment`: the part of a plan that one of several processes executes in a shared run folder: its own journal, the runs it
//! may take, its leases of the budget. A process becomes a worker by `--job`, as a Slurm task, or by `--pull`.

use std::{collections::BTreeSet, sync::Arc};

use crate::cluster::Submission;
use tiltmeter_experiments::config::Conduct;
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Budget, BudgetLeases, Claims, HaltReason, Plan, Summary, dollars};
use tiltmeter_store::{RunFolder, safe_name};

/// How a process takes part in a shared run folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Worker {
    /// Executes the run of this number only.
    Job(usize),
    /// Executes the runs of one task of a Slurm submission.
    Task { submission: usize, task: usize },
    /// Executes runs that no other worker has claimed; a restarted worker of this name continues its own.
    Pull(String),
}

/// Everything that makes a process a worker.
pub(super) struct WorkerAssignment {
    /// The run folder, with the worker's own journal.
    pub folder: RunFolder,
    /// Runs it executes, or may claim; `None`: all runs of the plan.
    pub runs: Option<Vec<String>>,
    /// Set if each run must be claimed before it is executed.
    pub claims: Option<Arc<Claims>>,
    leases: Option<Arc<BudgetLeases>>,
    /// How to continue once the budget is raised.
    retry_hint: String,
    /// What to do once all workers have ended; `None` for Slurm tasks.
    pub closing: Option<String>,
}

/// Claim whose note is the hash of the plan. Ids of runs end in a number, so it is not the id of a run.
const PLAN: &str = "plan";

/// Maximum length of a worker's name, which is part of file names.
const LONGEST_NAME: usize = 60;

impl WorkerAssignment {
    /// `run_of_job` is the run id of a `Worker::Job`.
    pub fn new(
        worker: &Worker,
        folder: &RunFolder,
        plan: &Plan,
        conduct: &Conduct,
        run_of_job: impl FnOnce(usize) -> Result<String, Problem>,
    ) -> Result<Self, Problem> {
        match worker {
            Worker::Job(number) => Self::of_job(folder, conduct, *number, run_of_job(*number)?),
            Worker::Task { submission, task } => Self::of_task(folder, plan, conduct, *submission, *task),
            Worker::Pull(name) => Self::of_puller(folder, plan, conduct, name),
        }
    }

    /// A job resumes whatever any process has journaled of its run.
    fn of_job(folder: &RunFolder, conduct: &Conduct, number: usize, run: String) -> Result<Self, Problem> {
        let name = format!("job-{number}");
        let place = folder.dir().display();
        Ok(Self {
            folder: folder.for_worker(&name)?,
            runs: Some(vec![run]),
            claims: None,
            leases: manual_leases(folder, &name, conduct)?,
            retry_hint: format!("start them again with a higher budget_limit ({place})"),
            closing: Some(format!("when all runs have ended: tiltmeter collect {place}")),
        })
    }

    /// A Slurm task resumes its own journal, and those of tasks of earlier submissions that had its runs.
    fn of_task(
        folder: &RunFolder,
        plan: &Plan,
        conduct: &Conduct,
        number: usize,
        task: usize,
    ) -> Result<Self, Problem> {
        let submission = Submission::read(folder, number)?;
        let runs = submission.runs_of(task)?.to_vec();
        let file = submission.file.display().to_string();
        if plan.hash() != submission.plan_hash {
            return Err(Problem::new("the experiment is no longer the one that was submitted")
                .at(file)
                .hint("undo the change and use tiltmeter slurm retry, or submit it into another folder"));
        }
        if conduct.budget_limit.is_some() != submission.budget_limit.is_some() {
            return Err(Problem::new("budget_limit was added or removed after the submission")
                .at(file)
                .hint("cancel the tasks, then use tiltmeter slurm retry, which submits them with the current budget"));
        }
        let name = Submission::worker(number, task);
        let wanted: BTreeSet<&str> = runs.iter().map(String::as_str).collect();
        let mut earlier = Vec::new();
        for before in 1..number {
            earlier.extend(Submission::read(folder, before)?.workers_of(folder, &wanted)?);
        }
        let claims = match submission.pull {
            Some(_) => Some(Arc::new(Claims::open(&Submission::runs_dir(folder, number), &name)?)),
            None => None,
        };
        let leases = match submission.budget_limit {
            Some(_) => Some(Arc::new(BudgetLeases::open(folder, &name)?)),
            None => None,
        };
        Ok(Self {
            folder: folder.for_worker(&name)?.resuming_only(earlier),
            runs: Some(runs),
            claims,
            leases,
            retry_hint: format!("tiltmeter slurm retry {}", folder.dir().display()),
            closing: None,
        })
    }

    /// A pulling worker claims runs of the whole plan one by one.
    fn of_puller(folder: &RunFolder, plan: &Plan, conduct: &Conduct, name: &str) -> Result<Self, Problem> {
        let place = folder.dir().display().to_string();
        if safe_name(name).is_err() || name.len() > LONGEST_NAME {
            return Err(Problem::new(format!("{name:?} is not a valid worker name")).at("--pull").hint(format!(
                "use letters, digits, '-', '_' and '.', at most {LONGEST_NAME} bytes, as in --pull node7"
            )));
        }
        if folder.cluster_dir().is_dir() {
            return Err(Problem::new(
                "the runs of this folder were submitted to Slurm, so no other worker may take them",
            )
            .at(&place)
            .hint(format!("tiltmeter slurm retry {place} --pull N submits N workers for the remaining runs")));
        }
        let claims = Claims::open(&folder.claims_dir("runs"), name)?;
        require_same_plan(folder, plan, &claims)?;
        Ok(Self {
            folder: folder.for_worker(name)?,
            runs: None,
            claims: Some(Arc::new(claims)),
            leases: manual_leases(folder, name, conduct)?,
            retry_hint: format!(
                "start the workers again, each with its --pull NAME and a higher budget_limit ({place})"
            ),
            closing: Some(format!("when all workers have ended: tiltmeter collect {place}")),
        })
    }

    /// The budget, limited to the worker's leases if the batch has a limit.
    pub fn share_budget(&self, budget: Budget) -> Budget {
        match &self.leases {
            Some(leases) => budget.shared(leases.clone()),
            None => budget,
        }
    }

    /// Replaces the message of a reached budget limit by one that says the limit is shared.
    pub fn explain_halt(&self, summary: &mut Summary) {
        let spending = summary.ledger.spending;
        if let (Some(limit), Some(halt)) = (spending.limit_micro_usd, &mut summary.halt)
            && halt.reason == HaltReason::Budget
        {
            let (limit, own) = (dollars(limit), dollars(spending.held_micro_usd()));
            halt.problem.what = format!("Budget limit reached: nothing is left of {limit}; this worker spent {own}");
            halt.problem.hint =
                Some(format!("when the other workers have ended, raise budget_limit: {}", self.retry_hint));
        }
    }
}

/// Refuses a worker whose plan differs from that of the other workers.
fn require_same_plan(folder: &RunFolder, plan: &Plan, claims: &Claims) -> Result<(), Problem> {
    let difference = if folder.plan().is_file() {
        Plan::drift(&Plan::read(&folder.plan())?, plan).first().map(|first| format!(": {first}"))
    } else {
        // The first worker has not written the plan yet, but has claimed its hash.
        claims.take_with(PLAN, plan.hash())?;
        let holder = Claims::holder(&folder.claims_dir("runs"), PLAN)?;
        holder.filter(|(_, hash)| hash != plan.hash()).map(|_| String::new())
    };
    match difference {
        None => Ok(()),
        Some(difference) => Err(Problem::new(format!("the workers of this folder execute another plan{difference}"))
            .at(folder.dir().display().to_string())
            .hint("give all workers the same file and the same --set, or choose another folder with --out")),
    }
}

/// Leases of a worker that was started by hand; `None` if the batch has no limit. Refused if one process has used the folder alone: its
/// costs are in no lease, so all workers together could exceed the limit.
fn manual_leases(folder: &RunFolder, worker: &str, conduct: &Conduct) -> Result<Option<Arc<BudgetLeases>>, Problem> {
    let Some(limit) = conduct.budget_limit else { return Ok(None) };
    if folder.journal().is_file() {
        return Err(Problem::new("this folder was started without workers, so its budget_limit cannot be shared")
            .at(folder.journal().display().to_string())
            .hint("continue with: tiltmeter run FILE --resume, without --job and --pull"));
    }
    Ok(Some(Arc::new(leases_up_to(folder, worker, limit)?)))
}

/// Leases of a worker, with the limit of the folder raised to `limit`.
pub(super) fn leases_up_to(folder: &RunFolder, worker: &str, limit: u64) -> Result<BudgetLeases, Problem> {
    let leases = BudgetLeases::open(folder, worker)?;
    let current = leases.raise_limit(limit)?;
    if current > limit {
        return Err(Problem::new(format!(
            "the budget_limit of this folder is {} and may be spent already: it cannot become {}",
            dollars(current),
            dollars(limit)
        ))
        .at("budget_limit")
        .hint(format!("set it to {} or more, or start over in another folder with --out", dollars(current))));
    }
    Ok(leases)
}
