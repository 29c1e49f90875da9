//! Owns what is read out of an actor's reply: the sections of a decision, and the private messages it writes.
//!
//! A heading is a line that begins with one of the words below, whatever marks stand around it, and ends there or goes on after a
//! colon or a dash. A reply without any heading is an action as a whole; a reply with headings and none for an action has no action.
//! Must not know: engine, provider, run folders, terminal.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// The sections of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sections {
    pub long_term_goals: Option<String>,
    pub short_term_priorities: Option<String>,
    pub reasoning: Option<String>,
    /// All that anybody else ever sees.
    pub action: Option<String>,
    /// Measures that the actor was asked to state.
    pub indicators: Option<String>,
}

/// How a decision is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// There is an action under a heading.
    Sections,
    /// There is no heading: all of it is the action.
    Whole,
    /// There are headings and no action.
    NoAction,
}

static HEADING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?im)^[\s>#*_\d.()-]*(LONG[- ]TERM\s+GOALS?|SHORT[- ]TERM\s+PRIORIT(?:Y|IES)|REASONING|ACTIONS?|INDICATORS?)",
        r"(?:[ \t]*\([^)\n]*\))?[ \t]*[*_]*[ \t]*(?::[ \t]*[*_]*|[ \t][—–-][ \t]|$)",
    ))
    .ok()
});

/// Reads the sections.
pub fn sections(reply: &str) -> (Sections, Layout) {
    let reply = reply.replace("\r\n", "\n");
    let mut found = Sections::default();
    let headings: Vec<(usize, usize, String)> = HEADING
        .iter()
        .flat_map(|heading| heading.captures_iter(&reply))
        .filter_map(|c| Some((c.get(0)?.start(), c.get(0)?.end(), c.get(1)?.as_str().to_uppercase())))
        .collect();
    if headings.is_empty() {
        let whole = reply.trim();
        found.action = (!whole.is_empty()).then(|| whole.to_owned());
        return (found, if whole.is_empty() { Layout::NoAction } else { Layout::Whole });
    }
    for (i, (_, end, name)) in headings.iter().enumerate() {
        let next = headings.get(i + 1).map_or(reply.len(), |(start, ..)| *start);
        let text = reply[*end..next].trim();
        let section = match name.chars().next() {
            Some('L') => &mut found.long_term_goals,
            Some('S') => &mut found.short_term_priorities,
            Some('R') => &mut found.reasoning,
            Some('I') => &mut found.indicators,
            _ => &mut found.action,
        };
        // A heading that comes again goes on with its section.
        match section {
            _ if text.is_empty() => {}
            Some(known) => *known = format!("{known}\n\n{text}"),
            None => *section = Some(text.to_owned()),
        }
    }
    let layout = if found.action.is_some() { Layout::Sections } else { Layout::NoAction };
    (found, layout)
}

/// A text up to its measures: whoever is measured is not told how.
pub fn without_indicators(text: &str) -> &str {
    let headings = HEADING.iter().flat_map(|heading| heading.captures_iter(text));
    let measures =
        headings.filter_map(|found| found.get(1)).find(|word| word.as_str().to_uppercase().starts_with("INDICATOR"));
    let line = measures.map(|word| text[..word.start()].rfind('\n').map_or(0, |line| line + 1));
    text[..line.unwrap_or(text.len())].trim_end()
}

/// A message as its writer addressed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// As written: names or short names.
    pub to: Vec<String>,
    pub text: String,
}

static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?m)^[\s>#*_-]*(?:TO|To)\b[ \t]*[:*_]*[ \t]*([^:\n]{1,200}?)[ \t]*[*_]*:[ \t]*[*_]*").ok()
});

/// The messages in a reply: each begins with a line `TO name: …` or `TO name, name: …`. Anything else is not sent to anybody.
pub fn letters(reply: &str) -> Vec<Letter> {
    let reply = reply.replace("\r\n", "\n");
    let addresses: Vec<(usize, usize, String)> = ADDRESS
        .iter()
        .flat_map(|address| address.captures_iter(&reply))
        .filter_map(|c| Some((c.get(0)?.start(), c.get(0)?.end(), c.get(1)?.as_str().to_owned())))
        .collect();
    let letter = |(i, (_, end, to)): (usize, &(usize, usize, String))| {
        let next = addresses.get(i + 1).map_or(reply.len(), |(start, ..)| *start);
        let text = reply[*end..next].trim().to_owned();
        let to = to.replace(" and ", ",").replace('&', ",");
        let to: Vec<String> =
            to.split([',', ';']).map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect();
        (!text.is_empty() && !to.is_empty()).then_some(Letter { to, text })
    };
    addresses.iter().enumerate().filter_map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_sections_are_read_however_they_are_marked() {
        for reply in [
            "LONG-TERM GOALS\nlast\nSHORT-TERM PRIORITIES\nfirst\nREASONING\nwhy\nACTION\nact",
            "## Long-term Goals:\nlast\n\n## Short-Term Priorities:\nfirst\n\n## Reasoning:\nwhy\n\n## Action:\nact",
            "**LONG-TERM GOALS:** last\n**SHORT-TERM PRIORITIES:** first\n**REASONING:** why\n**ACTION:** act",
            "1. LONG TERM GOAL: last\r\n2. SHORT TERM PRIORITY: first\r\n3. REASONING - why\r\n4. ACTIONS (turn 2): act",
        ] {
            let (found, layout) = sections(reply);
            assert_eq!(layout, Layout::Sections, "{reply}");
            assert_eq!(found.long_term_goals.as_deref(), Some("last"), "{reply}");
            assert_eq!(found.short_term_priorities.as_deref(), Some("first"), "{reply}");
            assert_eq!(found.reasoning.as_deref(), Some("why"), "{reply}");
            assert_eq!(found.action.as_deref(), Some("act"), "{reply}");
        }
    }

    #[test]
    fn what_is_measured_is_no_part_of_the_action() {
        let (found, _) = sections("ACTION\nWe publish it.\nINDICATORS\ntrust: 7");
        assert_eq!(found.action.as_deref(), Some("We publish it."));
        assert_eq!(found.indicators.as_deref(), Some("trust: 7"));
    }

    #[test]
    fn a_text_can_be_told_without_its_measures() {
        assert_eq!(without_indicators("It rains.\n\n**INDICATORS:**\ntrust: 7"), "It rains.");
        assert_eq!(
            without_indicators("Indicators of trust rise.\nAction: none."),
            "Indicators of trust rise.\nAction: none."
        );
    }

    #[test]
    fn a_sentence_with_the_word_is_no_heading() {
        let (found, layout) = sections("REASONING\nIf we wait, then\nAction on safety is late.\nACTION\nWe act.");
        assert_eq!(layout, Layout::Sections);
        assert!(found.reasoning.unwrap().contains("Action on safety"));
        assert_eq!(found.action.as_deref(), Some("We act."));
    }

    #[test]
    fn a_reply_without_headings_is_an_action_and_reasoning_alone_is_none() {
        let (found, layout) = sections("  We table a draft.\n");
        assert_eq!((layout, found.action.as_deref()), (Layout::Whole, Some("We table a draft.")));
        let (found, layout) = sections("REASONING\nIt was cut off he");
        assert_eq!((layout, found.action), (Layout::NoAction, None));
        assert_eq!(sections(" \n").1, Layout::NoAction);
        assert_eq!(sections("ACTION:\n\n").1, Layout::NoAction);
    }

    #[test]
    fn letters_are_what_has_an_address() {
        let found = letters(
            "I think.\nTO regulator: Let us talk.\nSoon.\n\n**To: civil-society, press and regulator:** Join us.\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].to.as_slice(), found[0].text.as_str()),
            (["regulator".to_owned()].as_slice(), "Let us talk.\nSoon.")
        );
        assert_eq!(found[1].to, ["civil-society", "press", "regulator"]);
        assert_eq!(found[1].text, "Join us.");
        assert!(letters("NONE").is_empty() && letters("To be clear, I have nothing to say.").is_empty());
    }
}
