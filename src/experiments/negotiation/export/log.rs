//! The log of one run: the game turn by turn, then its status. A line begins with SUCCESS, FAILED or TIMEOUT only if it states the
//! status; replies are indented.

use std::fmt::Write;

use super::{PlacedRun, status};
use crate::RunEnd;
use crate::negotiation::NegotiationPlan;
use crate::negotiation::game::{Event, Phase, names};
use crate::negotiation::outcome::{ParsedOutcome, Row, TurnRecord};

pub fn log(plan: &NegotiationPlan, placed: &PlacedRun<'_>) -> String {
    let (matrix, cell, index) = (&plan.matrix, placed.cell, placed.index);
    let (weak, strong, level) = (&matrix.weak[cell.weak], &matrix.strong[cell.strong], matrix.level(cell));
    let mut text = format!("experiment {index}: {weak} (weak) against {strong} (strong), competition level {level}\n");
    if let Some(outcome) = &placed.run.outcome {
        if let Some(started) = outcome.labels.get("timestamp") {
            let _ = writeln!(text, "started {started}");
        }
        ParsedOutcome::of(outcome).rows.iter().for_each(|row| write_row(&mut text, row));
    }
    match (&placed.run.end, status(&placed.run.end)) {
        (RunEnd::Done, _) => {
            let metric = |name: &str| placed.run.outcome.as_ref().and_then(|outcome| outcome.metrics.get(name));
            let (weak, strong) = (metric("weak_utility"), metric("strong_utility"));
            let number = |value: Option<&f64>| value.map_or("unknown".to_owned(), |value| format!("{value:.2}"));
            let _ = writeln!(text, "\nSUCCESS: utility {} (weak), {} (strong)", number(weak), number(strong));
        }
        (RunEnd::Failed(problem), Some(word)) => {
            let _ = writeln!(text, "\n{word}: {problem}");
        }
        _ => text += "\nunder way\n",
    }
    text
}

fn write_row(text: &mut String, row: &Row) {
    let _ = match row {
        Row::Setup(setup) => {
            let (seed, cosine) = (setup.seed, setup.cosine_similarity);
            let _ = writeln!(text, "seed {seed}, cosine similarity of the values {cosine:.9}");
            setup.agents.iter().try_for_each(|agent| {
                let (model, side) = (&agent.model, agent.side.name());
                writeln!(text, "{} is {model} ({side}): {}", agent.name, setup.value_list(agent))
            })
        }
        Row::Turn(turn) => {
            let TurnRecord { round, phase, agent, text: reply, invalid, reply_record, .. } = turn.as_ref();
            let visibility = if *phase == Phase::Discussion { "public" } else { "private" };
            let reason = invalid.as_ref().map(|reason| format!(", invalid: {reason}")).unwrap_or_default();
            let (phase, name, status) = (phase.name(), names::agent(*agent), &reply_record.status);
            writeln!(text, "\n[round {round}, {phase}, {visibility}] {name} ({status}{reason}):\n{}", indented(reply))
        }
        Row::Event(Event::Enumerated { round, proposals, invalid }) => {
            let _ = writeln!(text, "\n[round {round}] {} valid proposals, {} invalid", proposals.len(), invalid.len());
            proposals.iter().try_for_each(|proposal| {
                let owners = proposal.allocation.owners().iter().enumerate();
                let terms: Vec<String> =
                    owners.map(|(i, agent)| format!("{} to {}", names::item(i), names::agent(*agent))).collect();
                writeln!(text, "  {} by {}: {}", proposal.number, names::agent(proposal.by), terms.join(", "))
            })
        }
        Row::Event(Event::Tabulated { round, accepts, agreed }) => {
            let counts: Vec<String> =
                accepts.iter().enumerate().map(|(i, n)| format!("proposal {}: {n}", i + 1)).collect();
            let counts = if counts.is_empty() { "nothing to vote on".to_owned() } else { counts.join(", ") };
            match agreed {
                Some(number) => writeln!(text, "\n[round {round}] accepted: {counts}; proposal {number} is agreed"),
                None => writeln!(text, "\n[round {round}] accepted: {counts}; nothing is agreed"),
            }
        }
        // A row of its own.
        Row::Event(Event::Statement { .. }) => Ok(()),
        Row::End(end) => match end.deal {
            Some(_) => writeln!(text, "\nagreement in round {}", end.round),
            None => writeln!(text, "\nno agreement after {} rounds", end.round),
        },
        Row::Judge(judgement) => judgement.verdict.agents.iter().try_for_each(|agent| {
            let shown = if agent.behaviors.is_empty() { "none".to_owned() } else { agent.behaviors.join(", ") };
            writeln!(text, "\njudge on {}: {shown}", agent.agent)
        }),
    };
}

/// A reply, indented, with control characters replaced so that it cannot control a terminal.
fn indented(reply: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let line = |line: &str| format!("  {}", line.chars().map(plain).collect::<String>());
    reply.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}
