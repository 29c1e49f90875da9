//! `RunContext`: numbered steps that are journaled when they are executed and replayed when the run is resumed.
//!
//! Order of a step: intent durable -> action -> result durable -> return. A step without side effects (`step_repeatable`) needs no intent:
//! executing it twice gives the same result. A step always returns its value as deserialized from JSON, so that execution and replay
//! cannot differ.

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

use serde::{Serialize, de::DeserializeOwned};

use super::{
    budget::Budget,
    call::Halt,
    checkpoint::{CHECKPOINT, Checkpoint},
    journal::{Counts, Entry, EntryKind, Journal, RecoveredRun, StepId, StepRecord, parsed, value_of},
    plan::request_hash,
    progress::Progress,
    rate_limit::Lane,
    run::{RunError, RunHooks, TOO_LONG},
    stop::{StopLevel, StopSignal},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Outcome, RunKey};

/// Counts of replayed and executed steps.
#[derive(Default)]
pub(super) struct StepCounters {
    pub replayed: AtomicU64,
    pub executed: AtomicU64,
}

/// State shared by the contexts of one schedule.
pub(super) struct Shared {
    pub journal: Journal,
    pub progress: Arc<Progress>,
    pub stop: StopSignal,
    pub steps: StepCounters,
    pub lanes: Vec<Lane>,
    pub budget: Budget,
    /// The halt of each interrupted run, by run id.
    pub halted: Mutex<BTreeMap<String, Halt>>,
    /// Latest checkpoint of each run without an outcome, by run id.
    pub checkpoints: Mutex<BTreeMap<String, Outcome>>,
    pub hooks: Option<Arc<dyn RunHooks>>,
}

/// A run's access to everything outside itself: steps, calls, checkpoints, progress.
pub struct RunContext {
    key: RunKey,
    id: String,
    /// Part of every journal entry of the run; see `EntryEntryKind::Rerun`.
    pass: u32,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    journaled: BTreeMap<u32, StepRecord>,
    next: u32,
    /// A step has started and has no result yet.
    in_step: bool,
    /// The last step was executed, not replayed.
    live: bool,
    counts: Counts,
    /// Why the scheduler ended this run; overrides the run's own result.
    ended: Option<RunError>,
    /// Turns of the latest checkpoint.
    checkpoint_turns: Vec<serde_json::Value>,
}

impl RunContext {
    pub(super) fn new(key: RunKey, shared: Arc<Shared>, record: RecoveredRun) -> Self {
        let (pass, journaled) = (record.pass(), record.steps);
        let live = journaled.values().all(|step| step.result.is_none());
        let (counts, checkpoint_turns) = (Counts::new(), Vec::new());
        let state = State { journaled, next: 0, in_step: false, live, counts, ended: None, checkpoint_turns };
        Self { id: key.id(), pass, key, shared, state: Mutex::new(state) }
    }

    /// Identity of the run.
    pub fn key(&self) -> &RunKey {
        &self.key
    }

    /// Id of the run, unique in its schedule.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the run is asked to stop: its next step will return `RunError::Stopped`.
    pub fn stopping(&self) -> bool {
        self.shared.stop.level() >= StopLevel::Stop
    }

    /// Counts finished work, as in `count("turns", 1)`. Work of replayed steps does not count into rates.
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

    /// Executes a step with side effects: its intent is durable before `act` is called. After a crash in between, the intent without a
    /// result shows that the effect is uncertain.
    ///
    /// Steps of a run are sequential: a step must not start before the previous one has returned. After a step that returned an error
    /// or was dropped, no further step is possible; to survive a failure, return it from `act` as an `Ok` value.
    pub async fn step<Req, Out, F, Fut>(&self, name: &str, request: &Req, act: F) -> Result<Out, RunError>
    where
        Req: Serialize + ?Sized,
        Out: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Out, RunError>>,
    {
        self.numbered(true, name, request, act).await
    }

    /// Executes a step without side effects, such as a turn of a local model. Only its result is journaled; if that is lost, the step
    /// is executed again.
    pub async fn step_repeatable<Req, Out, F, Fut>(&self, name: &str, request: &Req, act: F) -> Result<Out, RunError>
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
        if let Some(json) = self.journaled(number, name, &hash)?.and_then(|step| step.result) {
            return self.replayed(number, name, &json);
        }
        let step = StepId { step: number, name, hash: &hash };
        if paid {
            let entry = self.entry(EntryKind::Intent, Some(step), None, &());
            self.commit(Journal::encode(&entry)?).await?;
        }
        let out = act().await?;
        let counts = self.counts();
        let entry = self.entry(EntryKind::Result, Some(step), counts.as_ref(), &out);
        let json = serde_json::to_vec(&entry).map_err(|error| self.unusable(name, "result", &error))?;
        // Fail now if the result could not be read back on a resume.
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

    /// Starts the next step and returns its number, unless the run must end.
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
                Problem::new("a step started before the previous one had a result")
                    .at(self.place(state.next, name))
                    .hint("steps of a run are sequential; to survive a failure, return it as a value of the step"),
            ));
        }
        state.in_step = true;
        state.next += 1;
        Ok(state.next - 1)
    }

    /// The journaled step of this number, if its request is the same.
    pub(super) fn journaled(&self, number: u32, name: &str, hash: &str) -> Result<Option<StepRecord>, RunError> {
        let Some(step) = self.state().journaled.remove(&number) else { return Ok(None) };
        if step.name == name && step.hash == hash {
            return Ok(Some(step));
        }
        let problem = Problem::new(format!(
            "run {} no longer matches its journal: the journal has step {:?} with request {}, now it is {name:?} with {hash}",
            self.id, step.name, step.hash
        ));
        Err(self.end_with(RunError::Desync(
            problem.at(self.place(number, name)).hint(
                "resume with the original version, files and settings, or start over in another folder with --out",
            ),
        )))
    }

    /// The journaled result of a step.
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

    /// The lane of this name.
    pub(super) fn lane(&self, name: &str) -> Option<Lane> {
        self.shared.lanes.iter().find(|lane| lane.name() == name).cloned()
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    pub(super) fn stop_signal(&self) -> &StopSignal {
        &self.shared.stop
    }

    /// Reports an event.
    pub(super) fn note(&self, text: String) {
        self.shared.progress.note(text);
    }

    /// Records for the summary why the run is interrupted.
    pub(super) fn note_halt(&self, halt: Halt) {
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

    /// Journals the outcome and returns it as a resume will read it.
    pub(super) async fn commit_outcome(&self, outcome: &Outcome) -> Result<Outcome, RunError> {
        let counts = self.counts();
        let json = Journal::encode(&self.entry(EntryKind::Done, None, counts.as_ref(), outcome))?;
        let outcome = value_of(&json).map_err(|error| {
            Problem::new(format!("the outcome of the run cannot be read back: {error}"))
                .at(format!("run {}", self.id))
                .hint("omit metrics that are not finite numbers")
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
        self.commit(Journal::encode(&self.entry(EntryKind::Failed, None, counts.as_ref(), problem))?).await
    }

    /// Journals why the run is interrupted.
    pub(super) async fn commit_halt(&self, halt: &Halt) -> Result<(), RunError> {
        let counts = self.counts();
        self.commit(Journal::encode(&self.entry(EntryKind::Halted, None, counts.as_ref(), halt))?).await
    }

    /// Why the scheduler ended the run, if it did.
    pub(super) fn ended(&self) -> Option<RunError> {
        self.state().ended.clone()
    }

    /// Ends the run because it exceeded its time limit.
    pub(super) fn too_long(&self, limit: Duration) -> RunError {
        let problem = Problem::new(format!("{TOO_LONG} {} s", limit.as_secs_f64()));
        let problem = problem.at(format!("run {}", self.id));
        self.end_with(RunError::Failed(problem.hint("allow more time per run; --resume continues where it stopped")))
    }

    pub(super) fn end_with(&self, error: RunError) -> RunError {
        self.state().ended = Some(error.clone());
        error
    }

    pub(super) fn entry<'a, T>(
        &'a self,
        kind: EntryKind,
        step: Option<StepId<'a>>,
        counts: Option<&'a Counts>,
        value: &'a T,
    ) -> Entry<'a, T> {
        Entry {
            kind,
            at: self.shared.journal.now(),
            run: Some(&self.id),
            pass: self.pass,
            step,
            attempt: None,
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
            Problem::new(format!("the {part} of a step cannot be written as JSON: {error}"))
                .at(format!("run {}, step {name}", self.id)),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
