//! The methods section of a projection experiment.

use serde_json::json;

use super::ProjectionPlan;

/// Paragraphs: procedure, sampling, statistics.
pub fn methods(plan: &ProjectionPlan) -> Vec<String> {
    let axes: Vec<String> = plan.axes.iter().map(|axis| format!("{} at {}", axis.name, axis.site)).collect();
    let text = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    vec![
        format!(
            "The {} user turns of {} were replayed in {} conditions of {} rollouts each; the model answered every turn. The hidden \
             states of the tokens it generated (span: {}) were read in the pass that generated them and projected on the unit axis: {}.",
            plan.transcript.users.len(),
            plan.transcript.source,
            plan.conditions.len(),
            plan.samples,
            text(json!(plan.token_span)),
            axes.join("; "),
        ),
        format!(
            "Tokens were drawn at temperature {} with at most {} new tokens a turn, from a counter-based generator (Philox) under base \
             seed {} ({}).",
            plan.sampling.temperature,
            plan.max_new_tokens,
            plan.seed,
            text(json!(plan.seeding)),
        ),
        "The rollout is the unit of every statistic: a rollout's value is the mean over its turns; conditions are compared by Welch's \
         test and a permutation test on those means, with Holm's correction."
            .to_owned(),
    ]
}
