//! Owns the methods section of a projection experiment, from its frozen plan.
//! Must not know: engine, provider, run folders, terminal.

use serde_json::Value;

use crate::Recorder;

/// What a frozen plan says of how the projections were measured.
pub struct Methods {
    plan: Value,
}

impl Methods {
    pub fn of(plan: &Value) -> Self {
        Self { plan: plan.clone() }
    }
}

impl Recorder for Methods {
    fn methods(&self) -> Vec<String> {
        let plan = &self.plan;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let list = |key: &str| plan[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let axes: Vec<String> =
            list("axes").iter().map(|axis| format!("{} at {}", text(&axis["name"]), text(&axis["site"]))).collect();
        let turns = plan["transcript"]["users"].as_array().map_or(0, Vec::len);
        vec![
            format!(
                "The {turns} user turns of {} were replayed in {} conditions of {} rollouts each; the model answered for itself, turn \
                 by turn. The hidden states of the tokens it generated (span: {}) were read in the pass that generated them and \
                 projected on the unit axis: {}.",
                text(&plan["transcript"]["source"]),
                list("conditions").len(),
                plan["samples"],
                text(&plan["token_span"]),
                axes.join("; "),
            ),
            format!(
                "Tokens were drawn at temperature {} with at most {} new tokens a turn, from a counter-based generator (Philox) under \
                 base seed {} ({}).",
                plan["sampling"]["temperature"],
                plan["max_new_tokens"],
                plan["seed"],
                text(&plan["seeding"]),
            ),
            "The rollout is the unit of every statistic: a rollout's value is the mean over its turns; conditions are compared by \
             Welch's test and a permutation test on those means, corrected after Holm."
                .to_owned(),
        ]
    }
}
