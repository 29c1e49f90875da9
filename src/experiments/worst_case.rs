//! Upper bounds of a forecast: every reply as long as allowed, every call made once.

use crate::ModelClient;
use tiltmeter_model::ChatRequest;
use tiltmeter_model::problem::Problem;

/// Paid calls and their greatest cost.
#[derive(Clone, Copy, Debug)]
pub struct WorstCase {
    pub paid_calls: u64,
    /// `None` if a price is unknown.
    pub micro_usd: Option<u64>,
}

impl Default for WorstCase {
    fn default() -> Self {
        Self { paid_calls: 0, micro_usd: Some(0) }
    }
}

impl WorstCase {
    /// Adds one call.
    ///
    /// # Errors
    /// The model does not accept the request.
    pub fn add_call(&mut self, client: &ModelClient, request: &ChatRequest) -> Result<(), Problem> {
        client.model.check(request)?;
        let call = Self { paid_calls: u64::from(!client.local), micro_usd: client.model.worst_case_micro_usd(request) };
        self.add(&call, 1);
        Ok(())
    }

    /// Adds `times` times `other`.
    pub fn add(&mut self, other: &Self, times: usize) {
        let times = times as u64;
        self.paid_calls += other.paid_calls * times;
        let both = self.micro_usd.zip(other.micro_usd);
        self.micro_usd = both.map(|(sum, more)| sum.saturating_add(more.saturating_mul(times)));
    }
}

/// The problem, with `place` if it has no place of its own.
pub fn located(problem: Problem, place: impl Into<String>) -> Problem {
    if problem.place.is_some() { problem } else { problem.at(place) }
}
