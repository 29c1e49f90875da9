//! Owns what the games mean together for other tools: a table of runs and a table of everything said, projections included.
//! Must not know: engine, provider, run folders, terminal.

use super::rows::{ParsedOutcome, Said, Side};
use serde_json::Value;

use super::{Matrix, cast};
use crate::{Exports, RunRecord, finished};
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// One finished game, read back.
struct Played<'a> {
    key: &'a RunKey,
    outcome: &'a Outcome,
    told: ParsedOutcome,
}

pub fn collect(matrix: &Matrix, axes: &Value, runs: &[RunRecord]) -> Exports {
    let runs: Vec<Played> =
        finished(runs).map(|(key, outcome)| Played { key, outcome, told: ParsedOutcome::of(outcome) }).collect();
    let planned = matrix.total_runs();
    let mut notes = Vec::new();
    if runs.len() < planned {
        notes.push(format!("{} of {planned} games are finished, and only those are counted", runs.len()));
    }
    Exports {
        documents: Vec::new(),
        tables: vec![runs_table(matrix, &runs), turns_table(axes, &runs)],
        tensors: Vec::new(),
        notes,
    }
}

fn runs_table(matrix: &Matrix, runs: &[Played]) -> Table {
    let index = |run: &Played| Some(matrix.index(matrix.find(&run.key.cell)?, run.key.sample) as i64);
    let label = |name: &str| ColumnData::Text(runs.iter().map(|run| run.outcome.labels.get(name).cloned()).collect());
    let number =
        |name: &str| ColumnData::Float(runs.iter().map(|run| run.outcome.metrics.get(name).copied()).collect());
    let count = |name: &str| {
        ColumnData::Int(runs.iter().map(|run| run.outcome.metrics.get(name).map(|value| *value as i64)).collect())
    };
    let truth = |name: &str| {
        ColumnData::Bool(runs.iter().map(|run| run.outcome.metrics.get(name).map(|value| *value == 1.0)).collect())
    };
    let behaviours = |side: Side| {
        let shown = |run: &Played| {
            let (agent, _) = run.told.agent(side)?;
            Some(run.told.judgement()?.verdict.agents.get(agent)?.behaviors.join(", "))
        };
        ColumnData::Text(runs.iter().map(shown).collect())
    };
    let seed = |run: &Played| Some(run.told.setup()?.seed as i64);
    let mut table = Table::new("runs")
        .with("run_id", label("run_id"))
        .with("experiment_id", ColumnData::Int(runs.iter().map(index).collect()))
        .with("weak_model", label("weak_model"))
        .with("strong_model", label("strong_model"))
        .with("competition_level", number("competition_level"))
        .with("order", label("order"))
        .with("repetition", ColumnData::Int(runs.iter().map(|run| Some(run.key.sample as i64)).collect()))
        .with("seed", ColumnData::Int(runs.iter().map(seed).collect()))
        .with("timestamp", label("timestamp"))
        .with("consensus_reached", truth("consensus_reached"))
        .with("final_round", count("final_round"));
    for name in NUMBERS {
        table = table.with(*name, number(name));
    }
    for name in ["invalid_proposals", "missing_votes", "replies", "prompt_tokens", "completion_tokens"] {
        table = table.with(name, count(name));
    }
    table
        .with("pareto_optimal", truth("pareto_optimal"))
        .with("weak_behaviors", behaviours(Side::Weak))
        .with("strong_behaviors", behaviours(Side::Strong))
        .with("cost_usd", number("cost_usd"))
}

/// Metrics that are fractions.
const NUMBERS: &[&str] = &[
    "weak_utility",
    "strong_utility",
    "utility_gap",
    "strong_share",
    "strong_fair_share",
    "exploitation",
    "utilitarian_efficiency",
    "nash_distance",
    "cosine_similarity",
];

fn turns_table(axes: &Value, runs: &[Played]) -> Table {
    let rows: Vec<(&Played, &Said)> =
        runs.iter().flat_map(|run| run.told.said().map(move |said| (run, said))).collect();
    let text = |f: &dyn Fn(&Played, &Said) -> Option<String>| {
        ColumnData::Text(rows.iter().map(|(run, said)| f(run, said)).collect())
    };
    let int = |f: &dyn Fn(&Said) -> u64| ColumnData::Int(rows.iter().map(|(_, said)| Some(f(said) as i64)).collect());
    let agent = |run: &Played, said: &Said| run.told.setup()?.agents.get(said.agent).cloned();
    let mut table = Table::new("turns")
        .with("run_id", text(&|run, _| run.outcome.labels.get("run_id").cloned()))
        .with("round", int(&|said| said.round as u64))
        .with("phase", text(&|_, said| Some(said.phase.name().to_owned())))
        .with("agent", text(&|_, said| Some(cast::agent(said.agent))))
        .with("side", text(&|run, said| Some(agent(run, said)?.side.name().to_owned())))
        .with("model", text(&|run, said| Some(agent(run, said)?.model)))
        .with("status", text(&|_, said| Some(said.reply_record.status.clone())))
        .with("invalid", text(&|_, said| said.invalid.clone()))
        .with("prompt_tokens", int(&|said| said.reply_record.usage.prompt_tokens))
        .with("generated_tokens", int(&|said| said.reply_record.usage.completion_tokens))
        .with("text", text(&|_, said| Some(said.text.clone())));
    for (probe, axis) in probe_names(axes).into_iter().enumerate() {
        let value = |said: &Said| Some(said.reply_record.readout.as_ref()?.projections.get(probe)?.mean);
        let values = rows.iter().map(|(_, said)| value(said)).collect();
        table.columns.push(Column::new(format!("projection.{axis}"), ColumnData::FloatF32(values)));
    }
    table
}

/// Names `axis@site` of the probes, in the order of the requests. The plan lists every axis once a side, as `weak.axis`.
fn probe_names(axes: &Value) -> Vec<String> {
    let of = |side: Side| -> Vec<String> {
        let prefix = format!("{}.", side.name());
        let listed = axes.as_array().into_iter().flatten();
        let name = |axis: &Value| {
            Some(format!("{}@{}", axis["name"].as_str()?.strip_prefix(&prefix)?, axis["site"].as_str()?))
        };
        listed.filter_map(name).collect()
    };
    let weak = of(Side::Weak);
    if weak.is_empty() { of(Side::Strong) } else { weak }
}
