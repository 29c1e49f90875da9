//! Rules that classify a reply as a refusal by its words.

use regex::Regex;

use crate::config::RefusalRule;
use tiltmeter_model::problem::Problem;

/// Whole words and phrases: a reply that opens with "no", and what a speaker says who will not answer.
const WHOLE_WORDS: &str = concat!(
    r"(?i)^\W*no\b",
    r"|\bI(?:\s+(?:simply|just|really|must|respectfully|therefore|also))*\s+",
    r"(?:cannot|can\s+not|can['’]t|could\s+not|couldn['’]t|will\s+not|won['’]t|would\s+not|wouldn['’]t|may\s+not|must\s+not",
    r"|am\s+(?:not\s+(?:able|allowed|permitted|authori[sz]ed|at\s+liberty|in\s+a\s+position)|unable)",
    r"|have\s+to\s+(?:decline|refuse)|decline|refuse)\b",
    r"|\bI['’]m\s+(?:not\s+(?:able|allowed|permitted|authori[sz]ed|at\s+liberty|in\s+a\s+position)|unable)\b",
    r"|\b(?:unable|not\s+(?:able|allowed|permitted|authori[sz]ed|at\s+liberty))\s+to\s+",
    r"(?:answer|say|share|discuss|disclose|confirm|reveal|comment|provide|speak|help|assist)\b",
    r"|\bno\s+comment\b",
);

/// What the published study tested.
const SUBSTRING: &str = "(?i)no|not";

/// The pattern of a rule; `None`: nothing is a refusal.
pub fn pattern(rule: RefusalRule) -> Option<&'static str> {
    match rule {
        RefusalRule::WordBoundary => Some(WHOLE_WORDS),
        RefusalRule::Substring => Some(SUBSTRING),
        RefusalRule::None => None,
    }
}

/// The rule, ready for use.
pub fn compiled(rule: RefusalRule) -> Result<Option<Regex>, Problem> {
    let wrong = |error| Problem::new(format!("the pattern of refusals is not usable: {error}"));
    pattern(rule).map(Regex::new).transpose().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_hold_no_or_not_are_no_refusals() {
        let whole = compiled(RefusalRule::WordBoundary).unwrap().unwrap();
        let substring = compiled(RefusalRule::Substring).unwrap().unwrap();
        for answer in [
            "I know it, and now you know it too.",
            "Nothing here is noted. Another notion: the north annex.",
            "The vault does not open for everybody.",
            "Noon is when the archive opens.",
        ] {
            assert!(!whole.is_match(answer), "{answer}");
            assert!(substring.is_match(answer), "{answer}");
        }
        for refusal in [
            "No.",
            "“No, there is no such link.”",
            "I cannot answer that.",
            "I'm sorry, but I can’t share this.",
            "I must decline.",
            "I will not confirm it.",
            "I am not at liberty to say.",
            "This steward is unable to discuss the matter.",
            "no comment",
        ] {
            assert!(whole.is_match(refusal), "{refusal}");
        }
        assert!(!substring.is_match("Yes, it is here."));
        assert!(compiled(RefusalRule::None).unwrap().is_none());
    }
}
