//! Owns a paid call: room in the budget -> leave of its lane -> intent durable -> sent -> what came of it durable -> books settled,
//! and what is done after a failure. Only here is a call tried again:
//!
//! | class | what happens |
//! |---|---|
//! | rate limit | the lane pauses for all; the call goes back into its queue, up to the lane's patience |
//! | transient | again after a random time of 0 to 1, 2, 4 … 60 s ("full jitter"), `max_attempts` in all |
//! | malformed | once more |
//! | quota | the lane is off; the run is left to be done |
//! | auth | the lane is off; the run fails |
//! | bad request | the run fails |
//!
//! The books are settled only after the line that says so is durable: room that a crash could take back must not be given away.
//! A failed call of which the other side reported no cost is charged nothing if it was refused (by its class or an HTTP error
//! status), and its worst case as uncertain if it may have been carried out: a broken connection, a time-out, an unreadable reply.
//! Must not know: models, providers, what a request or a reply means.

use std::{future::Future, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout};

use super::{
    budget::{Exhausted, Reservation, dollars},
    context::{RunContext, RunError},
    journal::Journal,
    journal_format::{AttemptEnd, Kind, Line, Money, StepPart, value_of},
    lane::{Lane, LaneOff, OffReason, fraction},
    plan::{request_hash, seed_for},
    stop::StopLevel,
};
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;

/// What a call costs, or may cost at worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub micro_usd: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// How often and how long a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPolicy {
    /// An attempt that takes longer is dropped; a reply that comes later is not counted.
    pub attempt_timeout: Duration,
    /// Attempts in all, where they fail for transient reasons.
    pub max_attempts: u32,
    /// Longest wait before the second attempt; doubles from there.
    pub first_backoff: Duration,
    /// It doubles up to here.
    pub longest_backoff: Duration,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(120),
            max_attempts: 6,
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(60),
        }
    }
}

/// A paid step.
pub struct Call<'a, Req: ?Sized> {
    /// Name of one of the schedule's lanes.
    pub lane: &'a str,
    /// Name of the step.
    pub name: &'a str,
    /// What the step is recognised by.
    pub request: &'a Req,
    /// What it may cost at worst; reserved before every attempt.
    pub worst: Cost,
    pub policy: CallPolicy,
    /// Carrying it out twice costs nothing but time, as with a model on this machine: no intent is journaled.
    pub repeatable: bool,
}

/// Why a run is left to be done although nobody asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Halt {
    pub reason: HaltReason,
    pub problem: Problem,
}

/// Kinds of halts, the one that matters most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltReason {
    /// The batch's limit is reached.
    Budget,
    /// An account has run dry.
    Quota,
    /// An account is too fast for longer than its lane's patience.
    RateLimit,
    /// A run's own limit is reached.
    RunBudget,
}

impl RunContext {
    /// A paid step on a lane. `act` makes one attempt, told which one of this step it is (from 0, earlier sessions included); it
    /// is dropped where it takes too long. What was said of steps holds for calls.
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
        let recorded = self.recorded(number, name, &hash)?;
        let first_attempt = recorded.as_ref().map_or(0, |recorded| recorded.next_attempt());
        if let Some(json) = recorded.and_then(|recorded| recorded.result) {
            return self.replayed(number, name, &json);
        }
        let lane = self.lane(call.lane).ok_or_else(|| {
            RunError::Failed(
                Problem::new(format!("there is no lane {:?} in this schedule", call.lane)).at(self.place(number, name)),
            )
        })?;
        let step = StepPart { step: number, name, hash: &hash };
        let mut patience = Patience::new(&call.policy, seed_for(u64::from(number), self.id()));
        for attempt in first_attempt.. {
            let mut reservation = self.reserve(&call, number).await?;
            let admitted = self.unless_stopped(lane.admit(&call.worst)).await?;
            let mut permit = admitted.map_err(|off| self.off(&lane, off, number, name))?;
            // From here the intent may be on the disk, so the room may not be given away.
            reservation.begin();
            let money = Money { attempt, cost: call.worst };
            if !call.repeatable {
                self.commit(Journal::encode(&self.paid_line(Kind::Intent, step, money, &()))?).await?;
            }
            permit.sent();
            let failure = match timeout(call.policy.attempt_timeout, act(attempt)).await {
                Ok(Ok((out, cost))) => {
                    permit.succeeded(&cost);
                    let counts = self.counts();
                    let mut line = self.paid_line(Kind::Result, step, Money { attempt, cost }, &out);
                    line.counts = counts.as_ref();
                    let json = serde_json::to_vec(&line).map_err(|error| self.unusable(name, "result", &error))?;
                    let out = value_of(&json).map_err(|error| self.unusable(name, "result", &error))?;
                    self.commit(json).await?;
                    reservation.settle(cost.micro_usd, 0);
                    self.finish_step(true);
                    return Ok(out);
                }
                Ok(Err(failure)) => failure,
                Err(_) => late(&call.policy),
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
            self.commit(Journal::encode(&self.paid_line(Kind::Attempt, step, Money { attempt, cost }, &end))?).await?;
            reservation.settle(charged.settled, charged.uncertain);
            match patience.after(&failure, &lane) {
                Next::Again(pause) => self.unless_stopped(sleep(pause)).await?,
                // The lane itself says when.
                Next::Queue => {}
                Next::Never => return Err(self.given_up(&lane, failure, &patience, number, name)),
            }
        }
        Err(RunError::Failed(Problem::new("a call was tried too often").at(self.place(number, name))))
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

    /// What a lane that is off means for the run.
    fn off(&self, lane: &Lane, off: LaneOff, number: u32, name: &str) -> RunError {
        let problem = off.problem.at(format!("{}, lane {}", self.place(number, name), lane.name()));
        self.end_with(match off.reason {
            OffReason::Auth => RunError::Failed(problem),
            OffReason::Quota => RunError::Halted(Halt { reason: HaltReason::Quota, problem }),
            OffReason::RateLimit => RunError::Halted(Halt { reason: HaltReason::RateLimit, problem }),
        })
    }

    fn given_up(&self, lane: &Lane, failure: Failure, patience: &Patience, number: u32, name: &str) -> RunError {
        if let (Class::RateLimit | Class::Quota | Class::Auth, Some(off)) = (failure.class, lane.off()) {
            return self.off(lane, off, number, name);
        }
        let mut problem = failure.problem;
        if patience.attempts > 1 {
            problem.what = format!("{} (given up after {} attempts)", problem.what, patience.attempts);
        }
        let problem = problem.at(self.place(number, name));
        match failure.class {
            Class::RateLimit => self.end_with(RunError::Halted(Halt { reason: HaltReason::RateLimit, problem })),
            _ => RunError::Failed(problem),
        }
    }

    /// Waits for something, but not beyond a stop.
    pub(super) async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Result<T, RunError> {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            () = self.stop_signal().reached(StopLevel::Stop) => Err(self.end_with(RunError::Stopped)),
        }
    }

    fn paid_line<'a, T>(&'a self, kind: Kind, step: StepPart<'a>, money: Money, value: &'a T) -> Line<'a, T> {
        Line { money: Some(money), ..self.line(kind, Some(step), None, value) }
    }
}

fn late(policy: &CallPolicy) -> Failure {
    let seconds = policy.attempt_timeout.as_secs_f64();
    Failure::new(
        Class::Transient,
        Problem::new(format!("no complete answer within {seconds} s"))
            .hint("allow more time, or ask for a shorter reply"),
    )
}

/// What a failed attempt is charged.
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

enum Next {
    Again(Duration),
    Queue,
    Never,
}

/// What one call has already been forgiven in this session.
struct Patience {
    policy: CallPolicy,
    seed: u64,
    attempts: u32,
    transient: u32,
    malformed: u32,
    limited_since: Option<Instant>,
}

impl Patience {
    fn new(policy: &CallPolicy, seed: u64) -> Self {
        Self { policy: *policy, seed, attempts: 0, transient: 0, malformed: 0, limited_since: None }
    }

    fn after(&mut self, failure: &Failure, lane: &Lane) -> Next {
        self.attempts += 1;
        match failure.class {
            Class::RateLimit => {
                let since = *self.limited_since.get_or_insert_with(Instant::now);
                // A request that alone is too large for the account is refused for ever while others get through.
                let waited_enough = since.elapsed() > lane.patience();
                if waited_enough || lane.off().is_some() { Next::Never } else { Next::Queue }
            }
            Class::Transient => {
                self.transient += 1;
                if self.transient >= self.policy.max_attempts {
                    Next::Never
                } else {
                    Next::Again(self.backoff(failure))
                }
            }
            Class::Malformed => {
                self.malformed += 1;
                if self.malformed > 1 { Next::Never } else { Next::Queue }
            }
            Class::Quota | Class::Auth | Class::BadRequest => Next::Never,
        }
    }

    fn backoff(&self, failure: &Failure) -> Duration {
        let doubled = self.policy.first_backoff.saturating_mul(1 << self.transient.saturating_sub(1).min(20));
        let drawn = fraction(seed_for(self.seed, &self.transient.to_string()));
        let jittered = doubled.min(self.policy.longest_backoff).mul_f64(drawn);
        jittered.max(failure.retry_after.unwrap_or_default())
    }
}
