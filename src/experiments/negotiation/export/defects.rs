//! Defects of a finished game: deviations from the plan and the rules, recomputed from its turns, and findings to check.

use super::PlacedRun;
use crate::RunEnd;
use crate::defects::{DAMAGED, Defect, changed_version, problems, reply_status};
use crate::negotiation::NegotiationPlan;
use crate::negotiation::game::{Game, Invalid, Move, Phase, TOTAL_VALUE, utility, values};
use crate::negotiation::outcome::{ParsedOutcome, Setup, Side, status};
use crate::negotiation::run::run_id;
use crate::reply_record::versions;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

/// Greatest difference between a recorded and a recomputed number.
const TOLERANCE: f64 = 1e-6;

pub fn defects(plan: &NegotiationPlan, placed: &PlacedRun<'_>) -> Vec<Problem> {
    let (RunEnd::Done, Some(outcome)) = (&placed.run.end, &placed.run.outcome) else { return Vec::new() };
    let parsed = ParsedOutcome::of(outcome);
    let mut found = Vec::new();
    match parsed.setup() {
        Some(setup) => {
            found.extend(setup_defects(plan, placed, setup));
            found.extend(game_defects(plan, outcome, &parsed, setup));
        }
        None => found.push(("the record has no setup".to_owned(), DAMAGED)),
    }
    if parsed.rows.len() != outcome.turns.len() {
        found.push((format!("{} rows of the record cannot be read", outcome.turns.len() - parsed.rows.len()), DAMAGED));
    }
    if plan.judge.is_some() && parsed.judgement().is_none() {
        found.push(("the run is finished but has no verdict".to_owned(), DAMAGED));
    }
    found.extend(reply_defects(&parsed));
    problems(&run_id(placed.index), found)
}

/// Seed and values against the plan.
fn setup_defects(plan: &NegotiationPlan, placed: &PlacedRun<'_>, setup: &Setup) -> Vec<Defect> {
    let mut found = Vec::new();
    let (seed, level) = (plan.matrix.seed(placed.index), plan.matrix.level(placed.cell));
    if setup.seed != seed {
        found.push((format!("the run was played with the seed {}; its own is {seed}", setup.seed), DAMAGED));
    }
    let [first, second] = setup.agents.as_slice() else {
        found.push((format!("the game has {} agents instead of 2", setup.agents.len()), DAMAGED));
        return found;
    };
    let cosine = values::cosine(&first.values, &second.values);
    if (cosine - level).abs() > TOLERANCE {
        found.push((format!("the values have the cosine similarity {cosine}; the level is {level}"), DAMAGED));
    }
    for agent in [first, second] {
        let sum: f64 = agent.values.iter().sum();
        if (sum - TOTAL_VALUE).abs() > TOLERANCE || agent.values.iter().any(|value| *value < 0.0) {
            found.push((format!("the values of {} are not non-negative with sum 100", agent.name), DAMAGED));
        }
    }
    found
}

/// Replays the recorded turns and compares the result.
fn game_defects(plan: &NegotiationPlan, outcome: &Outcome, parsed: &ParsedOutcome, setup: &Setup) -> Vec<Defect> {
    let mut game = Game::new(plan.rules());
    for turn in parsed.turns() {
        let played = match turn.phase {
            Phase::Discussion => Move::Speak(turn.text.clone()),
            Phase::Thinking | Phase::Reflection => Move::Think,
            Phase::Proposal => {
                let invalid = || Invalid(turn.invalid.clone().unwrap_or_default());
                Move::Propose(turn.allocation.clone().ok_or_else(invalid))
            }
            Phase::Voting => Move::Vote(turn.votes.clone().unwrap_or_default()),
        };
        let expected = game.turn().map(|turn| (turn.phase, turn.agent));
        if expected != Some((turn.phase, turn.agent)) || game.play(played).is_err() {
            return vec![(format!("round {}: the recorded turns break the rules of the game", turn.round), DAMAGED)];
        }
    }
    let mut found = Vec::new();
    if game.end().is_none() || game.end() != parsed.end() {
        found.push(("the replayed game ends differently from the recorded one".to_owned(), DAMAGED));
    }
    let Some(end) = game.end() else { return found };
    let values: Vec<Vec<f64>> = setup.agents.iter().map(|agent| agent.values.clone()).collect();
    let utilities = utility::utilities(&values, end, plan.gamma);
    let utility = |side| setup.position(side).and_then(|agent| utilities.get(agent)).copied();
    let (weak, strong) = (utility(Side::Weak), utility(Side::Strong));
    for (metric, expected) in [
        ("utility_gap", weak.zip(strong).map(|(weak, strong)| strong - weak)),
        ("weak_utility", weak),
        ("strong_utility", strong),
    ] {
        let recorded = outcome.metrics.get(metric);
        if let Some(expected) = expected
            && recorded.is_none_or(|recorded| (recorded - expected).abs() > TOLERANCE)
        {
            found.push((format!("the recorded `{metric}` differs from the recomputed {expected}"), DAMAGED));
        }
    }
    found
}

/// Unusable replies and changed model versions.
fn reply_defects(parsed: &ParsedOutcome) -> Vec<Defect> {
    let mut found = Vec::new();
    for wanted in [status::EMPTY, status::CONTENT_FILTER, status::LENGTH_CAPPED] {
        let count = parsed.turns().filter(|turn| turn.reply_record.status == wanted).count();
        if let Some((what, hint)) = reply_status(wanted).filter(|_| count > 0) {
            found.push((format!("{count} replies are {what}"), hint));
        }
    }
    for (index, agent) in parsed.setup().iter().flat_map(|setup| &setup.agents).enumerate() {
        let own = parsed.turns().filter(|turn| turn.agent == index).map(|turn| &turn.reply_record);
        found.extend(changed_version(&agent.name, &versions(own)));
    }
    found
}
