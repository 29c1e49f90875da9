//! `Schedule`: the settings of an execution of runs. `run_loop` executes it.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{
    budget::Budget,
    journal::{Disk, Recovered, WrapDisk},
    plan::Plan,
    progress::Progress,
    rate_limit::Lane,
    run::{Run, RunHooks},
    stop::StopSignal,
    workers::Claims,
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, RunFolder};

/// Order in which runs start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Repetition 1 of all cells, then 2, …: whenever it stops, all cells have nearly the same n.
    #[default]
    Interleaved,
    /// All repetitions of the first cell, then of the second, …
    Sequential,
}

/// Counts work by unit.
pub(super) type WorkCounter = Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>;

/// Executes the runs of one plan in one run folder.
pub struct Schedule {
    pub(super) plan: Plan,
    pub(super) folder: RunFolder,
    pub(super) parallel: usize,
    pub(super) order: Order,
    pub(super) stop: StopSignal,
    pub(super) progress: Arc<Progress>,
    pub(super) resume: bool,
    pub(super) accept_drift: bool,
    pub(super) lanes: Vec<Lane>,
    pub(super) budget: Budget,
    pub(super) inter_run_delay: Duration,
    pub(super) run_time_limit: Option<Duration>,
    pub(super) disk: Option<WrapDisk>,
    pub(super) hooks: Option<Arc<dyn RunHooks>>,
    pub(super) planned: Option<usize>,
    pub(super) rerun: Vec<String>,
    pub(super) claims: Option<Arc<Claims>>,
    pub(super) environment: Value,
    pub(super) work: Option<WorkCounter>,
}

impl Schedule {
    /// Defaults: one run at a time, interleaved, in an unused folder.
    pub fn new(plan: Plan, folder: RunFolder) -> Self {
        Self {
            plan,
            folder,
            parallel: 1,
            order: Order::default(),
            stop: StopSignal::new(),
            progress: Arc::default(),
            resume: false,
            accept_drift: false,
            lanes: Vec::new(),
            budget: Budget::new(),
            inter_run_delay: Duration::ZERO,
            run_time_limit: None,
            disk: None,
            hooks: None,
            planned: None,
            rerun: Vec::new(),
            claims: None,
            environment: Value::Null,
            work: None,
        }
    }

    /// Maximum number of runs in flight.
    pub fn parallel(mut self, runs: usize) -> Self {
        self.parallel = runs;
        self
    }

    /// Order in which runs start.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Signal that ends the schedule early.
    pub fn stop(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// Receives progress.
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Resumes the journal of the folder, if it has one.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Continues even if the plan differs from the journaled one; the differences are journaled.
    pub fn accept_drift(mut self, accept: bool) -> Self {
        self.accept_drift = accept;
        self
    }

    /// Lanes for calls; their names must differ.
    pub fn lanes(mut self, lanes: Vec<Lane>) -> Self {
        self.lanes = lanes;
        self
    }

    /// Budget of calls. Its amounts are restored from the journal when the schedule starts, so a budget serves one schedule.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Minimum time between the starts of two runs.
    pub fn inter_run_delay(mut self, delay: Duration) -> Self {
        self.inter_run_delay = delay;
        self
    }

    /// Time limit of a run. A run that takes longer fails; a resume continues it.
    pub fn run_time_limit(mut self, limit: Duration) -> Self {
        self.run_time_limit = Some(limit);
        self
    }

    /// Number of runs in the plan, if this schedule executes only some of them.
    pub fn planned(mut self, runs: usize) -> Self {
        self.planned = Some(runs);
        self
    }

    /// Ids of finished runs to execute again from the beginning. Their previous cost still counts.
    pub fn rerun(mut self, runs: Vec<String>) -> Self {
        self.rerun = runs;
        self
    }

    /// Claims of the workers that share the runs. A run is executed by the first worker that claims it; the summary omits the runs of
    /// other workers.
    pub fn claims(mut self, claims: Arc<Claims>) -> Self {
        self.claims = Some(claims);
        self
    }

    /// Model cards, axis hashes, program version, host. Journaled when the session starts.
    pub fn environment(mut self, environment: Value) -> Self {
        self.environment = environment;
        self
    }

    /// Counts the engine's work of this session by unit. Called once, when the session ends, and journaled then.
    pub fn work(mut self, work: impl Fn() -> BTreeMap<String, u64> + Send + Sync + 'static) -> Self {
        self.work = Some(Box::new(work));
        self
    }

    /// Callbacks for checkpoints and outcomes of runs.
    pub fn hooks(mut self, hooks: Arc<dyn RunHooks>) -> Self {
        self.hooks = Some(hooks);
        self
    }

    /// Replaces the journal file by another disk, for tests of disk failures.
    pub fn disk(mut self, wrap: impl FnOnce(File) -> Box<dyn Disk> + Send + 'static) -> Self {
        self.disk = Some(Box::new(wrap));
        self
    }

    /// Whether a new run could still make a call.
    pub(super) fn can_start_runs(&self) -> bool {
        let all_off = !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.off().is_some());
        !all_off && !self.budget.exhausted()
    }

    /// Checks that need no file access beyond the folder's listing.
    pub(super) fn check(&self, runs: &[Arc<dyn Run>]) -> Result<(), Problem> {
        if self.parallel == 0 {
            return Err(Problem::new("`parallel` is 0").hint("set parallel to 1 or more"));
        }
        let mut ids = HashSet::new();
        if let Some(twice) = runs.iter().map(|run| run.key().id()).find(|id| !ids.insert(id.clone())) {
            return Err(Problem::new(format!("two runs have the id {twice}")).hint("give the cells different names"));
        }
        let mut names = HashSet::new();
        if let Some(twice) = self.lanes.iter().find(|lane| !names.insert(lane.name())) {
            return Err(Problem::new(format!("two lanes have the name {:?}", twice.name())));
        }
        if self.resume { Ok(()) } else { self.folder.require_unused() }
    }

    /// Differences to the journaled plan; an error unless they are accepted.
    pub(super) fn drift(&self, recovered: &Recovered) -> Result<Vec<Drift>, Problem> {
        let Some((_, recorded)) = &recovered.plan else { return Ok(Vec::new()) };
        let drift = Plan::drift(recorded, &self.plan);
        if drift.is_empty() || self.accept_drift {
            return Ok(drift);
        }
        let fields = if drift.len() == 1 { "1 field differs" } else { &format!("{} fields differ", drift.len()) };
        let list: String = drift.iter().map(|one| format!("\n    {one}")).collect();
        Err(Problem::new(format!("the plan differs from the one in this folder: {fields}{list}"))
            .at(self.folder.dir().display().to_string())
            .hint("undo the change; or start over in another folder with --out; or continue with --accept-drift, which is recorded"))
    }
}
