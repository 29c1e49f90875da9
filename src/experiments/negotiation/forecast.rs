//! Forecast of a sweep: calls, context tokens, and the cost if every game reaches its last round with replies as long as allowed. A
//! request that a model does not accept, or a context too small for one round, is an error.

use serde_json::json;

use super::dialogue::Dialogue;
use super::game::{Phase, TOTAL_VALUE, Turn, names};
use super::outcome::{Agent, ParsedOutcome, Row, Setup, Side, TurnRecord, status};
use super::{Bargainer, Resources, judge};
use crate::config::BargainerRef;
use crate::reply_record::ReplyRecord;
use crate::worst_case::{WorstCase, located};
use crate::{CellForecast, Forecast, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, SeedKey};

/// Phases of a round with its reflection.
const TURNS_A_ROUND: usize = 5;
/// Phases of the shortest game: an agreement in round 1.
const SHORTEST_GAME: usize = 4;

/// One bargainer in one game.
#[derive(Clone, Default)]
struct BargainerForecast {
    cost: WorstCase,
    tokens: Option<TokenForecast>,
    first_prompt: String,
}

pub fn forecast(resources: &Resources) -> Result<Forecast, Vec<Problem>> {
    let Resources { spec, matrix, .. } = resources;
    let mut problems: Vec<Problem> = Vec::new();
    let mut notes = Vec::new();
    let mut side = |side: &str, list: &[BargainerRef], bargainers: &[Bargainer]| -> Vec<BargainerForecast> {
        let one = list.iter().zip(bargainers).map(|(BargainerRef { label, .. }, bargainer)| {
            bargainer_forecast(resources, bargainer, label, &mut notes).unwrap_or_else(|problem| {
                problems.push(located(problem, format!("{side} bargainer `{label}`")));
                BargainerForecast::default()
            })
        });
        one.collect()
    };
    let weak = side("weak", &spec.weak_models, &resources.weak);
    let strong = side("strong", &spec.strong_models, &resources.strong);
    let judge = judge_cost(resources, &mut notes).unwrap_or_else(|problem| {
        problems.push(located(problem, "judge"));
        WorstCase::default()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut cost = WorstCase::default();
    let mut cells = Vec::new();
    for cell in matrix.cells() {
        let players = [&weak[cell.weak], &strong[cell.strong]];
        for part in players.map(|player| &player.cost).into_iter().chain([&judge]) {
            cost.add(part, matrix.repetitions);
        }
        let local = players.into_iter().find(|player| player.tokens.is_some());
        cells.push(CellForecast {
            cell: matrix.name(cell),
            runs: matrix.repetitions,
            turns: turns(resources) * 2,
            tokens: local.and_then(|player| player.tokens),
            first_prompt: local.map(|player| player.first_prompt.clone()).unwrap_or_default(),
        });
    }
    Ok(Forecast {
        cells,
        limit: resources.models().filter_map(|bargainer| bargainer.client.context_limit()).min(),
        max_new_tokens: spec.max_new_tokens,
        paid_calls: cost.paid_calls,
        worst_micro_usd: cost.micro_usd,
        notes,
    })
}

/// Greatest number of turns of an agent; there is no reflection after the last round.
fn turns(resources: &Resources) -> usize {
    TURNS_A_ROUND * resources.spec.max_rounds - 1
}

/// A game over all rounds with replies of this length. `request` gets each request of the first speaker, one at a time: together they
/// are many times as long as the game.
fn longest_game(
    resources: &Resources,
    bytes: usize,
    mut request: impl FnMut(ChatRequest) -> Result<(), Problem>,
) -> Result<ParsedOutcome, Problem> {
    let rules = resources.rules();
    let values = vec![TOTAL_VALUE / rules.items as f64; rules.items];
    let mut dialogue = Dialogue::new(rules, resources.spec.gamma, &[values.clone(), values.clone()]);
    let agent = |(index, side): (usize, Side)| Agent {
        name: names::agent(index),
        side,
        model: String::new(),
        values: values.clone(),
    };
    let setup = Setup {
        agents: [Side::Weak, Side::Strong].into_iter().enumerate().map(agent).collect(),
        items: (0..rules.items).map(names::item).collect(),
        cosine_similarity: 1.0,
        seed: 0,
    };
    let mut outcome = ParsedOutcome { rows: vec![Row::Setup(setup)] };
    while let Some(turn) = dialogue.game.turn() {
        let messages = dialogue.prompt(turn).to_vec();
        if turn.agent == 0 {
            request(resources.request(messages, SeedKey::default()))?;
        }
        let text = reply(rules.items, turn, bytes);
        dialogue.apply(turn, &text)?;
        outcome.rows.push(Row::Turn(Box::new(TurnRecord {
            round: turn.round,
            phase: turn.phase,
            agent: turn.agent,
            text,
            allocation: None,
            invalid: None,
            votes: None,
            reply_record: ReplyRecord::nothing(status::OK, SeedKey::default()),
        })));
    }
    Ok(outcome)
}

/// One byte a token, as in the upper bound on input tokens. Proposals are valid, so that they are shown and voted on, and no vote ends
/// the game.
fn reply(items: usize, turn: Turn, bytes: usize) -> String {
    let object = match turn.phase {
        Phase::Proposal => {
            let all: Vec<String> = (0..items).map(names::item).collect();
            json!({"allocation": {names::agent(0): all, names::agent(1): []}}).to_string()
        }
        _ => String::new(),
    };
    let rest = bytes.saturating_sub(object.len());
    object + &"x".repeat(rest)
}

fn bargainer_forecast(
    resources: &Resources,
    bargainer: &Bargainer,
    label: &str,
    notes: &mut Vec<String>,
) -> Result<BargainerForecast, Problem> {
    let mut forecast = BargainerForecast::default();
    let Some(bargainer) = bargainer.as_model() else { return Ok(forecast) };
    let max = resources.spec.max_new_tokens;
    longest_game(resources, max, |request| {
        let request = ChatRequest { probes: bargainer.probes.clone(), ..request };
        forecast.cost.add_call(&bargainer.client, &request)
    })?;
    let Some(limit) = bargainer.client.context_limit() else { return Ok(forecast) };
    let mut lengths: Vec<usize> = Vec::new();
    longest_game(resources, 0, |request| {
        let (text, length) = bargainer.client.rendered(&request)?;
        if lengths.is_empty() {
            forecast.first_prompt = text;
        }
        lengths.push(length);
        Ok(())
    })?;
    let length = |turn: usize| lengths.get(turn).copied().unwrap_or_default();
    let last = lengths.len().saturating_sub(1);
    let shortest = length(last.min(SHORTEST_GAME - 1)) + max;
    if shortest > limit {
        return Err(Problem::new(format!(
            "not even one round fits: it needs {shortest} tokens of context even if every earlier reply is empty, and the model has {limit}"
        ))
        .hint("lower num_items or sampling.max_new_tokens, or use a model with a longer context"));
    }
    // Own replies, and one public statement of the other agent a round.
    let replies = |turn: usize| (turn + 1 + turn / TURNS_A_ROUND) * max;
    let may_overflow_at = (0..lengths.len()).find(|turn| length(*turn) + replies(*turn) > limit).map(|turn| turn + 1);
    if let Some(turn) = may_overflow_at {
        notes.push(format!(
            "`{label}` may exceed its context from its turn {turn} (round {}) on if replies are as long as allowed; such a run fails",
            (turn - 1) / TURNS_A_ROUND + 1
        ));
    }
    forecast.tokens = Some(TokenForecast { least: length(last), most: length(last) + replies(last), may_overflow_at });
    Ok(forecast)
}

fn judge_cost(resources: &Resources, notes: &mut Vec<String>) -> Result<WorstCase, Problem> {
    let mut cost = WorstCase::default();
    let Some(judge) = &resources.judge else { return Ok(cost) };
    let request = |bytes: usize| {
        let game = longest_game(resources, bytes, |_| Ok(()))?;
        Ok::<_, Problem>(judge.request(judge::transcript(&game), SeedKey::default()))
    };
    let max = resources.spec.max_new_tokens;
    cost.add_call(&judge.client, &request(max)?)?;
    if let Some(limit) = judge.client.context_limit() {
        let least = judge.client.rendered(&request(0)?)?.1 + judge.max_new_tokens;
        if least + 2 * turns(resources) * max > limit {
            notes.push(format!(
                "long games may exceed the judge's context of {limit} tokens: a game over all rounds needs {least} tokens without its \
                 replies; such a run fails"
            ));
        }
    }
    Ok(cost)
}
