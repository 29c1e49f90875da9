//! Owns what one of several processes that carry out a plan together has of it: a journal of its own, the runs it may take, its part
//! of the budget. They know each other only by the files of the run folder.
//! Must not know: flags, terminal.

use std::{collections::BTreeSet, sync::Arc};

use super::RunOptions;
use crate::cluster::Submission;
use tiltmeter_experiments::config::Conduct;
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Budget, BudgetLeases, Claims, HaltReason, Plan, Summary, dollars};
use tiltmeter_store::{RunFolder, safe_name};

/// One process's part.
pub(super) struct Share {
    /// The folder as its writer sees it.
    pub folder: RunFolder,
    /// Its runs, or those it may take from; `None`: all of the plan.
    pub runs: Option<Vec<String>>,
    /// Where it has to ask for each of them.
    pub claims: Option<Arc<Claims>>,
    leases: Option<Arc<BudgetLeases>>,
    /// How to go on with what is left.
    again: String,
    /// What is left to do when there is nothing to go on with.
    pub closing: Option<String>,
}

/// Claimed like a run, with the hash of the plan that all carry out; runs have a number in their names.
const PLAN: &str = "plan";

/// Longest name of a worker: it becomes a part of names of files.
const LONGEST_NAME: usize = 60;

impl Share {
    /// `None` for a process that has the plan to itself.
    pub fn of(
        folder: &RunFolder,
        plan: &Plan,
        conduct: &Conduct,
        running: &RunOptions,
        job: Option<(usize, String)>,
    ) -> Result<Option<Self>, Problem> {
        if let Some((number, run)) = job {
            return Self::of_job(folder, conduct, number, run).map(Some);
        }
        match (running.task, &running.pull) {
            (Some((number, task)), _) => Self::of_task(folder, plan, conduct, number, task).map(Some),
            (None, Some(name)) => Self::of_worker(folder, plan, conduct, name).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// A process that was begun by hand for one run goes on from whatever was done of it.
    fn of_job(folder: &RunFolder, conduct: &Conduct, number: usize, run: String) -> Result<Self, Problem> {
        let writer = format!("job-{number}");
        let leases = match conduct.budget_limit {
            Some(limit) => Some(Arc::new(begun_shared(folder, &writer, limit)?)),
            None => None,
        };
        let place = folder.dir().display();
        Ok(Self {
            folder: folder.for_writer(&writer)?,
            runs: Some(vec![run]),
            claims: None,
            leases,
            again: format!("begin them again with a higher budget_limit ({place})"),
            closing: Some(format!("when all runs have ended: tiltmeter collect {place}")),
        })
    }

    /// A task of a submission goes on from its own journal, and from those of earlier tasks that had its runs.
    fn of_task(
        folder: &RunFolder,
        plan: &Plan,
        conduct: &Conduct,
        number: usize,
        task: usize,
    ) -> Result<Self, Problem> {
        let submission = Submission::read(folder, number)?;
        let runs = submission.runs_of(task)?.to_vec();
        let place = submission.file.display().to_string();
        if plan.hash() != submission.plan_hash {
            return Err(Problem::new("the experiment is no longer the one that was submitted")
                .at(place)
                .hint("undo the change and use tiltmeter slurm retry, or submit it anew into another folder"));
        }
        if conduct.budget_limit.is_some() != submission.budget_limit.is_some() {
            return Err(Problem::new("the experiment had or lost its budget_limit after it was submitted")
                .at(place)
                .hint(
                    "cancel the tasks, then use tiltmeter slurm retry: it hands them in with the budget as it is now",
                ));
        }
        let writer = Submission::writer(number, task);
        let mut earlier = Vec::new();
        let wanted: BTreeSet<&str> = runs.iter().map(String::as_str).collect();
        for before in 1..number {
            earlier.extend(Submission::read(folder, before)?.writers_of(folder, &wanted)?);
        }
        let claims = match submission.pull {
            Some(_) => Some(Arc::new(Claims::open(&Submission::runs_dir(folder, number), &writer)?)),
            None => None,
        };
        let leases = match submission.budget_limit {
            Some(_) => Some(Arc::new(BudgetLeases::open(folder, &writer)?)),
            None => None,
        };
        let again = format!("tiltmeter slurm retry {}", folder.dir().display());
        let folder = folder.for_writer(&writer)?.going_on_from(earlier);
        Ok(Self { folder, runs: Some(runs), claims, leases, again, closing: None })
    }

    /// A worker that was begun by hand takes whatever nobody has.
    fn of_worker(folder: &RunFolder, plan: &Plan, conduct: &Conduct, name: &str) -> Result<Self, Problem> {
        let place = || folder.dir().display().to_string();
        if safe_name(name).is_err() || name.len() > LONGEST_NAME {
            return Err(Problem::new(format!("{name:?} cannot be the name of a worker")).at("--pull").hint(format!(
                "use letters, digits, '-', '_' and '.', at most {LONGEST_NAME} bytes, as in --pull node7"
            )));
        }
        if folder.cluster_dir().is_dir() {
            return Err(Problem::new(
                "the runs of this folder were handed to Slurm, so no worker beside it may take them",
            )
            .at(place())
            .hint(format!("tiltmeter slurm retry {} --pull N hands in N workers for what is left", place())));
        }
        let claims = Claims::open(&folder.claims_dir("runs"), name)?;
        let other = |what: String| {
            Err(Problem::new(format!("the workers of this folder carry out another plan{what}"))
                .at(place())
                .hint("give all workers the same file and the same --set, or another folder with --out"))
        };
        if folder.plan().is_file() {
            if let Some(first) = Plan::drift(&Plan::read(&folder.plan())?, plan).first() {
                return other(format!(": {first}"));
            }
        } else {
            // Whoever is first has not written it yet, but has claimed which it is.
            claims.take_with(PLAN, plan.hash())?;
            let holder = Claims::holder(&folder.claims_dir("runs"), PLAN)?;
            if holder.is_some_and(|(_, hash)| hash != plan.hash()) {
                return other(String::new());
            }
        }
        let leases = match conduct.budget_limit {
            Some(limit) => Some(Arc::new(begun_shared(folder, name, limit)?)),
            None => None,
        };
        let again =
            format!("begin the workers again, each with its --pull NAME and a higher budget_limit ({})", place());
        let closing = Some(format!("when all workers have ended: tiltmeter collect {}", place()));
        let claims = Some(Arc::new(claims));
        Ok(Self { folder: folder.for_writer(name)?, runs: None, claims, leases, again, closing })
    }

    /// A budget of which this process has its part.
    pub fn part_of(&self, budget: Budget) -> Budget {
        match &self.leases {
            Some(leases) => budget.shared(leases.clone()),
            None => budget,
        }
    }

    /// A budget that is reached is reached by all together.
    pub fn explain(&self, summary: &mut Summary) {
        let spending = summary.ledger.spending;
        if let (Some(limit), Some(halt)) = (spending.limit_micro_usd, &mut summary.halt)
            && halt.reason == HaltReason::Budget
        {
            let (limit, own) = (dollars(limit), dollars(spending.held_micro_usd()));
            halt.problem.what =
                format!("Budget limit reached: of {limit} nothing is left to take; {own} were spent here");
            halt.problem.hint = Some(format!("when the others have ended, raise budget_limit: {}", self.again));
        }
    }
}

/// The leases of a process that was begun by hand. What a process without leases spent is in none of them, so that all together could
/// spend more than the limit: such a folder is gone on with as it was begun.
fn begun_shared(folder: &RunFolder, writer: &str, limit: u64) -> Result<BudgetLeases, Problem> {
    if folder.journal().is_file() {
        return Err(Problem::new(
            "this folder was carried out by one process alone, and its budget_limit is not shared",
        )
        .at(folder.journal().display().to_string())
        .hint("go on with: tiltmeter run FILE --resume, without --job and --pull"));
    }
    covered(folder, writer, limit)
}

/// The leases of a writer, of a limit that is at least begun to be shared.
pub(super) fn covered(folder: &RunFolder, writer: &str, limit: u64) -> Result<BudgetLeases, Problem> {
    let leases = BudgetLeases::open(folder, writer)?;
    let now = leases.cover(limit)?;
    if now > limit {
        return Err(Problem::new(format!(
            "the budget_limit of this folder is {} already and may be spent: it cannot become {}",
            dollars(now),
            dollars(limit)
        ))
        .at("budget_limit")
        .hint(format!("set it to {} or more, or begin again in another folder with --out", dollars(now))));
    }
    Ok(leases)
}
