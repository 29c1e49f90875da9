//! Exports of a projection experiment: one document a condition in the schema of the published experiment, the tables of turns and
//! tokens, and the turn-mean vectors.

use ndarray::{Array3, ArrayView1, s};
use serde_json::{Value, json};

use super::plan::{ConditionPlan, ProjectionPlan};
use super::{REFERENCE, TurnRecord};
use crate::{Exports, NamedTensor, RunRecord, finished};
use tiltmeter_model::probe::{Site, Span};
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// One finished rollout with its turns parsed.
struct Rollout<'a> {
    key: &'a RunKey,
    outcome: &'a Outcome,
    turns: Vec<TurnRecord>,
}

impl<'a> Rollout<'a> {
    fn of((key, outcome): (&'a RunKey, &'a Outcome)) -> Self {
        // `TurnRecord` wrote these; a turn that cannot be parsed is a defect, and its row stays empty.
        let turns = outcome.turns.iter().map(|turn| serde_json::from_value(turn.clone()).unwrap_or_default());
        Self { key, outcome, turns: turns.collect() }
    }
}

pub fn exports(plan: &ProjectionPlan, runs: &[RunRecord]) -> Exports {
    let rollouts: Vec<Rollout> = finished(runs).map(Rollout::of).collect();
    let of = |label: &str| rollouts.iter().filter(|r| r.key.cell == label).collect::<Vec<_>>();
    let reference = of(REFERENCE).first().map(|rollout| rollout.outcome.series[0].values.clone());
    let mut exports = Exports {
        tables: vec![turns_table(plan, &rollouts), tokens_table(plan, &rollouts)],
        tensors: vectors(plan, &rollouts),
        ..Exports::default()
    };
    for condition in &plan.conditions {
        let own = of(&condition.label);
        if own.len() < plan.samples {
            exports.notes.push(format!(
                "condition `{}`: {} of {} samples are finished, and only those are counted",
                condition.label,
                own.len(),
                plan.samples
            ));
        }
        let stem = format!("{}_{}", plan.experiment, condition.label);
        exports.documents.push((stem, document(plan, condition, &own, reference.as_ref())));
    }
    exports
}

/// The published experiment's schema, extended by statuses, further axes, the reference and token counts.
fn document(
    plan: &ProjectionPlan,
    condition: &ConditionPlan,
    rollouts: &[&Rollout],
    reference: Option<&Vec<Option<f64>>>,
) -> Value {
    let series = |probe: usize| rollouts.iter().map(|r| &r.outcome.series[probe].values).collect::<Vec<_>>();
    let by_axis: serde_json::Map<String, Value> =
        plan.axes.iter().enumerate().map(|(probe, axis)| (axis.series(), json!(series(probe)))).collect();
    let counts = |count: fn(&TurnRecord) -> u64| -> Vec<Vec<u64>> {
        rollouts.iter().map(|r| r.turns.iter().map(count).collect()).collect()
    };
    json!({
        "model": plan.model.name,
        "transcript_source": plan.transcript.source,
        "condition": format!("{}_{}", plan.experiment, condition.label),
        "n_samples": rollouts.len(),
        "temperature": plan.sampling.temperature,
        "seed": plan.seed,
        "system_prompt": condition.system_prompt,
        "projections": series(0),
        "conversations": rollouts.iter().map(|r| &r.outcome.transcript).collect::<Vec<_>>(),
        "experiment": plan.experiment,
        "label": condition.label,
        "placement": condition.placement,
        "model_fingerprint": plan.model.fingerprint,
        "axis": plan.axes[0].name,
        "site": plan.axes[0].site,
        "token_span": plan.token_span,
        "span": plan.axes[0].span,
        "reference": reference,
        "rendered_prompt": condition.rendered_prompt,
        "samples": rollouts.iter().map(|r| r.key.sample).collect::<Vec<_>>(),
        "statuses": rollouts.iter().map(|r| &r.outcome.series[0].statuses).collect::<Vec<_>>(),
        "prompt_tokens": counts(|turn| turn.prompt_tokens),
        "generated_tokens": counts(|turn| turn.generated_tokens),
        "measured_tokens": counts(|turn| turn.readout.as_ref().map_or(0, |r| r.measured_tokens as u64)),
        "projections_by_axis": by_axis,
    })
}

/// Column names, one per probe.
fn projection_names(plan: &ProjectionPlan) -> impl Iterator<Item = String> {
    plan.axes.iter().map(|axis| format!("projection.{}", axis.series()))
}

fn turns_table(plan: &ProjectionPlan, rollouts: &[Rollout]) -> Table {
    let rows: Vec<(&RunKey, &TurnRecord)> =
        rollouts.iter().flat_map(|r| r.turns.iter().map(move |turn| (r.key, turn))).collect();
    let text = |f: &dyn Fn(&RunKey, &TurnRecord) -> Option<String>| {
        ColumnData::Text(rows.iter().map(|(key, turn)| f(key, turn)).collect())
    };
    let int = |f: &dyn Fn(&RunKey, &TurnRecord) -> u64| {
        ColumnData::Int(rows.iter().map(|(key, turn)| Some(f(key, turn) as i64)).collect())
    };
    let mut table = Table::new("turns")
        .with("run_id", text(&|key, _| Some(key.id())))
        .with("condition", text(&|key, _| Some(key.cell.clone())))
        .with("sample", int(&|key, _| key.sample as u64))
        .with("turn", int(&|_, turn| turn.turn as u64))
        .with("status", text(&|_, turn| Some(turn.status.clone())))
        .with("finish", text(&|_, turn| turn.finish.map(|f| json!(f).as_str().unwrap_or_default().to_owned())))
        .with("prompt_tokens", int(&|_, turn| turn.prompt_tokens))
        .with("generated_tokens", int(&|_, turn| turn.generated_tokens))
        .with("measured_tokens", int(&|_, turn| turn.readout.as_ref().map_or(0, |r| r.measured_tokens as u64)))
        .with("dropped_messages", int(&|_, turn| turn.dropped_messages as u64))
        // Two's complement keeps every bit of a key above 2^63.
        .with("seed_key", int(&|_, turn| turn.seed_key))
        .with("seed_stream", int(&|_, turn| turn.seed_stream))
        .with("user", text(&|_, turn| plan.transcript.users.get(turn.turn.wrapping_sub(1)).cloned()))
        .with("reply", text(&|_, turn| turn.reply.clone()));
    for (probe, name) in projection_names(plan).enumerate() {
        let value = |turn: &TurnRecord| Some(turn.readout.as_ref()?.projections.get(probe)?.mean);
        table.columns.push(Column::new(name, ColumnData::FloatF32(rows.iter().map(|(_, turn)| value(turn)).collect())));
    }
    table
}

fn tokens_table(plan: &ProjectionPlan, rollouts: &[Rollout]) -> Table {
    let mut rows = Vec::new();
    for rollout in rollouts {
        for turn in &rollout.turns {
            let measured = turn.readout.as_ref().map_or(0, |readout| readout.measured_tokens);
            rows.extend((0..measured).map(|index| (rollout.key, turn, index)));
        }
    }
    let generated = matches!(plan.token_span, Span::Content | Span::ContentAndStop | Span::FirstK(_));
    // Only generated spans consist of the turn's own tokens; of a prompt span the ids are not the reply's.
    let id = |turn: &TurnRecord, index: usize| turn.token_ids.get(index).filter(|_| generated).map(|&id| i64::from(id));
    let mut table = Table::new("tokens")
        .with("run_id", ColumnData::Text(rows.iter().map(|(key, ..)| Some(key.id())).collect()))
        .with("condition", ColumnData::Text(rows.iter().map(|(key, ..)| Some(key.cell.clone())).collect()))
        .with("sample", ColumnData::Int(rows.iter().map(|(key, ..)| Some(key.sample as i64)).collect()))
        .with("turn", ColumnData::Int(rows.iter().map(|(_, turn, _)| Some(turn.turn as i64)).collect()))
        .with("index", ColumnData::Int(rows.iter().map(|(.., index)| Some(*index as i64)).collect()))
        .with("token_id", ColumnData::Int(rows.iter().map(|(_, turn, index)| id(turn, *index)).collect()));
    for (probe, name) in projection_names(plan).enumerate() {
        let value = |turn: &TurnRecord, index: usize| {
            turn.readout.as_ref()?.projections.get(probe)?.per_token.get(index).copied()
        };
        table.columns.push(Column::new(
            name,
            ColumnData::FloatF32(rows.iter().map(|(_, turn, index)| value(turn, *index)).collect()),
        ));
    }
    table
}

/// Tensors `<condition>.<site>` of `[samples, turns, hidden]`, NaN where a turn was not measured; none if no turn of any rollout has a
/// vector.
fn vectors(plan: &ProjectionPlan, rollouts: &[Rollout]) -> Vec<NamedTensor> {
    let readouts = |turn: &TurnRecord| turn.readout.as_ref().and_then(|readout| readout.vectors.first().cloned());
    let first = rollouts.iter().flat_map(|rollout| &rollout.turns).find_map(readouts);
    let Some(width) = first.map(|vector| vector.mean.len()) else { return Vec::new() };
    // In the order of the requests' probe plan.
    let mut sites: Vec<Site> = plan.axes.iter().map(|axis| axis.site).collect();
    sites.sort_unstable();
    sites.dedup();
    let turns = plan.transcript.users.len();
    let mut tensors = Vec::new();
    for condition in &plan.conditions {
        let own: Vec<&Rollout> = rollouts.iter().filter(|rollout| rollout.key.cell == condition.label).collect();
        for (index, site) in sites.iter().enumerate() {
            let mut values = Array3::from_elem((own.len(), turns, width), f32::NAN);
            for (sample, rollout) in own.iter().enumerate() {
                for (turn, record) in rollout.turns.iter().enumerate() {
                    if let Some(vector) = record.readout.as_ref().and_then(|readout| readout.vectors.get(index)) {
                        values.slice_mut(s![sample, turn, ..]).assign(&ArrayView1::from(&vector.mean[..]));
                    }
                }
            }
            tensors.push((format!("{}.{site}", condition.label), values.into_dyn()));
        }
    }
    tensors
}
