//! Owns `batch-summary.json`, `batch-state.json` and `batch-costs.json`.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::{Map, Value, json};
use time::{Date, Month};

use super::{Records, listed, pretty, status, usd};
use crate::{Ledger, RunEnd, RunFile, RunRecord};
use tiltmeter_scheduler::Account;

pub fn files(records: &Records, runs: &[&RunRecord], books: &Ledger) -> Vec<RunFile> {
    vec![
        pretty("batch-summary.json", &summary(records, runs, books)),
        pretty("batch-state.json", &state(records, runs, books)),
        pretty("batch-costs.json", &costs(records, runs, books)),
    ]
}

/// A run that is neither done nor to be begun, and why.
struct Unfinished<'a> {
    run: &'a RunRecord,
    status: &'static str,
    error: String,
}

impl Unfinished<'_> {
    fn json(&self) -> Value {
        json!({"run_id": self.run.key.id(), "error": self.error, "status": self.status})
    }
}

fn account<'a>(run: &RunRecord, books: &'a Ledger) -> Option<&'a Account> {
    books.runs.get(&run.key.id())
}

fn failed<'a>(runs: &[&'a RunRecord], books: &Ledger) -> Vec<Unfinished<'a>> {
    let failed = runs.iter().filter_map(|run| match &run.end {
        RunEnd::Failed(problem) => {
            Some(Unfinished { run, status: status(run, account(run, books)), error: problem.to_string() })
        }
        _ => None,
    });
    failed.collect()
}

fn halted<'a>(runs: &[&'a RunRecord], books: &Ledger) -> Vec<Unfinished<'a>> {
    let pending = runs.iter().filter(|run| run.end == RunEnd::Pending);
    let halted = pending.filter_map(|run| {
        let halt = account(run, books)?.halt.as_ref()?;
        Some(Unfinished { run, status: status(run, account(run, books)), error: halt.problem.to_string() })
    });
    halted.collect()
}

fn done<'a>(runs: &[&'a RunRecord]) -> Vec<&'a RunRecord> {
    runs.iter().copied().filter(|run| run.end == RunEnd::Done).collect()
}

fn money(books: &Ledger) -> Map<String, Value> {
    let spending = &books.spending;
    let held = spending.held_micro_usd();
    let mut money = Map::new();
    let mut put = |key: &str, value: Value| drop(money.insert(key.to_owned(), value));
    put("total_spent", json!(usd(spending.settled_micro_usd)));
    put("uncertain", json!(usd(spending.uncertain_micro_usd)));
    put("budget_limit", json!(spending.limit_micro_usd.map(usd)));
    put("cost_per_run_limit", json!(spending.run_limit_micro_usd.map(usd)));
    put("remaining_budget", json!(spending.limit_micro_usd.map(|limit| usd(limit.saturating_sub(held)))));
    money
}

fn average(sum: u64, n: usize) -> Option<f64> {
    (n > 0).then(|| usd(sum) / n as f64)
}

fn summary(records: &Records, runs: &[&RunRecord], books: &Ledger) -> Value {
    let (done, failed, halted) = (done(runs), failed(runs, books), halted(runs, books));
    let json = |list: &[Unfinished]| list.iter().map(Unfinished::json).collect::<Vec<_>>();
    let planned = records.planned();
    let mut cost = money(books);
    let all: u64 = done.iter().filter_map(|run| account(run, books)).map(|account| account.settled_micro_usd).sum();
    cost.insert("avg_cost_per_run".to_owned(), json!(average(all, done.len())));
    let ends = |pick: fn(&tiltmeter_store::Session) -> Option<&String>| books.sessions.iter().filter_map(pick);
    json!({
        "experiment_name": records.plan["experiment_name"],
        "description": records.plan["description"],
        "base_scenario": records.plan["base_scenario"],
        "total_variations": records.variations.len(),
        "runs_per_variation": records.runs_per_variation(),
        "total_runs_planned": planned,
        "runs_completed": done.len(),
        "runs_failed": failed.len(),
        "runs_halted": halted.len(),
        "runs_pending": planned.saturating_sub(done.len() + failed.len()),
        "start_time": ends(|session| Some(&session.started)).next(),
        "end_time": ends(|session| session.ended.as_ref()).next_back(),
        "duration_seconds": duration_seconds(books),
        "cost_summary": cost,
        "failed_runs": json(&failed),
        "halted_runs": json(&halted),
    })
}

fn state(records: &Records, runs: &[&RunRecord], books: &Ledger) -> Value {
    let ids = |runs: Vec<&RunRecord>| runs.iter().map(|run| run.key.id()).collect::<Vec<_>>();
    let json = |list: Vec<Unfinished>| list.iter().map(Unfinished::json).collect::<Vec<_>>();
    json!({
        "experiment_name": records.plan["experiment_name"],
        "completed_runs": ids(done(runs)),
        "failed_runs": json(failed(runs, books)),
        "halted_runs": json(halted(runs, books)),
        "variations": listed(&records.variations),
        "start_time": books.sessions.first().map(|session| &session.started),
        "runs_per_variation": records.runs_per_variation(),
    })
}

/// `batch-state.json` while runs go on: what has failed or was left is only known when all have come to an end, and null until then.
pub fn standing(records: &Records, done: &[String]) -> Value {
    json!({
        "experiment_name": records.plan["experiment_name"],
        "completed_runs": done,
        "failed_runs": null,
        "halted_runs": null,
        "variations": listed(&records.variations),
        "start_time": null,
        "runs_per_variation": records.runs_per_variation(),
    })
}

fn costs(records: &Records, runs: &[&RunRecord], books: &Ledger) -> Value {
    let (done, failed, halted) = (done(runs), failed(runs, books), halted(runs, books));
    let spent = |runs: &[&RunRecord]| -> u64 {
        runs.iter().filter_map(|run| account(run, books)).map(|account| account.settled_micro_usd).sum()
    };
    let mut summary = money(books);
    for (key, value) in [
        ("runs_completed", json!(done.len())),
        ("runs_failed", json!(failed.len())),
        ("runs_budget_exceeded", json!(halted.iter().filter(|left| left.status == "cost_limit").count())),
        ("runs_halted", json!(halted.len())),
        ("avg_cost_per_run", json!(average(spent(&done), done.len()))),
    ] {
        summary.insert(key.to_owned(), value);
    }
    let tokens = |run: &RunRecord, name: &str| {
        run.outcome.as_ref().and_then(|o| o.metrics.get(name)).copied().unwrap_or(0.0) as u64
    };
    let run_cost = |run: &&RunRecord| {
        let books = account(run, books).cloned().unwrap_or_default();
        json!({
            "run_id": run.key.id(),
            "variation_id": records.variation(run).map(|variation| &variation.id),
            "status": status(run, Some(&books)),
            "cost_usd": usd(books.settled_micro_usd),
            "uncertain_usd": usd(books.uncertain_micro_usd),
            "total_tokens": tokens(run, "prompt_tokens") + tokens(run, "completion_tokens"),
        })
    };
    let by_variation: Map<String, Value> = records
        .variations
        .iter()
        .map(|variation| {
            let own: Vec<&RunRecord> = runs.iter().copied().filter(|run| run.key.cell == variation.cell).collect();
            let finished: Vec<&RunRecord> = own.iter().copied().filter(|run| run.end == RunEnd::Done).collect();
            let statistics = json!({
                "description": variation.description,
                "runs_completed": finished.len(),
                "total_cost": usd(spent(&own)),
                "avg_cost_per_run": average(spent(&finished), finished.len()),
            });
            (variation.id.clone(), statistics)
        })
        .collect();
    let begun = runs.iter().filter(|run| run.outcome.is_some() || account(run, books).is_some());
    json!({
        "summary": summary, "run_costs": begun.map(run_cost).collect::<Vec<_>>(), "variation_statistics": by_variation,
    })
}

/// How long the sittings took together; one that was killed has no known end and counts nothing.
fn duration_seconds(books: &Ledger) -> i64 {
    let length = |session: &tiltmeter_store::Session| Some(unix(session.ended.as_ref()?)? - unix(&session.started)?);
    books.sessions.iter().filter_map(length).sum()
}

/// Seconds since 1970 of `2026-01-31T12:00:00Z`.
fn unix(moment: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| moment.get(range)?.parse::<u8>().ok();
    let year = moment.get(0..4)?.parse().ok()?;
    let date = Date::from_calendar_date(year, Month::try_from(number(5..7)?).ok()?, number(8..10)?).ok()?;
    let time = date.with_hms(number(11..13)?, number(14..16)?, number(17..19)?).ok()?;
    Some(time.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_back() {
        assert_eq!(unix("1970-01-02T00:00:01Z"), Some(86_401));
        assert_eq!(unix("2024-02-29T12:30:00Z"), Some(1_709_209_800));
        assert_eq!(unix("soon"), None);
    }
}
