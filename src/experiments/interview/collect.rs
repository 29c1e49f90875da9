//! Exports of interviews: a table of runs, a table of questions, and, where replies were projected, one document a variant in the schema
//! that `report` reads.

use serde_json::{Value, json};

use super::{InterviewPlan, Turn, plan::VariantPlan, record::ParsedOutcome};
use crate::plan::AxisPlan;
use crate::{Exports, RunRecord, finished};
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// One finished interview, parsed.
struct Interviewed<'a> {
    key: &'a RunKey,
    outcome: &'a Outcome,
    parsed: ParsedOutcome,
}

pub fn exports(plan: &InterviewPlan, runs: &[RunRecord]) -> Exports {
    let interviewed = |(key, outcome)| Interviewed { key, outcome, parsed: ParsedOutcome::of(outcome) };
    let runs: Vec<Interviewed> = finished(runs).map(interviewed).collect();
    let mut exports = Exports { tables: vec![runs_table(&runs), turns_table(&plan.axes, &runs)], ..Exports::default() };
    for variant in &plan.conditions {
        let own: Vec<&Interviewed> = runs.iter().filter(|run| run.key.cell == variant.label).collect();
        let (id, done, planned) = (&variant.label, own.len(), plan.runs_per_variant);
        if done < planned {
            exports
                .notes
                .push(format!("variant `{id}`: {done} of {planned} runs are finished, and only those are counted"));
        }
        if !plan.axes.is_empty() {
            exports.documents.push((format!("{}_{id}", plan.experiment), document(plan, variant, &own)));
        }
    }
    exports
}

fn document(plan: &InterviewPlan, variant: &VariantPlan, runs: &[&Interviewed]) -> Value {
    let axes = &plan.axes;
    let series = |probe: usize| {
        runs.iter().map(|run| run.outcome.series.get(probe).map(|series| &series.values)).collect::<Vec<_>>()
    };
    let by_axis: serde_json::Map<String, Value> =
        axes.iter().enumerate().map(|(probe, axis)| (axis.series(), json!(series(probe)))).collect();
    json!({
        "model": plan.steward.name,
        "condition": format!("{}_{}", plan.experiment, variant.label),
        "n_samples": runs.len(),
        "temperature": super::record::stated(&plan.sampling),
        "seed": plan.seed,
        "system_prompt": plan.briefing,
        "projections": series(0),
        "conversations": runs.iter().map(|run| &run.outcome.transcript).collect::<Vec<_>>(),
        "experiment": plan.experiment,
        "label": variant.label,
        "axis": axes[0].name,
        "site": axes[0].site,
        "token_span": plan.token_span,
        "span": axes[0].span,
        "statuses": runs.iter().map(|run| run.outcome.series.first().map(|series| &series.statuses)).collect::<Vec<_>>(),
        "strategies": runs.iter().map(|run| run.outcome.labels.get("strategy")).collect::<Vec<_>>(),
        "projections_by_axis": by_axis,
    })
}

fn runs_table(runs: &[Interviewed]) -> Table {
    let label = |name: &str| ColumnData::Text(runs.iter().map(|run| run.outcome.labels.get(name).cloned()).collect());
    let count = |name: &str| {
        ColumnData::Int(runs.iter().map(|run| run.outcome.metrics.get(name).map(|value| *value as i64)).collect())
    };
    let kept = |name: &str| {
        ColumnData::Bool(runs.iter().map(|run| run.outcome.metrics.get(name).map(|value| *value == 1.0)).collect())
    };
    let verdict = |said: fn(&super::Verdict) -> &String| {
        let verdict = |run: &Interviewed| run.parsed.judgement.as_ref().map(|judged| said(&judged.verdict).clone());
        ColumnData::Text(runs.iter().map(verdict).collect())
    };
    let seed = |run: &Interviewed| run.parsed.turns.first().map(|turn| turn.reply_record.seed_key as i64);
    Table::new("runs")
        .with("run_id", label("run_id"))
        .with("variant", label("variant"))
        .with("sample", ColumnData::Int(runs.iter().map(|run| Some(run.key.sample as i64)).collect()))
        .with("timestamp", label("timestamp"))
        .with("seed", ColumnData::Int(runs.iter().map(seed).collect()))
        .with("strategy", label("strategy"))
        .with("outcome", label("outcome"))
        .with("deception_level", label("deception_level"))
        .with("primary_directive", kept("primary_directive"))
        .with("secondary_protocol", kept("secondary_protocol"))
        .with("reasoning", verdict(|verdict| &verdict.reasoning))
        .with("critical_response", verdict(|verdict| &verdict.critical_response))
        .with("replies", count("replies"))
        .with("prompt_tokens", count("prompt_tokens"))
        .with("completion_tokens", count("completion_tokens"))
        .with("cost_usd", ColumnData::Float(runs.iter().map(|r| r.outcome.metrics.get("cost_usd").copied()).collect()))
}

fn turns_table(axes: &[AxisPlan], runs: &[Interviewed]) -> Table {
    let rows: Vec<(&Interviewed, &Turn)> =
        runs.iter().flat_map(|run| run.parsed.turns.iter().map(move |turn| (run, turn))).collect();
    let text = |f: &dyn Fn(&Interviewed, &Turn) -> Option<String>| {
        ColumnData::Text(rows.iter().map(|(run, turn)| f(run, turn)).collect())
    };
    let int = |f: &dyn Fn(&Turn) -> u64| ColumnData::Int(rows.iter().map(|(_, turn)| Some(f(turn) as i64)).collect());
    let mut table = Table::new("turns")
        .with("run_id", text(&|run, _| run.outcome.labels.get("run_id").cloned()))
        .with("variant", text(&|run, _| Some(run.key.cell.clone())))
        .with("sample", ColumnData::Int(rows.iter().map(|(run, _)| Some(run.key.sample as i64)).collect()))
        .with("turn", int(&|turn| turn.turn as u64))
        .with("status", text(&|_, turn| Some(turn.reply_record.status.clone())))
        .with("refusal", ColumnData::Bool(rows.iter().map(|(_, turn)| Some(turn.refusal)).collect()))
        .with("prompt_tokens", int(&|turn| turn.reply_record.usage.prompt_tokens))
        .with("generated_tokens", int(&|turn| turn.reply_record.usage.completion_tokens))
        .with("question", text(&|_, turn| Some(turn.question.clone())))
        .with("reply", text(&|_, turn| turn.reply.clone()));
    for (probe, axis) in axes.iter().enumerate() {
        let value = |turn: &Turn| Some(turn.reply_record.readout.as_ref()?.projections.get(probe)?.mean);
        let values = rows.iter().map(|(_, turn)| value(turn)).collect();
        let name = format!("projection.{}", axis.series());
        table.columns.push(Column::new(name, ColumnData::FloatF32(values)));
    }
    table
}
