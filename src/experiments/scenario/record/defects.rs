//! Owns what can be wrong with a finished run of a scenario: what the plan says and the record does not hold, and what should give a
//! reader pause.
//! Must not know: engine, provider, run folders, terminal.

use super::{Records, turns_of};
use crate::config::Scenario;
use crate::scenario::play::run_seed;
use crate::scenario::turn::{Turn, WORLD, status};
use crate::{RunEnd, RunRecord};
use tiltmeter_model::problem::Problem;

/// What is wrong, and what to do.
type Defect = (String, &'static str);

const BROKEN: &str = "the journal is damaged or was made by another version: run this repetition again in a new folder";

pub fn of(records: &Records, run: &RunRecord) -> Vec<Problem> {
    let (RunEnd::Done, Some(outcome)) = (&run.end, &run.outcome) else { return Vec::new() };
    let Some(scenario) = records.variation(run).and_then(|variation| variation.scenario.as_ref()) else {
        let what = format!("the plan has no variation of {}", run.key.id());
        return vec![Problem::new(what).at(run.key.id()).hint(BROKEN)];
    };
    let turns = turns_of(outcome);
    let mut found = Vec::new();
    if turns.len() != scenario.turns {
        found.push((format!("the run has {} turns and the plan {}", turns.len(), scenario.turns), BROKEN));
    }
    let seed = run_seed(records.plan["seed"].as_u64().unwrap_or_default(), &run.key.id());
    for turn in &turns {
        found.extend(replies(scenario, turn, seed));
    }
    if let Some(last) = turns.last() {
        for metric in &scenario.metrics {
            let status = last.metrics.get(&metric.id).map_or("missing", |found| found.status.as_str());
            if status != "ok" {
                let what = format!("`{}` has no value after the last turn ({status})", metric.id);
                found.push((what, "look at the world state; make the pattern or the description clearer"));
            }
        }
    }
    found.into_iter().map(|(what, hint)| Problem::new(what).at(run.key.id()).hint(hint)).collect()
}

fn replies(scenario: &Scenario, turn: &Turn, seed: u64) -> Vec<Defect> {
    let mut found = Vec::new();
    let n = turn.turn;
    for actor in &scenario.actors {
        if turn.decision(&actor.short_name).is_none() {
            found.push((format!("turn {n}: {} decided nothing", actor.short_name), BROKEN));
        }
    }
    for (who, taken) in turn.taken() {
        let cut = "raise sampling.max_new_tokens or world_max_tokens";
        match taken.reply_record.status.as_str() {
            status::LENGTH_CAPPED => {
                found.push((format!("turn {n}: the reply of {who} was cut at its longest length"), cut))
            }
            status::CONTENT_FILTER => found.push((
                format!("turn {n}: the provider withheld the reply of {who}"),
                "report it: such runs are not missing at random",
            )),
            status::EMPTY => found.push((format!("turn {n}: the reply of {who} is empty"), "look at its model")),
            status::NO_ACTION => found.push((
                format!("turn {n}: the decision of {who} has no action"),
                "it counted as doing nothing; look at its model",
            )),
            _ => {}
        }
        if taken.reply_record.seed_key != seed {
            let hint = "it may repeat another run's: leave it out, or run this repetition again in a new folder";
            found.push((
                format!(
                    "turn {n}: {who} was asked with the seed {}, and the run's is {seed}",
                    taken.reply_record.seed_key
                ),
                hint,
            ));
        }
    }
    if turn.world_state.trim().is_empty() {
        found.push((format!("turn {n}: {WORLD} is empty"), BROKEN));
    }
    found
}
