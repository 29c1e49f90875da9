//! Defects of a finished scenario run: deviations from the plan, and findings to check.

use super::turns_of;
use crate::config::Scenario;
use crate::defects::{DAMAGED, Defect, foreign_seed, problems, reply_status};
use crate::scenario::ScenarioPlan;
use crate::scenario::metrics;
use crate::scenario::run::run_seed;
use crate::scenario::turn::{Turn, WORLD, status};
use crate::{RunEnd, RunRecord};
use tiltmeter_model::problem::Problem;

pub fn defects(plan: &ScenarioPlan, run: &RunRecord) -> Vec<Problem> {
    let (RunEnd::Done, Some(outcome)) = (&run.end, &run.outcome) else { return Vec::new() };
    let id = run.key.id();
    let Some(scenario) = plan.variation(run).map(|variation| plan.scenario_of(variation)) else {
        return problems(&id, [(format!("the plan has no variation of {id}"), DAMAGED)]);
    };
    let turns = turns_of(outcome);
    let mut found = Vec::new();
    if turns.len() != scenario.turns {
        found.push((format!("the run has {} turns; the plan has {}", turns.len(), scenario.turns), DAMAGED));
    }
    let seed = run_seed(plan.seed, &id);
    for turn in &turns {
        found.extend(turn_defects(&scenario, turn, seed));
    }
    let last = turns.last().map(|turn| &turn.metrics);
    for metric in scenario.metrics.iter().map(|metric| &metric.id).filter(|_| last.is_some()) {
        let status = last.and_then(|last| last.get(metric)).map_or("missing", |value| value.status.as_str());
        if status != metrics::status::OK {
            let what = format!("`{metric}` has no value after the last turn ({status})");
            found.push((what, "check the world state; clarify the pattern or the description"));
        }
    }
    problems(&id, found)
}

fn turn_defects(scenario: &Scenario, turn: &Turn, seed: u64) -> Vec<Defect> {
    let mut found = Vec::new();
    let n = turn.turn;
    let missing = scenario.actors.iter().filter(|actor| turn.decision(&actor.short_name).is_none());
    found.extend(missing.map(|actor| (format!("turn {n}: {} has no decision", actor.short_name), DAMAGED)));
    for (author, reply) in turn.replies() {
        let record = &reply.reply_record;
        if let Some((what, hint)) = reply_status(&record.status) {
            found.push((format!("turn {n}: the reply of {author} is {what}"), hint));
        }
        if record.status == status::NO_ACTION {
            let what = format!("turn {n}: the decision of {author} has no action");
            found.push((what, "it counts as inaction; check the model"));
        }
        found.extend(foreign_seed(format!("turn {n}: the reply of {author}"), record, seed));
    }
    if turn.world_state.trim().is_empty() {
        found.push((format!("turn {n}: {WORLD} is empty"), DAMAGED));
    }
    found
}
