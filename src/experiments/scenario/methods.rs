//! Owns the methods section of a scenario batch, from its frozen plan.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::Value;

/// Paragraphs: who played what, how a turn went, how replies were drawn, what was varied and measured.
pub fn methods(plan: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let scenario = &plan["scenario"];
    let actors: Vec<String> =
        list(&scenario["actors"]).iter().map(|a| format!("{} ({})", text(&a["name"]), text(&a["llm_model"]))).collect();
    let models: Vec<String> = list(&plan["models"])
        .iter()
        .map(|model| match model["fingerprint"].as_str() {
            Some(fingerprint) => format!("{} (weights {fingerprint})", text(&model["name"])),
            None => text(&model["name"]),
        })
        .collect();
    let window = match scenario["context_window_size"].as_u64() {
        Some(window) => format!(
            "The last {window} turns were told word for word; of older ones the beginning of every action and of the world state, cut by a \
             fixed rule."
        ),
        None => "All turns were told word for word.".to_owned(),
    };
    let messages = match &scenario["communication"] {
        Value::Null => String::new(),
        rules => format!(" Before deciding, actors could write to each other privately in {} rounds.", rules["rounds"]),
    };
    let mut paragraphs = vec![
        format!(
            "The scenario \"{}\" was played over {} turns by {}; {} kept the state of the world. In every turn the actors decided \
             simultaneously: none saw what another decided in the same turn, and of a decision nobody but its author saw more than the action. \
             The world-state model saw the current state and all actions, and nothing else.{messages} {window}",
            text(&scenario["name"]),
            scenario["turns"],
            actors.join(", "),
            text(&scenario["world_state_model"]),
        ),
        format!(
            "{} variations were each run {} times. Models: {}. Replies were drawn at temperature {}, with at most {} tokens a decision and \
             {} a world state; every run had a seed of its own, derived from the base seed {}.",
            list(&plan["conditions"]).len(),
            plan["runs_per_variation"],
            models.join(", "),
            plan["sampling"]["temperature"],
            plan["max_new_tokens"],
            plan["world_max_tokens"],
            plan["seed"],
        ),
    ];
    let metrics: Vec<String> = list(&scenario["metrics"])
        .iter()
        .map(|metric| match metric["pattern"].as_str() {
            Some(pattern) => format!("{} (last match of /{pattern}/i, {})", text(&metric["id"]), text(&metric["type"])),
            None => format!("{} (said by a judge, {})", text(&metric["id"]), text(&metric["type"])),
        })
        .collect();
    if !metrics.is_empty() {
        paragraphs.push(format!(
            "After every turn was measured: {}. A value that was not found is missing and never filled in; the value after the last turn is \
             the run's. The run is the unit of every statistic.",
            metrics.join("; ")
        ));
    }
    let axes: Vec<String> =
        list(&plan["axes"]).iter().map(|axis| format!("{} at {}", text(&axis["name"]), text(&axis["site"]))).collect();
    if !axes.is_empty() {
        paragraphs.push(format!(
            "The hidden states of each decision (span: {}) were read in the pass that generated it and projected on the unit axis: {}.",
            text(&plan["token_span"]),
            axes.join("; ")
        ));
    }
    paragraphs
}
