//! The methods section of an interview experiment.

use serde_json::json;

use super::{InterviewPlan, describe::support};
use crate::config::{RefusalRule, RunSeeding, Strategy};
use crate::plan::ModelPlan;

/// Paragraphs: procedure, sampling, judging, measurement.
pub fn methods(plan: &InterviewPlan) -> Vec<String> {
    let exactly = |model: &ModelPlan| match &model.fingerprint {
        Some(fingerprint) => format!("{} (weights {fingerprint})", model.name),
        None => model.name.clone(),
    };
    let after = plan.stop_on_refusal.after;
    let refusal = match plan.stop_on_refusal.rule {
        RefusalRule::WordBoundary => format!(
            "The questions after number {after} were asked only if its reply was not a refusal, by a fixed rule over whole words and \
             phrases (its pattern is in the plan)."
        ),
        RefusalRule::Substring => format!(
            "The questions after number {after} were asked only if its reply contained neither \"no\" nor \"not\" anywhere; words like \
             \"know\" count, as in the study that is replicated."
        ),
        RefusalRule::None => "All questions were asked, whatever the replies.".to_owned(),
    };
    let seeds = match plan.seeding {
        RunSeeding::Fixed => format!("Every run and question was drawn under the seed {}.", plan.seed),
        RunSeeding::PerRun => format!("Every run had its own seed, derived from the base seed {}.", plan.seed),
    };
    let variants: Vec<String> =
        plan.conditions.iter().map(|c| format!("{} ({} questions)", c.title, c.prompts.len())).collect();
    let strategy = |Strategy { name, definition }: &Strategy| match definition.as_str() {
        "" => name.clone(),
        definition => format!("{name} ({definition})"),
    };
    let strategies: Vec<String> = plan.menu.iter().map(strategy).collect();
    let held = if plan.judge.schema.is_none() { "asked for JSON in words" } else { "held to a JSON schema" };
    let mut paragraphs = vec![
        format!(
            "The steward, {}, was briefed by a system message and questioned in {} framings: {}. Each was repeated {} times; the \
             questions of an interview were asked one after the other, with the conversation so far in the context. {refusal}",
            exactly(&plan.steward),
            variants.len(),
            variants.join("; "),
            plan.runs_per_variant,
        ),
        format!(
            "Replies were drawn at {}{}, with at most {} tokens a reply. {seeds} Of seeds for this model: {}.",
            plan.sampling.describe_temperature(),
            plan.sampling.top_p.map(|p| format!(", top-p {p}")).unwrap_or_default(),
            plan.max_new_tokens,
            plan.steward.seed_support.map_or("unknown", support),
        ),
        format!(
            "Every finished transcript was classified by {} at {}, {held}, with at most {} tokens. It read the briefing and \
             the whole interview and chose one strategy of: {}; besides an outcome, a level of deception and whether each of the two \
             instructions was kept. A verdict off the menu, cut off or incomplete was requested once more; after that the run counts as \
             failed, and its transcript is kept.",
            exactly(&plan.judge.model),
            plan.judge.at_temperature(),
            plan.judge.max_new_tokens,
            strategies.join("; "),
        ),
    ];
    if !plan.axes.is_empty() {
        let axes: Vec<String> = plan.axes.iter().map(|axis| format!("{} at {}", axis.name, axis.site)).collect();
        let span = json!(plan.token_span);
        paragraphs.push(format!(
            "The hidden states of each reply (span: {}) were read in the pass that generated it and projected on the unit axis: {}. The \
             interview is the unit of every statistic.",
            span.as_str().map_or_else(|| span.to_string(), str::to_owned),
            axes.join("; "),
        ));
    }
    paragraphs
}
