//! Analysis of a scenario batch: `metrics-analysis.json`, `variation-statistics.json`, `patterns.json` and a Markdown report. The run
//! is the unit: the value of a metric is the one after a completed run's last turn. Started runs that are not completed count only
//! against the success rate.
//!
//! std and SEM use ddof 1; the interval of a mean is Student's t, of a rate Wilson's (see `stats`). Each value of a varied dimension is
//! compared with the dimension's first by Welch's test over all other dimensions, p values corrected by Holm over all comparisons.

mod report;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Batch, total_tokens, turns_of};
use crate::config::{Better, Metric};
use crate::scenario::metrics::MetricValue;
use crate::scenario::plan::VariationPlan;
use crate::{BatchAnalysis, RunEnd, RunFile, RunRecord};
use tiltmeter_report::stats::{Counts, fisher, holm, summarise, welch, wilson};

/// A run that was started.
struct StartedRun<'a> {
    variation: &'a str,
    /// Only `completed` is a success.
    status: &'static str,
    run_id: String,
    /// After the last turn, of a completed run.
    values: BTreeMap<String, MetricValue>,
    cost_micro_usd: u64,
    tokens: f64,
}

impl StartedRun<'_> {
    fn succeeded(&self) -> bool {
        self.status == "completed"
    }
}

/// Report and numbers.
pub fn analyse(batch: &Batch) -> BatchAnalysis {
    let runs = started_runs(batch);
    let (metrics, variations) = (metrics_analysis(batch, &runs), variation_statistics(batch, &runs));
    let patterns = patterns(batch, &runs);
    let text = report::markdown(batch, &metrics, &variations, &patterns);
    let path = |name: &str| format!("analysis/{name}");
    let numbers =
        [("metrics-analysis.json", metrics), ("variation-statistics.json", variations), ("patterns.json", patterns)];
    BatchAnalysis {
        page: RunFile { path: path("analysis-report.md"), text },
        numbers: numbers.map(|(name, value)| (path(name), value)).into(),
    }
}

fn started_runs<'a>(batch: &Batch<'a>) -> Vec<StartedRun<'a>> {
    let one = |run: &&'a RunRecord| {
        let status = batch.status(run);
        if status == "pending" {
            return None;
        }
        let variation = batch.plan.variation(run)?;
        let done = run.outcome.as_ref().filter(|_| run.end == RunEnd::Done);
        let last = done.and_then(|outcome| turns_of(outcome).pop());
        Some(StartedRun {
            variation: &variation.variation_id,
            status,
            run_id: run.key.id(),
            values: last.map(|turn| turn.metrics).unwrap_or_default(),
            cost_micro_usd: batch.settled_micro_usd(run),
            tokens: total_tokens(run.outcome.as_ref()),
        })
    };
    batch.runs.iter().filter_map(one).collect()
}

/// The numbers of a metric in completed runs.
fn numbers(metric: &Metric, runs: &[&StartedRun]) -> Vec<f64> {
    let done = runs.iter().filter(|run| run.succeeded());
    done.filter_map(|run| run.values.get(&metric.id)?.value.as_f64()).filter(|value| value.is_finite()).collect()
}

/// n, mean, std, min, max, median, SEM and interval of a numeric metric; counts of the values of any other.
fn describe(metric: &Metric, runs: &[&StartedRun]) -> Value {
    let done = runs.iter().filter(|run| run.succeeded()).count();
    if !metric.kind.is_number() {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for found in runs.iter().filter(|run| run.succeeded()).filter_map(|run| run.values.get(&metric.id)) {
            match &found.value {
                Value::Null => {}
                Value::String(text) => *counts.entry(text.clone()).or_default() += 1,
                other => *counts.entry(other.to_string()).or_default() += 1,
            }
        }
        let n: u64 = counts.values().sum();
        return json!({"n": n, "missing": (done as u64).saturating_sub(n), "values": counts});
    }
    let mut values = numbers(metric, runs);
    let missing = done - values.len();
    let Ok(summary) = summarise(&values, 1) else {
        return json!({
            "n": 0, "missing": missing, "mean": null, "std": null, "min": null, "max": null, "median": null, "sem": null,
            "ci95": null,
        });
    };
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) };
    json!({
        "n": summary.n, "missing": missing, "mean": summary.mean, "std": summary.sd, "min": values.first(), "max": values.last(),
        "median": median, "sem": summary.sem, "ci95": summary.ci95,
    })
}

/// One entry a metric, over all completed runs.
fn metrics_analysis(batch: &Batch, runs: &[StartedRun]) -> Value {
    let all: Vec<&StartedRun> = runs.iter().collect();
    let entry = |metric: &Metric| {
        let mut entry = describe(metric, &all);
        entry["description"] = json!(metric.description);
        entry["type"] = json!(metric.kind);
        (metric.id.clone(), entry)
    };
    Value::Object(batch.plan.scenario.metrics.iter().map(entry).collect())
}

fn rate(successes: usize, n: usize) -> Value {
    let interval = wilson(successes as u64, n as u64, 0.95);
    json!({"successes": successes, "n": n, "rate": (n > 0).then(|| successes as f64 / n as f64), "ci95": interval})
}

fn of<'a>(runs: &'a [StartedRun<'a>], variation: &str) -> Vec<&'a StartedRun<'a>> {
    runs.iter().filter(|run| run.variation == variation).collect()
}

/// Statistics of each variation, comparison of all, effects of the varied values.
fn variation_statistics(batch: &Batch, runs: &[StartedRun]) -> Value {
    let statistics = |variation: &VariationPlan| {
        let own = of(runs, &variation.variation_id);
        let done: Vec<&&StartedRun> = own.iter().filter(|run| run.succeeded()).collect();
        let metrics: Map<String, Value> =
            batch.plan.scenario.metrics.iter().map(|metric| (metric.id.clone(), describe(metric, &own))).collect();
        let cost: u64 = own.iter().map(|run| run.cost_micro_usd).sum();
        let average = |sum: f64| (!done.is_empty()).then(|| sum / done.len() as f64);
        json!({
            "description": variation.title,
            "modifications": variation.modifications,
            "runs_planned": batch.plan.runs_per_variation,
            "runs_begun": own.len(),
            "runs_completed": done.len(),
            "success": rate(done.len(), own.len()),
            "metrics": metrics,
            "total_cost_usd": cost as f64 / 1e6,
            "avg_cost_usd": average(done.iter().map(|run| run.cost_micro_usd as f64 / 1e6).sum()),
            "avg_tokens": average(done.iter().map(|run| run.tokens).sum()),
        })
    };
    let by_variation: Map<String, Value> =
        batch.plan.conditions.iter().map(|variation| (variation.variation_id.clone(), statistics(variation))).collect();
    let comparison: Map<String, Value> = batch
        .plan
        .scenario
        .metrics
        .iter()
        .filter(|metric| metric.kind.is_number())
        .map(|metric| (metric.id.clone(), Value::Array(ranked(batch, metric, runs))))
        .collect();
    json!({"variations": by_variation, "comparison": comparison, "effects": effects(batch, runs)})
}

/// Variations with a mean of the metric, best first; ties in the order of the plan.
fn ranked(batch: &Batch, metric: &Metric, runs: &[StartedRun]) -> Vec<Value> {
    let mut rows: Vec<(f64, Value)> = Vec::new();
    for variation in &batch.plan.conditions {
        let mut entry = describe(metric, &of(runs, &variation.variation_id));
        if let Some(mean) = entry["mean"].as_f64() {
            entry["variation_id"] = json!(variation.variation_id);
            entry["description"] = json!(variation.title);
            rows.push((mean, entry));
        }
    }
    rows.sort_by(|(a, _), (b, _)| match metric.better {
        Better::Higher => b.total_cmp(a),
        Better::Lower => a.total_cmp(b),
    });
    rows.into_iter().map(|(_, entry)| entry).collect()
}

/// A dimension of the matrix: its name, and its values with their variations.
struct Factor {
    name: String,
    levels: Vec<(Value, Vec<String>)>,
}

/// Dimensions with at least two values.
fn factors(variations: &[VariationPlan]) -> Vec<Factor> {
    let mut factors: Vec<Factor> = Vec::new();
    for variation in variations {
        let modifications = &variation.modifications;
        let models = modifications.actor_models.iter().map(|(actor, value)| (format!("model of {actor}"), value));
        let overrides = modifications.scenario_overrides.iter().map(|(name, value)| (name.clone(), value));
        for (name, value) in models.chain(overrides) {
            let at = factors.iter().position(|factor| factor.name == name).unwrap_or_else(|| {
                factors.push(Factor { name, levels: Vec::new() });
                factors.len() - 1
            });
            let levels = &mut factors[at].levels;
            match levels.iter_mut().find(|(known, _)| known == value) {
                Some((_, ids)) => ids.push(variation.variation_id.clone()),
                None => levels.push((value.clone(), vec![variation.variation_id.clone()])),
            }
        }
    }
    factors.retain(|factor| factor.levels.len() > 1);
    factors
}

fn at_level<'a>(runs: &'a [StartedRun<'a>], ids: &[String]) -> Vec<&'a StartedRun<'a>> {
    runs.iter().filter(|run| ids.iter().any(|id| id == run.variation)).collect()
}

/// Each value of each dimension against the dimension's first, for each numeric metric.
fn effects(batch: &Batch, runs: &[StartedRun]) -> Vec<Value> {
    let (mut rows, mut p_values) = (Vec::new(), Vec::new());
    for factor in factors(&batch.plan.conditions) {
        let Some(((control, control_ids), others)) = factor.levels.split_first() else { continue };
        for metric in batch.plan.scenario.metrics.iter().filter(|metric| metric.kind.is_number()) {
            let base = numbers(metric, &at_level(runs, control_ids));
            for (level, ids) in others {
                let own = numbers(metric, &at_level(runs, ids));
                let test = welch(&own, &base).ok();
                p_values.push(test.and_then(|test| test.p));
                rows.push(json!({
                    "metric": metric.id, "factor": factor.name, "value": level, "against": control,
                    "n": [own.len(), base.len()], "difference": test.map(|test| test.diff),
                    "ci95": test.and_then(|test| test.ci95), "hedges_g": test.and_then(|test| test.hedges_g),
                    "p": test.and_then(|test| test.p),
                }));
            }
        }
    }
    for (row, p) in rows.iter_mut().zip(holm(&p_values)) {
        row["p_holm"] = json!(p);
    }
    rows
}

fn patterns(batch: &Batch, runs: &[StartedRun]) -> Value {
    let succeeded = runs.iter().filter(|run| run.succeeded()).count();
    let mut efficiency: Vec<(f64, Value)> = Vec::new();
    let mut by_success: Vec<(f64, f64, &VariationPlan)> = Vec::new();
    let main = batch.plan.scenario.metrics.iter().find(|metric| metric.kind.is_number());
    for variation in &batch.plan.conditions {
        let own = of(runs, &variation.variation_id);
        if own.is_empty() {
            continue;
        }
        let done = own.iter().filter(|run| run.succeeded()).count();
        let cost = own.iter().map(|run| run.cost_micro_usd).sum::<u64>() as f64 / 1e6;
        // Undefined for free runs.
        let per_dollar = (cost > 0.0).then(|| done as f64 / cost);
        efficiency.push((
            per_dollar.unwrap_or(f64::INFINITY),
            json!({
                "variation_id": variation.variation_id, "description": variation.title, "runs_completed": done,
                "total_cost_usd": cost, "runs_per_dollar": per_dollar,
            }),
        ));
        let mean = main.and_then(|metric| summarise(&numbers(metric, &own), 1).ok().map(|s| (metric.better, s.mean)));
        let merit = match mean {
            Some((Better::Higher, mean)) => mean,
            Some((Better::Lower, mean)) => -mean,
            None => f64::NEG_INFINITY,
        };
        by_success.push((done as f64 / own.len() as f64, merit, variation));
    }
    efficiency.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    by_success.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let best = by_success.first().filter(|(rate, ..)| *rate > 0.0).map(|(.., variation)| &variation.variation_id);
    let best_by_metric: Map<String, Value> = batch
        .plan
        .scenario
        .metrics
        .iter()
        .filter(|metric| metric.kind.is_number())
        .filter_map(|metric| {
            let first = ranked(batch, metric, runs).into_iter().next()?;
            Some((metric.id.clone(), json!({"variation_id": first["variation_id"], "mean": first["mean"]})))
        })
        .collect();
    json!({
        "success_rate": (!runs.is_empty()).then(|| succeeded as f64 / runs.len() as f64),
        "success": rate(succeeded, runs.len()),
        "total_runs": runs.len(),
        "successful_runs": succeeded,
        "planned_runs": batch.plan.conditions.len() * batch.plan.runs_per_variation,
        "best_variation": best,
        "best_by_metric": best_by_metric,
        "cost_efficiency": efficiency.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
        "success_factors": success_factors(batch, runs),
        "failure_modes": failure_modes(runs),
    })
}

/// Success rate at each value of each dimension, with Fisher's exact test of independence.
fn success_factors(batch: &Batch, runs: &[StartedRun]) -> Vec<Value> {
    const DRAWS: u32 = 9999;
    let mut found = Vec::new();
    for factor in factors(&batch.plan.conditions) {
        let mut table = Vec::new();
        let mut levels = Vec::new();
        for (value, ids) in &factor.levels {
            let own = at_level(runs, ids);
            let done = own.iter().filter(|run| run.succeeded()).count();
            table.push(vec![done as u64, (own.len() - done) as u64]);
            let mut level = rate(done, own.len());
            level["value"] = value.clone();
            levels.push(level);
        }
        let test = Counts::new(&table).ok().and_then(|counts| fisher(&counts, DRAWS, 0));
        found.push(json!({"factor": factor.name, "levels": levels, "p": test.and_then(|test| test.p)}));
    }
    found
}

/// Started runs without success by status, the most frequent first.
fn failure_modes(runs: &[StartedRun]) -> Vec<Value> {
    let mut modes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.succeeded()) {
        modes.entry(run.status).or_default().push(&run.run_id);
    }
    let mut modes: Vec<(&str, Vec<&str>)> = modes.into_iter().collect();
    modes.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.len()));
    modes.into_iter().map(|(mode, runs)| json!({"mode": mode, "count": runs.len(), "runs": runs})).collect()
}
