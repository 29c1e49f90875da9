//! Owns what an actor is told of the past: the turns of the context window word for word, older ones in short.
//!
//! The short form is an extract by rule, the beginning of every action and of every message the actor got, and no model's summary: it costs
//! nothing, comes out the same whenever a run is replayed, invents nothing, and cannot make one variation differ from another by the
//! taste of a summariser.
//! Must not know: engine, provider, run folders, terminal.

use super::decision::without_indicators;
use super::turn::Turn;
use crate::config::{Actor, Scenario};

/// Characters of an action or a world state, and of a message, that the short form keeps.
const ACTION_CHARS: usize = 240;
const LETTER_CHARS: usize = 120;

/// How many of the turns that are over are no longer told word for word.
pub fn summarised(scenario: &Scenario, over: usize) -> usize {
    scenario.context_window_size.map_or(0, |window| over.saturating_sub(window))
}

/// The beginning of a text, on one line, ended after a sentence where that keeps at least half of it, else after a word.
pub fn shortened(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    let head: String = line.chars().take(most).collect();
    let sentence = head.rmatch_indices(['.', '!', '?']).map(|(at, mark)| at + mark.len());
    let sentence = sentence.into_iter().find(|end| head[*end..].is_empty() || head[*end..].starts_with(' '));
    if let Some(end) = sentence.filter(|end| head[..*end].chars().count() * 2 >= most) {
        return head[..end].to_owned();
    }
    let end = head.rfind(' ').unwrap_or(head.len());
    format!("{} …", &head[..end])
}

/// The oldest turns in short, as this actor is told of them.
pub fn digest(scenario: &Scenario, actor: &Actor, turns: &[Turn]) -> String {
    let mut text = String::new();
    for turn in turns {
        text += &format!("Turn {}:\n", turn.turn);
        for decision in &turn.decisions {
            let who =
                if decision.actor == actor.short_name { "you".to_owned() } else { name(scenario, &decision.actor) };
            let action = decision.sections.action.as_deref().map(|action| shortened(action, ACTION_CHARS));
            text += &format!("- {who}: {}\n", action.as_deref().unwrap_or("did nothing"));
        }
        for written in turn.written.iter().filter(|written| written.from != actor.short_name) {
            for letter in written.letters.iter().filter(|letter| letter.to.contains(&actor.short_name)) {
                let from = name(scenario, &written.from);
                text += &format!("- {from} wrote to you: {}\n", shortened(&letter.text, LETTER_CHARS));
            }
        }
        text += &format!("- then: {}\n", shortened(without_indicators(&turn.world_state), ACTION_CHARS));
    }
    text
}

/// `Federal Regulator (regulator)`
pub fn name(scenario: &Scenario, short_name: &str) -> String {
    let actor = scenario.actors.iter().find(|actor| actor.short_name == short_name);
    actor.map_or_else(|| short_name.to_owned(), |actor| format!("{} ({short_name})", actor.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_after_a_sentence_or_else_after_a_word() {
        assert_eq!(shortened(" short \n text ", 40), "short text");
        assert_eq!(shortened("We publish the draft. Then we wait for comments.", 30), "We publish the draft.");
        assert_eq!(shortened("No. we have a very long sentence that never ends", 30), "No. we have a very long …");
        assert_eq!(shortened(&"å".repeat(50), 10), format!("{} …", "å".repeat(10)));
        assert_eq!(shortened("Version 1.5 is out and about, it seems", 16), "Version 1.5 is …");
    }
}
