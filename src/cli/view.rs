//! Owns what a moment of a schedule looks like: the line a person reads, the object a program reads.
//! Must not know: inference, HTTP, where it is shown.

use std::time::Duration;

use serde_json::json;

use super::status;
use tiltmeter_scheduler::{LaneState, LaneView, OffReason, Snapshot, Spending};

/// A moment of a schedule, as a person wants to see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProgressView {
    /// What is counted first, `turns`.
    pub unit: String,
    pub units_done: u64,
    /// `None` where it is not known.
    pub units_total: Option<u64>,
    /// Finished runs, those of earlier sessions included, failed ones not.
    pub runs_done: u64,
    pub runs_total: u64,
    pub runs_failed: u64,
    pub runs_running: u64,
    /// Work per second and its unit, `(512.0, "tok")`.
    pub rate: Option<(f64, String)>,
    pub elapsed: Duration,
    /// `None` until there is something to tell it from.
    pub eta: Option<Duration>,
    /// Runs per minute, where runs are what is counted.
    pub runs_per_minute: Option<f64>,
    /// The books, where calls cost money.
    pub spending: Option<Spending>,
    /// Lanes that are in use.
    pub lanes: Vec<LaneView>,
}

impl From<&Snapshot> for ProgressView {
    /// The first counter whose total is known leads; the rate is that of `tokens` where they are counted, else the leader's.
    fn from(now: &Snapshot) -> Self {
        let leader = now.counters.iter().find(|counter| counter.total.is_some()).or(now.counters.first());
        let tokens = now.counters.iter().find(|counter| counter.unit == "tokens").filter(|c| c.per_second.is_some());
        let paced = tokens.or(leader);
        let singular = |unit: &str| if unit == "tokens" { "tok".to_string() } else { unit.to_string() };
        Self {
            unit: leader.map_or("steps".to_string(), |counter| counter.unit.clone()),
            units_done: leader.map_or(0, |counter| counter.done),
            units_total: leader.and_then(|counter| counter.total),
            runs_done: now.done as u64,
            runs_total: now.total as u64,
            runs_failed: now.failed as u64,
            runs_running: now.running as u64,
            rate: paced.and_then(|counter| Some((counter.per_second?, singular(&counter.unit)))),
            elapsed: seconds(now.elapsed_s),
            eta: now.eta_s.map(seconds),
            runs_per_minute: now.runs_per_minute,
            spending: now.spending.filter(|books| books.held_micro_usd() > 0 || books.limit_micro_usd.is_some()),
            lanes: now.lanes.iter().filter(|lane| lane.calls + lane.waiting as u64 > 0).cloned().collect(),
        }
    }
}

/// A duration whatever the number is: an estimate may be infinite.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

impl ProgressView {
    /// `[150/864 turns] 12/48 runs | 512 tok/s | failed 0 | elapsed 1m02s | ETA 3m10s`, or, where work is counted in runs,
    /// `[150/300] Completed: 150 | Failed: 5 | Rate: 2.5/min | Elapsed: 3600s | ETA 58m10s | $1.20 of $20.00`
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        if self.by_run() {
            parts.push(format!("[{0}/{1}] Completed: {0}", self.runs_done, self.runs_total));
            parts.push(format!("Failed: {}", self.runs_failed));
            parts.extend(self.runs_per_minute.map(|rate| format!("Rate: {rate:.1}/min")));
            parts.push(format!("Elapsed: {}s", self.elapsed.as_secs()));
        } else {
            let total = self.units_total.map(|total| format!("/{total}")).unwrap_or_default();
            let (done, unit) = (self.units_done, &self.unit);
            parts.push(format!("[{done}{total} {unit}] {}/{} runs", self.runs_done, self.runs_total));
            parts.extend(self.rate.as_ref().map(|(rate, unit)| format!("{} {unit}/s", short_number(*rate))));
            parts.push(format!("failed {}", self.runs_failed));
            parts.push(format!("elapsed {}", short_duration(self.elapsed)));
        }
        parts.extend(self.eta.map(|eta| format!("ETA {}", short_duration(eta))));
        parts.extend(self.spending.as_ref().map(status::money));
        parts.join(" | ")
    }

    /// Work is counted in runs where calls are made, and where nothing else has a known total.
    fn by_run(&self) -> bool {
        self.runs_total > 0 && (self.units_total.is_none() || !self.lanes.is_empty())
    }

    /// What each lane does, if any is in use.
    pub fn lanes_line(&self) -> Option<String> {
        (!self.lanes.is_empty()).then(|| self.lanes.iter().map(lane).collect::<Vec<_>>().join(" | "))
    }

    pub fn json(&self, event: &str) -> serde_json::Value {
        json!({
            "event": event,
            "units": {"name": self.unit, "done": self.units_done, "total": self.units_total},
            "runs": {
                "done": self.runs_done, "total": self.runs_total, "failed": self.runs_failed, "running": self.runs_running,
            },
            "rate": self.rate.as_ref().map(|(rate, unit)| json!({"per_second": rate, "unit": unit})),
            "elapsed_s": (self.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            "eta_s": self.eta.map(|eta| eta.as_secs()),
            "spending": self.spending,
            "lanes": self.lanes,
        })
    }

    pub fn runs_differ(&self, other: &Self) -> bool {
        (self.runs_done, self.runs_failed, self.runs_total) != (other.runs_done, other.runs_failed, other.runs_total)
    }
}

/// `gemini: 3 in flight, 12 waiting`; what holds it up comes first.
pub fn lane(lane: &LaneView) -> String {
    let state = match lane.state {
        LaneState::Open => String::new(),
        LaneState::Closed { for_s } => format!("paused for {}, ", short_duration(seconds(for_s.ceil()))),
        LaneState::Probing => "trying one call, ".to_owned(),
        LaneState::Off { reason: OffReason::Quota } => "off: the account has run dry, ".to_owned(),
        LaneState::Off { reason: OffReason::Auth } => "off: the key was refused, ".to_owned(),
        LaneState::Off { reason: OffReason::RateLimit } => "off: too fast for too long, ".to_owned(),
    };
    let waiting = if lane.waiting > 0 { format!(", {} waiting", lane.waiting) } else { String::new() };
    format!("{}: {state}{} in flight{waiting}, {} calls", lane.name, lane.in_flight, lane.calls)
}

/// `45s`, `1m02s`, `3h07m`, `2d04h`
pub fn short_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Three digits that matter.
fn short_number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(units_done: u64, runs_done: u64) -> ProgressView {
        ProgressView {
            unit: "turns".into(),
            units_done,
            units_total: Some(864),
            runs_done,
            runs_total: 48,
            rate: Some((512.3, "tok".into())),
            elapsed: Duration::from_secs(62),
            eta: Some(Duration::from_secs(190)),
            ..ProgressView::default()
        }
    }

    #[test]
    fn the_line_says_what_is_done_how_fast_and_how_long() {
        let line = "[150/864 turns] 12/48 runs | 512 tok/s | failed 0 | elapsed 1m02s | ETA 3m10s";
        assert_eq!(view(150, 12).line(), line);
        let early = ProgressView { unit: "turns".into(), ..ProgressView::default() };
        assert_eq!(early.line(), "[0 turns] 0/0 runs | failed 0 | elapsed 0s");
    }

    #[test]
    fn where_runs_are_counted_the_line_is_about_runs_and_money() {
        let spending =
            Spending { settled_micro_usd: 1_200_000, limit_micro_usd: Some(20_000_000), ..Spending::default() };
        let view = ProgressView {
            runs_done: 150,
            runs_failed: 5,
            runs_total: 300,
            runs_per_minute: Some(2.5),
            elapsed: Duration::from_secs(3600),
            eta: Some(Duration::from_secs(3490)),
            spending: Some(spending),
            ..ProgressView::default()
        };
        assert_eq!(
            view.line(),
            "[150/300] Completed: 150 | Failed: 5 | Rate: 2.5/min | Elapsed: 3600s | ETA 58m10s | $1.20 of $20.00"
        );
    }

    #[test]
    fn durations_keep_two_units() {
        let shown = [0, 45, 62, 3599, 11_250, 187_200].map(|s| short_duration(Duration::from_secs(s)));
        assert_eq!(shown, ["0s", "45s", "1m02s", "59m59s", "3h07m", "2d04h"]);
        assert_eq!([1.234, 12.34, 512.3].map(short_number), ["1.23", "12.3", "512"]);
        assert_eq!((seconds(f64::INFINITY), seconds(f64::NAN)), (Duration::ZERO, Duration::ZERO));
    }
}
