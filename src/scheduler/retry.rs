//! Decides whether a failed call is retried:
//!
//! | class | decision |
//! |---|---|
//! | rate limit | the lane pauses for all calls; this call waits in its queue, up to the lane's patience |
//! | transient | retried after a random time between 0 and 1, 2, 4 … 60 s ("full jitter"), `max_attempts` in total |
//! | malformed | retried once |
//! | quota | the lane is off; the run is interrupted |
//! | auth | the lane is off; the run fails |
//! | bad request | the run fails |

use std::time::Duration;

use tokio::time::Instant;

use super::{
    plan::seed_for,
    rate_limit::{Lane, fraction},
};
use tiltmeter_model::failure::{Class, Failure};

/// Time limit and retries of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPolicy {
    /// An attempt that takes longer is dropped, and a later reply is ignored.
    pub attempt_timeout: Duration,
    /// Maximum number of attempts that fail for transient reasons.
    pub max_attempts: u32,
    /// Upper bound of the first backoff; doubles with each attempt.
    pub first_backoff: Duration,
    /// Upper bound of any backoff.
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

/// Whether a call is retried.
pub enum Decision {
    RetryAfter(Duration),
    /// Retried as soon as the lane admits it.
    Requeue,
    GiveUp,
}

/// Failures of one call in this session.
pub struct Retries {
    policy: CallPolicy,
    seed: u64,
    pub attempts: u32,
    transient: u32,
    malformed: u32,
    limited_since: Option<Instant>,
}

impl Retries {
    pub fn new(policy: &CallPolicy, seed: u64) -> Self {
        Self { policy: *policy, seed, attempts: 0, transient: 0, malformed: 0, limited_since: None }
    }

    pub fn after(&mut self, failure: &Failure, lane: &Lane) -> Decision {
        self.attempts += 1;
        match failure.class {
            Class::RateLimit => {
                let since = *self.limited_since.get_or_insert_with(Instant::now);
                // A request that exceeds the account's limit by itself is always refused while others succeed.
                let waited_enough = since.elapsed() > lane.patience();
                if waited_enough || lane.off().is_some() { Decision::GiveUp } else { Decision::Requeue }
            }
            Class::Transient => {
                self.transient += 1;
                if self.transient >= self.policy.max_attempts {
                    Decision::GiveUp
                } else {
                    Decision::RetryAfter(self.backoff(failure))
                }
            }
            Class::Malformed => {
                self.malformed += 1;
                if self.malformed > 1 { Decision::GiveUp } else { Decision::Requeue }
            }
            Class::Quota | Class::Auth | Class::BadRequest => Decision::GiveUp,
        }
    }

    fn backoff(&self, failure: &Failure) -> Duration {
        let doubled = self.policy.first_backoff.saturating_mul(1 << self.transient.saturating_sub(1).min(20));
        let random = fraction(seed_for(self.seed, &self.transient.to_string()));
        let jittered = doubled.min(self.policy.longest_backoff).mul_f64(random);
        jittered.max(failure.retry_after.unwrap_or_default())
    }
}
