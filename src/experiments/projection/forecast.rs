//! Forecast of context use: the length of each condition's prompts with empty and with the longest replies. Refuses conversations that
//! cannot fit.

use crate::config::{Condition, OverflowPolicy, Placement, ProjectionSpec, Transcript};
use crate::{CellForecast, Forecast, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Model, Role};

/// The shortest reply of templates that refuse an empty one.
const ONE_WORD: &str = "Yes.";

pub fn forecast(spec: &ProjectionSpec, transcript: &Transcript, model: &dyn Model) -> Result<Forecast, Vec<Problem>> {
    let positions = model.card().max_positions.unwrap_or(usize::MAX);
    let limit = spec.max_seq_len.unwrap_or(positions).min(positions);
    let mut notes = Vec::new();
    if spec.max_seq_len.is_some_and(|asked| asked > positions) {
        notes.push(format!("max_seq_len is lowered to {positions}, the most the model was made for"));
    }
    let mut cells = Vec::new();
    let mut problems = Vec::new();
    let mut seen: Vec<(&Condition, String)> = Vec::new();
    for condition in &spec.conditions {
        let place = || format!("condition `{}`", condition.label);
        match cell(spec, transcript, model, condition, limit) {
            Ok((cell, last_prompt)) => {
                let differs = |other: &Condition| {
                    (&other.system_prompt, other.placement) != (&condition.system_prompt, condition.placement)
                };
                if let Some((other, _)) = seen.iter().find(|(other, text)| differs(other) && *text == last_prompt) {
                    let what = format!(
                        "the model sees the same prompts as in condition `{}`, so there is nothing to compare",
                        other.label
                    );
                    problems.push(Problem::new(what).at(place()).hint(
                        "the chat template ignores what differs between them: change it, or put another chat_template.jinja beside the weights",
                    ));
                }
                seen.push((condition, last_prompt));
                cells.push(cell);
            }
            Err(problem) => problems.push(problem.at(place())),
        }
    }
    for cell in &cells {
        let Some(tokens) = cell.tokens else { continue };
        let needed = tokens.least + spec.max_new_tokens;
        let what = format!(
            "condition `{}` cannot fit: turn {} needs {needed} tokens of context even if every earlier reply is empty, and there are {limit}",
            cell.cell, cell.turns
        );
        if needed > limit && spec.on_context_overflow == OverflowPolicy::Error {
            problems.push(Problem::new(what).hint(
                "shorten the transcript or the system prompt, lower max_new_tokens, raise max_seq_len, or choose on_context_overflow: stop_conversation | drop_oldest_turns",
            ));
        } else if needed > limit {
            notes.push(what);
        } else if let Some(turn) = tokens.may_overflow_at {
            notes.push(format!(
                "condition `{}` may outgrow the context from turn {turn} on if replies are as long as allowed",
                cell.cell
            ));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let max_new_tokens = spec.max_new_tokens;
    Ok(Forecast { cells, limit: Some(limit), max_new_tokens, paid_calls: 0, worst_micro_usd: Some(0), notes })
}

/// The forecast of a condition, and the prompt of its last turn.
fn cell(
    spec: &ProjectionSpec,
    transcript: &Transcript,
    model: &dyn Model,
    condition: &Condition,
    limit: usize,
) -> Result<(CellForecast, String), Problem> {
    let turns = &transcript.turns;
    // The conversation up to the prompt of a turn, counted from 1, with the shortest reply in every earlier turn.
    let conversation = |until: usize, reply: &str| {
        let system = condition.system_prompt.iter().map(|text| Message::new(Role::System, text.clone()));
        let mut messages: Vec<Message> = Vec::new();
        if condition.placement == Placement::Start {
            messages.extend(system.clone());
        }
        for (index, turn) in turns[..until].iter().enumerate() {
            if index > 0 {
                messages.push(Message::new(Role::Assistant, reply));
            }
            messages.push(Message::new(Role::User, turn.user.clone()));
            if condition.placement == Placement::AfterEachUser {
                messages.extend(system.clone());
            }
        }
        messages
    };
    let render = |until: usize, reply: &str| model.render(&conversation(until, reply)).map_err(|error| error.problem());
    let first_prompt = render(1.min(turns.len()), "")?.text;
    // Some templates refuse a reply without text.
    let (reply, last) = match render(turns.len(), "") {
        Ok(last) => ("", last),
        Err(refusal) => (ONE_WORD, render(turns.len(), ONE_WORD).map_err(|_| refusal)?),
    };
    let least = last.token_ids.len();
    let max_new = spec.max_new_tokens;
    let overflows = |turn: usize, tokens: usize| tokens + turn * max_new > limit;
    let mut may_overflow_at = None;
    if overflows(turns.len(), least) {
        // Prompts only grow, so a bisection finds the first turn with few renderings.
        let (mut fits, mut too_long) = (0, turns.len());
        while too_long - fits > 1 {
            let middle = fits + (too_long - fits) / 2;
            if overflows(middle, render(middle, reply)?.token_ids.len()) { too_long = middle } else { fits = middle }
        }
        may_overflow_at = Some(too_long);
    }
    let forecast = CellForecast {
        cell: condition.label.clone(),
        runs: spec.samples,
        turns: turns.len(),
        tokens: Some(TokenForecast { least, most: least + turns.len() * max_new, may_overflow_at }),
        first_prompt,
    };
    Ok((forecast, last.text))
}
