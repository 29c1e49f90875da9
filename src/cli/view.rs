//! [`ProgressView`]: a snapshot of a schedule as a line of text or a JSON object.

use std::time::Duration;

use serde_json::json;

use super::terminal::counted;
use tiltmeter_scheduler::{LaneState, LaneView, OffReason, Snapshot, Spending, dollars};

/// A snapshot of a schedule for display.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProgressView {
    /// Unit of work: `turns`.
    pub unit: String,
    pub units_done: u64,
    /// `None` if unknown.
    pub units_total: Option<u64>,
    /// Successful runs, including those of earlier sessions.
    pub runs_done: u64,
    pub runs_total: u64,
    pub runs_failed: u64,
    pub runs_running: u64,
    /// Work per second and its unit, `(512.0, "tok")`.
    pub rate: Option<(f64, String)>,
    pub elapsed: Duration,
    /// `None` until it can be estimated.
    pub eta: Option<Duration>,
    /// Runs per minute, if work is counted in runs.
    pub runs_per_minute: Option<f64>,
    /// Costs, if calls cost money.
    pub spending: Option<Spending>,
    /// Active lanes.
    pub lanes: Vec<LaneView>,
}

impl From<&Snapshot> for ProgressView {
    /// Shows the first counter with a known total, and the rate of `tokens` if they are counted.
    fn from(now: &Snapshot) -> Self {
        let primary = now.counters.iter().find(|counter| counter.total.is_some()).or(now.counters.first());
        let tokens = now.counters.iter().find(|counter| counter.unit == "tokens").filter(|c| c.per_second.is_some());
        let rated = tokens.or(primary);
        let singular = |unit: &str| if unit == "tokens" { "tok".to_string() } else { unit.to_string() };
        Self {
            unit: primary.map_or("steps".to_string(), |counter| counter.unit.clone()),
            units_done: primary.map_or(0, |counter| counter.done),
            units_total: primary.and_then(|counter| counter.total),
            runs_done: now.done as u64,
            runs_total: now.total as u64,
            runs_failed: now.failed as u64,
            runs_running: now.running as u64,
            rate: rated.and_then(|counter| Some((counter.per_second?, singular(&counter.unit)))),
            elapsed: seconds(now.elapsed_s),
            eta: now.eta_s.map(seconds),
            runs_per_minute: now.runs_per_minute,
            spending: now.spending.filter(|spent| spent.held_micro_usd() > 0 || spent.limit_micro_usd.is_some()),
            lanes: now.lanes.iter().filter(|lane| lane.calls + lane.waiting as u64 > 0).cloned().collect(),
        }
    }
}

/// Zero if the estimate is infinite or NaN.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

impl ProgressView {
    /// `[150/864 turns] 12/48 runs | 512 tok/s | failed 0 | elapsed 1m02s | ETA 3m10s`, or, if work is counted in runs,
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
        parts.extend(self.spending.as_ref().map(money));
        parts.join(" | ")
    }

    /// Work is counted in runs if calls are made or no other total is known.
    fn by_run(&self) -> bool {
        self.runs_total > 0 && (self.units_total.is_none() || !self.lanes.is_empty())
    }

    /// The state of each active lane; `None` without one.
    pub fn lanes_line(&self) -> Option<String> {
        (!self.lanes.is_empty()).then(|| self.lanes.iter().map(lane).collect::<Vec<_>>().join(" | "))
    }

    /// The view as a line of `--progress json`.
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

    /// Whether a run ended between the two views.
    pub fn runs_differ(&self, other: &Self) -> bool {
        (self.runs_done, self.runs_failed, self.runs_total) != (other.runs_done, other.runs_failed, other.runs_total)
    }
}

/// Cost, budget, and the uncertain part of the cost.
pub fn money(spending: &Spending) -> String {
    let limit = spending.limit_micro_usd.map(|limit| format!(" of {}", dollars(limit))).unwrap_or_default();
    let uncertain = match spending.uncertain_micro_usd {
        0 => String::new(),
        some => format!(", {} of it uncertain (calls without a result)", dollars(some)),
    };
    format!("{}{limit}{uncertain}", dollars(spending.settled_micro_usd + spending.uncertain_micro_usd))
}

/// `gemini: 3 in flight, 12 waiting, 40 calls`, preceded by the reason if the lane is held up.
pub fn lane(lane: &LaneView) -> String {
    let state = match lane.state {
        LaneState::Open => String::new(),
        LaneState::Closed { for_s } => format!("paused for {}, ", short_duration(seconds(for_s.ceil()))),
        LaneState::Probing => "probing with one call, ".to_owned(),
        LaneState::Off { reason: OffReason::Quota } => "off: out of quota, ".to_owned(),
        LaneState::Off { reason: OffReason::Auth } => "off: key rejected, ".to_owned(),
        LaneState::Off { reason: OffReason::RateLimit } => "off: rate limited for too long, ".to_owned(),
    };
    let waiting = if lane.waiting > 0 { format!(", {} waiting", lane.waiting) } else { String::new() };
    let calls = counted(lane.calls, "call");
    format!("{}: {state}{} in flight{waiting}, {calls}", lane.name, lane.in_flight)
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

/// Three significant digits.
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
    fn the_line_shows_work_rate_and_time() {
        let line = "[150/864 turns] 12/48 runs | 512 tok/s | failed 0 | elapsed 1m02s | ETA 3m10s";
        assert_eq!(view(150, 12).line(), line);
        let early = ProgressView { unit: "turns".into(), ..ProgressView::default() };
        assert_eq!(early.line(), "[0 turns] 0/0 runs | failed 0 | elapsed 0s");
    }

    #[test]
    fn the_line_shows_runs_and_cost_if_calls_are_made() {
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
    fn durations_have_two_units() {
        let shown = [0, 45, 62, 3599, 11_250, 187_200].map(|s| short_duration(Duration::from_secs(s)));
        assert_eq!(shown, ["0s", "45s", "1m02s", "59m59s", "3h07m", "2d04h"]);
        assert_eq!([1.234, 12.34, 512.3].map(short_number), ["1.23", "12.3", "512"]);
        assert_eq!((seconds(f64::INFINITY), seconds(f64::NAN)), (Duration::ZERO, Duration::ZERO));
    }
}
