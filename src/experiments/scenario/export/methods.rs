//! The methods section of a scenario batch.

use serde_json::json;

use crate::plan::{axis_list, span_name};
use crate::scenario::ScenarioPlan;

/// Paragraphs: procedure, sampling, metrics, projections.
pub fn methods(plan: &ScenarioPlan) -> Vec<String> {
    let scenario = &plan.scenario;
    let actors: Vec<String> =
        scenario.actors.iter().map(|actor| format!("{} ({})", actor.name, actor.llm_model)).collect();
    let models: Vec<String> = plan.models.iter().map(|model| model.model.exact_name()).collect();
    let window = match scenario.context_window_size {
        Some(window) => format!(
            "Prompts held the last {window} turns in full; of older turns the beginning of every action and of the world state, cut by a \
             fixed rule."
        ),
        None => "Prompts held all turns in full.".to_owned(),
    };
    let messages = scenario.communication.map_or_else(String::new, |rules| {
        format!(" Before deciding, actors could write private messages to each other in {} rounds.", rules.rounds)
    });
    let mut paragraphs = vec![
        format!(
            "The scenario \"{}\" was played over {} turns by {}; {} kept the state of the world. In every turn the actors decided \
             simultaneously: no actor saw another's decision of the same turn, and of each decision the others saw only the action. The \
             world-state model saw only the current state and all actions.{messages} {window}",
            scenario.name,
            scenario.turns,
            actors.join(", "),
            scenario.world_state_model,
        ),
        format!(
            "{} variations were each run {} times. Models: {}. Replies were drawn at temperature {}, with at most {} tokens a decision and \
             {} a world state; every run had its own seed, derived from the base seed {}.",
            plan.conditions.len(),
            plan.runs_per_variation,
            models.join(", "),
            plan.sampling.temperature,
            plan.max_new_tokens,
            plan.world_max_tokens,
            plan.seed,
        ),
    ];
    let metrics: Vec<String> = scenario
        .metrics
        .iter()
        .map(|metric| {
            let how =
                metric.pattern.as_ref().map_or("judged by a model".to_owned(), |p| format!("last match of /{p}/i"));
            format!("{} ({how}, {})", metric.id, json!(metric.kind).as_str().unwrap_or_default())
        })
        .collect();
    if !metrics.is_empty() {
        paragraphs.push(format!(
            "These metrics were measured after every turn: {}. A missing value stays missing; the value after the last turn is the run's. \
             The run is the unit of every statistic.",
            metrics.join("; ")
        ));
    }
    if !plan.axes.is_empty() {
        paragraphs.push(format!(
            "The hidden states of each decision (span: {}) were read in the pass that generated it and projected on the unit axis: {}.",
            span_name(plan.token_span),
            axis_list(&plan.axes)
        ));
    }
    paragraphs
}
