//! Files of one run: `world-state-000.md` …, `<actor>-001.md` …, `metrics.json`, `costs.json`, `scenario-state.json`, `scenario.log`.

use serde_json::{Map, Value, json};

use super::{status, total_tokens, turns_of, usd};
use crate::config::{Actor, Scenario};
use crate::scenario::ScenarioPlan;
use crate::scenario::plan::VariationPlan;
use crate::scenario::turn::{Decision, JUDGE, ModelReply, Turn, WORLD, status::OK};
use crate::{RunEnd, RunFile, RunRecord};
use tiltmeter_model::Usage;
use tiltmeter_scheduler::Account;
use tiltmeter_store::Outcome;

/// A run and its parsed outcome. Accounts are `None` while the session is under way, and `Some` of a run's account at its end.
pub struct RunFiles<'a> {
    variation: &'a VariationPlan,
    scenario: Scenario,
    run: &'a RunRecord,
    outcome: &'a Outcome,
    turns: Vec<Turn>,
}

impl<'a> RunFiles<'a> {
    /// `None` if the plan wants no files of runs, or the run has no outcome or no variation.
    pub fn of(plan: &'a ScenarioPlan, run: &'a RunRecord) -> Option<Self> {
        let (outcome, variation) =
            run.outcome.as_ref().zip(plan.variation(run)).filter(|_| plan.save_individual_runs)?;
        Some(Self { variation, scenario: plan.scenario_of(variation), run, outcome, turns: turns_of(outcome) })
    }

    fn path(&self, name: &str) -> String {
        format!("runs/{}/{name}", self.run.key.id())
    }

    /// World states, decisions, metrics and costs.
    pub fn turn_files(&self) -> Vec<RunFile> {
        let scenario = &self.scenario;
        let mut files = vec![self.world_page(0, &scenario.initial_world_state)];
        for turn in &self.turns {
            files.push(self.world_page(turn.turn, &turn.world_state));
            for actor in &scenario.actors {
                if let Some(decision) = turn.decision(&actor.short_name) {
                    let name = format!("{}-{:03}.md", actor.short_name, turn.turn);
                    files.push(RunFile::new(self.path(&name), actor_page(actor, turn, decision)));
                }
            }
        }
        files.push(RunFile::json(self.path("metrics.json"), &self.metrics()));
        files.push(RunFile::json(self.path("costs.json"), &self.costs()));
        files
    }

    fn world_page(&self, turn: usize, state: &str) -> RunFile {
        let Scenario { name, turns, .. } = &self.scenario;
        let when = if turn == 0 { "before turn 1".to_owned() } else { format!("after turn {turn} of {turns}") };
        let text = format!("# {name}: the world {when}\n\n{}\n", state.trim());
        RunFile::new(self.path(&format!("world-state-{turn:03}.md")), text)
    }

    /// Definitions, values after each turn, values after the last turn.
    fn metrics(&self) -> Value {
        let Self { scenario, run, turns, .. } = self;
        let definitions: Map<String, Value> =
            scenario.metrics.iter().map(|metric| (metric.id.clone(), json!(metric))).collect();
        let values = |turn: &Turn| -> Map<String, Value> {
            turn.metrics.iter().map(|(id, value)| (id.clone(), value.value.clone())).collect()
        };
        let by_turn = turns.iter();
        let by_turn: Vec<Value> =
            by_turn.map(|turn| json!({"turn": turn.turn, "metrics": values(turn), "found": turn.metrics})).collect();
        // A run under way has no final metrics.
        let last = turns.last().filter(|_| run.end == RunEnd::Done);
        let mut last_seen = Map::new();
        for id in scenario.metrics.iter().map(|metric| &metric.id) {
            let value = |turn: &Turn| turn.metrics.get(id).map(|value| value.value.clone()).filter(|v| !v.is_null());
            let seen = turns.iter().rev().find_map(|turn| Some(json!({"turn": turn.turn, "value": value(turn)?})));
            last_seen.extend(seen.map(|seen| (id.clone(), seen)));
        }
        json!({
            "run_id": run.key.id(), "scenario": scenario.name, "definitions": definitions, "by_turn": by_turn,
            "final_metrics": last.map(values).unwrap_or_default(), "last_seen": last_seen,
        })
    }

    fn costs(&self) -> Value {
        let Self { scenario, run, turns, .. } = self;
        let with = |mut value: Value, key: &str, entry: Value| {
            value[key] = entry;
            value
        };
        let actors = |turns: &[Turn]| -> Map<String, Value> {
            let cost = |actor: &Actor| with(usage_of(&actor.short_name, turns), "model", json!(actor.llm_model));
            scenario.actors.iter().map(|actor| (actor.short_name.clone(), cost(actor))).collect()
        };
        let turn_costs = |turn: &Turn| {
            let one = std::slice::from_ref(turn);
            let sum = usage(turn.replies().map(|(_, reply)| reply));
            let sum = with(with(sum, "turn", json!(turn.turn)), "actors", Value::Object(actors(one)));
            with(with(sum, "world_state", usage_of(WORLD, one)), "judge", usage_of(JUDGE, one))
        };
        let mut totals = usage(turns.iter().flat_map(Turn::replies).map(|(_, reply)| reply));
        if let Value::Object(totals) = &mut totals
            && let Some(cost) = totals.shift_remove("cost_usd")
        {
            totals.insert("total_cost_usd".to_owned(), cost);
        }
        json!({
            "run_id": run.key.id(),
            "actors": actors(turns),
            "turns": turns.iter().map(turn_costs).collect::<Vec<_>>(),
            "world_state": with(usage_of(WORLD, turns), "model", json!(scenario.world_state_model)),
            "judge": usage_of(JUDGE, turns),
            "totals": totals,
        })
    }

    /// Status and progress of the run.
    pub fn state(&self, account: Option<Option<&Account>>) -> RunFile {
        let Self { variation, scenario, run, outcome, turns } = self;
        let word = match account {
            None if run.end == RunEnd::Pending => "running",
            _ => status(run, account.flatten()),
        };
        let halt = account.flatten().and_then(|account| account.halt.as_ref());
        let halt = halt.filter(|_| run.end == RunEnd::Pending);
        let error = match &run.end {
            RunEnd::Failed(problem) => Some(problem.to_string()),
            _ => halt.map(|halt| halt.problem.to_string()),
        };
        let actor = |actor: &Actor| (actor.short_name.clone(), json!({"name": actor.name, "model": actor.llm_model}));
        let cost = outcome.metrics.get("cost_usd").copied().unwrap_or(0.0);
        let state = json!({
            "run_id": run.key.id(),
            "variation_id": variation.variation_id,
            "variation": variation.title,
            "scenario": scenario.name,
            "status": word,
            "halt_reason": halt.map(|halt| halt.reason),
            "error": error,
            "current_turn": turns.len(),
            "total_turns": scenario.turns,
            "started": outcome.labels.get("timestamp"),
            "updated": turns.last().map(|turn| &turn.ended),
            "actors": scenario.actors.iter().map(actor).collect::<Map<_, _>>(),
            "world_state": turns.last().map_or(&scenario.initial_world_state, |turn| &turn.world_state),
            "costs": {"total_cost_usd": cost, "total_tokens": total_tokens(Some(outcome)) as u64},
            "runner_version": outcome.labels.get("runner_version"),
            "code_commit": outcome.labels.get("code_commit"),
        });
        RunFile::json(self.path("scenario-state.json"), &state)
    }

    /// Events of the run, one a line.
    pub fn log(&self, account: Option<Option<&Account>>) -> RunFile {
        let Self { scenario, run, outcome, turns, .. } = self;
        let label = |name: &str| outcome.labels.get(name).map_or("", String::as_str);
        let (started, variation) = (label("timestamp"), label("variation"));
        let mut text = format!("{started} {} begins: {}, {variation}\n", run.key.id(), scenario.name);
        for turn in turns {
            let prefix = format!("{} turn {}", turn.ended, turn.turn);
            for reply in &turn.messages {
                let rejected: Vec<&str> = reply.messages.iter().filter_map(|m| m.rejected.as_deref()).collect();
                let sent = reply.messages.len() - rejected.len();
                let rejected = match rejected.len() {
                    0 => String::new(),
                    n => format!(", {n} not sent ({})", rejected.join("; ")),
                };
                text += &format!("{prefix}: {} wrote {sent} messages{rejected}\n", reply.from);
            }
            for (author, ModelReply { model, reply_record }) in turn.replies() {
                let Usage { prompt_tokens, completion_tokens, cost_usd } = reply_record.usage;
                let status = match reply_record.status.as_str() {
                    OK => String::new(),
                    status => format!(" [{status}]"),
                };
                let tokens = format!("{prompt_tokens} + {completion_tokens} tokens");
                text += &format!("{prefix}: {author} ({model}) replied, {tokens}, ${cost_usd:.6}{status}\n");
            }
            for (id, value) in &turn.metrics {
                let shown = if value.value.is_null() { value.status.clone() } else { value.value.to_string() };
                text += &format!("{prefix}: {id} = {shown}\n");
            }
            text += &format!("{prefix} of {} ends\n", scenario.turns);
        }
        let known = account.flatten();
        match (&run.end, known.and_then(|account| account.halt.as_ref())) {
            (RunEnd::Done, _) => text += "completed\n",
            (RunEnd::Failed(problem), _) => text += &format!("failed: {problem}\n"),
            (RunEnd::Pending, Some(halt)) => text += &format!("left ({}): {}\n", status(run, known), halt.problem),
            (RunEnd::Pending, None) if account.is_some() => text += "not finished; --resume continues it\n",
            (RunEnd::Pending, None) => {}
        }
        if let Some(account) = known.filter(|account| account.settled_micro_usd + account.uncertain_micro_usd > 0) {
            let (settled, uncertain) = (usd(account.settled_micro_usd), usd(account.uncertain_micro_usd));
            text += &format!("billed ${settled:.6} in total, and up to ${uncertain:.6} of uncertain calls\n");
        }
        RunFile::new(self.path("scenario.log"), text)
    }
}

fn actor_page(actor: &Actor, turn: &Turn, decision: &Decision) -> String {
    let record = &decision.reply.reply_record;
    let mut text = format!("# {}, turn {}\n\nModel: {}\n", actor.name, turn.turn, decision.reply.model);
    if record.status != OK {
        text += &format!("Status: {}\n", record.status);
    }
    let own = &actor.short_name;
    for (from, message) in turn.messages.iter().flat_map(|reply| reply.messages.iter().map(|m| (&reply.from, m))) {
        let heading = match &message.rejected {
            Some(reason) if from == own => format!("Rejected message ({reason})"),
            None if from == own => format!("Message to {}", message.to.join(", ")),
            None if message.to.contains(own) => format!("Message from {from}"),
            _ => continue,
        };
        text += &format!("\n## {heading}\n\n{}\n", message.text.trim());
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
        text += &format!("\n## Reply without an action\n\n{}\n", decision.text.trim());
    }
    if let Some(readout) = &record.readout {
        text += "\n## Projections\n\n";
        text.extend(readout.projections.iter().map(|p| format!("- {} at {}: {:.4}\n", p.name, p.site, p.mean)));
    }
    text
}

/// Calls, tokens and cost of an author's replies.
fn usage_of(author: &str, turns: &[Turn]) -> Value {
    usage(turns.iter().flat_map(Turn::replies).filter(|(of, _)| *of == author).map(|(_, reply)| reply))
}

/// Calls, tokens and cost of replies.
fn usage<'a>(replies: impl Iterator<Item = &'a ModelReply>) -> Value {
    let (mut calls, mut sum) = (0, Usage::default());
    for usage in replies.map(|reply| reply.reply_record.usage) {
        calls += 1;
        sum.prompt_tokens += usage.prompt_tokens;
        sum.completion_tokens += usage.completion_tokens;
        sum.cost_usd += usage.cost_usd;
    }
    json!({
        "calls": calls, "prompt_tokens": sum.prompt_tokens, "completion_tokens": sum.completion_tokens,
        "total_tokens": sum.prompt_tokens + sum.completion_tokens, "cost_usd": sum.cost_usd,
    })
}
