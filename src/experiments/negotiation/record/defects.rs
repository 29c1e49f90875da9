//! Owns what can be wrong with a finished game: what does not follow from the plan and from what was said, recomputed from them, and
//! what should give a reader pause.
//! Must not know: engine, provider, run folders, terminal.

use super::{Placed, Records};
use crate::RunEnd;
use crate::negotiation::matrix::Matrix;
use crate::negotiation::protocol::{Game, Invalid, Move, Phase, Rules};
use crate::negotiation::rows::{ParsedOutcome, Setup, Side, status};
use crate::negotiation::{run, utility, values};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

const BROKEN: &str = "the journal is damaged or was made by another version: run this repetition again in a new folder";

/// What is wrong, and what to do.
type Defect = (String, &'static str);

pub fn of(records: &Records, matrix: &Matrix, placed: &Placed<'_>) -> Vec<Problem> {
    let (RunEnd::Done, Some(outcome)) = (&placed.run.end, &placed.run.outcome) else { return Vec::new() };
    let told = ParsedOutcome::of(outcome);
    let mut found = Vec::new();
    match told.setup() {
        Some(setup) => {
            found.extend(setting(matrix, placed, setup));
            found.extend(game(records, outcome, &told, setup));
        }
        None => found.push(("the record does not say what was played for".to_owned(), BROKEN)),
    }
    if told.rows.len() != outcome.turns.len() {
        found.push((format!("{} rows of the record cannot be read", outcome.turns.len() - told.rows.len()), BROKEN));
    }
    if !records.plan["judge"].is_null() && told.judgement().is_none() {
        found.push(("the run counts as finished and has no verdict".to_owned(), BROKEN));
    }
    found.extend(replies(&told));
    let name = run::run_id(placed.index);
    found.into_iter().map(|(what, hint)| Problem::new(what).at(name.clone()).hint(hint)).collect()
}

/// Seed and values are those of the plan.
fn setting(matrix: &Matrix, placed: &Placed<'_>, setup: &Setup) -> Vec<Defect> {
    let mut found = Vec::new();
    let seed = matrix.seed(placed.index);
    if setup.seed != seed {
        found.push((format!("the run was played with the seed {}, and its own is {seed}", setup.seed), BROKEN));
    }
    let level = matrix.level(placed.cell);
    let [first, second] = setup.agents.as_slice() else {
        found.push(("the game has not two agents".to_owned(), BROKEN));
        return found;
    };
    let cosine = values::cosine(&first.values, &second.values);
    if (cosine - level).abs() > 1e-6 {
        found.push((format!("the values have the cosine similarity {cosine}, and the level is {level}"), BROKEN));
    }
    for agent in [first, second] {
        let sum: f64 = agent.values.iter().sum();
        if (sum - values::PIE).abs() > 1e-6 || agent.values.iter().any(|value| *value < 0.0) {
            found.push((format!("the values of {} are no shares of 100", agent.name), BROKEN));
        }
    }
    found
}

/// The game played again from what was said comes to the recorded end.
fn game(records: &Records, outcome: &Outcome, told: &ParsedOutcome, setup: &Setup) -> Vec<Defect> {
    let number = |key: &str| records.plan[key].as_u64().unwrap_or_default() as usize;
    let rules = Rules { agents: setup.agents.len(), items: number("num_items"), max_rounds: number("max_rounds") };
    let mut game = Game::new(rules);
    for said in told.said() {
        let played = match said.phase {
            Phase::Discussion => Move::Say(said.text.clone()),
            Phase::Thinking | Phase::Reflection => Move::Ponder,
            Phase::Proposal => {
                let why = || Invalid(said.invalid.clone().unwrap_or_default());
                Move::Propose(said.allocation.clone().ok_or_else(why))
            }
            Phase::Voting => Move::Vote(said.votes.clone().unwrap_or_default()),
        };
        if game.turn().is_none_or(|turn| (turn.phase, turn.agent) != (said.phase, said.agent))
            || game.play(played).is_err()
        {
            return vec![(format!("round {}: the record is no game by the rules", said.round), BROKEN)];
        }
    }
    let mut found = Vec::new();
    if game.end().is_none() || game.end() != told.end() {
        found.push(("the game does not come to the end that is recorded".to_owned(), BROKEN));
    }
    if let (Some(end), Some(gamma)) = (game.end(), records.plan["gamma"].as_f64()) {
        let values: Vec<Vec<f64>> = setup.agents.iter().map(|agent| agent.values.clone()).collect();
        let utilities = utility::utilities(&values, end, gamma);
        let of = |side| setup.agents.iter().zip(&utilities).find(|(agent, _)| agent.side == side).map(|(_, own)| *own);
        if let (Some(weak), Some(strong), Some(gap)) =
            (of(Side::Weak), of(Side::Strong), outcome.metrics.get("utility_gap"))
            && (strong - weak - gap).abs() > 1e-6
        {
            found.push((format!("the utility gap is {}, and the record has another", strong - weak), BROKEN));
        }
        for (agent, utility) in setup.agents.iter().zip(utilities) {
            let recorded = outcome.metrics.get(&format!("{}_utility", agent.side.name()));
            if recorded.is_none_or(|recorded| (recorded - utility).abs() > 1e-6) {
                found.push((format!("the utility of {} is {utility}, and the record has another", agent.name), BROKEN));
            }
        }
    }
    found
}

/// What a model did not say as it should.
fn replies(told: &ParsedOutcome) -> Vec<Defect> {
    let mut found = Vec::new();
    let count = |wanted: &str| told.said().filter(|said| said.reply_record.status == wanted).count();
    for (wanted, what, hint) in [
        (status::EMPTY, "replies are empty", "look at the model, or leave the run out"),
        (
            status::CONTENT_FILTER,
            "replies were withheld by the provider",
            "report it: such runs are not missing at random",
        ),
        (status::LENGTH_CAPPED, "replies were cut at their longest length", "raise sampling.max_new_tokens"),
    ] {
        match count(wanted) {
            0 => {}
            n => found.push((format!("{n} {what}"), hint)),
        }
    }
    let mut versions: Vec<(usize, &str)> = Vec::new();
    for said in told.said() {
        if let Some(version) =
            said.reply_record.version.as_deref().filter(|version| !versions.contains(&(said.agent, *version)))
        {
            versions.push((said.agent, version));
        }
    }
    for agent in told.setup().map(|setup| setup.agents.as_slice()).unwrap_or_default().iter().enumerate() {
        let own: Vec<&str> = versions.iter().filter(|(by, _)| *by == agent.0).map(|(_, version)| *version).collect();
        if own.len() > 1 {
            let what = format!("{} changed its version during the game: {}", agent.1.name, own.join(", "));
            found.push((what, "leave the run out, or report both versions"));
        }
    }
    found
}
