//! Tables of a scenario batch: one row a run, and one row a decision with its projections.

use serde_json::Value;

use super::turns_of;
use crate::scenario::ScenarioPlan;
use crate::scenario::turn::{Decision, Turn};
use crate::tables::{FinishedRun, Rows};
use crate::{Exports, RunRecord};
use tiltmeter_store::Table;

type ParsedRun<'a> = FinishedRun<'a, Vec<Turn>>;

pub fn exports(plan: &ScenarioPlan, runs: &[RunRecord]) -> Exports {
    let runs = Rows::of(runs, turns_of);
    let planned = plan.runs_per_variation;
    let mut notes = Vec::new();
    for variation in &plan.conditions {
        let done = runs.0.iter().filter(|run| run.key.cell == variation.label).count();
        if done < planned {
            let (id, title) = (&variation.variation_id, &variation.title);
            notes.push(format!("{id} ({title}): {done} of {planned} runs are finished; the tables hold only these"));
        }
    }
    Exports { tables: vec![runs_table(plan, &runs), decisions_table(plan, &runs)], notes, ..Exports::default() }
}

fn runs_table(plan: &ScenarioPlan, runs: &Rows<ParsedRun<'_>>) -> Table {
    let mut table = Table::new("runs")
        .with("run_id", runs.label("run_id"))
        .with("variation_id", runs.label("variation_id"))
        .with("variation", runs.label("variation"))
        .with("turns", runs.count("turns"))
        .with("prompt_tokens", runs.count("prompt_tokens"))
        .with("completion_tokens", runs.count("completion_tokens"))
        .with("cost_usd", runs.metric("cost_usd"));
    for metric in &plan.scenario.metrics {
        let name = format!("metric.{}", metric.id);
        let last = |run: &ParsedRun| text(&run.parsed.last()?.metrics.get(&metric.id)?.value);
        let data = if metric.kind.is_number() { runs.metric(&name) } else { runs.text(last) };
        table = table.with(name, data);
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

fn decisions_table(plan: &ScenarioPlan, runs: &Rows<ParsedRun<'_>>) -> Table {
    let turns = runs.0.iter().flat_map(|run| run.parsed.iter().map(move |turn| (run, turn)));
    let decisions = turns.flat_map(|(run, turn)| turn.decisions.iter().map(move |decision| (run, turn, decision)));
    let rows: Rows<(&ParsedRun, &Turn, &Decision)> = Rows(decisions.collect());
    let table = Table::new("turns")
        .with("run_id", rows.text(|(run, ..)| run.outcome.labels.get("run_id").cloned()))
        .with("variation_id", rows.text(|(run, ..)| run.outcome.labels.get("variation_id").cloned()))
        .with("turn", rows.int(|(_, turn, _)| Some(turn.turn as i64)))
        .with("actor", rows.text(|(.., decision)| Some(decision.actor.clone())))
        .with("model", rows.text(|(.., decision)| Some(decision.reply.model.clone())))
        .with("status", rows.text(|(.., decision)| Some(decision.reply.reply_record.status.clone())));
    let mut table = rows
        .add_tokens(table, |(.., decision)| &decision.reply.reply_record)
        .with("action", rows.text(|(.., decision)| decision.sections.action.clone()))
        .with("reply", rows.text(|(.., decision)| Some(decision.text.clone())));
    rows.add_projections(&mut table, &plan.projections, |(.., decision)| &decision.reply.reply_record);
    table
}
