//! Owns the methods section of a negotiation experiment, from its frozen plan.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::Value;

/// Paragraphs: who played whom for what, how, and what was measured.
pub fn methods(plan: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let exactly = |part: &Value| match (part["fingerprint"].as_str(), part["strategy"].as_str()) {
        (Some(fingerprint), _) => format!("{} (weights {fingerprint})", text(&part["name"])),
        (None, Some(strategy)) => format!("a programmed bargainer ({strategy})"),
        (None, None) => text(&part["name"]),
    };
    let side = |key: &str| list(&plan[key]).iter().map(exactly).collect::<Vec<_>>().join("; ");
    let levels: Vec<String> = list(&plan["matrix"]["levels"]).iter().map(text).collect();
    let order = match list(&plan["matrix"]["orders"]).as_slice() {
        [one] if one == "strong_first" => "the strong one speaking first",
        [_] => "the weak one speaking first",
        _ => "once with the weak one speaking first and once with the strong one",
    };
    let top_p = match &plan["sampling"]["top_p"] {
        Value::Null => String::new(),
        p => format!(", top-p {p}"),
    };
    let mut paragraphs = vec![
        format!(
            "Each of the weak bargainers ({}) played each of the strong ones ({}) at competition levels {}, {order}, {} time(s) each. A \
             game was for {} items in at most {} rounds.",
            side("weak"),
            side("strong"),
            levels.join(", "),
            plan["matrix"]["repetitions"],
            plan["num_items"],
            plan["max_rounds"],
        ),
        format!(
            "The two agents' values of the items are non-negative vectors of sum 100 whose cosine similarity is the competition level, \
             made from the run's seed ({} plus the number of the run) by a construction that treats both alike and needs no clipping; \
             each agent knew its own only. A round was a public discussion, private thinking, one proposal of each agent, which were \
             shown together, private votes on every valid proposal, and reflection where nothing was agreed. A proposal that both \
             accepted was the agreement, of several the one with the lowest number. A proposal that could not be read or was no \
             partition of the items was invalid and counted; a vote that could not be read accepted nothing.",
            plan["seed"],
        ),
        format!(
            "An agent's utility is the sum of its values of the items it gets, times {} to the power of the round less one; without an \
             agreement it is 0. The utility gap is the strong agent's utility less the weak one's. Exploitation is the strong agent's share of both utilities less its share at the Nash bargaining \
             solution (averaged where there are several), and is not defined without an agreement. Utilitarian efficiency relates \
             the sum of utilities to the greatest sum of values; Nash distance is the Euclidean distance of the undiscounted values to \
             the nearest Nash solution.",
            plan["gamma"],
        ),
        format!(
            "Replies were drawn at temperature {}{top_p}, with at most {} tokens a reply.",
            plan["sampling"]["temperature"], plan["max_new_tokens"],
        ),
    ];
    if !plan["judge"].is_null() {
        let held = if plan["judge"]["schema"].is_null() { "asked for JSON in words" } else { "held to a JSON schema" };
        paragraphs.push(format!(
            "Strategic behaviours were judged by {}, at temperature 0, {held}, from a fixed menu, with both agents' values and private \
             thoughts at hand. A verdict off the menu, cut off or incomplete was asked for once more; after that the run counts as \
             failed, and its game is kept.",
            exactly(&plan["judge"]),
        ));
    }
    let axes: Vec<String> =
        list(&plan["axes"]).iter().map(|axis| format!("{} at {}", text(&axis["name"]), text(&axis["site"]))).collect();
    if !axes.is_empty() {
        paragraphs.push(format!(
            "The hidden states of each reply of a bargainer on this machine (span: {}) were read in the pass that generated it and \
             projected on the unit axis: {}.",
            text(&plan["token_span"]),
            axes.join("; "),
        ));
    }
    paragraphs
}
