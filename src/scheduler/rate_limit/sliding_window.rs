//! `SlidingWindow`: requests and tokens of the last minute, against limits per minute. A token bucket would let nearly twice the limit
//! through within one minute (a full bucket plus its refill), which providers that use a sliding window refuse.
//!
//! A call counts from the moment it is sent, with its expected tokens until the actual number is known. Consecutive starts are at
//! least `spacing` apart: at first a sixth of the even spacing (so 120 calls at 60 a minute take 70 s and not 120 s), doubled at
//! each refusal up to the even spacing.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::LaneLimits;
use crate::call::Cost;

/// A minute, plus a margin for varying network latency.
const WINDOW: Duration = Duration::from_millis(60_500);
/// Initial spacing: this fraction of the even spacing.
const FIRST_SPACING: u32 = 6;

/// Calls of the last minute, and admitted calls that are not sent yet.
pub(super) struct SlidingWindow {
    limits: [Option<u64>; 3],
    sent: VecDeque<Sent>,
    next_number: u64,
    /// Totals of `sent`.
    used: Amounts,
    /// Totals of admitted calls that are not sent yet.
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

/// When a call may be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    At(Instant),
    /// Not before an admitted call is sent or withdrawn.
    OnChange,
}

impl SlidingWindow {
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

    /// When a call with this expected cost may be admitted.
    pub fn admission(&mut self, now: Instant, expected: &Cost) -> Admission {
        if !self.limited() {
            return Admission::Now;
        }
        self.expire(now);
        let mut admission = match self.next_start {
            Some(start) if start > now => Admission::At(start),
            _ => Admission::Now,
        };
        for (index, want) in amounts(expected).into_iter().enumerate() {
            let Some(limit) = self.limits[index] else { continue };
            let mut used = self.used[index] + self.pending[index];
            let mut fits_at = None;
            let mut expiring = self.sent.iter();
            // A call larger than the limit is admitted alone.
            while used > 0 && used + want > limit {
                let Some(oldest) = expiring.next() else { return Admission::OnChange };
                used -= oldest.amounts[index];
                fits_at = Some(oldest.at + WINDOW);
            }
            if let Some(at) = fits_at {
                admission = match admission {
                    Admission::At(other) => Admission::At(other.max(at)),
                    _ => Admission::At(at),
                };
            }
        }
        admission
    }

    /// Counts an admitted call.
    pub fn admit(&mut self, now: Instant, expected: &Cost) {
        if self.limited() {
            add(&mut self.pending, amounts(expected));
            self.next_start = Some(now + self.spacing);
        }
    }

    /// An admitted call will not be sent.
    pub fn withdraw(&mut self, expected: &Cost) {
        if self.limited() {
            subtract(&mut self.pending, amounts(expected));
        }
    }

    /// An admitted call is sent. Returns its number for `settle`.
    pub fn send(&mut self, now: Instant, expected: &Cost) -> u64 {
        let number = self.next_number;
        if self.limited() {
            let amounts = amounts(expected);
            subtract(&mut self.pending, amounts);
            add(&mut self.used, amounts);
            self.sent.push_back(Sent { number, at: now, amounts });
            self.next_number += 1;
        }
        number
    }

    /// Replaces the expected tokens of a call by the actual ones.
    pub fn settle(&mut self, number: u64, actual: &Cost) {
        if let Ok(index) = self.sent.binary_search_by_key(&number, |sent| sent.number) {
            let amounts = amounts(actual);
            subtract(&mut self.used, self.sent[index].amounts);
            add(&mut self.used, amounts);
            self.sent[index].amounts = amounts;
        }
    }

    /// Slows down after a rate-limit refusal.
    pub fn slow_down(&mut self) {
        self.spacing = (self.spacing * 2).min(self.even);
    }

    /// Requests, input tokens and output tokens of the last minute.
    pub fn last_minute(&mut self, now: Instant) -> Amounts {
        self.expire(now);
        let mut all = self.used;
        add(&mut all, self.pending);
        all
    }

    fn limited(&self) -> bool {
        self.limits.iter().any(Option::is_some)
    }

    fn expire(&mut self, now: Instant) {
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
    fn actual_tokens_replace_expected_ones_and_expire_after_a_minute() {
        let mut window =
            SlidingWindow::new(&LaneLimits { output_tokens_per_minute: Some(100), ..LaneLimits::default() });
        let start = Instant::now();
        window.admit(start, &tokens(5, 80));
        assert_eq!(window.admission(start, &tokens(5, 80)), Admission::OnChange, "the first call is not sent yet");
        let first = window.send(start, &tokens(5, 80));
        assert_eq!(window.admission(start, &tokens(5, 80)), Admission::At(start + WINDOW));
        window.settle(first, &tokens(5, 20));
        assert_eq!(window.admission(start, &tokens(5, 80)), Admission::Now);
        assert_eq!(window.admission(start, &tokens(5, 81)), Admission::At(start + WINDOW));
        assert_eq!(
            window.admission(start + WINDOW, &tokens(5, 1000)),
            Admission::Now,
            "a call larger than the limit is admitted alone"
        );
        assert_eq!(window.last_minute(start + WINDOW), [0, 0, 0]);
    }

    #[test]
    fn refusals_double_the_spacing_up_to_the_even_spacing() {
        let mut window = SlidingWindow::new(&LaneLimits { requests_per_minute: Some(60), ..LaneLimits::default() });
        for _ in 0..5 {
            window.slow_down();
        }
        let start = Instant::now();
        window.admit(start, &Cost::default());
        window.withdraw(&Cost::default());
        assert_eq!(window.admission(start, &Cost::default()), Admission::At(start + WINDOW / 60));
    }
}
