//! Owns `Schedule`: what it is told, what it finds in the journal when it begins, and what is left when it ends.
//! Must not know: models, engine, provider, kinds.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::File,
    mem,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    budget::{Budget, Sums},
    call::Halt,
    context::{Run, RunHooks, Shared, StepCounters},
    journal::{Disk, Journal, WrapDisk},
    journal_format::{FORMAT, Kind, Line, SessionStart, SessionStop},
    lane::Lane,
    plan::Plan,
    progress::Progress,
    recover::{Recovered, RecoveredRun, time_of},
    stop::{StopLevel, StopSignal},
    summary::{Ledger, RunEnd, RunRecord, Summary},
    workers::Claims,
};
use serde::Serialize;
use serde_json::Value;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, RunFolder, Session, SessionEnd, timestamp};

/// In which order runs start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Repetition 1 of all cells, then 2, …: wherever it is stopped, all cells have nearly the same n.
    #[default]
    Interleaved,
    /// All repetitions of the first cell, then of the second, …
    Sequential,
}

/// Carries out the runs of one plan in one run folder.
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
    pub(super) again: Vec<String>,
    pub(super) claims: Option<Arc<Claims>>,
    environment: Value,
    work: Option<Box<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>>,
}

impl Schedule {
    /// One run at a time, interleaved, in an unused folder, until told otherwise.
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
            again: Vec::new(),
            claims: None,
            environment: Value::Null,
            work: None,
        }
    }

    /// Most runs in flight.
    pub fn parallel(mut self, runs: usize) -> Self {
        self.parallel = runs;
        self
    }

    /// In which order runs start.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// What may end the schedule early.
    pub fn stop(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// Where progress is shown from.
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Goes on with what the folder holds. A folder that holds nothing is begun.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Goes on although the plan is another than the recorded one. The differences are recorded.
    pub fn accept_drift(mut self, accept: bool) -> Self {
        self.accept_drift = accept;
        self
    }

    /// The ways calls can take, by name.
    pub fn lanes(mut self, lanes: Vec<Lane>) -> Self {
        self.lanes = lanes;
        self
    }

    /// What calls may cost. The books are filled from the journal when the schedule begins, so a budget serves one schedule.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Shortest time between the starts of two runs.
    pub fn inter_run_delay(mut self, delay: Duration) -> Self {
        self.inter_run_delay = delay;
        self
    }

    /// A run that takes longer is dropped and has failed; a resume goes on with it.
    pub fn run_time_limit(mut self, limit: Duration) -> Self {
        self.run_time_limit = Some(limit);
        self
    }

    /// How many runs the plan has, where this schedule carries out only some of them.
    pub fn planned(mut self, runs: usize) -> Self {
        self.planned = Some(runs);
        self
    }

    /// Finished runs, by id, that are carried out anew, with nothing of what they did but its price.
    pub fn again(mut self, runs: Vec<String>) -> Self {
        self.again = runs;
        self
    }

    /// Other processes take their runs from the same list: a run is carried out by whoever claims it first. Those of others take no
    /// part in the summary.
    pub fn claims(mut self, claims: Arc<Claims>) -> Self {
        self.claims = Some(claims);
        self
    }

    /// What the program runs on and with: model cards, axis hashes, versions, host. Journaled when the session starts.
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

    /// Puts another disk in the place of the journal's file, to see what happens when it fails.
    pub fn disk(mut self, wrap: impl FnOnce(File) -> Box<dyn Disk> + Send + 'static) -> Self {
        self.disk = Some(Box::new(wrap));
        self
    }

    /// Carries the runs out. An error means that nothing was begun, or that the journal can no longer be written; a run that
    /// fails is no error and stops no other run.
    pub async fn run(mut self, runs: Vec<Arc<dyn Run>>) -> Result<Summary, Problem> {
        self.check(&runs)?;
        let (journal, mut recovered, own_end) = Journal::open(&self.folder, self.disk.take())?;
        let resumed = recovered.plan.is_some();
        let drift = self.drift(&recovered)?;
        self.folder.sweep()?;
        recovered.accepted_drift.extend(drift.iter().cloned());
        // Each journal file carries its plan, so that it can be read without the others.
        let new_plan = !own_end.has_session || !drift.is_empty();
        let session_at = journal.now();
        let by_others = recovered.runs.values().map(|run| run.paid_by_others).fold(Sums::default(), Sums::plus);
        self.budget.restore(recovered.runs.iter().map(|(id, run)| (id.clone(), run.money())), by_others)?;
        let limits = self.budget.spending();
        let start = SessionStart {
            format: FORMAT,
            plan_hash: self.plan.hash().to_owned(),
            plan: new_plan.then(|| self.plan.document().clone()),
            accepted_drift: drift,
            runs: self.planned.unwrap_or(runs.len()),
            totals: self.progress.totals(),
            limit_micro_usd: limits.limit_micro_usd,
            run_limit_micro_usd: limits.run_limit_micro_usd,
            environment: mem::take(&mut self.environment),
        };
        commit_own(&journal, Kind::Session, session_at, &start).await?;
        if !self.folder.is_shared() || !self.folder.plan().is_file() {
            self.plan.write(&self.folder.plan())?;
        }

        self.hooks.as_ref().map_or(Ok(()), |hooks| hooks.on_start())?;

        let record = |run: &Arc<dyn Run>| RunRecord { key: run.key().clone(), outcome: None, end: RunEnd::Pending };
        let mut results: Vec<RunRecord> = runs.iter().map(record).collect();
        let mut records: HashMap<String, RecoveredRun> = mem::take(&mut recovered.runs);
        self.begin_anew(&journal, &mut records).await?;
        let uncertain_steps = records.values().map(|record| record.uncertain_steps()).sum();
        self.progress.begin(runs.len());
        self.progress.watch(&self.lanes, &self.budget);
        let mut queue = VecDeque::new();
        let mut known = 0;
        let mut checkpoints = BTreeMap::new();
        let mut of_others = HashSet::new();
        for index in self.sequence(&runs) {
            let id = runs[index].key().id();
            let record = records.get(&id);
            known += usize::from(record.is_some());
            if record.is_some_and(|record| record.done_by_others) {
                of_others.insert(index);
                continue;
            }
            match record.map(|record| record.outcome(&id)).transpose()?.flatten() {
                Some(outcome) => {
                    // The process may have been killed between the journal entry and the files of the run.
                    if let Some(hooks) = &self.hooks {
                        hooks.on_done(runs[index].key(), &outcome);
                    }
                    results[index] =
                        RunRecord { key: runs[index].key().clone(), outcome: Some(outcome), end: RunEnd::Done };
                    self.progress.done.fetch_add(1, Relaxed);
                    for (unit, n) in record.iter().flat_map(|record| &record.counts) {
                        self.progress.count(unit, *n, false);
                    }
                }
                None => {
                    checkpoints.extend(record.and_then(RecoveredRun::checkpoint).map(|outcome| (id, outcome)));
                    queue.push_back(index);
                }
            }
        }
        let unplanned_runs = records.len() - known;

        let shared = Arc::new(Shared {
            journal,
            progress: Arc::clone(&self.progress),
            stop: self.stop.clone(),
            steps: StepCounters::default(),
            lanes: self.lanes.clone(),
            budget: self.budget.clone(),
            halts: Mutex::default(),
            halted: Mutex::default(),
            checkpoints: Mutex::new(checkpoints),
            hooks: self.hooks.take(),
        });
        let unshared = self.execute_all(&runs, &mut queue, &mut records, &mut results, &mut of_others, &shared).await;

        let mut number = 0..;
        results.retain(|_| number.next().is_some_and(|index| !of_others.contains(&index)));
        let mut checkpoints = mem::take(&mut *shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner));
        for run in results.iter_mut().filter(|run| run.outcome.is_none()) {
            run.outcome = checkpoints.remove(&run.key.id());
        }
        let count = |end: fn(&RunEnd) -> bool| results.iter().filter(|run| end(&run.end)).count();
        let pending = count(|end| *end == RunEnd::Pending);
        let completed = count(|end| *end == RunEnd::Done);
        let halts = mem::take(&mut *shared.halts.lock().unwrap_or_else(PoisonError::into_inner));
        let halt = halts.into_iter().next().filter(|_| pending > 0);
        let halt = halt.map(|(reason, problem)| {
            Halt::of_schedule(reason, problem, &self.budget.spending(), completed, results.len())
        });
        let level = self.stop.level();
        let how = match level {
            _ if pending == 0 => SessionEnd::Finished,
            // Nobody asked, but there was no money or no leave to go on.
            StopLevel::None => SessionEnd::Stopped,
            StopLevel::Drain => SessionEnd::Drained,
            StopLevel::Stop => SessionEnd::Stopped,
            StopLevel::Abort => SessionEnd::Aborted,
        };
        let ended_at = shared.journal.now();
        let stop = SessionStop { how, work: self.work.as_ref().map(|work| work()).unwrap_or_default() };
        let ended = commit_own(&shared.journal, Kind::End, ended_at, &stop).await;
        shared.journal.close();
        ended?;
        self.budget.leave()?;
        unshared?;

        let mut sessions = recovered.sessions;
        let moment = |at| timestamp(time_of(at));
        let (started, ended) = (moment(session_at), Some(moment(ended_at)));
        sessions.push((session_at, Session { started, ended, how, environment: start.environment, work: stop.work }));
        sessions.sort_by_key(|(at, _)| *at);
        let mut accounts = self.budget.accounts();
        for (id, halt) in mem::take(&mut *shared.halted.lock().unwrap_or_else(PoisonError::into_inner)) {
            accounts.entry(id).or_default().halt = Some(halt);
        }
        Ok(Summary {
            ledger: Ledger {
                sessions: sessions.into_iter().map(|(_, session)| session).collect(),
                spending: self.budget.spending(),
                runs: accounts,
            },
            completed,
            failed: count(|end| matches!(end, RunEnd::Failed(_))),
            pending,
            halt,
            interrupted: level > StopLevel::None && pending > 0,
            resumed,
            replayed_steps: shared.steps.replayed.load(Relaxed),
            executed_steps: shared.steps.executed.load(Relaxed),
            uncertain_steps,
            unplanned_runs,
            accepted_drifts: recovered.accepted_drift,
            work: self.progress.work(),
            runs: results,
        })
    }

    /// Makes finished runs that are asked for again unfinished ones.
    async fn begin_anew(&self, journal: &Journal, records: &mut HashMap<String, RecoveredRun>) -> Result<(), Problem> {
        for id in &self.again {
            let Some(record) = records.get_mut(id).filter(|record| record.done.is_some()) else { continue };
            let pass = record.pass() + 1;
            let (kind, at, run) = (Kind::Again, journal.now(), Some(id.as_str()));
            let line = Line { kind, at, run, pass, step: None, money: None, counts: None, value: &() };
            journal.commit(Journal::encode(&line)?).await?;
            record.of_pass(pass);
        }
        Ok(())
    }

    /// Whether another run could still make a call.
    pub(super) fn admits(&self) -> bool {
        let all_off = !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.off().is_some());
        !all_off && !self.budget.exhausted()
    }

    /// What can be refused before anything is touched.
    fn check(&self, runs: &[Arc<dyn Run>]) -> Result<(), Problem> {
        if self.parallel == 0 {
            return Err(Problem::new("no run may be in flight").hint("set parallel to 1 or more"));
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

    /// The differences to the recorded plan, if they are accepted.
    fn drift(&self, recovered: &Recovered) -> Result<Vec<Drift>, Problem> {
        let Some((_, recorded)) = &recovered.plan else { return Ok(Vec::new()) };
        let drift = Plan::drift(recorded, &self.plan);
        if drift.is_empty() || self.accept_drift {
            return Ok(drift);
        }
        let fields = if drift.len() == 1 { "1 field differs" } else { &format!("{} fields differ", drift.len()) };
        let list: String = drift.iter().map(|one| format!("\n    {one}")).collect();
        Err(Problem::new(format!("the plan is not the one this folder was begun with: {fields}{list}"))
            .at(self.folder.dir().display().to_string())
            .hint("undo the change; or begin again in another folder with --out; or go on with --accept-drift, which is recorded"))
    }
}

/// A line of the schedule itself.
async fn commit_own<T: Serialize>(journal: &Journal, kind: Kind, at: u64, value: &T) -> Result<(), Problem> {
    journal
        .commit(Journal::encode(&Line { kind, at, run: None, pass: 0, step: None, money: None, counts: None, value })?)
        .await
}
