//! `RecoveredRun`: the steps, outcome and costs of one run, as read from journal entries.

use std::{cmp::Ordering, collections::BTreeMap, mem};

use serde::de::DeserializeOwned;

use super::format::{AttemptCharge, Counts, EntryHead, EntryKind, HaltValue, ProblemValue, value_of};
use super::recovery::parsed;
use crate::{
    budget::Balance,
    call::Halt,
    checkpoint::{CHECKPOINT, Checkpoint},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

/// Journal entries of one run.
#[derive(Default)]
pub struct RecoveredRun {
    /// Steps by number; emptied once the run is done.
    pub steps: BTreeMap<u32, StepRecord>,
    /// The `done` entry.
    pub done: Option<Box<[u8]>>,
    /// Time and line of the latest `failed` entry.
    failed: Option<(u64, Box<[u8]>)>,
    /// Time and line of the latest `halted` entry.
    halted: Option<(u64, Box<[u8]>)>,
    last_step_at: u64,
    /// Work by unit as of the latest entry with counts.
    pub counts: Counts,
    /// Number of steps with a result.
    pub results: u64,
    /// Cost of the steps that were dropped from `steps`.
    dropped_steps: Balance,
    /// Number of reruns, and the record before the latest one: its costs count, its results do not.
    pass: u32,
    earlier: Option<Box<RecoveredRun>>,
    /// Cost of calls made by other workers.
    pub paid_by_others: Balance,
    /// Whether the `done` entry is in another worker's journal.
    pub done_by_others: bool,
}

/// One step of a run: an intent, a result, or both.
pub struct StepRecord {
    pub name: String,
    pub hash: String,
    /// The `result` entry.
    pub result: Option<Box<[u8]>>,
    /// Attempts, if the step is a call.
    attempts: Vec<AttemptRecord>,
}

/// One attempt at a call. Identified by its number, so that an entry present in two journals counts once.
struct AttemptRecord {
    number: u32,
    /// The whole reservation is uncertain until the attempt has ended.
    cost: Balance,
    ended: bool,
}

impl StepRecord {
    /// The number of the next attempt.
    pub fn next_attempt(&self) -> u32 {
        self.attempts.iter().map(|attempt| attempt.number + 1).max().unwrap_or(0)
    }

    /// Whether the action may or may not have taken place.
    fn uncertain(&self) -> bool {
        let open = self.attempts.is_empty() || self.attempts.iter().any(|attempt| !attempt.ended);
        self.result.is_none() && open
    }

    fn add_attempt(&mut self, head: &EntryHead, json: &[u8]) -> Result<(), String> {
        let (Some(number), Some(cost)) = (head.attempt, head.cost) else { return Ok(()) };
        let (settled, uncertain, ended) = match head.kind {
            EntryKind::Intent => (0, cost.micro_usd, false),
            EntryKind::Attempt => (cost.micro_usd, value::<AttemptCharge>(json)?.uncertain_micro_usd, true),
            _ => (cost.micro_usd, 0, true),
        };
        let cost = Balance { settled, uncertain, reserved: 0 };
        match self.attempts.iter_mut().find(|attempt| attempt.number == number) {
            Some(known) if ended && !known.ended => *known = AttemptRecord { number, cost, ended },
            Some(_) => {}
            None => {
                self.attempts.reserve_exact(1);
                self.attempts.push(AttemptRecord { number, cost, ended });
            }
        }
        Ok(())
    }
}

impl RecoveredRun {
    /// Why the run failed, unless it was retried since.
    pub fn failure(&self) -> Option<Problem> {
        let (at, json) = self.failed.as_ref().filter(|_| self.done.is_none())?;
        let known = value_of::<ProblemValue>(json).map(Problem::from);
        (*at >= self.last_step_at).then(|| known.unwrap_or_else(|_| Problem::new("failed for an unreadable reason")))
    }

    /// The limit that interrupted the run, unless it continued since.
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

    /// Number of intents without a result or failed attempt.
    pub fn uncertain_steps(&self) -> usize {
        self.steps.values().filter(|step| step.uncertain()).count()
    }

    /// Number of the current pass, from 0.
    pub fn pass(&self) -> u32 {
        self.pass
    }

    /// The record of this pass. A later pass than any known one becomes the current one.
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

    /// Cost of its calls, including earlier passes.
    pub fn cost(&self) -> Balance {
        let earlier = self.earlier.as_ref().map(|earlier| earlier.cost()).unwrap_or_default();
        self.cost_of_pass().plus(earlier)
    }

    fn cost_of_pass(&self) -> Balance {
        let attempts = self.steps.values().flat_map(|step| &step.attempts);
        attempts.map(|attempt| attempt.cost).fold(self.dropped_steps, Balance::plus)
    }

    /// Adds an entry of this run and pass; the reason if it contradicts an earlier one.
    pub fn add(&mut self, id: &str, head: &EntryHead, json: &[u8]) -> Result<(), String> {
        for (unit, n) in &head.counts {
            let known = self.counts.entry(unit.clone()).or_default();
            *known = (*known).max(*n);
        }
        let keep_latest = |latest: &mut Option<(u64, Box<[u8]>)>| {
            if latest.as_ref().is_none_or(|(at, _)| *at <= head.at) {
                *latest = Some((head.at, json.into()));
            }
        };
        match head.kind {
            EntryKind::Rerun => {}
            EntryKind::Done => return self.add_outcome(id, json),
            EntryKind::Failed => keep_latest(&mut self.failed),
            EntryKind::Halted => keep_latest(&mut self.halted),
            _ => return self.add_step(id, head, json),
        }
        Ok(())
    }

    fn add_outcome(&mut self, id: &str, json: &[u8]) -> Result<(), String> {
        if let Some(known) = &self.done {
            // Two journals may both contain the run, but only with the same outcome.
            if value::<serde_json::Value>(known)? != value::<serde_json::Value>(json)? {
                return Err(format!("run {id} is already done, with another outcome"));
            }
            return Ok(());
        }
        self.done = Some(json.into());
        self.dropped_steps = self.cost_of_pass();
        self.steps.clear();
        Ok(())
    }

    fn add_step(&mut self, id: &str, head: &EntryHead, json: &[u8]) -> Result<(), String> {
        self.last_step_at = self.last_step_at.max(head.at);
        let (Some(step), Some(name), Some(hash)) = (head.step, head.name.as_deref(), head.hash.as_deref()) else {
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
        known.add_attempt(head, json)?;
        if head.kind == EntryKind::Result {
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

pub fn value<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    value_of(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_may_be_read_in_any_order_and_the_cost_is_that_of_all() {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]] {
            let mut run = RecoveredRun::default();
            for pass in order {
                run.of_pass(pass).dropped_steps.settled += 1 << pass;
            }
            assert_eq!((run.pass(), run.cost().settled, run.cost_of_pass().settled), (2, 7, 4), "{order:?}");
            assert_eq!(run.of_pass(1).dropped_steps.settled, 2, "{order:?}");
        }
    }
}
