//! Reads run folders without writing to them: progress (`status`) and contents (`recorded`). Works while another process writes.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
};

use serde::Serialize;

use super::{
    budget::{Balance, Spending},
    journal::{Recovered, moment},
    plan::Plan,
    summary::{Account, Ledger, RunEnd, RunRecord},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, Outcome, RunFolder, RunKey, Session, cannot_read};

/// Progress of a run folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Plan hash of the latest session.
    pub plan_hash: Option<String>,
    /// Runs planned by the latest session.
    pub planned: usize,
    /// Runs with an outcome.
    pub done: usize,
    /// Runs that failed and were not retried since.
    pub failed: usize,
    /// Runs that were started and are neither done nor failed.
    pub begun: usize,
    /// Planned runs that are neither done nor failed, including started ones.
    pub pending: usize,
    /// Steps with a result.
    pub steps: u64,
    /// Steps with an intent only: in progress, or, if no process writes the folder, of unknown effect.
    pub uncertain_steps: usize,
    /// Work by unit; of a run in progress, as of its latest step.
    pub work: BTreeMap<String, u64>,
    /// Expected work by unit, where it is known.
    pub totals: BTreeMap<String, u64>,
    /// Failures by run id.
    pub failures: BTreeMap<String, Problem>,
    /// Cost of calls; the limits are those of the latest session.
    pub spending: Spending,
    /// Time of the latest journal entry, RFC 3339 in UTC.
    pub last_activity: Option<String>,
    /// Whether a process is writing the folder.
    pub writer_active: bool,
    /// All sessions, oldest first.
    pub sessions: Vec<Session>,
    /// Accepted plan changes.
    pub accepted_drifts: Vec<Drift>,
}

/// Reads the progress from all journals of a folder.
pub fn status(folder: &RunFolder) -> Result<Status, Problem> {
    let (recovered, writer_active) = read(folder)?;
    let spending = spending(&recovered);
    let done = recovered.runs.values().filter(|run| run.done.is_some()).count();
    let failures: BTreeMap<_, _> =
        recovered.runs.iter().filter_map(|(id, run)| Some((id.clone(), run.failure()?))).collect();
    Ok(Status {
        plan_hash: recovered.plan.as_ref().map(|(_, plan)| plan.hash().to_owned()),
        planned: recovered.planned_runs,
        done,
        failed: failures.len(),
        begun: recovered.runs.len() - done - failures.len(),
        pending: recovered.planned_runs.saturating_sub(done + failures.len()),
        steps: recovered.runs.values().map(|run| run.results).sum(),
        uncertain_steps: recovered.runs.values().map(|run| run.uncertain_steps()).sum(),
        work: recovered.work(),
        totals: recovered.totals,
        failures,
        spending,
        last_activity: recovered.last_activity.map(moment),
        writer_active,
        sessions: recovered.sessions.into_iter().map(|(_, session)| session).collect(),
        accepted_drifts: recovered.accepted_drift,
    })
}

/// Contents of all journals of a run folder. Every other file of the folder can be written again from this.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub plan: Plan,
    /// Every run that was started, by run id.
    pub runs: Vec<RunRecord>,
    /// Number of runs planned by the latest session.
    pub planned: usize,
    /// Costs and sessions of all journals.
    pub ledger: Ledger,
    /// Work by unit, as in `Summary::work`.
    pub work: BTreeMap<String, u64>,
    pub accepted_drifts: Vec<Drift>,
}

/// Reads all journals of a folder.
pub fn recorded(folder: &RunFolder) -> Result<Recorded, Problem> {
    let (recovered, _) = read(folder)?;
    let (_, plan) = recovered.plan.as_ref().ok_or_else(|| {
        Problem::new("the journal has no plan: no session was started in this folder")
            .at(folder.dir().display().to_string())
    })?;
    let experiment = plan.document()["experiment"].as_str().unwrap_or_default();
    let (mut runs, mut accounts) = (Vec::new(), BTreeMap::new());
    for (id, run) in &recovered.runs {
        let key = RunKey::from_id(experiment, id).ok_or_else(|| {
            Problem::new(format!("the journal has a run {id:?}, which is not of the form CELL-NUMBER"))
                .at(folder.dir().display().to_string())
        })?;
        let done = run.outcome(id)?;
        let end = match (&done, run.failure()) {
            (Some(_), _) => RunEnd::Done,
            (None, Some(problem)) => RunEnd::Failed(problem),
            (None, None) => RunEnd::Pending,
        };
        runs.push(RunRecord { key, outcome: done.or_else(|| run.checkpoint()), end });
        let Balance { settled, uncertain, .. } = run.cost();
        let account = Account { settled_micro_usd: settled, uncertain_micro_usd: uncertain, halt: run.halt() };
        accounts.insert(id.clone(), account);
    }
    runs.sort_by_cached_key(|run| run.key.id());
    Ok(Recorded {
        plan: plan.clone(),
        runs,
        planned: recovered.planned_runs,
        work: recovered.work(),
        ledger: Ledger {
            spending: spending(&recovered),
            runs: accounts,
            sessions: recovered.sessions.into_iter().map(|(_, session)| session).collect(),
        },
        accepted_drifts: recovered.accepted_drift,
    })
}

/// Settled and uncertain cost in a worker's own journal, in micro-dollars; 0 if there is no journal.
pub fn spent_by_worker(folder: &RunFolder) -> Result<u64, Problem> {
    let path = folder.journal();
    if !path.is_file() {
        return Ok(0);
    }
    let mut recovered = Recovered::default();
    recovered.read(&path, &File::open(&path).map_err(|error| cannot_read(&path, &error))?)?;
    let costs = recovered.runs.values().map(|run| run.cost());
    Ok(costs.map(|cost| cost.settled.saturating_add(cost.uncertain)).sum())
}

/// The frozen plan, and the outcomes of finished runs by run id.
pub fn finished_runs(folder: &RunFolder) -> Result<(Plan, BTreeMap<String, Outcome>), Problem> {
    let Recorded { plan, runs, .. } = recorded(folder)?;
    let done = runs.into_iter().filter(|run| run.end == RunEnd::Done);
    Ok((plan, done.filter_map(|run| Some((run.key.id(), run.outcome?))).collect()))
}

fn spending(recovered: &Recovered) -> Spending {
    let (limit_micro_usd, run_limit_micro_usd) = recovered.limits;
    let mut spending = Spending { limit_micro_usd, run_limit_micro_usd, ..Spending::default() };
    for cost in recovered.runs.values().map(|run| run.cost()) {
        spending.settled_micro_usd += cost.settled;
        spending.uncertain_micro_usd += cost.uncertain;
    }
    spending
}

fn read(folder: &RunFolder) -> Result<(Recovered, bool), Problem> {
    let mut recovered = Recovered::default();
    let mut writer_active = false;
    let journals = folder.journals()?;
    if journals.is_empty() {
        return Err(Problem::new("no journal in this folder")
            .at(folder.dir().display().to_string())
            .hint("give the folder of a run, as in data/runs/<experiment>/<time>-<plan>"));
    }
    for path in journals {
        let file = File::open(&path).map_err(|error| cannot_read(&path, &error))?;
        // The shared lock only tests whether a writer holds the file.
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map_err(|error| cannot_read(&path, &error))?,
            Err(TryLockError::WouldBlock) => writer_active = true,
            // File systems without locks give no answer; the rest of the status is still correct.
            Err(TryLockError::Error(_)) => {}
        }
        recovered.read(&path, &file)?;
    }
    recovered.sessions.sort_by_key(|(at, _)| *at);
    Ok((recovered, writer_active))
}
