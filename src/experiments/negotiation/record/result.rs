//! Owns the result of one run: what it was, how it ended, what it came to, and everything said.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::{Map, Value, json};

use super::{Placed, Records, status};
use crate::RunEnd;
use crate::negotiation::rows::{ParsedOutcome, Said, Side};
use crate::negotiation::{cast, protocol::Phase, run::order_name};
use tiltmeter_store::Outcome;

/// `None` for a run that has not ended. A run that failed has what it kept of an outcome.
pub fn result(records: &Records, placed: &Placed<'_>) -> Option<Value> {
    let status = status(&placed.run.end)?;
    let matrix = records.matrix.as_ref()?;
    let repetition = placed.run.key.sample;
    let mut result = Map::new();
    result.insert("job_id".to_owned(), json!(placed.index));
    if let Value::Object(config) = records.config(matrix, placed.cell, repetition) {
        result.extend(config);
    }
    let plan = &records.plan;
    let order = order_name(matrix.order(placed.cell));
    let mut add = |key: &str, value: Value| result.insert(key.to_owned(), value);
    add("order", json!(order));
    add("repetition", json!(repetition));
    add("gamma", plan["gamma"].clone());
    add("status", json!(status));
    add(
        "error",
        match &placed.run.end {
            RunEnd::Failed(problem) => json!(problem.to_string()),
            RunEnd::Done | RunEnd::Pending => Value::Null,
        },
    );
    let none = Outcome::default();
    let outcome = placed.run.outcome.as_ref().unwrap_or(&none);
    let told = ParsedOutcome::of(outcome);
    let metric = |name: &str| outcome.metrics.get(name);
    let count = |name: &str| metric(name).map(|value| *value as u64);
    let truth = |name: &str| metric(name).map(|value| *value == 1.0);
    add("timestamp", json!(outcome.labels.get("timestamp")));
    add("consensus_reached", json!(truth("consensus_reached")));
    add("final_round", json!(count("final_round")));
    add("winner_agent_id", json!(winner(outcome, &told)));
    add("final_utilities", json!(utilities(outcome, &told)));
    for name in ["weak_utility", "strong_utility", "utility_gap", "strong_share", "strong_fair_share", "exploitation"] {
        add(name, json!(metric(name)));
    }
    for name in ["utilitarian_efficiency", "nash_distance"] {
        add(name, json!(metric(name)));
    }
    add("pareto_optimal", json!(truth("pareto_optimal")));
    add("final_allocation", allocation(&told));
    add(
        "agents",
        told.setup().map_or(Value::Null, |setup| {
            let agent = |agent: &super::super::rows::Agent| {
                let values: Map<String, Value> =
                    setup.items.iter().cloned().zip(agent.values.iter().map(|value| json!(value))).collect();
                json!({"agent_id": agent.name, "side": agent.side, "model": agent.model, "values": values})
            };
            setup.agents.iter().map(agent).collect()
        }),
    );
    add("cosine_similarity", json!(metric("cosine_similarity")));
    add("invalid_proposals", json!(count("invalid_proposals")));
    add("missing_votes", json!(count("missing_votes")));
    add("strategic_behaviors", told.judgement().map_or(Value::Null, |judged| json!(judged.verdict)));
    let usage = json!({"prompt_tokens": count("prompt_tokens"), "completion_tokens": count("completion_tokens")});
    add("usage", usage);
    add("cost_usd", json!(metric("cost_usd")));
    add("conversation_logs", told.said().map(|said| entry(said, &told)).collect());
    Some(Value::Object(result))
}

/// Without what was said.
pub fn short(mut result: Value) -> Value {
    if let Value::Object(object) = &mut result {
        object.shift_remove("conversation_logs");
    }
    result
}

/// By the agents' names.
fn utilities(outcome: &Outcome, told: &ParsedOutcome) -> Option<Map<String, Value>> {
    let setup = told.setup()?;
    let utility = |agent: &super::super::rows::Agent| {
        let utility = outcome.metrics.get(&format!("{}_utility", agent.side.name()))?;
        Some((agent.name.clone(), json!(utility)))
    };
    setup.agents.iter().map(utility).collect()
}

/// Who got more; nobody without a deal, or where both got the same.
fn winner(outcome: &Outcome, told: &ParsedOutcome) -> Option<String> {
    told.end()?.deal.as_ref()?;
    let utility = |side: Side| outcome.metrics.get(&format!("{}_utility", side.name())).copied();
    let (weak, strong) = (utility(Side::Weak)?, utility(Side::Strong)?);
    let side = match strong - weak {
        gap if gap.abs() < 1e-9 => return None,
        gap if gap > 0.0 => Side::Strong,
        _ => Side::Weak,
    };
    told.agent(side).map(|(_, agent)| agent.name.clone())
}

/// Items by the agents' names; null without a deal.
fn allocation(told: &ParsedOutcome) -> Value {
    let Some(deal) = told.end().and_then(|end| end.deal.as_ref()) else { return Value::Null };
    let share = |agent: usize| {
        let items = deal.allocation.share(agent).into_iter().map(cast::item).collect::<Vec<_>>();
        (cast::agent(agent), json!(items))
    };
    let agents = told.setup().map_or(2, |setup| setup.agents.len());
    Value::Object((0..agents).map(share).collect())
}

fn entry(said: &Said, told: &ParsedOutcome) -> Value {
    let agent = told.setup().and_then(|setup| setup.agents.get(said.agent));
    let mut entry = json!({
        "round": said.round,
        "phase": said.phase,
        "agent_id": cast::agent(said.agent),
        "side": agent.map(|agent| agent.side),
        "model": agent.map(|agent| &agent.model),
        "public": said.phase == Phase::Discussion,
        "content": said.text,
        "status": said.reply_record.status,
    });
    let votes = |votes: &Vec<Option<bool>>| {
        let word = |vote: &Option<bool>| vote.map(|accepts| if accepts { "accept" } else { "reject" });
        json!(votes.iter().map(word).collect::<Vec<_>>())
    };
    if let Some(cast_votes) = &said.votes {
        entry["votes"] = votes(cast_votes);
    }
    if let Some(why) = &said.invalid {
        entry["invalid"] = json!(why);
    }
    if let Some(readout) = &said.reply_record.readout {
        let read = |p: &tiltmeter_model::probe::ProbeReadout| json!({"axis": p.name, "site": p.site, "mean": p.mean, "per_token": p.per_token});
        entry["activations"] = readout.projections.iter().map(read).collect();
    }
    entry
}
