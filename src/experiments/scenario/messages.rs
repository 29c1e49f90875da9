//! Private messages between actors: parses them in a reply and delivers them.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::config::{Actor, Scenario};

/// A private message after delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateMessage {
    /// Short names of the recipients; empty if the message was rejected.
    pub to: Vec<String>,
    pub text: String,
    /// Reason why the message was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// A message before delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedMessage {
    /// Names or short names, as written.
    pub to: Vec<String>,
    pub text: String,
}

static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?m)^[\s>#*_-]*(?:TO|To)\b[ \t]*[:*_]*[ \t]*([^:\n]{1,200}?)[ \t]*[*_]*:[ \t]*[*_]*").ok()
});

/// The messages in a reply: each begins with a line `TO name: …` or `TO name, name: …`. Text before the first one is ignored.
pub fn parse(reply: &str) -> Vec<ParsedMessage> {
    let reply = reply.replace("\r\n", "\n");
    let addresses: Vec<(usize, usize, String)> = ADDRESS
        .iter()
        .flat_map(|address| address.captures_iter(&reply))
        .filter_map(|c| Some((c.get(0)?.start(), c.get(0)?.end(), c.get(1)?.as_str().to_owned())))
        .collect();
    let message = |(i, (_, end, to)): (usize, &(usize, usize, String))| {
        let next = addresses.get(i + 1).map_or(reply.len(), |(start, ..)| *start);
        let text = reply[*end..next].trim().to_owned();
        let to = to.replace(" and ", ",").replace('&', ",");
        let to: Vec<String> =
            to.split([',', ';']).map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect();
        (!text.is_empty() && !to.is_empty()).then_some(ParsedMessage { to, text })
    };
    addresses.iter().enumerate().filter_map(message).collect()
}

/// Delivers a message: its recipients must exist, differ from the sender, and be as many as the scenario allows.
pub fn deliver(scenario: &Scenario, from: &Actor, message: ParsedMessage) -> PrivateMessage {
    let same = |a: &str, b: &str| a.trim().eq_ignore_ascii_case(b);
    let mut to: Vec<String> = Vec::new();
    let mut rejected = None;
    for name in &message.to {
        match scenario.actors.iter().find(|actor| same(name, &actor.short_name) || same(name, &actor.name)) {
            None => rejected = Some(format!("there is no actor {name}")),
            Some(actor) if actor.short_name == from.short_name => {
                rejected = Some("it is addressed to its sender".to_owned());
            }
            Some(actor) if to.contains(&actor.short_name) => {}
            Some(actor) => to.push(actor.short_name.clone()),
        }
    }
    let rules = scenario.communication;
    rejected = rejected.or(match to.len() {
        1 if rules.is_none_or(|rules| !rules.bilateral) => {
            Some("the scenario has no messages to one actor alone".to_owned())
        }
        2.. if rules.is_none_or(|rules| !rules.coalition) => {
            Some("the scenario has no messages to several actors".to_owned())
        }
        _ => None,
    });
    if rejected.is_some() {
        to.clear();
    }
    PrivateMessage { to, text: message.text, rejected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_begins_with_an_address() {
        let found = parse(
            "I think.\nTO regulator: Let us talk.\nSoon.\n\n**To: civil-society, press and regulator:** Join us.\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].to.as_slice(), found[0].text.as_str()),
            (["regulator".to_owned()].as_slice(), "Let us talk.\nSoon.")
        );
        assert_eq!(found[1].to, ["civil-society", "press", "regulator"]);
        assert_eq!(found[1].text, "Join us.");
        assert!(parse("NONE").is_empty() && parse("To be clear, I have nothing to say.").is_empty());
    }
}
