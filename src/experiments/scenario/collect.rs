//! Owns what runs of a scenario mean together as tables: one row a run, one row a decision.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::Value;

use super::{Records, Turn, turn::Decision};
use crate::{Exports, RunRecord, finished};
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// One finished run, read back.
struct Played<'a> {
    key: &'a RunKey,
    outcome: &'a Outcome,
    turns: Vec<Turn>,
}

pub fn collect(records: &Records, runs: &[RunRecord]) -> Exports {
    let played = |(key, outcome)| Played { key, outcome, turns: super::record::turns_of(outcome) };
    let runs: Vec<Played> = finished(runs).map(played).collect();
    let planned = records.runs_per_variation();
    let mut notes = Vec::new();
    for variation in &records.variations {
        let done = runs.iter().filter(|run| run.key.cell == variation.cell).count();
        if done < planned {
            let (id, what) = (&variation.id, &variation.description);
            notes.push(format!("{id} ({what}): {done} of {planned} runs are finished, and only those are counted"));
        }
    }
    let tables = vec![runs_table(records, &runs), decisions_table(records, &runs)];
    Exports { tables, notes, ..Exports::default() }
}

fn runs_table(records: &Records, runs: &[Played]) -> Table {
    let label = |name: &str| ColumnData::Text(runs.iter().map(|run| run.outcome.labels.get(name).cloned()).collect());
    let metric =
        |name: &str| ColumnData::Float(runs.iter().map(|run| run.outcome.metrics.get(name).copied()).collect());
    let count = |name: &str| {
        ColumnData::Int(runs.iter().map(|run| run.outcome.metrics.get(name).map(|value| *value as i64)).collect())
    };
    let mut table = Table::new("runs")
        .with("run_id", label("run_id"))
        .with("variation_id", label("variation_id"))
        .with("variation", label("variation"))
        .with("turns", count("turns"))
        .with("prompt_tokens", count("prompt_tokens"))
        .with("completion_tokens", count("completion_tokens"))
        .with("cost_usd", metric("cost_usd"));
    for one in records.base.iter().flat_map(|base| &base.metrics) {
        let last =
            |run: &Played| run.turns.last().and_then(|turn| turn.metrics.get(&one.id)).map(|found| found.value.clone());
        let data = match one.kind.is_number() {
            true => metric(&format!("metric.{}", one.id)),
            false => ColumnData::Text(runs.iter().map(|run| last(run).and_then(|value| text(&value))).collect()),
        };
        table.columns.push(Column::new(format!("metric.{}", one.id), data));
    }
    table
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn decisions_table(records: &Records, runs: &[Played]) -> Table {
    let turns = || runs.iter().flat_map(|run| run.turns.iter().map(move |turn| (run, turn)));
    let rows: Vec<(&Played, &Turn, &Decision)> =
        turns().flat_map(|(run, turn)| turn.decisions.iter().map(move |decision| (run, turn, decision))).collect();
    let column = |f: &dyn Fn(&Played, &Turn, &Decision) -> Option<String>| {
        ColumnData::Text(rows.iter().map(|(run, turn, decision)| f(run, turn, decision)).collect())
    };
    let int = |f: &dyn Fn(&Turn, &Decision) -> u64| {
        ColumnData::Int(rows.iter().map(|(_, turn, decision)| Some(f(turn, decision) as i64)).collect())
    };
    let mut table = Table::new("turns")
        .with("run_id", column(&|run, _, _| run.outcome.labels.get("run_id").cloned()))
        .with("variation_id", column(&|run, _, _| run.outcome.labels.get("variation_id").cloned()))
        .with("turn", int(&|turn, _| turn.turn as u64))
        .with("actor", column(&|_, _, decision| Some(decision.actor.clone())))
        .with("model", column(&|_, _, decision| Some(decision.taken.model.clone())))
        .with("status", column(&|_, _, decision| Some(decision.taken.reply_record.status.clone())))
        .with("prompt_tokens", int(&|_, decision| decision.taken.reply_record.usage.prompt_tokens))
        .with("generated_tokens", int(&|_, decision| decision.taken.reply_record.usage.completion_tokens))
        .with("action", column(&|_, _, decision| decision.sections.action.clone()))
        .with("reply", column(&|_, _, decision| Some(decision.text.clone())));
    let probes = records.plan["projections"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in probes {
        let value = |decision: &Decision| {
            let readout = decision.taken.reply_record.readout.as_ref()?;
            readout.projections.iter().find(|p| format!("{}@{}", p.name, p.site) == name).map(|p| p.mean)
        };
        let values = rows.iter().map(|(.., decision)| value(decision)).collect();
        table.columns.push(Column::new(format!("projection.{name}"), ColumnData::FloatF32(values)));
    }
    table
}
