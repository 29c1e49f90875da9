//! Summaries of a sweep: counts, success rate and means, overall, by pair and by level; `results.csv`; the summary on the terminal. A
//! mean is over the runs that have the number.

use serde_json::{Map, Value, json};

use super::{PlacedRun, status};
use crate::RunEnd;
use crate::negotiation::NegotiationPlan;
use crate::negotiation::matrix::level_name;
use tiltmeter_scheduler::Spending;
use tiltmeter_store::{ColumnData, Table};

const MEANS: &[&str] = &[
    "weak_utility",
    "strong_utility",
    "utility_gap",
    "exploitation",
    "utilitarian_efficiency",
    "nash_distance",
    "final_round",
    "invalid_proposals",
];

/// `results` holds the ended runs. Their `cost_usd` is the cost of recorded replies; `spending` includes failed attempts and interrupted
/// calls.
pub fn summary(plan: &NegotiationPlan, results: &[(PlacedRun<'_>, Value)], spending: Option<&Spending>) -> Value {
    let matrix = &plan.matrix;
    let all: Vec<&Value> = results.iter().map(|(_, result)| result).collect();
    let (pairs, total) = (matrix.pairs(), matrix.total_runs());
    let group = |key: String, planned: usize, of: &dyn Fn(&PlacedRun) -> String| {
        let own: Vec<&Value> =
            results.iter().filter(|(placed, _)| of(placed) == key).map(|(_, result)| result).collect();
        let mut counted = Map::from_iter([("planned".to_owned(), json!(planned))]);
        counted.extend(counts(planned, &own));
        (key, Value::Object(counted))
    };
    let (per_pair, per_level) = (total / pairs.len().max(1), total / matrix.levels.len().max(1));
    let by_pair = pairs.into_iter().map(|pair| group(pair.label, per_pair, &|placed| matrix.pair(placed.cell)));
    let by_pair: Map<String, Value> = by_pair.collect();
    let by_level = matrix
        .levels
        .iter()
        .map(|level| group(level_name(*level), per_level, &|placed| level_name(matrix.level(placed.cell))));
    let by_level: Map<String, Value> = by_level.collect();
    let failed = all.iter().filter(|result| result["status"] != "SUCCESS");
    let failed =
        failed.map(|r| json!({"experiment_id": r["experiment_id"], "status": r["status"], "error": r["error"]}));
    let failed: Vec<Value> = failed.collect();
    let mut summary = Map::from_iter([
        ("experiment".to_owned(), json!(plan.experiment)),
        ("total_experiments".to_owned(), json!(total)),
    ]);
    summary.extend(counts(total, &all));
    if let Some(spending) = spending {
        let usd = |micro: u64| micro as f64 / 1e6;
        summary.insert(
            "spending".to_owned(),
            json!({
                "settled_usd": usd(spending.settled_micro_usd), "uncertain_usd": usd(spending.uncertain_micro_usd),
                "budget_limit_usd": spending.limit_micro_usd.map(usd),
            }),
        );
    }
    summary.insert("by_model_pair".to_owned(), Value::Object(by_pair));
    summary.insert("by_competition_level".to_owned(), Value::Object(by_level));
    summary.insert("failed_experiments".to_owned(), Value::Array(failed));
    Value::Object(summary)
}

/// Numbers of runs by status, and means over the successful runs.
fn counts(planned: usize, results: &[&Value]) -> Map<String, Value> {
    let of = |status: &str| results.iter().filter(|result| result["status"] == status).count();
    let (successful, failed, timeouts) = (of("SUCCESS"), of("FAILED"), of("TIMEOUT"));
    let done: Vec<&Value> = results.iter().copied().filter(|result| result["status"] == "SUCCESS").collect();
    let deals = done.iter().filter(|result| result["consensus_reached"] == true).count();
    let rate = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    let mut counts = Map::from_iter([
        ("successful".to_owned(), json!(successful)),
        ("failed".to_owned(), json!(failed)),
        ("timeouts".to_owned(), json!(timeouts)),
        ("pending".to_owned(), json!(planned.saturating_sub(successful + failed + timeouts))),
        ("success_rate".to_owned(), json!(rate(successful, successful + failed + timeouts))),
        ("consensus_rate".to_owned(), json!(rate(deals, successful))),
    ]);
    for name in MEANS {
        let values: Vec<f64> = done.iter().filter_map(|result| result[*name].as_f64()).collect();
        let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        counts.insert(format!("mean_{name}"), json!(mean));
        if *name == "exploitation" {
            counts.insert("n_exploitation".to_owned(), json!(values.len()));
        }
    }
    let cost: f64 = results.iter().filter_map(|result| result["cost_usd"].as_f64()).sum();
    counts.insert("cost_usd".to_owned(), json!(cost));
    counts
}

/// Columns of `results.csv`: parameters before results.
const COLUMNS: &[(&str, ColumnKind)] = &[
    ("experiment_id", ColumnKind::Int),
    ("weak_model", ColumnKind::Text),
    ("strong_model", ColumnKind::Text),
    ("competition_level", ColumnKind::Float),
    ("num_items", ColumnKind::Int),
    ("max_rounds", ColumnKind::Int),
    ("random_seed", ColumnKind::Text),
    ("status", ColumnKind::Text),
    ("consensus_reached", ColumnKind::Bool),
    ("final_round", ColumnKind::Int),
    ("winner_agent_id", ColumnKind::Text),
    ("weak_utility", ColumnKind::Float),
    ("strong_utility", ColumnKind::Float),
    ("utility_gap", ColumnKind::Float),
    ("strong_share", ColumnKind::Float),
    ("strong_fair_share", ColumnKind::Float),
    ("exploitation", ColumnKind::Float),
    ("utilitarian_efficiency", ColumnKind::Float),
    ("nash_distance", ColumnKind::Float),
    ("pareto_optimal", ColumnKind::Bool),
    ("invalid_proposals", ColumnKind::Int),
    ("missing_votes", ColumnKind::Int),
    ("order", ColumnKind::Text),
    ("repetition", ColumnKind::Int),
    ("gamma", ColumnKind::Float),
    ("cosine_similarity", ColumnKind::Float),
    ("cost_usd", ColumnKind::Float),
    ("timestamp", ColumnKind::Text),
    ("error", ColumnKind::Text),
];

#[derive(Clone, Copy)]
enum ColumnKind {
    Text,
    Int,
    Float,
    Bool,
}

/// One line an ended run.
pub fn csv(results: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let mut table = Table::new("results");
    for (name, kind) in COLUMNS {
        let column = results.iter().map(|result| &result[*name]);
        table = table.with(
            *name,
            match kind {
                // Text, because a seed may exceed `i64`.
                ColumnKind::Text => ColumnData::Text(column.map(text).collect()),
                ColumnKind::Int => ColumnData::Int(column.map(Value::as_i64).collect()),
                ColumnKind::Float => ColumnData::Float(column.map(Value::as_f64).collect()),
                ColumnKind::Bool => ColumnData::Bool(column.map(Value::as_bool).collect()),
            },
        );
    }
    // Columns have equal lengths, so this does not fail.
    table.to_csv().unwrap_or_default()
}

/// Summary for the terminal.
pub fn closing(placed: &[PlacedRun<'_>]) -> String {
    let line = "=".repeat(60);
    let of = |wanted: Option<&str>| placed.iter().filter(|placed| status(&placed.run.end) == wanted).count();
    let (done, failed, timeouts, pending) = (of(Some("SUCCESS")), of(Some("FAILED")), of(Some("TIMEOUT")), of(None));
    let state = if pending > 0 { "INCOMPLETE" } else { "COMPLETE" };
    let mut lines = vec![line.clone(), format!("NEGOTIATION SWEEP {state} - SUMMARY"), line.clone()];
    lines.push(format!("Total experiments: {}", placed.len()));
    lines.push(format!("Successful: {done}"));
    lines.push(format!("Failed: {}", failed + timeouts));
    if timeouts > 0 {
        lines.push(format!("  of these timed out: {timeouts}"));
    }
    if pending > 0 {
        lines.push(format!("Pending: {pending}"));
    }
    let finished: Vec<_> =
        placed.iter().filter(|p| p.run.end == RunEnd::Done).filter_map(|p| p.run.outcome.as_ref()).collect();
    let values =
        |name: &str| finished.iter().filter_map(|outcome| outcome.metrics.get(name)).copied().collect::<Vec<f64>>();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    if !finished.is_empty() {
        let deals = values("consensus_reached").iter().sum::<f64>();
        lines.push(String::new());
        lines.push(format!("Agreements: {deals} of {}", finished.len()));
        for (title, name, digits) in [
            ("Mean utility, weak", "weak_utility", 2),
            ("Mean utility, strong", "strong_utility", 2),
            ("Mean utility gap", "utility_gap", 2),
            ("Mean exploitation", "exploitation", 4),
        ] {
            let values = values(name);
            if !values.is_empty() {
                lines.push(format!("{title}: {:.digits$} (n = {})", mean(&values), values.len()));
            }
        }
    }
    let failures = placed.iter().filter_map(|placed| match &placed.run.end {
        RunEnd::Failed(problem) => Some(format!("  {}: {}", placed.index, problem.what)),
        RunEnd::Done | RunEnd::Pending => None,
    });
    let failures: Vec<String> = failures.collect();
    if !failures.is_empty() {
        lines.push(String::new());
        lines.push("Failed experiments:".to_owned());
        lines.extend(failures);
    }
    lines.push(line);
    lines.join("\n")
}
