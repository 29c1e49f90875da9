//! Digest of turns before the context window: the beginning of every action, world state and received message.
//!
//! The digest is a fixed rule rather than a model's summary, so it is free, reproducible, and cannot differ between variations.

use super::reply::without_indicators;
use super::turn::Turn;
use crate::config::{Actor, Scenario};

/// Characters of an action or world state, and of a message, in the digest.
const ACTION_CHARS: usize = 240;
const MESSAGE_CHARS: usize = 120;

/// Number of past turns before the context window.
pub fn digested(scenario: &Scenario, past: usize) -> usize {
    scenario.context_window_size.map_or(0, |window| past.saturating_sub(window))
}

/// At most `most` characters of a text, on one line: cut after a sentence that keeps at least half of them, else after a word.
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

/// The digest for an actor.
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
        for reply in turn.messages.iter().filter(|reply| reply.from != actor.short_name) {
            for message in reply.messages.iter().filter(|message| message.to.contains(&actor.short_name)) {
                let from = name(scenario, &reply.from);
                text += &format!("- {from} wrote to you: {}\n", shortened(&message.text, MESSAGE_CHARS));
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
