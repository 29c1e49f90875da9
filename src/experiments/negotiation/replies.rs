//! Parses proposals and ballots in replies. Unreadable text is an invalid proposal or a missing vote, never a guess. The reason of an
//! invalid proposal is public, so it quotes nothing of the reply.

use serde_json::{Map, Value};

use super::game::{Allocation, Invalid, Rules, names};
use crate::extract;

/// `{"allocation": {"Alpha": ["Anchor", …], "Beta": […]}, …}`: one list an agent, every item once, in any case.
pub fn proposal(reply: &str, rules: Rules) -> Result<Allocation, Invalid> {
    let object = extract::object(reply).map_err(|_| Invalid("no JSON object can be read in it".to_owned()))?;
    let Some(Value::Object(allocation)) = object.get("allocation") else {
        return Err(Invalid("it has no object `allocation`".to_owned()));
    };
    let mut shares: Vec<Option<Vec<usize>>> = vec![None; rules.agents];
    for (name, share) in allocation {
        let agent = (0..rules.agents).find(|agent| same(name, &names::agent(*agent)));
        let share = items_of(share, rules)?;
        match agent.and_then(|agent| shares.get_mut(agent)) {
            None => return Err(Invalid("it gives items to somebody who takes no part".to_owned())),
            Some(Some(_)) => return Err(Invalid("it names an agent twice".to_owned())),
            Some(empty) => *empty = Some(share),
        }
    }
    let shares: Vec<Vec<usize>> = shares
        .into_iter()
        .enumerate()
        .map(|(agent, share)| share.ok_or_else(|| Invalid(format!("it has no list for {}", names::agent(agent)))))
        .collect::<Result<_, _>>()?;
    Allocation::of_shares(&shares, rules).map_err(named)
}

fn items_of(share: &Value, rules: Rules) -> Result<Vec<usize>, Invalid> {
    let Value::Array(share) = share else {
        return Err(Invalid("a share in it is no list of items".to_owned()));
    };
    let item = |name: &Value| {
        let name = name.as_str().ok_or_else(|| Invalid("an item in it is no text".to_owned()))?;
        let found = (0..rules.items).find(|item| same(name, &names::item(*item)));
        found.ok_or_else(|| Invalid("it names an item that there is not".to_owned()))
    };
    share.iter().map(item).collect()
}

/// The reason with the item's name instead of its number.
fn named(Invalid(why): Invalid) -> Invalid {
    let number = why.strip_prefix("it gives item ").and_then(|rest| rest.strip_suffix(" away twice"));
    match number.and_then(|number| number.parse::<usize>().ok()) {
        Some(number) => Invalid(format!("it gives the {} away twice", names::item(number.saturating_sub(1)))),
        None => Invalid(why),
    }
}

/// `{"votes": {"1": "accept", "2": "reject"}, …}`: one entry a proposal; `None` is an unreadable vote.
pub fn ballot(reply: &str, proposals: usize) -> Vec<Option<bool>> {
    let object = extract::object(reply).unwrap_or_default();
    let empty = Map::new();
    let votes = object.get("votes").and_then(Value::as_object).unwrap_or(&empty);
    let vote = |number: usize| {
        let word = votes.get(&number.to_string())?.as_str()?;
        [("accept", true), ("reject", false)].into_iter().find(|(name, _)| same(word, name)).map(|(_, vote)| vote)
    };
    (1..=proposals).map(vote).collect()
}

fn same(word: &str, name: &str) -> bool {
    word.trim().eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { agents: 2, items: 3, max_rounds: 1 };

    fn why(reply: &str) -> String {
        proposal(reply, RULES).unwrap_err().0
    }

    #[test]
    fn a_partition_is_read_inside_other_text() {
        for reply in [
            r#"{"allocation": {"Alpha": ["Anchor", "Candle"], "Beta": ["Basket"]}}"#,
            "I think this is fair:\n```json\n{\"allocation\": {\"beta\": [\" basket \"], \"ALPHA\": [\"CANDLE\", \"anchor\"]}, \
             \"reasoning\": \"so\"}\n```",
        ] {
            assert_eq!(proposal(reply, RULES).unwrap().owners(), [0, 1, 0], "{reply}");
        }
        let all = r#"{"allocation": {"Alpha": [], "Beta": ["Anchor", "Basket", "Candle"]}}"#;
        assert_eq!(proposal(all, RULES).unwrap().owners(), [1, 1, 1]);
    }

    #[test]
    fn anything_but_a_partition_is_invalid() {
        let with = |shares: &str| format!("{{\"allocation\": {shares}}}");
        for (reply, expected) in [
            (String::new(), "no JSON"),
            ("I want everything.".to_owned(), "no JSON"),
            ("{\"allocation\": {\"Alpha\": [\"Anchor\"".to_owned(), "no JSON"),
            ("{\"Alpha\": [\"Anchor\"]}".to_owned(), "no object `allocation`"),
            (with("[[0, 1], [2]]"), "no object `allocation`"),
            (with(r#"{"Alpha": ["Anchor", "Basket"], "Beta": []}"#), "over"),
            (with(r#"{"Alpha": ["Anchor", "Basket", "Candle"]}"#), "no list for Beta"),
            (with(r#"{"Alpha": ["Anchor", "Basket"], "Beta": ["Basket", "Candle"]}"#), "the Basket away twice"),
            (with(r#"{"Alpha": ["Anchor", "Basket"], "Beta": ["Crown"]}"#), "there is not"),
            (with(r#"{"Alpha": ["Anchor", "Basket"], "Beta": ["Drum"]}"#), "there is not"),
            (with(r#"{"Alpha": "all", "Beta": []}"#), "no list of items"),
            (with(r#"{"Alpha": [1, 2], "Beta": [3]}"#), "no text"),
            (with(r#"{"Alpha": ["Anchor"], "Beta": ["Basket"], "Gamma": ["Candle"]}"#), "takes no part"),
            (with(r#"{"Alpha": ["Anchor"], "alpha": ["Basket"], "Beta": ["Candle"]}"#), "twice"),
        ] {
            assert!(why(&reply).contains(expected), "{reply}: {}", why(&reply));
        }
    }

    #[test]
    fn a_reason_quotes_nothing_of_the_reply() {
        for reply in ["my Candle is worth 90 to me", r#"{"allocation": {"Alpha": ["worth 90"], "Beta": []}}"#] {
            assert!(!why(reply).contains("90"));
        }
    }

    #[test]
    fn a_ballot_has_one_entry_a_proposal() {
        let read = |reply: &str| ballot(reply, 3);
        assert_eq!(
            read(r#"{"votes": {"1": "accept", "2": "Reject", "3": " ACCEPT "}}"#),
            [Some(true), Some(false), Some(true)]
        );
        assert_eq!(read(r#"{"votes": {"1": "yes", "2": true, "4": "accept"}}"#), [None; 3]);
        assert_eq!(read("I accept everything."), [None; 3]);
        assert_eq!(read(r#"{"votes": "accept"}"#), [None; 3]);
        assert_eq!(read("{\"votes\": {\"1\": \"accept\"}, \"why\": "), [None; 3], "a truncated object is no vote");
        assert_eq!(ballot("", 0), []);
    }

    proptest! {
        #[test]
        fn a_parsed_proposal_is_a_partition(reply in "[ {}\\[\\]\",:a-zA-Z]{0,80}", owners in prop::collection::vec(0_usize..4, 1..5)) {
            let check = |reply: &str| match proposal(reply, RULES) {
                Ok(allocation) => {
                    let mut items: Vec<usize> = (0..2).flat_map(|agent| allocation.share(agent)).collect();
                    items.sort_unstable();
                    items == [0, 1, 2]
                }
                Err(_) => true,
            };
            prop_assert!(check(&reply));
            let share = |agent: usize| {
                let own = owners.iter().enumerate().filter(|(_, owner)| **owner == agent);
                own.map(|(item, _)| names::item(item)).collect::<Vec<_>>()
            };
            let reply = serde_json::json!({"allocation": {"Alpha": share(0), "Beta": share(1)}}).to_string();
            prop_assert!(check(&reply));
            // What no agent of this game gets is not in the reply at all.
            let given: Vec<usize> = (0..owners.len()).filter(|item| owners[*item] < 2).collect();
            let is_partition = given == [0, 1, 2];
            prop_assert_eq!(proposal(&reply, RULES).is_ok(), is_partition);
        }
    }
}
