//! Owns the files of one run: `world-state-000.md` … , `<actor>-001.md` … , `metrics.json`, `costs.json`, `scenario-state.json`,
//! `scenario.log`.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::{Map, Value, json};

use super::{Variation, pretty, status, turns_of, usd};
use crate::config::{Actor, Scenario};
use crate::reply_record::ReplyRecord;
use crate::scenario::turn::{Decision, JUDGE, Taken, Turn, WORLD};
use crate::{RunEnd, RunFile, RunRecord};
use tiltmeter_model::Usage;
use tiltmeter_scheduler::Account;
use tiltmeter_store::Outcome;

fn path(run: &RunRecord, name: &str) -> String {
    format!("runs/{}/{name}", run.key.id())
}

/// All but the state and the log.
pub fn of(scenario: &Scenario, run: &RunRecord, outcome: &Outcome) -> Vec<RunFile> {
    let turns = turns_of(outcome);
    let text = |name: String, text: String| RunFile { path: path(run, &name), text };
    let mut files = vec![text("world-state-000.md".to_owned(), world_page(scenario, 0, &scenario.initial_world_state))];
    for turn in &turns {
        let n = turn.turn;
        files.push(text(format!("world-state-{n:03}.md"), world_page(scenario, n, &turn.world_state)));
        for actor in &scenario.actors {
            if let Some(decision) = turn.decision(&actor.short_name) {
                files.push(text(format!("{}-{n:03}.md", actor.short_name), actor_page(actor, turn, decision)));
            }
        }
    }
    files.push(pretty(path(run, "metrics.json"), &metrics(scenario, run, &turns)));
    files.push(pretty(path(run, "costs.json"), &costs(scenario, run, &turns)));
    files
}

fn world_page(scenario: &Scenario, turn: usize, state: &str) -> String {
    let when = if turn == 0 { "before turn 1".to_owned() } else { format!("after turn {turn} of {}", scenario.turns) };
    format!("# {}: the world {when}\n\n{}\n", scenario.name, state.trim())
}

fn actor_page(actor: &Actor, turn: &Turn, decision: &Decision) -> String {
    let mut text = format!("# {}, turn {}\n\nModel: {}\n", actor.name, turn.turn, decision.taken.model);
    if decision.taken.reply_record.status != "ok" {
        text += &format!("Status: {}\n", decision.taken.reply_record.status);
    }
    let own = &actor.short_name;
    for written in &turn.written {
        for letter in &written.letters {
            let body = letter.text.trim();
            match &letter.refused {
                Some(why) if written.from == *own => text += &format!("\n## Message to nobody ({why})\n\n{body}\n"),
                None if written.from == *own => {
                    text += &format!("\n## Message to {}\n\n{body}\n", letter.to.join(", "))
                }
                None if letter.to.contains(own) => text += &format!("\n## Message from {}\n\n{body}\n", written.from),
                _ => {}
            }
        }
    }
    let sections = &decision.sections;
    for (heading, section) in [
        ("Long-term goals", &sections.long_term_goals),
        ("Short-term priorities", &sections.short_term_priorities),
        ("Reasoning", &sections.reasoning),
        ("Action", &sections.action),
        ("Indicators", &sections.indicators),
    ] {
        text.extend(section.iter().map(|section| format!("\n## {heading}\n\n{section}\n")));
    }
    if sections.action.is_none() {
        text += &format!("\n## The reply, which has no action\n\n{}\n", decision.text.trim());
    }
    if let Some(readout) = &decision.taken.reply_record.readout {
        text += "\n## Projections\n\n";
        text.extend(readout.projections.iter().map(|p| format!("- {} at {}: {:.4}\n", p.name, p.site, p.mean)));
    }
    text
}

/// Definitions, what was found after every turn, and what the last turn left.
fn metrics(scenario: &Scenario, run: &RunRecord, turns: &[Turn]) -> Value {
    let definitions: Map<String, Value> =
        scenario.metrics.iter().map(|metric| (metric.id.clone(), json!(metric))).collect();
    let values = |turn: &Turn| -> Map<String, Value> {
        turn.metrics.iter().map(|(id, found)| (id.clone(), found.value.clone())).collect()
    };
    let by_turn: Vec<Value> =
        turns.iter().map(|turn| json!({"turn": turn.turn, "metrics": values(turn), "found": turn.metrics})).collect();
    // Of a run that is under way nothing is final.
    let last = turns.last().filter(|_| run.end == RunEnd::Done);
    let latest: Map<String, Value> = scenario
        .metrics
        .iter()
        .filter_map(|metric| {
            let seen = turns.iter().rev().find_map(|turn| {
                let value = turn.metrics.get(&metric.id).map(|found| &found.value).filter(|value| !value.is_null())?;
                Some(json!({"turn": turn.turn, "value": value}))
            });
            Some((metric.id.clone(), seen?))
        })
        .collect();
    json!({
        "run_id": run.key.id(), "scenario": scenario.name, "definitions": definitions, "by_turn": by_turn,
        "final_metrics": last.map(values).unwrap_or_default(), "last_seen": latest,
    })
}

/// What replies took, summed.
#[derive(Default)]
struct Sum {
    calls: u64,
    usage: Usage,
}

impl Sum {
    fn of<'a>(taken: impl Iterator<Item = &'a Taken>) -> Self {
        let mut sum = Self::default();
        for ReplyRecord { usage, .. } in taken.map(|taken| &taken.reply_record) {
            sum.calls += 1;
            sum.usage.prompt_tokens += usage.prompt_tokens;
            sum.usage.completion_tokens += usage.completion_tokens;
            sum.usage.cost_usd += usage.cost_usd;
        }
        sum
    }

    fn json(&self) -> Value {
        let Usage { prompt_tokens, completion_tokens, cost_usd } = self.usage;
        json!({
            "calls": self.calls, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens, "cost_usd": cost_usd,
        })
    }
}

fn costs(scenario: &Scenario, run: &RunRecord, turns: &[Turn]) -> Value {
    let of = |whose: &str, turns: &[Turn]| {
        Sum::of(turns.iter().flat_map(Turn::taken).filter(|(who, _)| *who == whose).map(|(_, taken)| taken)).json()
    };
    let with = |mut value: Value, key: &str, what: Value| {
        value[key] = what;
        value
    };
    let actors = |turns: &[Turn]| -> Map<String, Value> {
        let cost = |actor: &Actor| with(of(&actor.short_name, turns), "model", json!(actor.llm_model));
        scenario.actors.iter().map(|actor| (actor.short_name.clone(), cost(actor))).collect()
    };
    let by_turn: Vec<Value> = turns
        .iter()
        .map(|turn| {
            let one = std::slice::from_ref(turn);
            let sum = Sum::of(turn.taken().map(|(_, taken)| taken)).json();
            let sum = with(with(sum, "turn", json!(turn.turn)), "actors", Value::Object(actors(one)));
            with(with(sum, "world_state", of(WORLD, one)), "judge", of(JUDGE, one))
        })
        .collect();
    let all = Sum::of(turns.iter().flat_map(Turn::taken).map(|(_, taken)| taken));
    let Usage { prompt_tokens, completion_tokens, cost_usd } = all.usage;
    json!({
        "run_id": run.key.id(),
        "actors": actors(turns),
        "turns": by_turn,
        "world_state": with(of(WORLD, turns), "model", json!(scenario.world_state_model)),
        "judge": of(JUDGE, turns),
        "totals": {
            "calls": all.calls, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens, "total_cost_usd": cost_usd,
        },
    })
}

/// How the run stands. While it is under way nothing is known of halts: `account` is `None` then.
pub fn state(
    variation: &Variation,
    scenario: &Scenario,
    run: &RunRecord,
    outcome: &Outcome,
    account: Option<Option<&Account>>,
) -> RunFile {
    let turns = turns_of(outcome);
    let word = match account {
        None if run.end == RunEnd::Pending => "running",
        None => status(run, None),
        Some(account) => status(run, account),
    };
    let halt = account.flatten().and_then(|account| account.halt.as_ref()).filter(|_| run.end == RunEnd::Pending);
    let error = match &run.end {
        RunEnd::Failed(problem) => Some(problem.to_string()),
        _ => halt.map(|halt| halt.problem.to_string()),
    };
    let actors: Map<String, Value> = scenario
        .actors
        .iter()
        .map(|actor| (actor.short_name.clone(), json!({"name": actor.name, "model": actor.llm_model})))
        .collect();
    let cost = |name: &str| outcome.metrics.get(name).copied().unwrap_or(0.0);
    let state = json!({
        "run_id": run.key.id(),
        "variation_id": variation.id,
        "variation": variation.description,
        "scenario": scenario.name,
        "status": word,
        "halt_reason": halt.map(|halt| halt.reason),
        "error": error,
        "current_turn": turns.len(),
        "total_turns": scenario.turns,
        "started": outcome.labels.get("timestamp"),
        "updated": turns.last().map(|turn| &turn.ended),
        "actors": actors,
        "world_state": turns.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state),
        "costs": {"total_cost_usd": cost("cost_usd"), "total_tokens": (cost("prompt_tokens") + cost("completion_tokens")) as u64},
        "runner_version": outcome.labels.get("runner_version"),
        "code_commit": outcome.labels.get("code_commit"),
    });
    pretty(path(run, "scenario-state.json"), &state)
}

/// What happened, line by line. `account` as in `state`.
pub fn log(scenario: &Scenario, run: &RunRecord, outcome: &Outcome, account: Option<Option<&Account>>) -> RunFile {
    let started = outcome.labels.get("timestamp").map_or("", String::as_str);
    let variation = outcome.labels.get("variation").map_or("", String::as_str);
    let mut text = format!("{started} {} begins: {}, {variation}\n", run.key.id(), scenario.name);
    for turn in turns_of(outcome) {
        let (at, n) = (&turn.ended, turn.turn);
        for written in &turn.written {
            let (sent, refused): (Vec<_>, Vec<_>) = written.letters.iter().partition(|letter| letter.refused.is_none());
            let why: Vec<&str> = refused.iter().filter_map(|letter| letter.refused.as_deref()).collect();
            let not =
                if why.is_empty() { String::new() } else { format!(", {} not sent ({})", why.len(), why.join("; ")) };
            text += &format!("{at} turn {n}: {} wrote {} messages{not}\n", written.from, sent.len());
        }
        for (who, taken) in turn.taken() {
            let Usage { prompt_tokens, completion_tokens, cost_usd } = taken.reply_record.usage;
            let status = if taken.reply_record.status == "ok" {
                String::new()
            } else {
                format!(" [{}]", taken.reply_record.status)
            };
            let tokens = format!("{prompt_tokens} + {completion_tokens} tokens");
            text += &format!("{at} turn {n}: {who} ({}) replied, {tokens}, ${cost_usd:.6}{status}\n", taken.model);
        }
        for (id, found) in &turn.metrics {
            let told = if found.value.is_null() { found.status.clone() } else { found.value.to_string() };
            text += &format!("{at} turn {n}: {id} = {told}\n");
        }
        text += &format!("{at} turn {n} of {} is over\n", scenario.turns);
    }
    let known = account.flatten();
    match (&run.end, known.and_then(|account| account.halt.as_ref())) {
        (RunEnd::Done, _) => text += "completed\n",
        (RunEnd::Failed(problem), _) => text += &format!("failed: {problem}\n"),
        (RunEnd::Pending, Some(halt)) => text += &format!("left ({}): {}\n", status(run, known), halt.problem),
        (RunEnd::Pending, None) if account.is_some() => text += "left before its end; --resume goes on with it\n",
        (RunEnd::Pending, None) => {}
    }
    if let Some(account) = known.filter(|account| account.settled_micro_usd + account.uncertain_micro_usd > 0) {
        let (settled, uncertain) = (usd(account.settled_micro_usd), usd(account.uncertain_micro_usd));
        text += &format!("billed in all ${settled:.6}, and ${uncertain:.6} of which nobody knows\n");
    }
    RunFile { path: path(run, "scenario.log"), text }
}
