//! Forecast of context use: the length of each condition's prompts with empty and with the longest replies. Refuses conversations that
//! cannot fit.

use crate::config::{Condition, OverflowPolicy, Placement, ProjectionSpec, Transcript};
use crate::{CellForecast, Forecast, TokenForecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Model, Role};

pub fn forecast(spec: &ProjectionSpec, transcript: &Transcript, model: &dyn Model) -> Result<Forecast, Vec<Problem>> {
    let positions = model.card().max_positions.unwrap_or(usize::MAX);
    let limit = spec.max_seq_len.unwrap_or(positions).min(positions);
    let mut notes = Vec::new();
    if spec.max_seq_len.is_some_and(|asked| asked > positions) {
        notes.push(format!("max_seq_len is lowered to {positions}, the most the model was made for"));
    }
    let mut cells = Vec::new();
    let mut problems = Vec::new();
    for condition in &spec.conditions {
        match cell(spec, transcript, model, condition, limit) {
            Ok(cell) => cells.push(cell),
            Err(problem) => problems.push(problem.at(format!("condition `{}`", condition.label))),
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

fn cell(
    spec: &ProjectionSpec,
    transcript: &Transcript,
    model: &dyn Model,
    condition: &Condition,
    limit: usize,
) -> Result<CellForecast, Problem> {
    let turns = &transcript.turns;
    let system = condition.system_prompt.iter().map(|text| Message::new(Role::System, text.clone()));
    let mut messages: Vec<Message> = Vec::new();
    if condition.placement == Placement::Start {
        messages.extend(system.clone());
    }
    let max_new = spec.max_new_tokens;
    let (mut first_prompt, mut least, mut may_overflow_at) = (String::new(), 0, None);
    for (index, turn) in turns.iter().enumerate() {
        messages.push(Message::new(Role::User, turn.user.clone()));
        if condition.placement == Placement::AfterEachUser {
            messages.extend(system.clone());
        }
        let rendered = model.render(&messages).map_err(|error| error.problem())?;
        least = rendered.token_ids.len();
        if index == 0 {
            first_prompt = rendered.text;
        }
        if may_overflow_at.is_none() && least + (index + 1) * max_new > limit {
            may_overflow_at = Some(index + 1);
        }
        messages.push(Message::new(Role::Assistant, String::new()));
    }
    Ok(CellForecast {
        cell: condition.label.clone(),
        runs: spec.samples,
        turns: turns.len(),
        tokens: Some(TokenForecast { least, most: least + turns.len() * max_new, may_overflow_at }),
        first_prompt,
    })
}
