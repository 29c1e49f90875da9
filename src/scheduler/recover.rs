//! Owns reading journals back: what each run already did, which plan was frozen, which sessions there were.
//!
//! The last line of a file is torn if it has no line break: it was never acknowledged and is left out. Any other line that does
//! not hold is an error that names it. Several journals of one folder are merged as a set: the same line twice counts once.
//! Must not know: what a result or an outcome means.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    mem,
    path::Path,
};

use serde::de::DeserializeOwned;

use super::{
    budget::Sums,
    call::Halt,
    context::{CHECKPOINT, Checkpoint},
    journal_format::{
        AttemptCharge, Counts, Envelope, FORMAT, HaltValue, Kind, ProblemValue, SessionStart, SessionStop, unseal,
        value_of,
    },
    plan::Plan,
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, Outcome, Session};

/// Everything the journals of a folder say.
#[derive(Default)]
pub(super) struct Recovered {
    pub runs: HashMap<String, RecoveredRun>,
    /// The plan of the latest session.
    pub plan: Option<(u64, Plan)>,
    pub accepted_drift: Vec<Drift>,
    /// By start; `at` in ms.
    pub sessions: Vec<(u64, Session)>,
    /// Of the latest session.
    pub planned_runs: usize,
    pub totals: Counts,
    /// Limits of the latest session, for the batch and for a run.
    pub limits: (Option<u64>, Option<u64>),
    /// Unix time in ms of the latest line.
    pub last_activity: Option<u64>,
}

/// What one run already did.
#[derive(Default)]
pub(super) struct RecoveredRun {
    pub steps: BTreeMap<u32, StepRecord>,
    /// Line of the outcome, once there is one; the steps are dropped then.
    pub done: Option<Box<[u8]>>,
    /// When and how it failed last.
    failed: Option<(u64, Box<[u8]>)>,
    /// When and why it was left last.
    halted: Option<(u64, Box<[u8]>)>,
    last_step_at: u64,
    /// Counted work as of the latest line that says.
    pub counts: Counts,
    pub results: u64,
    /// Money of steps that were dropped.
    closed: Sums,
    /// How often the run was begun anew after it was done, and what it did before that: paid for, and otherwise void.
    pass: u32,
    earlier: Option<Box<RecoveredRun>>,
    /// What other writers of the folder paid for it.
    pub paid_by_others: Sums,
    /// Another writer's journal has the outcome.
    pub done_by_others: bool,
}

/// One step of a run: an intent, a result, or both.
pub(super) struct StepRecord {
    pub name: String,
    pub hash: String,
    /// The JSON of the result line.
    pub result: Option<Box<[u8]>>,
    /// Where the step is a call.
    attempts: Vec<AttemptRecord>,
}

/// One attempt at a call, by its number, so that the same line in two journals counts once.
struct AttemptRecord {
    number: u32,
    /// As long as nobody knows what came of it, its whole reservation is uncertain.
    money: Sums,
    ended: bool,
}

impl StepRecord {
    /// The number of the attempt after all that are known.
    pub fn next_attempt(&self) -> u32 {
        self.attempts.iter().map(|attempt| attempt.number + 1).max().unwrap_or(0)
    }

    /// Whether nobody knows if the act took place.
    fn uncertain(&self) -> bool {
        let open = self.attempts.is_empty() || self.attempts.iter().any(|attempt| !attempt.ended);
        self.result.is_none() && open
    }

    fn pay(&mut self, envelope: &Envelope, json: &[u8]) -> Result<(), String> {
        let (Some(number), Some(cost)) = (envelope.attempt, envelope.cost) else { return Ok(()) };
        let (settled, uncertain, ended) = match envelope.kind {
            Kind::Intent => (0, cost.micro_usd, false),
            Kind::Attempt => (cost.micro_usd, value::<AttemptCharge>(json)?.uncertain_micro_usd, true),
            _ => (cost.micro_usd, 0, true),
        };
        let money = Sums { settled, uncertain, reserved: 0 };
        match self.attempts.iter_mut().find(|attempt| attempt.number == number) {
            Some(known) if ended && !known.ended => *known = AttemptRecord { number, money, ended },
            Some(_) => {}
            None => {
                self.attempts.reserve_exact(1);
                self.attempts.push(AttemptRecord { number, money, ended });
            }
        }
        Ok(())
    }
}

impl RecoveredRun {
    /// Why the run failed, unless it has been tried again since.
    pub fn failure(&self) -> Option<Problem> {
        let (at, json) = self.failed.as_ref().filter(|_| self.done.is_none())?;
        let known = value_of::<ProblemValue>(json).map(Problem::from);
        (*at >= self.last_step_at)
            .then(|| known.unwrap_or_else(|_| Problem::new("failed for a reason that cannot be read")))
    }

    /// Why the run was left although nobody asked, unless it has been gone on with since.
    pub fn halt(&self) -> Option<Halt> {
        let (at, json) = self.halted.as_ref().filter(|_| self.done.is_none())?;
        let later = self.last_step_at.max(self.failed.as_ref().map_or(0, |(at, _)| *at));
        let HaltValue { reason, problem } = value_of(json).ok().filter(|_| *at >= later)?;
        Some(Halt { reason, problem: problem.into() })
    }

    /// The outcome, if the run is done.
    pub fn outcome(&self, run: &str) -> Result<Option<Outcome>, Problem> {
        self.done.as_deref().map(|json| parsed(json, || format!("outcome of run {run}"))).transpose()
    }

    /// The latest checkpoint of a run that is not done.
    pub fn checkpoint(&self) -> Option<Outcome> {
        let saved = self.steps.values().filter(|step| step.name == CHECKPOINT);
        let saved = saved.map_while(|step| value_of::<Checkpoint>(step.result.as_deref()?).ok());
        saved.fold(None, |before, saved| Some(saved.whole(before.map_or_else(Vec::new, |o: Outcome| o.turns))))
    }

    /// Intents without an end: nobody knows whether the act took place.
    pub fn uncertain_steps(&self) -> usize {
        self.steps.values().filter(|step| step.uncertain()).count()
    }

    /// Which pass counts, from 0.
    pub fn pass(&self) -> u32 {
        self.pass
    }

    /// The record of this pass. A later one than is known takes the place of all earlier ones.
    pub fn of_pass(&mut self, pass: u32) -> &mut Self {
        match pass.cmp(&self.pass) {
            Ordering::Equal => self,
            Ordering::Greater => {
                let earlier = mem::take(self);
                let paid_by_others = earlier.paid_by_others;
                *self = Self { pass, earlier: Some(Box::new(earlier)), paid_by_others, ..Self::default() };
                self
            }
            Ordering::Less => {
                self.earlier.get_or_insert_with(|| Box::new(Self { pass, ..Self::default() })).of_pass(pass)
            }
        }
    }

    /// What its calls cost, or may have cost, those of earlier passes too.
    pub fn money(&self) -> Sums {
        let mut sums = self.own_money();
        if let Some(earlier) = self.earlier.as_ref().map(|earlier| earlier.money()) {
            sums.settled += earlier.settled;
            sums.uncertain += earlier.uncertain;
        }
        sums
    }

    fn own_money(&self) -> Sums {
        let mut sums = self.closed;
        for attempt in self.steps.values().flat_map(|step| &step.attempts) {
            sums.settled += attempt.money.settled;
            sums.uncertain += attempt.money.uncertain;
        }
        sums
    }
}

/// Where a journal file ends.
pub(super) struct FileEnd {
    /// Length up to and with the last whole line.
    pub good_bytes: u64,
    /// Number of whole lines.
    pub lines: u64,
    /// Whether the file had its own session line, and so its plan.
    pub has_session: bool,
}

impl Recovered {
    /// Counted work of all runs by unit; of a run under way, as of its latest step.
    pub fn work(&self) -> Counts {
        let mut work = Counts::new();
        for (unit, n) in self.runs.values().flat_map(|run| &run.counts) {
            *work.entry(unit.clone()).or_default() += n;
        }
        work
    }

    /// Everything read so far is another writer's doing.
    pub fn is_of_others(&mut self) {
        for run in self.runs.values_mut() {
            run.paid_by_others = run.money();
            run.done_by_others = run.done.is_some();
        }
    }

    /// Reads one journal file from its beginning and adds what it says.
    pub fn read(&mut self, path: &Path, mut file: &File) -> Result<FileEnd, Problem> {
        let unreadable =
            |error: std::io::Error| Problem::new(format!("cannot read: {error}")).at(path.display().to_string());
        file.rewind().map_err(unreadable)?;
        // What is written while this reads is left for the next time.
        let length = file.metadata().map_err(unreadable)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file.take(length));
        let mut end = FileEnd { good_bytes: 0, lines: 0, has_session: false };
        let mut open_session = None;
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(unreadable)?;
            if line.pop() != Some(b'\n') {
                return Ok(end);
            }
            self.take(&line, &mut end, &mut open_session).map_err(|reason| {
                let number = end.lines + 1;
                Problem::new(format!("line {number} of the journal is damaged: {reason}"))
                    .at(format!("{}:{number}", path.display()))
                    .hint(format!(
                        "put back an undamaged copy of the file; or keep the first {} lines only: the steps after them are carried out again",
                        end.lines
                    ))
            })?;
            end.lines += 1;
            end.good_bytes += bytes as u64;
        }
    }

    /// Adds one line; the reason if it cannot be.
    fn take(&mut self, line: &[u8], end: &mut FileEnd, open_session: &mut Option<usize>) -> Result<(), String> {
        let json = unseal(line)?;
        let envelope: Envelope = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if envelope.n != end.lines {
            return Err(format!(
                "it is line {} of the file that was written, so lines were taken out or put in",
                envelope.n + 1
            ));
        }
        if end.lines == 0 && envelope.kind != Kind::Session {
            return Err("the first line must say which plan and format follow".to_owned());
        }
        let at = envelope.at;
        self.last_activity = self.last_activity.max(Some(at));
        match envelope.kind {
            Kind::Session => {
                let start: SessionStart = value(json)?;
                if start.format > FORMAT {
                    return Err(format!("format {} is of a newer version of this program", start.format));
                }
                end.has_session = true;
                let (started, environment) = (moment(at), start.environment);
                self.sessions.push((at, Session { started, environment, ..Session::default() }));
                *open_session = Some(self.sessions.len() - 1);
                self.accepted_drift.extend(start.accepted_drift);
                if self.plan.as_ref().is_none_or(|(latest, _)| *latest <= at) {
                    self.planned_runs = start.runs;
                    self.totals = start.totals;
                    self.limits = (start.limit_micro_usd, start.run_limit_micro_usd);
                    if let Some(document) = start.plan {
                        self.plan = Some((at, Plan::freeze(document)));
                    }
                }
                return Ok(());
            }
            Kind::End => {
                let stop: SessionStop = value(json)?;
                if let Some(index) = open_session.take() {
                    self.sessions[index].1.ended = Some(moment(at));
                    self.sessions[index].1.how = stop.how;
                    self.sessions[index].1.work = stop.work;
                }
                return Ok(());
            }
            Kind::Intent | Kind::Attempt | Kind::Result | Kind::Done | Kind::Failed | Kind::Halted | Kind::Again => {}
        }
        let id = envelope.run.as_deref().ok_or("it names no run")?;
        if !self.runs.contains_key(id) {
            self.runs.insert(id.to_owned(), RecoveredRun::default());
        }
        let Some(run) = self.runs.get_mut(id) else { return Ok(()) };
        let run = run.of_pass(envelope.pass);
        for (unit, n) in &envelope.counts {
            let known = run.counts.entry(unit.clone()).or_default();
            *known = (*known).max(*n);
        }
        match envelope.kind {
            Kind::Again => Ok(()),
            Kind::Done => run.finish(id, json),
            Kind::Failed => {
                if run.failed.as_ref().is_none_or(|(latest, _)| *latest <= at) {
                    run.failed = Some((at, json.into()));
                }
                Ok(())
            }
            Kind::Halted => {
                if run.halted.as_ref().is_none_or(|(latest, _)| *latest <= at) {
                    run.halted = Some((at, json.into()));
                }
                Ok(())
            }
            _ => run.step(id, &envelope, json),
        }
    }
}

impl RecoveredRun {
    fn finish(&mut self, id: &str, json: &[u8]) -> Result<(), String> {
        if let Some(known) = &self.done {
            // Two journals may both hold the run, but only with the same outcome.
            if value::<serde_json::Value>(known)? != value::<serde_json::Value>(json)? {
                return Err(format!("run {id} is already done, with another outcome"));
            }
            return Ok(());
        }
        self.done = Some(json.into());
        self.closed = self.own_money();
        self.steps.clear();
        Ok(())
    }

    fn step(&mut self, id: &str, envelope: &Envelope, json: &[u8]) -> Result<(), String> {
        self.last_step_at = self.last_step_at.max(envelope.at);
        let (Some(step), Some(name), Some(hash)) = (envelope.step, envelope.name.as_deref(), envelope.hash.as_deref())
        else {
            return Err("it names no step".to_owned());
        };
        if self.done.is_some() {
            return Ok(());
        }
        let known = self.steps.entry(step).or_insert_with(|| StepRecord {
            name: name.to_owned(),
            hash: hash.to_owned(),
            result: None,
            attempts: Vec::new(),
        });
        if known.name != name || known.hash != hash {
            return Err(format!("step {} of run {id} was recorded before with another request", step + 1));
        }
        known.pay(envelope, json)?;
        if envelope.kind == Kind::Result {
            match &known.result {
                None => {
                    known.result = Some(json.into());
                    self.results += 1;
                }
                Some(result) if value::<serde_json::Value>(result)? == value::<serde_json::Value>(json)? => {}
                Some(_) => {
                    return Err(format!("step {} of run {id} was recorded before with another result", step + 1));
                }
            }
        }
        Ok(())
    }
}

fn value<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    value_of(json).map_err(|error| error.to_string())
}

/// A recorded value as what it is taken for.
pub(super) fn parsed<T: DeserializeOwned>(json: &[u8], what: impl FnOnce() -> String) -> Result<T, Problem> {
    value_of(json).map_err(|error| {
        Problem::new(format!("the journal's entry is not of the form this version reads: {error}"))
            .at(what())
            .hint("resume with the version that wrote it, or begin again in another folder with --out")
    })
}

fn moment(at_ms: u64) -> String {
    tiltmeter_store::timestamp(time_of(at_ms))
}

/// Unix time in ms as a moment.
pub(super) fn time_of(at_ms: u64) -> time::OffsetDateTime {
    let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_may_be_read_in_any_order_and_all_of_them_cost() {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            let mut run = RecoveredRun::default();
            for pass in order {
                run.of_pass(pass).closed.settled += 1 << pass;
            }
            assert_eq!((run.pass(), run.money().settled, run.own_money().settled), (2, 7, 4), "{order:?}");
            assert_eq!(run.of_pass(1).closed.settled, 2, "{order:?}");
        }
    }
}
