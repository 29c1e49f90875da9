//! [`Failure`]: a failed call to a provider, classified. The provider assigns the [`Class`]; only the scheduler retries.

use std::time::Duration;

use crate::problem::Problem;

/// What a failed call means for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Too many requests: the lane pauses, then retries.
    RateLimit,
    /// The account is out of quota: the lane stops and its runs stay pending.
    Quota,
    /// The key is missing, invalid or not permitted: the lane stops.
    Auth,
    /// Temporary: 408, 409, 5xx, 529, a broken connection, a time-out.
    Transient,
    /// The same request would fail again.
    BadRequest,
    /// An unreadable reply, possibly billed; retried once.
    Malformed,
}

/// A call without a reply.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Decides on a retry.
    pub class: Class,
    /// The error as shown to the user.
    pub problem: Problem,
    /// The wait the provider asked for (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// HTTP status, if one was received.
    pub status: Option<u16>,
    /// Cost of the failed call in micro-dollars; `None` if unknown.
    pub cost_micro_usd: Option<u64>,
}

impl Failure {
    /// A failure of unknown cost.
    pub fn new(class: Class, problem: Problem) -> Self {
        Self { class, problem, retry_after: None, status: None, cost_micro_usd: None }
    }
}
