//! Owns what a sweep will take: calls, tokens of context, and the most it can cost if every game goes to its last round, every reply is
//! as long as it may be and every call is made once. What a model does not take, or cannot hold for even one round, is refused
//! before anything is spent.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::json;

use super::play::Play;
use super::protocol::{Phase, Turn};
use super::rows::{Agent, ParsedOutcome, Row, Said, Setup, Side, status};
use super::{Bargainer, ModelBargainer, PIE, Setting, cast};
use crate::reply_record::ReplyRecord;
use crate::{CellForecast, Forecast, ModelClient, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, SeedKey};

/// What a bargainer takes in one game.
#[derive(Clone, Default)]
struct Share {
    calls: u64,
    /// In micro-dollars; `None`: nobody knows.
    worst: Option<u64>,
    tokens: Option<TokenForecast>,
    first_prompt: String,
}

pub fn forecast(setting: &Setting) -> Result<Forecast, Vec<Problem>> {
    let (spec, matrix) = (&setting.spec, &setting.matrix);
    let mut problems: Vec<Problem> = Vec::new();
    let mut notes = Vec::new();
    let mut shares = |side: &str, list: &[crate::config::BargainerRef], voices: &[Bargainer]| -> Vec<Share> {
        let place = |label: &str| format!("{side} bargainer `{label}`");
        let one = list.iter().zip(voices).map(|(said, voice)| {
            share(setting, voice, &said.label, &mut notes).unwrap_or_else(|problem| {
                problems.push(if problem.place.is_some() { problem } else { problem.at(place(&said.label)) });
                Share::default()
            })
        });
        one.collect()
    };
    let weak = shares("weak", &spec.weak_models, &setting.weak);
    let strong = shares("strong", &spec.strong_models, &setting.strong);
    let judge = match judged(setting, &mut notes) {
        Ok(judge) => judge,
        Err(problem) => {
            problems.push(if problem.place.is_some() { problem } else { problem.at("judge") });
            Share::default()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut forecast =
        Forecast { max_new_tokens: spec.max_new_tokens, notes, worst_micro_usd: Some(0), ..Forecast::default() };
    for cell in matrix.cells() {
        let own = [&weak[cell.weak], &strong[cell.strong]];
        let runs = matrix.repetitions as u64;
        let paid = own.into_iter().chain([&judge]);
        forecast.paid_calls += paid.clone().map(|share| share.calls).sum::<u64>() * runs;
        let worst = paid.map(|share| share.worst).try_fold(0_u64, |sum, worst| Some(sum.saturating_add(worst?)));
        let all = forecast.worst_micro_usd.zip(worst);
        forecast.worst_micro_usd = all.map(|(sum, worst)| sum.saturating_add(worst.saturating_mul(runs)));
        let local = own.into_iter().find(|share| share.tokens.is_some());
        forecast.cells.push(CellForecast {
            cell: matrix.name(cell),
            runs: matrix.repetitions,
            turns: turns(setting) * 2,
            tokens: local.and_then(|share| share.tokens),
            first_prompt: local.map(|share| share.first_prompt.clone()).unwrap_or_default(),
        });
    }
    let limits = setting.models().filter_map(|voice| limit(&voice.speaker));
    forecast.limit = limits.min();
    Ok(forecast)
}

/// Most turns of an agent: five a round, and nobody reflects after the last.
fn turns(setting: &Setting) -> usize {
    5 * setting.spec.max_rounds - 1
}

/// Tokens of a model's context, where they are known.
fn limit(speaker: &ModelClient) -> Option<usize> {
    let card = speaker.model.card();
    card.hidden_size.and(card.max_positions)
}

/// A game that goes to its end with replies of this length. `asked` sees each request of the first speaker, one at a time: together
/// they are many times the length of the game.
fn longest(
    setting: &Setting,
    bytes: usize,
    mut asked: impl FnMut(ChatRequest) -> Result<(), Problem>,
) -> Result<ParsedOutcome, Problem> {
    let rules = setting.rules();
    let values = vec![PIE / rules.items as f64; rules.items];
    let mut play = Play::new(rules, setting.spec.gamma, &[values.clone(), values.clone()]);
    let agent = |index: usize, side: Side| Agent {
        name: cast::agent(index),
        side,
        model: String::new(),
        values: values.clone(),
    };
    let setup = Setup {
        agents: vec![agent(0, Side::Weak), agent(1, Side::Strong)],
        items: (0..rules.items).map(cast::item).collect(),
        cosine_similarity: 1.0,
        seed: 0,
    };
    let mut told = ParsedOutcome { rows: vec![Row::Setup(setup)] };
    while let Some(turn) = play.game.turn() {
        let messages = play.tell(turn).to_vec();
        if turn.agent == 0 {
            asked(setting.request(messages, SeedKey::default()))?;
        }
        let text = reply(&play, turn, bytes);
        play.hear(turn, &text)?;
        told.rows.push(Row::Said(Box::new(Said {
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
    Ok(told)
}

/// As many bytes as there may be tokens: the bound on input tokens counts one a byte. Proposals are valid, so that they are shown and
/// voted on, and no vote ends the game.
fn reply(play: &Play, turn: Turn, bytes: usize) -> String {
    let object = match turn.phase {
        Phase::Proposal => {
            let all: Vec<String> = (0..play.game.rules().items).map(cast::item).collect();
            json!({"allocation": {cast::agent(0): all, cast::agent(1): []}}).to_string()
        }
        _ => String::new(),
    };
    let rest = bytes.saturating_sub(object.len());
    object + &"x".repeat(rest)
}

fn share(setting: &Setting, voice: &Bargainer, label: &str, notes: &mut Vec<String>) -> Result<Share, Problem> {
    let Bargainer::Model(voice) = voice else { return Ok(Share { worst: Some(0), ..Share::default() }) };
    let ModelBargainer { speaker, probes, .. } = voice.as_ref();
    let max = setting.spec.max_new_tokens;
    let mut share = Share { worst: Some(0), ..Share::default() };
    longest(setting, max, |request| {
        let request = ChatRequest { probes: probes.clone(), ..request };
        speaker.model.check(&request)?;
        let all = share.worst.zip(speaker.model.worst_case_micro_usd(&request));
        share.worst = all.map(|(sum, worst)| sum.saturating_add(worst));
        share.calls += u64::from(!speaker.local);
        Ok(())
    })?;
    if let Some(limit) = limit(speaker) {
        let mut lengths: Vec<usize> = Vec::new();
        longest(setting, 0, |request| {
            let (text, length) = rendered(speaker, &request)?;
            if lengths.is_empty() {
                share.first_prompt = text;
            }
            lengths.push(length);
            Ok(())
        })?;
        let length = |turn: usize| lengths.get(turn).copied().unwrap_or_default();
        // Four turns make the shortest game: an agreement in round 1.
        let shortest = length(3.min(lengths.len().saturating_sub(1))) + max;
        if shortest > limit {
            return Err(Problem::new(format!(
                "not even one round fits: it needs {shortest} tokens of context even if every earlier reply is empty, and the model has {limit}"
            ))
            .hint("lower num_items or sampling.max_new_tokens, or take a model with a longer context"));
        }
        // Others speak once a round, too.
        let taken = |turn: usize| (turn + 1 + turn / 5) * max;
        let may_overflow_at = (0..lengths.len()).find(|turn| length(*turn) + taken(*turn) > limit).map(|turn| turn + 1);
        if let Some(turn) = may_overflow_at {
            notes.push(format!(
                "`{label}` may outgrow its context from its turn {turn} (round {}) on if replies are as long as allowed; such a run fails",
                (turn - 1) / 5 + 1
            ));
        }
        let last = lengths.len().saturating_sub(1);
        share.tokens = Some(TokenForecast { least: length(last), most: length(last) + taken(last), may_overflow_at });
    }
    Ok(share)
}

fn judged(setting: &Setting, notes: &mut Vec<String>) -> Result<Share, Problem> {
    let Some(judge) = &setting.judge else { return Ok(Share { worst: Some(0), ..Share::default() }) };
    let max = setting.spec.max_new_tokens;
    let told = longest(setting, max, |_| Ok(()))?;
    let request = setting.verdict_on(&told, SeedKey::default());
    judge.model.check(&request)?;
    if let Some(limit) = limit(judge) {
        let told = longest(setting, 0, |_| Ok(()))?;
        let (_, least) = rendered(judge, &setting.verdict_on(&told, SeedKey::default()))?;
        let least = least + setting.spec.judge_max_tokens;
        if least + 2 * turns(setting) * max > limit {
            notes.push(format!(
                "long games may outgrow the judge's context of {limit} tokens: one to the last round needs {least} besides what is said; \
                 such a run fails"
            ));
        }
    }
    let calls = u64::from(!judge.local);
    Ok(Share { calls, worst: judge.model.worst_case_micro_usd(&request), ..Share::default() })
}

/// A request as a model on this machine sees it, and how many tokens that is.
fn rendered(speaker: &ModelClient, request: &ChatRequest) -> Result<(String, usize), Problem> {
    let rendered = speaker.model.render(&request.messages).map_err(|error| error.problem())?;
    Ok((rendered.text, rendered.token_ids.len()))
}
