//! A call: a step that costs money. Reserve in the budget -> wait for the lane -> intent durable -> send -> result durable -> settle.
//! Failed attempts are retried here and nowhere else, as `retry` decides.
//!
//! A reservation is settled only once the entry with the cost is durable, because a crash could otherwise free an amount twice. A failed
//! attempt without a reported cost is charged nothing if it was refused (by its class or an HTTP error status). If it may have been
//! processed (broken connection, time-out, unreadable reply), its worst case stays charged as uncertain.

use std::future::Future;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{sleep, timeout};

use super::{
    budget::{Exhausted, Reservation, dollars},
    context::RunContext,
    journal::{AttemptCost, AttemptEnd, Entry, EntryKind, Journal, StepId, value_of},
    plan::{request_hash, seed_for},
    rate_limit::{Lane, LaneOff, OffReason},
    retry::{CallPolicy, Decision, Retries},
    run::RunError,
    stop::StopLevel,
};
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;

/// Cost of a call: actual, expected or worst case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub micro_usd: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// A request to a lane.
pub struct Call<'a, Req: ?Sized> {
    /// Name of the lane.
    pub lane: &'a str,
    /// Name of the step.
    pub name: &'a str,
    /// Identifies the step on a resume.
    pub request: &'a Req,
    /// Worst-case cost; reserved before every attempt.
    pub worst: Cost,
    pub policy: CallPolicy,
    /// The call has no side effects and costs only time, as with a local model: no intent is journaled.
    pub repeatable: bool,
}

/// Why the scheduler interrupted a run that can be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Halt {
    pub reason: HaltReason,
    pub problem: Problem,
}

/// Reasons for a halt, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltReason {
    /// The limit of the batch is reached.
    Budget,
    /// An account is out of credit.
    Quota,
    /// Rate-limited for longer than the lane's patience.
    RateLimit,
    /// The limit of the run is reached.
    RunBudget,
}

impl RunContext {
    /// Makes a call on a lane. `act` makes one attempt, given its number from 0 (counted over all sessions), and is dropped if it takes
    /// too long. The rules for steps hold for calls.
    pub async fn call<Req, Out, F, Fut>(&self, call: Call<'_, Req>, mut act: F) -> Result<Out, RunError>
    where
        Req: Serialize + ?Sized + Sync,
        Out: Serialize + DeserializeOwned,
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<(Out, Cost), Failure>>,
    {
        let name = call.name;
        let hash = request_hash(call.request).map_err(|error| self.unusable(name, "request", &error))?;
        let number = self.begin(name)?;
        let journaled = self.journaled(number, name, &hash)?;
        let first_attempt = journaled.as_ref().map_or(0, |step| step.next_attempt());
        if let Some(json) = journaled.and_then(|step| step.result) {
            return self.replayed(number, name, &json);
        }
        let lane = self.lane(call.lane).ok_or_else(|| {
            RunError::Failed(
                Problem::new(format!("there is no lane {:?} in this schedule", call.lane)).at(self.place(number, name)),
            )
        })?;
        let step = StepId { step: number, name, hash: &hash };
        let mut retries = Retries::new(&call.policy, seed_for(u64::from(number), self.id()));
        for attempt in first_attempt.. {
            let mut reservation = self.reserve(&call, number).await?;
            let admitted = self.unless_stopped(lane.admit(&call.worst)).await?;
            let mut permit = admitted.map_err(|off| self.off(&lane, off, number, name))?;
            // The intent may be on disk from here on, so the reservation must not be released.
            reservation.begin();
            let worst = AttemptCost { attempt, cost: call.worst };
            if !call.repeatable {
                self.commit(Journal::encode(&self.call_entry(EntryKind::Intent, step, worst, &()))?).await?;
            }
            permit.sent();
            let failure = match timeout(call.policy.attempt_timeout, act(attempt)).await {
                Ok(Ok((out, cost))) => {
                    permit.succeeded(&cost);
                    let counts = self.counts();
                    let mut entry = self.call_entry(EntryKind::Result, step, AttemptCost { attempt, cost }, &out);
                    entry.counts = counts.as_ref();
                    let json = serde_json::to_vec(&entry).map_err(|error| self.unusable(name, "result", &error))?;
                    let out = value_of(&json).map_err(|error| self.unusable(name, "result", &error))?;
                    self.commit(json).await?;
                    reservation.settle(cost.micro_usd, 0);
                    self.finish_step(true);
                    return Ok(out);
                }
                Ok(Err(failure)) => failure,
                Err(_) => timed_out(&call.policy),
            };
            if permit.failed(&failure) {
                let what = &failure.problem.what;
                self.note(format!("{}, step {} ({name}), attempt {}: {what}", self.id(), number + 1, attempt + 1));
            }
            let charged = Charged::of(&failure, call.worst.micro_usd);
            let end = AttemptEnd {
                class: failure.class,
                status: failure.status,
                uncertain_micro_usd: charged.uncertain,
                problem: &failure.problem,
            };
            let cost = Cost { micro_usd: charged.settled, ..Cost::default() };
            self.commit(Journal::encode(&self.call_entry(
                EntryKind::Attempt,
                step,
                AttemptCost { attempt, cost },
                &end,
            ))?)
            .await?;
            reservation.settle(charged.settled, charged.uncertain);
            match retries.after(&failure, &lane) {
                Decision::RetryAfter(pause) => self.unless_stopped(sleep(pause)).await?,
                // The lane decides when.
                Decision::Requeue => {}
                Decision::GiveUp => return Err(self.given_up(&lane, failure, &retries, number, name)),
            }
        }
        Err(RunError::Failed(Problem::new("too many attempts at a call").at(self.place(number, name))))
    }

    async fn reserve<Req: ?Sized>(&self, call: &Call<'_, Req>, number: u32) -> Result<Reservation, RunError> {
        let budget = self.budget();
        let reserved = self.unless_stopped(budget.reserve(self.id(), call.worst.micro_usd)).await?;
        reserved.map_err(|exhausted| {
            let spending = budget.spending();
            let (reason, limit, key) = match exhausted {
                Exhausted::Batch => (HaltReason::Budget, spending.limit_micro_usd, "budget_limit"),
                Exhausted::Run => (HaltReason::RunBudget, spending.run_limit_micro_usd, "the budget limit of a run"),
                Exhausted::Unknown(problem) => return RunError::Failed(problem),
            };
            let problem = Problem::new(format!(
                "{} of {} has no room for a call that may cost {}",
                key,
                dollars(limit.unwrap_or_default()),
                dollars(call.worst.micro_usd)
            ));
            let problem = problem.at(self.place(number, call.name)).hint(format!("raise {key} and run --resume"));
            self.end_with(RunError::Halted(Halt { reason, problem }))
        })
    }

    /// The error of a run whose lane is off.
    fn off(&self, lane: &Lane, off: LaneOff, number: u32, name: &str) -> RunError {
        let problem = off.problem.at(format!("{}, lane {}", self.place(number, name), lane.name()));
        self.end_with(match off.reason {
            OffReason::Auth => RunError::Failed(problem),
            OffReason::Quota => RunError::Halted(Halt { reason: HaltReason::Quota, problem }),
            OffReason::RateLimit => RunError::Halted(Halt { reason: HaltReason::RateLimit, problem }),
        })
    }

    fn given_up(&self, lane: &Lane, failure: Failure, retries: &Retries, number: u32, name: &str) -> RunError {
        if let (Class::RateLimit | Class::Quota | Class::Auth, Some(off)) = (failure.class, lane.off()) {
            return self.off(lane, off, number, name);
        }
        let mut problem = failure.problem;
        if retries.attempts > 1 {
            problem.what = format!("{} (given up after {} attempts)", problem.what, retries.attempts);
        }
        let problem = problem.at(self.place(number, name));
        match failure.class {
            Class::RateLimit => self.end_with(RunError::Halted(Halt { reason: HaltReason::RateLimit, problem })),
            _ => RunError::Failed(problem),
        }
    }

    /// Waits unless the stop level reaches `Stop`.
    pub(super) async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Result<T, RunError> {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            () = self.stop_signal().reached(StopLevel::Stop) => Err(self.end_with(RunError::Stopped)),
        }
    }

    fn call_entry<'a, T>(
        &'a self,
        kind: EntryKind,
        step: StepId<'a>,
        attempt: AttemptCost,
        value: &'a T,
    ) -> Entry<'a, T> {
        Entry { attempt: Some(attempt), ..self.entry(kind, Some(step), None, value) }
    }
}

fn timed_out(policy: &CallPolicy) -> Failure {
    let seconds = policy.attempt_timeout.as_secs_f64();
    Failure::new(
        Class::Transient,
        Problem::new(format!("no complete answer within {seconds} s"))
            .hint("allow more time, or ask for a shorter reply"),
    )
}

/// Charge of a failed attempt.
struct Charged {
    settled: u64,
    uncertain: u64,
}

impl Charged {
    fn of(failure: &Failure, worst_micro_usd: u64) -> Self {
        let by_class = matches!(failure.class, Class::RateLimit | Class::Quota | Class::Auth | Class::BadRequest);
        let refused = by_class || failure.status.is_some_and(|status| status >= 400);
        match failure.cost_micro_usd {
            Some(settled) => Self { settled, uncertain: 0 },
            None if refused => Self { settled: 0, uncertain: 0 },
            None => Self { settled: 0, uncertain: worst_micro_usd },
        }
    }
}
