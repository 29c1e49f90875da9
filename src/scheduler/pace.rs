//! Owns how many calls and tokens may go out per minute, by the minute that has just passed and not by a refilling bucket: a full
//! bucket and its refill let nearly twice the limit through within one minute, which a provider that looks back over the last
//! minute answers with refusals.
//!
//! A call counts from the moment it is sent, with the tokens it was expected to need until the true number is known. Starts are
//! kept apart by a `spacing`: at first a sixth of the even distance (so that a batch of 120 calls at 60 a minute ends after one
//! minute and a sixth and not after two), doubled at every refusal until calls go out evenly.
//! Must not know: models, what a call does.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{call::Cost, lane::LaneLimits};

/// A minute, and what the way to the server may differ between two calls.
const WINDOW: Duration = Duration::from_millis(60_500);
/// Spacing at the start, as a part of the even distance.
const FIRST_SPACING: u32 = 6;

/// What went out within the last minute, and what is about to.
pub(super) struct Pace {
    limits: [Option<u64>; 3],
    sent: VecDeque<Sent>,
    next_number: u64,
    /// Sums over `sent`.
    used: Amounts,
    /// Sums over calls that were let through and are not sent yet.
    pending: Amounts,
    spacing: Duration,
    even: Duration,
    next_start: Option<Instant>,
}

/// Requests, input tokens, output tokens.
type Amounts = [u64; 3];

struct Sent {
    number: u64,
    at: Instant,
    amounts: Amounts,
}

/// When a call may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Now,
    At(Instant),
    /// Not before a call that was let through has been sent or given up.
    WhenTold,
}

impl Pace {
    pub fn new(limits: &LaneLimits) -> Self {
        let even = limits.requests_per_minute.map_or(Duration::ZERO, |n| WINDOW / n.max(1));
        Self {
            limits: [
                limits.requests_per_minute.map(u64::from),
                limits.input_tokens_per_minute,
                limits.output_tokens_per_minute,
            ],
            sent: VecDeque::new(),
            next_number: 0,
            used: Amounts::default(),
            pending: Amounts::default(),
            spacing: even / FIRST_SPACING,
            even,
            next_start: None,
        }
    }

    /// Whether a call that is expected to need this may start.
    pub fn ready(&mut self, now: Instant, want: &Cost) -> Ready {
        if !self.limited() {
            return Ready::Now;
        }
        self.forget(now);
        let mut ready = match self.next_start {
            Some(start) if start > now => Ready::At(start),
            _ => Ready::Now,
        };
        for (index, want) in amounts(want).into_iter().enumerate() {
            let Some(limit) = self.limits[index] else { continue };
            let mut used = self.used[index] + self.pending[index];
            let mut fits_at = None;
            let mut expiring = self.sent.iter();
            // A call that is larger than a minute's limit can only be tried alone.
            while used > 0 && used + want > limit {
                let Some(oldest) = expiring.next() else { return Ready::WhenTold };
                used -= oldest.amounts[index];
                fits_at = Some(oldest.at + WINDOW);
            }
            if let Some(at) = fits_at {
                ready = match ready {
                    Ready::At(other) => Ready::At(other.max(at)),
                    _ => Ready::At(at),
                };
            }
        }
        ready
    }

    /// A call is let through.
    pub fn start(&mut self, now: Instant, want: &Cost) {
        if self.limited() {
            add(&mut self.pending, amounts(want));
            self.next_start = Some(now + self.spacing);
        }
    }

    /// A call that was let through is not sent after all.
    pub fn withdraw(&mut self, want: &Cost) {
        if self.limited() {
            subtract(&mut self.pending, amounts(want));
        }
    }

    /// A call that was let through is sent; the number is for `settle`.
    pub fn send(&mut self, now: Instant, want: &Cost) -> u64 {
        let number = self.next_number;
        if self.limited() {
            let amounts = amounts(want);
            subtract(&mut self.pending, amounts);
            add(&mut self.used, amounts);
            self.sent.push_back(Sent { number, at: now, amounts });
            self.next_number += 1;
        }
        number
    }

    /// The tokens a call really needed.
    pub fn settle(&mut self, number: u64, actual: &Cost) {
        if let Ok(index) = self.sent.binary_search_by_key(&number, |sent| sent.number) {
            let amounts = amounts(actual);
            subtract(&mut self.used, self.sent[index].amounts);
            add(&mut self.used, amounts);
            self.sent[index].amounts = amounts;
        }
    }

    /// The other side found it too fast.
    pub fn refused(&mut self) {
        self.spacing = (self.spacing * 2).min(self.even);
    }

    /// Requests, input and output tokens of the last minute.
    pub fn last_minute(&mut self, now: Instant) -> Amounts {
        self.forget(now);
        let mut all = self.used;
        add(&mut all, self.pending);
        all
    }

    fn limited(&self) -> bool {
        self.limits.iter().any(Option::is_some)
    }

    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.sent.front().filter(|oldest| oldest.at + WINDOW <= now) {
            subtract(&mut self.used, oldest.amounts);
            self.sent.pop_front();
        }
    }
}

fn amounts(cost: &Cost) -> Amounts {
    [1, cost.input_tokens, cost.output_tokens]
}

fn add(sums: &mut Amounts, amounts: Amounts) {
    for (sum, amount) in sums.iter_mut().zip(amounts) {
        *sum = sum.saturating_add(amount);
    }
}

fn subtract(sums: &mut Amounts, amounts: Amounts) {
    for (sum, amount) in sums.iter_mut().zip(amounts) {
        *sum = sum.saturating_sub(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input_tokens: u64, output_tokens: u64) -> Cost {
        Cost { micro_usd: 0, input_tokens, output_tokens }
    }

    #[test]
    fn expected_tokens_are_replaced_by_true_ones_and_leave_after_a_minute() {
        let mut pace = Pace::new(&LaneLimits { output_tokens_per_minute: Some(100), ..LaneLimits::default() });
        let began = Instant::now();
        pace.start(began, &tokens(5, 80));
        assert_eq!(pace.ready(began, &tokens(5, 80)), Ready::WhenTold, "it is not known when the first is sent");
        let first = pace.send(began, &tokens(5, 80));
        assert_eq!(pace.ready(began, &tokens(5, 80)), Ready::At(began + WINDOW));
        pace.settle(first, &tokens(5, 20));
        assert_eq!(pace.ready(began, &tokens(5, 80)), Ready::Now);
        assert_eq!(pace.ready(began, &tokens(5, 81)), Ready::At(began + WINDOW));
        assert_eq!(pace.ready(began + WINDOW, &tokens(5, 1000)), Ready::Now, "larger than the limit: alone");
        assert_eq!(pace.last_minute(began + WINDOW), [0, 0, 0]);
    }

    #[test]
    fn refusals_make_the_distance_even_and_no_wider() {
        let mut pace = Pace::new(&LaneLimits { requests_per_minute: Some(60), ..LaneLimits::default() });
        for _ in 0..5 {
            pace.refused();
        }
        let began = Instant::now();
        pace.start(began, &Cost::default());
        pace.withdraw(&Cost::default());
        assert_eq!(pace.ready(began, &Cost::default()), Ready::At(began + WINDOW / 60));
    }
}
