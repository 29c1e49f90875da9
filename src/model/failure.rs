//! Owns `Failure`: what a failed call to the outside means for whoever would try it again. Whoever makes calls sorts what happened
//! into these classes; only the scheduler decides on a retry.
//! Must not know: any other room but `problem`.

use std::time::Duration;

use crate::problem::Problem;

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Too fast: the whole lane waits, then tries again.
    RateLimit,
    /// The account has run dry: the lane is off, its runs stay to be done.
    Quota,
    /// The key is missing, wrong or may not: nothing on this lane can succeed.
    Auth,
    /// Might work in a moment: 408, 409, 5xx, 529, a broken connection, a time-out.
    Transient,
    /// The same request will fail again.
    BadRequest,
    /// An answer came that cannot be read; it may have been billed. Worth one more try.
    Malformed,
}

/// A call that came to nothing.
#[derive(Clone, Debug)]
pub struct Failure {
    pub class: Class,
    pub problem: Problem,
    /// What the other side asked for before the next call.
    pub retry_after: Option<Duration>,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// What the failed call is known to have cost, in micro-dollars; `None`: nothing is known.
    pub cost_micro_usd: Option<u64>,
}

impl Failure {
    pub fn new(class: Class, problem: Problem) -> Self {
        Self { class, problem, retry_after: None, status: None, cost_micro_usd: None }
    }
}
