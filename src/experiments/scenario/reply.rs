//! Parses the sections of a decision.
//!
//! A heading is a line that begins with one of the words of `HEADING`, with any markup around it, and ends there or continues after a
//! colon or a dash. A reply without headings is an action as a whole; a reply with headings but no ACTION has no action.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// The sections of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sections {
    pub long_term_goals: Option<String>,
    pub short_term_priorities: Option<String>,
    pub reasoning: Option<String>,
    /// The only section that others see.
    pub action: Option<String>,
    /// Metrics that the actor was asked to state.
    pub indicators: Option<String>,
}

/// Layout of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The action has a heading.
    Sections,
    /// There are no headings; all of the text is the action.
    Whole,
    /// There are headings but no action.
    NoAction,
}

static HEADING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?im)^[\s>#*_\d.()-]*(LONG[- ]TERM\s+GOALS?|SHORT[- ]TERM\s+PRIORIT(?:Y|IES)|REASONING|ACTIONS?|INDICATORS?)",
        r"(?:[ \t]*\([^)\n]*\))?[ \t]*[*_]*[ \t]*(?::[ \t]*[*_]*|[ \t][—–-][ \t]|$)",
    ))
    .ok()
});

/// Parses the sections of a reply.
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
        // A repeated heading continues its section.
        match section {
            _ if text.is_empty() => {}
            Some(known) => *known = format!("{known}\n\n{text}"),
            None => *section = Some(text.to_owned()),
        }
    }
    let layout = if found.action.is_some() { Layout::Sections } else { Layout::NoAction };
    (found, layout)
}

/// A text up to its INDICATORS, which actors must not see.
pub fn without_indicators(text: &str) -> &str {
    let headings = HEADING.iter().flat_map(|heading| heading.captures_iter(text));
    let indicators =
        headings.filter_map(|found| found.get(1)).find(|word| word.as_str().to_uppercase().starts_with("INDICATOR"));
    let line = indicators.map(|word| text[..word.start()].rfind('\n').map_or(0, |line| line + 1));
    text[..line.unwrap_or(text.len())].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_sections_are_read_with_any_markup() {
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
    fn indicators_are_not_part_of_the_action() {
        let (found, _) = sections("ACTION\nWe publish it.\nINDICATORS\ntrust: 7");
        assert_eq!(found.action.as_deref(), Some("We publish it."));
        assert_eq!(found.indicators.as_deref(), Some("trust: 7"));
    }

    #[test]
    fn indicators_can_be_cut_off() {
        assert_eq!(without_indicators("It rains.\n\n**INDICATORS:**\ntrust: 7"), "It rains.");
        assert_eq!(
            without_indicators("Indicators of trust rise.\nAction: none."),
            "Indicators of trust rise.\nAction: none."
        );
    }

    #[test]
    fn a_sentence_with_a_heading_word_is_not_a_heading() {
        let (found, layout) = sections("REASONING\nIf we wait, then\nAction on safety is late.\nACTION\nWe act.");
        assert_eq!(layout, Layout::Sections);
        assert!(found.reasoning.unwrap().contains("Action on safety"));
        assert_eq!(found.action.as_deref(), Some("We act."));
    }

    #[test]
    fn a_reply_without_headings_is_an_action_and_reasoning_alone_is_not() {
        let (found, layout) = sections("  We table a draft.\n");
        assert_eq!((layout, found.action.as_deref()), (Layout::Whole, Some("We table a draft.")));
        let (found, layout) = sections("REASONING\nIt was cut off he");
        assert_eq!((layout, found.action), (Layout::NoAction, None));
        assert_eq!(sections(" \n").1, Layout::NoAction);
        assert_eq!(sections("ACTION:\n\n").1, Layout::NoAction);
    }
}
