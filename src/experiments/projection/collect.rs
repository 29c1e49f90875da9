//! Owns what the rollouts mean together: one measure per probe, the documents in the schema of the published experiment, the tables
//! of turns and tokens, and the turn-mean vectors from which a new axis can be projected without running the model again.
//! Must not know: engine, provider, run folders, terminal.

use ndarray::{Array3, ArrayView1, s};
use serde_json::{Value, json};

use super::{Projection, REFERENCE, TurnRecord};
use crate::config::Condition;
use crate::{Collected, NamedTensor};
use tiltmeter_model::probe::{Site, Span};
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// One finished rollout with its turns read back.
struct Rollout<'a> {
    key: &'a RunKey,
    outcome: &'a Outcome,
    turns: Vec<TurnRecord>,
}

pub fn collect(experiment: &Projection, outcomes: &[(RunKey, Outcome)]) -> Collected {
    let rollouts: Vec<Rollout> = outcomes
        .iter()
        .map(|(key, outcome)| {
            // Written by the same type; a turn that does not read back would be a defect, and then its row is left empty.
            let turns = outcome.turns.iter().map(|turn| serde_json::from_value(turn.clone()).unwrap_or_default());
            Rollout { key, outcome, turns: turns.collect() }
        })
        .collect();
    let conditions = &experiment.spec.conditions;
    let of = |label: &str| rollouts.iter().filter(|r| r.key.cell == label).collect::<Vec<_>>();
    let reference = of(REFERENCE).first().map(|rollout| rollout.outcome.series[0].values.clone());
    let documents = conditions
        .iter()
        .map(|condition| {
            let stem = format!("{}_{}", experiment.spec.experiment, condition.label);
            (stem, document(experiment, condition, &of(&condition.label), reference.as_ref()))
        })
        .collect();
    let mut notes = Vec::new();
    for condition in conditions {
        let done = of(&condition.label).len();
        if done < experiment.spec.samples {
            notes.push(format!(
                "condition `{}`: {done} of {} samples are finished, and only those are counted",
                condition.label, experiment.spec.samples
            ));
        }
    }
    Collected {
        documents,
        tables: vec![turns_table(experiment, &rollouts), tokens_table(experiment, &rollouts)],
        tensors: conditions.iter().flat_map(|c| vectors(experiment, &c.label, &of(&c.label))).collect(),
        notes,
    }
}

/// The published experiment's schema, and what it left out: statuses, further axes, the reference, token counts.
fn document(
    experiment: &Projection,
    condition: &Condition,
    rollouts: &[&Rollout],
    reference: Option<&Vec<Option<f64>>>,
) -> Value {
    let spec = &experiment.spec;
    let card = experiment.model.card();
    let cell = experiment.forecast.cells.iter().find(|cell| cell.cell == condition.label);
    let prompt = cell.map(|cell| &cell.first_prompt);
    let series = |probe: usize| rollouts.iter().map(|r| &r.outcome.series[probe].values).collect::<Vec<_>>();
    let by_axis: serde_json::Map<String, Value> = experiment
        .axes
        .iter()
        .enumerate()
        .map(|(probe, axis)| (format!("{}@{}", axis.name, axis.site), json!(series(probe))))
        .collect();
    let counts = |count: fn(&TurnRecord) -> u64| -> Vec<Vec<u64>> {
        rollouts.iter().map(|r| r.turns.iter().map(count).collect()).collect()
    };
    json!({
        "model": card.name,
        "transcript_source": experiment.source(),
        "condition": format!("{}_{}", spec.experiment, condition.label),
        "n_samples": rollouts.len(),
        "temperature": spec.sampling.temperature,
        "seed": spec.seed,
        "system_prompt": condition.system_prompt,
        "projections": series(0),
        "conversations": rollouts.iter().map(|r| &r.outcome.transcript).collect::<Vec<_>>(),
        "experiment": spec.experiment,
        "label": condition.label,
        "placement": condition.placement,
        "model_fingerprint": card.fingerprint,
        "axis": experiment.axes[0].name,
        "site": experiment.axes[0].site,
        "token_span": spec.readouts.span,
        "span": experiment.axes[0].mean_neg.zip(experiment.axes[0].mean_pos),
        "reference": reference,
        "rendered_prompt": prompt,
        "samples": rollouts.iter().map(|r| r.key.sample).collect::<Vec<_>>(),
        "statuses": rollouts.iter().map(|r| &r.outcome.series[0].statuses).collect::<Vec<_>>(),
        "prompt_tokens": counts(|turn| turn.prompt_tokens),
        "generated_tokens": counts(|turn| turn.generated_tokens),
        "measured_tokens": counts(|turn| turn.readout.as_ref().map_or(0, |r| r.measured_tokens as u64)),
        "projections_by_axis": by_axis,
    })
}

/// The names of the value columns: one per probe.
fn projection_names(experiment: &Projection) -> impl Iterator<Item = String> {
    experiment.axes.iter().map(|axis| format!("projection.{}@{}", axis.name, axis.site))
}

fn turns_table(experiment: &Projection, rollouts: &[Rollout]) -> Table {
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
        .with("reply", text(&|_, turn| turn.reply.clone()));
    for (probe, name) in projection_names(experiment).enumerate() {
        let value = |turn: &TurnRecord| Some(turn.readout.as_ref()?.projections.get(probe)?.mean);
        table.columns.push(Column::new(name, ColumnData::FloatF32(rows.iter().map(|(_, turn)| value(turn)).collect())));
    }
    table
}

fn tokens_table(experiment: &Projection, rollouts: &[Rollout]) -> Table {
    let mut rows = Vec::new();
    for rollout in rollouts {
        for turn in &rollout.turns {
            let measured = turn.readout.as_ref().map_or(0, |readout| readout.measured_tokens);
            rows.extend((0..measured).map(|index| (rollout.key, turn, index)));
        }
    }
    let generated = matches!(experiment.spec.readouts.span, Span::Content | Span::ContentAndStop | Span::FirstK(_));
    // Only generated spans consist of the turn's own tokens; of a prompt span the ids are not the reply's.
    let id = |turn: &TurnRecord, index: usize| turn.token_ids.get(index).filter(|_| generated).map(|&id| i64::from(id));
    let mut table = Table::new("tokens")
        .with("run_id", ColumnData::Text(rows.iter().map(|(key, ..)| Some(key.id())).collect()))
        .with("condition", ColumnData::Text(rows.iter().map(|(key, ..)| Some(key.cell.clone())).collect()))
        .with("sample", ColumnData::Int(rows.iter().map(|(key, ..)| Some(key.sample as i64)).collect()))
        .with("turn", ColumnData::Int(rows.iter().map(|(_, turn, _)| Some(turn.turn as i64)).collect()))
        .with("index", ColumnData::Int(rows.iter().map(|(.., index)| Some(*index as i64)).collect()))
        .with("token_id", ColumnData::Int(rows.iter().map(|(_, turn, index)| id(turn, *index)).collect()));
    for (probe, name) in projection_names(experiment).enumerate() {
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

/// `<condition>.<site>`: `[samples, turns, hidden]`, NaN where a turn was not measured.
fn vectors(experiment: &Projection, label: &str, rollouts: &[&Rollout]) -> Vec<NamedTensor> {
    let Some(width) = experiment.model.card().hidden_size else { return Vec::new() };
    let turns = experiment.transcript.turns.len();
    let of_site = |(index, site): (usize, &Site)| {
        let mut values = Array3::from_elem((rollouts.len(), turns, width), f32::NAN);
        for (sample, rollout) in rollouts.iter().enumerate() {
            for (turn, record) in rollout.turns.iter().enumerate() {
                if let Some(vector) = record.readout.as_ref().and_then(|readout| readout.vectors.get(index)) {
                    values.slice_mut(s![sample, turn, ..]).assign(&ArrayView1::from(&vector.mean[..]));
                }
            }
        }
        (format!("{label}.{site}"), values.into_dyn())
    };
    experiment.probes.vectors.iter().enumerate().map(of_site).collect()
}
