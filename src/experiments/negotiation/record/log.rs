//! Owns the log of one run, for people: the game as it went, then how it ended. The words SUCCESS, FAILED and TIMEOUT stand at the
//! beginning of the line that says so, and what models say never begins a line.
//! Must not know: engine, provider, run folders, terminal.

use std::fmt::Write;

use super::{Placed, Records, status};
use crate::RunEnd;
use crate::negotiation::cast;
use crate::negotiation::protocol::{Event, Phase};
use crate::negotiation::rows::{ParsedOutcome, Row, Said, Setup};

pub fn log(records: &Records, placed: &Placed<'_>) -> String {
    let mut text = String::new();
    if let Some(matrix) = &records.matrix {
        let (weak, strong) = (&matrix.weak[placed.cell.weak], &matrix.strong[placed.cell.strong]);
        let level = matrix.level(placed.cell);
        let _ = writeln!(
            text,
            "experiment {}: {weak} (weak) against {strong} (strong), competition level {level}",
            placed.index
        );
    }
    if let Some(outcome) = &placed.run.outcome {
        if let Some(started) = outcome.labels.get("timestamp") {
            let _ = writeln!(text, "started {started}");
        }
        ParsedOutcome::of(outcome).rows.iter().for_each(|row| write_row(&mut text, row));
    }
    let ended = status(&placed.run.end);
    match (&placed.run.end, ended) {
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
        Row::Setup(Setup { agents, items, cosine_similarity, seed }) => {
            let _ = writeln!(text, "seed {seed}, cosine similarity of the values {cosine_similarity:.9}");
            agents.iter().try_for_each(|agent| {
                let values: Vec<String> =
                    items.iter().zip(&agent.values).map(|(item, v)| format!("{item} {v:.2}")).collect();
                writeln!(text, "{} is {} ({}): {}", agent.name, agent.model, agent.side.name(), values.join(", "))
            })
        }
        Row::Said(said) => {
            let Said { round, phase, agent, text: words, invalid, reply_record, .. } = said.as_ref();
            let public = if *phase == Phase::Discussion { "public" } else { "private" };
            let why = invalid.as_ref().map(|why| format!(", invalid: {why}")).unwrap_or_default();
            let (phase, name) = (phase.name(), cast::agent(*agent));
            writeln!(
                text,
                "\n[round {round}, {phase}, {public}] {name} ({}{why}):\n{}",
                reply_record.status,
                quoted(words)
            )
        }
        Row::Public(Event::Enumerated { round, proposals, invalid }) => {
            let _ = writeln!(text, "\n[round {round}] {} valid proposals, {} invalid", proposals.len(), invalid.len());
            proposals.iter().try_for_each(|proposal| {
                let owners = proposal.allocation.owners().iter().enumerate();
                let terms: Vec<String> =
                    owners.map(|(i, agent)| format!("{} to {}", cast::item(i), cast::agent(*agent))).collect();
                writeln!(text, "  {} by {}: {}", proposal.number, cast::agent(proposal.by), terms.join(", "))
            })
        }
        Row::Public(Event::Tabulated { round, accepts, agreed }) => {
            let counts: Vec<String> =
                accepts.iter().enumerate().map(|(i, n)| format!("proposal {}: {n}", i + 1)).collect();
            let counts = if counts.is_empty() { "nothing to vote on".to_owned() } else { counts.join(", ") };
            match agreed {
                Some(number) => writeln!(text, "\n[round {round}] accepted: {counts}; proposal {number} is agreed"),
                None => writeln!(text, "\n[round {round}] accepted: {counts}; nothing is agreed"),
            }
        }
        // What is said stands among what is said.
        Row::Public(Event::Said { .. }) => Ok(()),
        Row::End(end) => match end.deal {
            Some(_) => writeln!(text, "\nagreement in round {}", end.round),
            None => writeln!(text, "\nno agreement after {} rounds", end.round),
        },
        Row::Judge(judged) => judged.verdict.agents.iter().try_for_each(|agent| {
            let shown = if agent.behaviors.is_empty() { "none".to_owned() } else { agent.behaviors.join(", ") };
            writeln!(text, "\njudge on {}: {shown}", agent.agent)
        }),
    };
}

/// A model's words, indented, and without what would steer the terminal of whoever follows the log.
fn quoted(words: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    let line = |line: &str| format!("  {}", line.chars().map(plain).collect::<String>());
    words.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}
