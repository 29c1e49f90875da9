//! Forecast of calls, context tokens and worst-case cost of an interview. Refuses settings that a model does not accept and prompts that
//! do not fit.

use super::{Setting, Turn, conversation};
use crate::config::Variant;
use crate::{CellForecast, Forecast, ModelClient, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, SeedKey};

pub fn forecast(setting: &Setting) -> Result<Forecast, Vec<Problem>> {
    let spec = &setting.spec;
    let mut forecast =
        Forecast { limit: limit(&setting.steward), max_new_tokens: spec.max_new_tokens, ..Forecast::default() };
    let mut problems: Vec<Problem> = Vec::new();
    let mut worst = Some(0_u64);
    for variant in &spec.variants {
        let here = |problem: Problem| match problem.place {
            Some(_) => problem,
            None => problem.at(format!("variant `{}`", variant.id)),
        };
        match cell(setting, variant, &mut forecast.notes) {
            Ok((cell, cost)) => {
                let runs = spec.runs_per_variant as u64;
                worst = worst.zip(cost).map(|(sum, cost)| sum.saturating_add(cost.saturating_mul(runs)));
                forecast.cells.push(cell);
            }
            // What is wrong with a model is wrong in every variant.
            Err(problem) if problems.iter().any(|known| known.what == problem.what) => {}
            Err(problem) => problems.push(here(problem)),
        }
    }
    let runs = (spec.runs_per_variant * spec.variants.len()) as u64;
    let questions: usize = spec.variants.iter().map(|variant| variant.prompts.len() * spec.runs_per_variant).sum();
    forecast.paid_calls = if setting.steward.local { 0 } else { questions as u64 };
    forecast.paid_calls += if setting.judge.local { 0 } else { runs };
    forecast.worst_micro_usd = worst;
    if problems.is_empty() { Ok(forecast) } else { Err(problems) }
}

/// Tokens of a model's context, where they are known.
fn limit(speaker: &ModelClient) -> Option<usize> {
    let card = speaker.model.card();
    card.hidden_size.and(card.max_positions)
}

/// The forecast of a variant, and what one run of it costs at worst.
fn cell(setting: &Setting, variant: &Variant, notes: &mut Vec<String>) -> Result<(CellForecast, Option<u64>), Problem> {
    let spec = &setting.spec;
    let (steward, judge) = (&setting.steward.model, &setting.judge.model);
    let seed = SeedKey::default();
    // As many bytes as there may be tokens: the bound on input tokens counts one a byte.
    let longest = "x".repeat(spec.max_new_tokens);
    let turns = |reply: &str| -> Vec<Turn> {
        let turn = |(index, question): (usize, &String)| Turn {
            turn: index + 1,
            question: question.clone(),
            reply: Some(reply.to_owned()),
            ..Turn::default()
        };
        variant.prompts.iter().enumerate().map(turn).collect()
    };
    let mut cost = Some(0_u64);
    let mut add = |worst: Option<u64>| cost = cost.zip(worst).map(|(sum, worst)| sum.saturating_add(worst));
    for asked in 1..=variant.prompts.len() {
        let request = setting.question(&conversation(&spec.briefing, &variant.prompts[..asked], &longest), seed);
        steward.check(&request).map_err(|problem| part_of("steward", problem))?;
        add(steward.worst_case_micro_usd(&request));
    }
    let verdict = setting.verdict_on(&turns(&longest), seed);
    judge.check(&verdict).map_err(|problem| part_of("judge", problem))?;
    add(judge.worst_case_micro_usd(&verdict));

    let (mut tokens, mut first_prompt) = (None, String::new());
    if let Some(limit) = limit(&setting.steward) {
        let max = spec.max_new_tokens;
        let (mut least, mut may_overflow_at) = (0, None);
        for asked in 1..=variant.prompts.len() {
            let request = setting.question(&conversation(&spec.briefing, &variant.prompts[..asked], ""), seed);
            let (text, length) = rendered(&setting.steward, &request)?;
            least = length;
            if asked == 1 {
                first_prompt = text;
            }
            if may_overflow_at.is_none() && least + asked * max > limit {
                may_overflow_at = Some(asked);
            }
        }
        if least + max > limit {
            return Err(Problem::new(format!(
                "the interview cannot fit: its last question needs {} tokens of context even if every earlier reply is empty, and \
                 the steward has {limit}",
                least + max
            ))
            .hint("shorten the briefing or the prompts, lower sampling.max_new_tokens, or take a model with a longer context"));
        }
        if let Some(question) = may_overflow_at {
            notes.push(format!(
                "variant `{}` may outgrow the steward's context from question {question} on if replies are as long as allowed; \
                 such a run fails",
                variant.id
            ));
        }
        let most = least + variant.prompts.len() * max;
        tokens = Some(TokenForecast { least, most, may_overflow_at });
    }
    if let Some(limit) = limit(&setting.judge) {
        let (_, least) = rendered(&setting.judge, &setting.verdict_on(&turns(""), seed))?;
        if least + spec.judge_max_tokens > limit {
            return Err(Problem::new(format!(
                "the judge cannot hold the interview: a verdict needs {} tokens of context even if every reply is empty, and there \
                 are {limit}",
                least + spec.judge_max_tokens
            ))
            .hint("lower judge_max_tokens, or take a judge with a longer context"));
        }
        if least + variant.prompts.len() * spec.max_new_tokens + spec.judge_max_tokens > limit {
            notes.push(format!(
                "interviews of variant `{}` may outgrow the judge's context if replies are as long as allowed; such a run fails",
                variant.id
            ));
        }
    }
    let cell = CellForecast {
        cell: variant.id.clone(),
        runs: spec.runs_per_variant,
        turns: variant.prompts.len(),
        tokens,
        first_prompt,
    };
    Ok((cell, cost))
}

fn part_of(part: &str, problem: Problem) -> Problem {
    match problem.place {
        Some(_) => problem,
        None => problem.at(part),
    }
}

/// A request as a model on this machine sees it, and how many tokens that is.
fn rendered(speaker: &ModelClient, request: &ChatRequest) -> Result<(String, usize), Problem> {
    let rendered = speaker.model.render(&request.messages).map_err(|error| error.problem())?;
    Ok((rendered.text, rendered.token_ids.len()))
}
