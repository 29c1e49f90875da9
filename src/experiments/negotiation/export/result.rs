//! The result of one run: parameters, status, metrics and all replies.

use serde_json::{Map, Value, json};

use super::{PlacedRun, status};
use crate::RunEnd;
use crate::negotiation::NegotiationPlan;
use crate::negotiation::game::{Phase, names};
use crate::negotiation::matrix::order_name;
use crate::negotiation::outcome::{Agent, ParsedOutcome, Side, TurnRecord};
use tiltmeter_model::probe::ProbeReadout;
use tiltmeter_scheduler::canonical;
use tiltmeter_store::Outcome;

/// `None` for a run that has not ended. A failed run has the values of its last partial outcome.
pub fn result(plan: &NegotiationPlan, placed: &PlacedRun<'_>) -> Option<Value> {
    let status = status(&placed.run.end)?;
    let matrix = &plan.matrix;
    let repetition = placed.run.key.sample;
    let mut result = Map::new();
    result.insert("job_id".to_owned(), json!(placed.index));
    if let Value::Object(config) = plan.config(placed.cell, repetition) {
        result.extend(config);
    }
    let order = order_name(matrix.order(placed.cell));
    let mut add = |key: &str, value: Value| result.insert(key.to_owned(), value);
    add("order", json!(order));
    add("repetition", json!(repetition));
    add("gamma", canonical(json!(plan.gamma)));
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
    let parsed = ParsedOutcome::of(outcome);
    let metric = |name: &str| outcome.metrics.get(name);
    let count = |name: &str| metric(name).map(|value| *value as u64);
    let truth = |name: &str| metric(name).map(|value| *value == 1.0);
    add("timestamp", json!(outcome.labels.get("timestamp")));
    add("consensus_reached", json!(truth("consensus_reached")));
    add("final_round", json!(count("final_round")));
    add("winner_agent_id", json!(winner(outcome, &parsed)));
    add("final_utilities", json!(utilities(outcome, &parsed)));
    for name in ["weak_utility", "strong_utility", "utility_gap", "strong_share", "strong_fair_share", "exploitation"] {
        add(name, json!(metric(name)));
    }
    for name in ["utilitarian_efficiency", "nash_distance"] {
        add(name, json!(metric(name)));
    }
    add("pareto_optimal", json!(truth("pareto_optimal")));
    add("final_allocation", allocation(&parsed));
    add(
        "agents",
        parsed.setup().map_or(Value::Null, |setup| {
            let agent = |agent: &Agent| {
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
    add("strategic_behaviors", parsed.judgement().map_or(Value::Null, |judgement| json!(judgement.verdict)));
    let usage = json!({"prompt_tokens": count("prompt_tokens"), "completion_tokens": count("completion_tokens")});
    add("usage", usage);
    add("cost_usd", json!(metric("cost_usd")));
    add("conversation_logs", parsed.turns().map(|turn| entry(turn, &parsed)).collect());
    Some(Value::Object(result))
}

/// The result without replies.
pub fn without_replies(mut result: Value) -> Value {
    if let Value::Object(object) = &mut result {
        object.shift_remove("conversation_logs");
    }
    result
}

/// By the agents' names.
fn utilities(outcome: &Outcome, parsed: &ParsedOutcome) -> Option<Map<String, Value>> {
    let setup = parsed.setup()?;
    let utility = |agent: &Agent| {
        let utility = outcome.metrics.get(&format!("{}_utility", agent.side.name()))?;
        Some((agent.name.clone(), json!(utility)))
    };
    setup.agents.iter().map(utility).collect()
}

/// Agent with the greater utility; `None` without a deal and for equal utilities.
fn winner(outcome: &Outcome, parsed: &ParsedOutcome) -> Option<String> {
    parsed.end()?.deal.as_ref()?;
    let utility = |side: Side| outcome.metrics.get(&format!("{}_utility", side.name())).copied();
    let (weak, strong) = (utility(Side::Weak)?, utility(Side::Strong)?);
    let side = match strong - weak {
        gap if gap.abs() < 1e-9 => return None,
        gap if gap > 0.0 => Side::Strong,
        _ => Side::Weak,
    };
    let setup = parsed.setup()?;
    setup.position(side).map(|agent| setup.agents[agent].name.clone())
}

/// Items by the agents' names; null without a deal.
fn allocation(parsed: &ParsedOutcome) -> Value {
    let Some(deal) = parsed.end().and_then(|end| end.deal.as_ref()) else { return Value::Null };
    let share = |agent: usize| {
        let items = deal.allocation.share(agent).into_iter().map(names::item).collect::<Vec<_>>();
        (names::agent(agent), json!(items))
    };
    let agents = parsed.setup().map_or(2, |setup| setup.agents.len());
    Value::Object((0..agents).map(share).collect())
}

fn entry(turn: &TurnRecord, parsed: &ParsedOutcome) -> Value {
    let agent = parsed.agent(turn);
    let mut entry = json!({
        "round": turn.round,
        "phase": turn.phase,
        "agent_id": names::agent(turn.agent),
        "side": agent.map(|agent| agent.side),
        "model": agent.map(|agent| &agent.model),
        "public": turn.phase == Phase::Discussion,
        "content": turn.text,
        "status": turn.reply_record.status,
    });
    if let Some(votes) = &turn.votes {
        let word = |vote: &Option<bool>| vote.map(|accepts| if accepts { "accept" } else { "reject" });
        entry["votes"] = json!(votes.iter().map(word).collect::<Vec<_>>());
    }
    if let Some(reason) = &turn.invalid {
        entry["invalid"] = json!(reason);
    }
    if let Some(readout) = &turn.reply_record.readout {
        let read = |p: &ProbeReadout| json!({"axis": p.name, "site": p.site, "mean": p.mean, "per_token": p.per_token});
        entry["activations"] = readout.projections.iter().map(read).collect();
    }
    entry
}
