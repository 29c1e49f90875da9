//! Tables of a sweep: one row a run, and one row a turn with its projections.

use crate::negotiation::NegotiationPlan;
use crate::negotiation::game::names;
use crate::negotiation::outcome::{ParsedOutcome, Side, TurnRecord};
use crate::tables::{FinishedRun, Rows};
use crate::{Exports, RunRecord};
use tiltmeter_store::Table;

type GameRun<'a> = FinishedRun<'a, ParsedOutcome>;

pub fn exports(plan: &NegotiationPlan, runs: &[RunRecord]) -> Exports {
    let runs = Rows::of(runs, ParsedOutcome::of);
    let (finished, planned) = (runs.0.len(), plan.matrix.total_runs());
    let missing =
        (finished < planned).then(|| format!("{finished} of {planned} games are finished; the tables hold only these"));
    Exports {
        tables: vec![runs_table(plan, &runs), turns_table(plan, &runs)],
        notes: missing.into_iter().collect(),
        ..Exports::default()
    }
}

fn runs_table(plan: &NegotiationPlan, runs: &Rows<GameRun<'_>>) -> Table {
    let matrix = &plan.matrix;
    let index = |run: &GameRun| Some(matrix.index(matrix.find(&run.key.cell)?, run.key.sample) as i64);
    let behaviours = |side: Side| {
        runs.text(|run| {
            let agent = run.parsed.setup()?.position(side)?;
            Some(run.parsed.judgement()?.verdict.agents.get(agent)?.behaviors.join(", "))
        })
    };
    let mut table = Table::new("runs")
        .with("run_id", runs.label("run_id"))
        .with("experiment_id", runs.int(index))
        .with("weak_model", runs.label("weak_model"))
        .with("strong_model", runs.label("strong_model"))
        .with("competition_level", runs.metric("competition_level"))
        .with("order", runs.label("order"))
        .with("repetition", runs.int(|run| Some(run.key.sample as i64)))
        .with("seed", runs.int(|run| Some(run.parsed.setup()?.seed as i64)))
        .with("timestamp", runs.label("timestamp"))
        .with("consensus_reached", runs.flag("consensus_reached"))
        .with("final_round", runs.count("final_round"));
    for name in [
        "weak_utility",
        "strong_utility",
        "utility_gap",
        "strong_share",
        "strong_fair_share",
        "exploitation",
        "utilitarian_efficiency",
        "nash_distance",
        "cosine_similarity",
    ] {
        table = table.with(name, runs.metric(name));
    }
    for name in ["invalid_proposals", "missing_votes", "replies", "prompt_tokens", "completion_tokens"] {
        table = table.with(name, runs.count(name));
    }
    table
        .with("pareto_optimal", runs.flag("pareto_optimal"))
        .with("weak_behaviors", behaviours(Side::Weak))
        .with("strong_behaviors", behaviours(Side::Strong))
        .with("cost_usd", runs.metric("cost_usd"))
}

fn turns_table(plan: &NegotiationPlan, runs: &Rows<GameRun<'_>>) -> Table {
    let turns = runs.0.iter().flat_map(|run| run.parsed.turns().map(move |turn| (run, turn)));
    let rows: Rows<(&GameRun, &TurnRecord)> = Rows(turns.collect());
    let table = Table::new("turns")
        .with("run_id", rows.text(|(run, _)| run.outcome.labels.get("run_id").cloned()))
        .with("round", rows.int(|(_, turn)| Some(turn.round as i64)))
        .with("phase", rows.text(|(_, turn)| Some(turn.phase.name().to_owned())))
        .with("agent", rows.text(|(_, turn)| Some(names::agent(turn.agent))))
        .with("side", rows.text(|(run, turn)| Some(run.parsed.agent(turn)?.side.name().to_owned())))
        .with("model", rows.text(|(run, turn)| Some(run.parsed.agent(turn)?.model.clone())))
        .with("status", rows.text(|(_, turn)| Some(turn.reply_record.status.clone())))
        .with("invalid", rows.text(|(_, turn)| turn.invalid.clone()));
    let mut table = rows
        .add_tokens(table, |(_, turn)| &turn.reply_record)
        .with("text", rows.text(|(_, turn)| Some(turn.text.clone())));
    rows.add_projections(&mut table, &series(plan), |(_, turn)| &turn.reply_record);
    table
}

/// Names `<axis>@<site>` of the projections. The plan lists each axis once a side, as `<side>.<axis>`.
fn series(plan: &NegotiationPlan) -> Vec<String> {
    let mut series: Vec<String> = Vec::new();
    for axis in &plan.axes {
        let name = axis.series();
        let name = name.split_once('.').map_or(&*name, |(_, name)| name).to_owned();
        if !series.contains(&name) {
            series.push(name);
        }
    }
    series
}
