//! Rate limits: a `Lane` is the path of all calls to one provider account (or to the local engine), shared by all runs.
//!
//! - Requests and tokens per minute are kept by a sliding window (`sliding_window`), calls in flight by a limit.
//! - 429: the lane closes for the time given in `Retry-After` (else for a growing, jittered time), then admits one call as a probe,
//!   then doubles the calls in flight per round up to half of the previous number, then adds one per round.
//! - 503 and 529: half as many calls in flight, at most once per round.
//! - No credit, invalid key, or rate-limited for longer than the lane's patience: the lane is off for the rest of the session.
//!
//! Waiting calls are admitted first come first served.

mod lane;
mod permit;
mod sliding_window;
mod state;

pub use lane::{Lane, LaneLimits, LaneOff, LaneState, LaneView, OffReason};
pub use permit::Permit;

/// A number in [0, 1) from 64 random bits.
pub(super) fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
