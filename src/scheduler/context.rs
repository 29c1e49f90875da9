//! Owns `Run` and its only window on the world, `RunContext`: numbered steps that are journaled when they happen and replayed
//! when the run is carried out again.
//!
//! Order of one step: intent durable -> act -> result durable -> return. A step that costs nothing but time (`step_free`) needs
//! no intent: carried out twice, it gives the same. What a step returns is always the value as it was read back from its JSON,
//! so that a first execution and a replay cannot differ.
//! Must not know: models, what a result means.

use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    budget::Budget,
    call::{Halt, HaltReason},
    journal::Journal,
    journal_format::{Counts, Kind, Line, StepPart, value_of},
    lane::Lane,
    plan::request_hash,
    progress::Progress,
    recover::{RecoveredRun, StepRecord, parsed},
    stop::{StopLevel, StopSignal},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Outcome, RunKey};

/// Something that can be carried out, stopped and carried on.
///
/// It must be a function of its own fields and of what its steps return: the same steps in the same order with the same
/// requests whenever they return the same. Time, randomness, models and files are reached in steps only.
#[async_trait::async_trait]
pub trait Run: Send + Sync {
    /// Which run this is.
    fn key(&self) -> &RunKey;

    /// Carries the run out from its beginning; finished steps return at once with what they gave before.
    async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError>;
}

/// Why a run has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The run failed. Others go on; a resume tries it again from its first unfinished step.
    #[error("{0}")]
    Failed(Problem),
    /// The run asked for something else than the journal has. It is never carried on silently.
    #[error("{0}")]
    Desync(Problem),
    /// A person asked to stop; the run stays pending.
    #[error("stopped; --resume goes on with this run")]
    Stopped,
    /// The budget or the account on a lane has run dry; the run stays pending.
    #[error("{}", .0.problem)]
    Halted(Halt),
    /// The journal can no longer be written; the run stays pending and the schedule ends.
    #[error("{0}")]
    Journal(Problem),
}

impl From<Problem> for RunError {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// Counts of replayed and executed steps.
#[derive(Default)]
pub(super) struct StepCounters {
    pub replayed: AtomicU64,
    pub executed: AtomicU64,
}

/// What the contexts of one schedule share.
pub(super) struct Shared {
    pub journal: Journal,
    pub progress: Arc<Progress>,
    pub stop: StopSignal,
    pub steps: StepCounters,
    pub lanes: Vec<Lane>,
    pub budget: Budget,
    /// The latest halt of each reason.
    pub halts: Mutex<BTreeMap<HaltReason, Problem>>,
    /// Runs that were left although nobody asked, and why, by run id.
    pub halted: Mutex<BTreeMap<String, Halt>>,
    /// Latest checkpoint of each run without an outcome, by run id.
    pub checkpoints: Mutex<BTreeMap<String, Outcome>>,
    pub hooks: Option<Arc<dyn RunHooks>>,
}

/// Callbacks of a schedule. Checkpoints and outcomes are passed on once they are durable in the journal; a resumed schedule passes
/// them on again.
#[async_trait::async_trait]
pub trait RunHooks: Send + Sync {
    /// The folder is locked, the plan is accepted, and no run has started. An error ends the schedule.
    fn on_start(&self) -> Result<(), Problem> {
        Ok(())
    }

    /// A run saved a partial outcome and continues.
    fn on_checkpoint(&self, key: &RunKey, outcome: &Outcome);

    /// A run is done.
    fn on_done(&self, key: &RunKey, outcome: &Outcome);

    /// A run asks for confirmation before it continues. Returns at once unless overridden.
    async fn confirm(&self, _text: &str) {}
}

/// Prefix of the problem of a run that exceeded its time limit, so that a kind can tell this failure from others.
pub const TOO_LONG: &str = "the run took longer than";

/// Name of the step that saves a partial outcome.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// A partial outcome as the journal has it: turns are stored as the difference to the previous checkpoint.
#[derive(Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Number of leading turns taken over from the previous checkpoint.
    after: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Checkpoint {
    /// The difference to the turns `before`; the whole outcome if it does not extend them.
    fn since(before: &[serde_json::Value], outcome: &Outcome) -> Self {
        let after = if outcome.turns.starts_with(before) { before.len() } else { 0 };
        let Outcome { labels, metrics, series, transcript, turns } = outcome;
        let (labels, metrics, series) = (labels.clone(), metrics.clone(), series.clone());
        let outcome =
            Outcome { labels, metrics, series, transcript: transcript.clone(), turns: turns[after..].to_vec() };
        Self { after, outcome }
    }

    /// The whole outcome, given the turns of the previous checkpoint.
    pub fn whole(mut self, mut before: Vec<serde_json::Value>) -> Outcome {
        before.truncate(self.after);
        before.append(&mut self.outcome.turns);
        Outcome { turns: before, ..self.outcome }
    }
}

/// A run's window on the world.
pub struct RunContext {
    key: RunKey,
    id: String,
    /// Goes on every line of the run.
    pass: u32,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    recorded: BTreeMap<u32, StepRecord>,
    next: u32,
    /// A step was begun and has not come to a result.
    in_step: bool,
    /// The last step was carried out and not replayed.
    live: bool,
    counts: Counts,
    /// The schedule's own reason to end this run, which the run cannot overrule.
    ended: Option<RunError>,
    /// Turns of the latest checkpoint.
    checkpoint_turns: Vec<serde_json::Value>,
}

impl RunContext {
    pub(super) fn new(key: RunKey, shared: Arc<Shared>, record: RecoveredRun) -> Self {
        let (pass, recorded) = (record.pass(), record.steps);
        let live = recorded.values().all(|step| step.result.is_none());
        let (counts, checkpoint_turns) = (Counts::new(), Vec::new());
        let state = State { recorded, next: 0, in_step: false, live, counts, ended: None, checkpoint_turns };
        Self { id: key.id(), pass, key, shared, state: Mutex::new(state) }
    }

    /// Which run this is.
    pub fn key(&self) -> &RunKey {
        &self.key
    }

    /// The run's id, unique in its schedule.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the run should come to an end: its next step will return `RunError::Stopped`.
    pub fn stopping(&self) -> bool {
        self.shared.stop.level() >= StopLevel::Stop
    }

    /// Counts work that was done, as in `count("turns", 1)`. Work of replayed steps counts as done but into no rate.
    pub fn count(&self, unit: &str, n: u64) {
        let mut state = self.state();
        match state.counts.get_mut(unit) {
            Some(known) => *known += n,
            None => {
                state.counts.insert(unit.to_owned(), n);
            }
        }
        let live = state.live;
        drop(state);
        self.shared.progress.count(unit, n, live);
    }

    /// A step that has an effect or a price: its intent is durable before `act` is called. After a crash in between nobody
    /// knows whether it took place; the intent without a result then shows that.
    ///
    /// The steps of one run follow each other: a step must not begin before the one before it has returned, and after a step
    /// that returned an error, or whose future was dropped, there is no next one. A failure the run wants to live with is
    /// therefore a value `act` returns as `Ok`.
    pub async fn step<Req, Out, F, Fut>(&self, name: &str, request: &Req, act: F) -> Result<Out, RunError>
    where
        Req: Serialize + ?Sized,
        Out: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Out, RunError>>,
    {
        self.numbered(true, name, request, act).await
    }

    /// A step that costs nothing but time, such as a turn of a model on this machine. Only its result is journaled; if it is
    /// lost, the step is carried out again.
    pub async fn step_free<Req, Out, F, Fut>(&self, name: &str, request: &Req, act: F) -> Result<Out, RunError>
    where
        Req: Serialize + ?Sized,
        Out: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Out, RunError>>,
    {
        self.numbered(false, name, request, act).await
    }

    async fn numbered<Req, Out, F, Fut>(&self, paid: bool, name: &str, request: &Req, act: F) -> Result<Out, RunError>
    where
        Req: Serialize + ?Sized,
        Out: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Out, RunError>>,
    {
        let hash = request_hash(request).map_err(|error| self.unusable(name, "request", &error))?;
        let number = self.begin(name)?;
        if let Some(json) = self.recorded(number, name, &hash)?.and_then(|recorded| recorded.result) {
            return self.replayed(number, name, &json);
        }
        let step = StepPart { step: number, name, hash: &hash };
        if paid {
            let line = self.line(Kind::Intent, Some(step), None, &());
            self.commit(Journal::encode(&line)?).await?;
        }
        let out = act().await?;
        let counts = self.counts();
        let line = self.line(Kind::Result, Some(step), counts.as_ref(), &out);
        let json = serde_json::to_vec(&line).map_err(|error| self.unusable(name, "result", &error))?;
        // What could not be read back later must not be found out later.
        let out = value_of(&json).map_err(|error| self.unusable(name, "result", &error))?;
        self.commit(json).await?;
        self.finish_step(true);
        Ok(out)
    }

    /// Saves a partial outcome, which remains if a later step fails. Counts as a step. Only turns since the last checkpoint are
    /// journaled, so the journal grows with the turns and not with the number of checkpoints.
    pub async fn checkpoint(&self, outcome: &Outcome) -> Result<(), RunError> {
        let before = mem::take(&mut self.state().checkpoint_turns);
        let new = Checkpoint::since(&before, outcome);
        let saved: Checkpoint = self.numbered(false, CHECKPOINT, &(), || async { Ok(new) }).await?;
        let saved = saved.whole(before);
        self.state().checkpoint_turns.clone_from(&saved.turns);
        if let Some(hooks) = &self.shared.hooks {
            hooks.on_checkpoint(&self.key, &saved);
        }
        self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id.clone(), saved);
        Ok(())
    }

    /// Shows a line of the experiment, except while replaying.
    pub fn say(&self, text: impl Into<String>) {
        if self.state().live {
            self.shared.progress.say(text);
        }
    }

    /// Waits for confirmation, except while replaying; see `RunHooks::confirm`.
    pub async fn confirm(&self, text: &str) -> Result<(), RunError> {
        match &self.shared.hooks {
            Some(hooks) if self.state().live => self.unless_stopped(hooks.confirm(text)).await,
            _ => Ok(()),
        }
    }

    /// Takes the next number, unless the run has to end here.
    pub(super) fn begin(&self, name: &str) -> Result<u32, RunError> {
        let mut state = self.state();
        if let Some(ended) = &state.ended {
            return Err(ended.clone());
        }
        let reason = if self.stopping() {
            Some(RunError::Stopped)
        } else {
            self.shared.journal.failure().map(RunError::Journal)
        };
        if let Some(reason) = reason {
            state.ended = Some(reason.clone());
            return Err(reason);
        }
        if state.in_step {
            return Err(RunError::Failed(
                Problem::new("a step began although the one before it had not come to a result")
                    .at(self.place(state.next, name))
                    .hint("the steps of a run follow each other; a failure to live with is a value the step returns"),
            ));
        }
        state.in_step = true;
        state.next += 1;
        Ok(state.next - 1)
    }

    /// What the journal has of the step, if it is the same step.
    pub(super) fn recorded(&self, number: u32, name: &str, hash: &str) -> Result<Option<StepRecord>, RunError> {
        let Some(recorded) = self.state().recorded.remove(&number) else { return Ok(None) };
        if recorded.name == name && recorded.hash == hash {
            return Ok(Some(recorded));
        }
        let problem = Problem::new(format!(
            "run {} no longer asks what it asked before: the journal has {:?} with request {}, now it is {name:?} with {hash}",
            self.id, recorded.name, recorded.hash
        ));
        Err(self.end_with(RunError::Desync(problem.at(self.place(number, name)).hint(
            "resume with the version, files and settings it began with, or begin again in another folder with --out",
        ))))
    }

    /// What a finished step gave.
    pub(super) fn replayed<Out: DeserializeOwned>(
        &self,
        number: u32,
        name: &str,
        json: &[u8],
    ) -> Result<Out, RunError> {
        let place = || self.place(number, name);
        let out = parsed(json, place).map_err(|problem| self.end_with(RunError::Desync(problem)))?;
        self.finish_step(false);
        Ok(out)
    }

    /// The schedule's lane of this name.
    pub(super) fn lane(&self, name: &str) -> Option<Lane> {
        self.shared.lanes.iter().find(|lane| lane.name() == name).cloned()
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    pub(super) fn stop_signal(&self) -> &StopSignal {
        &self.shared.stop
    }

    /// Tells a person something.
    pub(super) fn note(&self, text: String) {
        self.shared.progress.note(text);
    }

    /// Keeps why the run is left to be done, for the schedule's summary.
    pub(super) fn note_halt(&self, halt: Halt) {
        let mut halts = self.shared.halts.lock().unwrap_or_else(PoisonError::into_inner);
        halts.insert(halt.reason, halt.problem.clone());
        drop(halts);
        self.shared.halted.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id.clone(), halt);
    }

    pub(super) fn finish_step(&self, live: bool) {
        let steps = &self.shared.steps;
        let counter = if live { &steps.executed } else { &steps.replayed };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.in_step = false;
        state.live = live;
    }

    pub(super) async fn commit(&self, json: Vec<u8>) -> Result<(), RunError> {
        self.shared.journal.commit(json).await.map_err(|problem| self.end_with(RunError::Journal(problem)))
    }

    /// Journals how the run ended and returns its outcome as a resume will read it.
    pub(super) async fn commit_outcome(&self, outcome: &Outcome) -> Result<Outcome, RunError> {
        let counts = self.counts();
        let json = Journal::encode(&self.line(Kind::Done, None, counts.as_ref(), outcome))?;
        let outcome = value_of(&json).map_err(|error| {
            Problem::new(format!("the outcome of the run cannot be read back: {error}"))
                .at(format!("run {}", self.id))
                .hint("a metric that is not a number has to be left out")
        })?;
        self.commit(json).await?;
        if let Some(hooks) = &self.shared.hooks {
            hooks.on_done(&self.key, &outcome);
        }
        self.shared.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        Ok(outcome)
    }

    /// Journals that the run failed.
    pub(super) async fn commit_failure(&self, problem: &Problem) -> Result<(), RunError> {
        let counts = self.counts();
        self.commit(Journal::encode(&self.line(Kind::Failed, None, counts.as_ref(), problem))?).await
    }

    /// Journals why the run is left to be done.
    pub(super) async fn commit_halt(&self, halt: &Halt) -> Result<(), RunError> {
        let counts = self.counts();
        self.commit(Journal::encode(&self.line(Kind::Halted, None, counts.as_ref(), halt))?).await
    }

    /// The schedule's own reason to end the run, if there is one.
    pub(super) fn ended(&self) -> Option<RunError> {
        self.state().ended.clone()
    }

    /// The run has used up its time.
    pub(super) fn too_long(&self, limit: Duration) -> RunError {
        let problem = Problem::new(format!("{TOO_LONG} {} s", limit.as_secs_f64()));
        let problem = problem.at(format!("run {}", self.id));
        self.end_with(RunError::Failed(problem.hint("allow more time per run; --resume goes on where it was")))
    }

    pub(super) fn end_with(&self, error: RunError) -> RunError {
        self.state().ended = Some(error.clone());
        error
    }

    pub(super) fn line<'a, T>(
        &'a self,
        kind: Kind,
        step: Option<StepPart<'a>>,
        counts: Option<&'a Counts>,
        value: &'a T,
    ) -> Line<'a, T> {
        Line {
            kind,
            at: self.shared.journal.now(),
            run: Some(&self.id),
            pass: self.pass,
            step,
            money: None,
            counts,
            value,
        }
    }

    pub(super) fn counts(&self) -> Option<Counts> {
        let state = self.state();
        (!state.counts.is_empty()).then(|| state.counts.clone())
    }

    pub(super) fn place(&self, number: u32, name: &str) -> String {
        format!("run {}, step {} ({name})", self.id, number + 1)
    }

    pub(super) fn unusable(&self, name: &str, part: &str, error: &serde_json::Error) -> RunError {
        RunError::Failed(
            Problem::new(format!("the {part} of a step cannot be kept as JSON: {error}"))
                .at(format!("run {}, step {name}", self.id)),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
