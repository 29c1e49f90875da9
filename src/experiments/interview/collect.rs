//! Owns what the interviews mean together: a table of runs, a table of questions, and, where replies were projected, one document a
//! variant in the schema that `report` reads.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::{Value, json};

use super::{Setting, Turn, record::ParsedOutcome};
use crate::Collected;
use crate::config::Variant;
use tiltmeter_model::probe::Axis;
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// One finished interview, read back.
struct Interviewed<'a> {
    key: &'a RunKey,
    outcome: &'a Outcome,
    told: ParsedOutcome,
}

pub fn collect(setting: &Setting, axes: &[Axis], outcomes: &[(RunKey, Outcome)]) -> Collected {
    let runs: Vec<Interviewed> =
        outcomes.iter().map(|(key, outcome)| Interviewed { key, outcome, told: ParsedOutcome::of(outcome) }).collect();
    let spec = &setting.spec;
    let of = |variant: &Variant| runs.iter().filter(|run| run.key.cell == variant.id).collect::<Vec<_>>();
    let documents = spec.variants.iter().filter(|_| !axes.is_empty());
    let documents = documents
        .map(|variant| (format!("{}_{}", spec.experiment, variant.id), document(setting, axes, variant, &of(variant))));
    let mut notes = Vec::new();
    for variant in &spec.variants {
        let done = of(variant).len();
        if done < spec.runs_per_variant {
            let (id, planned) = (&variant.id, spec.runs_per_variant);
            notes.push(format!("variant `{id}`: {done} of {planned} runs are finished, and only those are counted"));
        }
    }
    Collected {
        documents: documents.collect(),
        tables: vec![runs_table(&runs), turns_table(axes, &runs)],
        tensors: Vec::new(),
        notes,
    }
}

fn document(setting: &Setting, axes: &[Axis], variant: &Variant, runs: &[&Interviewed]) -> Value {
    let spec = &setting.spec;
    let series = |probe: usize| {
        runs.iter().map(|run| run.outcome.series.get(probe).map(|series| &series.values)).collect::<Vec<_>>()
    };
    let by_axis: serde_json::Map<String, Value> = axes
        .iter()
        .enumerate()
        .map(|(probe, axis)| (format!("{}@{}", axis.name, axis.site), json!(series(probe))))
        .collect();
    json!({
        "model": setting.steward.model.card().name,
        "condition": format!("{}_{}", spec.experiment, variant.id),
        "n_samples": runs.len(),
        "temperature": spec.sampling.temperature,
        "seed": spec.seed,
        "system_prompt": spec.briefing,
        "projections": series(0),
        "conversations": runs.iter().map(|run| &run.outcome.transcript).collect::<Vec<_>>(),
        "experiment": spec.experiment,
        "label": variant.id,
        "axis": axes[0].name,
        "site": axes[0].site,
        "token_span": spec.readouts.span,
        "span": axes[0].mean_neg.zip(axes[0].mean_pos),
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
        let verdict = |run: &Interviewed| run.told.judgement.as_ref().map(|judged| said(&judged.verdict).clone());
        ColumnData::Text(runs.iter().map(verdict).collect())
    };
    let seed = |run: &Interviewed| run.told.turns.first().map(|turn| turn.reply_record.seed_key as i64);
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

fn turns_table(axes: &[Axis], runs: &[Interviewed]) -> Table {
    let rows: Vec<(&Interviewed, &Turn)> =
        runs.iter().flat_map(|run| run.told.turns.iter().map(move |turn| (run, turn))).collect();
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
        let name = format!("projection.{}@{}", axis.name, axis.site);
        table.columns.push(Column::new(name, ColumnData::FloatF32(values)));
    }
    table
}
