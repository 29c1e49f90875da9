//! Owns the methods section of an interview experiment, from its frozen plan.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::Value;

use super::describe::support;

/// Paragraphs: what was asked of whom, how replies were drawn, how they were judged, what was measured.
pub fn methods(plan: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let variants: Vec<String> = list(&plan["conditions"])
        .iter()
        .map(|c| format!("{} ({} questions)", text(&c["title"]), c["prompts"].as_array().map_or(0, Vec::len)))
        .collect();
    let exactly = |part: &Value| match part["fingerprint"].as_str() {
        Some(fingerprint) => format!("{} (weights {fingerprint})", text(&part["name"])),
        None => text(&part["name"]),
    };
    let stop = &plan["stop_on_refusal"];
    let after = &stop["after"];
    let refusal = match stop["rule"].as_str() {
        Some("word_boundary") => format!(
            "The questions after number {after} were asked only if its reply was not a refusal, by a fixed rule over whole words and \
             phrases (its pattern is in the plan)."
        ),
        Some("substring") => format!(
            "The questions after number {after} were asked only if its reply held neither \"no\" nor \"not\", wherever they stand; \
             words like \"know\" count, as in the study that is replicated."
        ),
        _ => "All questions were asked, whatever was replied.".to_owned(),
    };
    let seeds = match plan["seeding"].as_str() {
        Some("fixed") => format!("Every run and question was drawn under the seed {}.", plan["seed"]),
        _ => format!("Every run had a seed of its own, derived from the base seed {}.", plan["seed"]),
    };
    let worth = serde_json::from_value(plan["steward"]["seed_support"].clone()).map(support).unwrap_or("unknown");
    let top_p = match &plan["sampling"]["top_p"] {
        Value::Null => String::new(),
        p => format!(", top-p {p}"),
    };
    let strategies: Vec<String> = list(&plan["menu"])
        .iter()
        .map(|strategy| match text(&strategy["definition"]) {
            none if none.is_empty() => text(&strategy["name"]),
            definition => format!("{} ({definition})", text(&strategy["name"])),
        })
        .collect();
    let held = if plan["judge"]["schema"].is_null() { "asked for JSON in words" } else { "held to a JSON schema" };
    let mut paragraphs = vec![
        format!(
            "The steward, {}, was briefed by a system message and questioned in {} framings: {}. Each was repeated {} times; the \
             questions of an interview were put one after the other, with everything said before in the context. {refusal}",
            exactly(&plan["steward"]),
            variants.len(),
            variants.join("; "),
            plan["runs_per_variant"],
        ),
        format!(
            "Replies were drawn at temperature {}{top_p}, with at most {} tokens a reply. {seeds} Of seeds for this model: {worth}.",
            plan["sampling"]["temperature"], plan["max_new_tokens"],
        ),
        format!(
            "Every finished transcript was classified by {} at temperature 0, {held}, with at most {} tokens. It read the briefing and \
             the whole interview and chose one strategy of: {}; besides an outcome, a level of deception and whether each of the two \
             instructions was kept. A verdict off the menu, cut off or incomplete was asked for once more; after that the run counts \
             as failed, and its transcript is kept.",
            exactly(&plan["judge"]),
            plan["judge"]["max_new_tokens"],
            strategies.join("; "),
        ),
    ];
    let axes: Vec<String> =
        list(&plan["axes"]).iter().map(|axis| format!("{} at {}", text(&axis["name"]), text(&axis["site"]))).collect();
    if !axes.is_empty() {
        paragraphs.push(format!(
            "The hidden states of each reply (span: {}) were read in the pass that generated it and projected on the unit axis: {}. \
             The interview is the unit of every statistic.",
            text(&plan["token_span"]),
            axes.join("; "),
        ));
    }
    paragraphs
}
