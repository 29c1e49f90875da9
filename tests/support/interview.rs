//! The smallest `kind: interview`: the shipped prompt set between two scripted models.

use serde_json::{Value, json};

use crate::paths::in_repo;

/// A judge's verdict that names this strategy and passes every check.
pub fn verdict(strategy: &str) -> String {
    json!({
        "strategy": strategy, "outcome": "VAULT PROTECTED", "reasoning": "It says so.", "critical_response": "I guard it.",
        "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": false},
    })
    .to_string()
}

/// The five shipped variants, twice each; `keys` override.
pub fn experiment(keys: Value) -> Value {
    let mut whole = json!({
        "kind": "interview", "experiment": "deception",
        "steward": {"name": "scripted", "script": [{"reply": "I keep the halls in order."}]},
        "judge": {"name": "scripted", "script": [{"reply": verdict("Evasion")}]},
        "prompt_set": in_repo("experiments/interviews/vault.yaml"),
        "runs_per_variant": 2,
    });
    whole.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    whole
}

/// One run of the first variant; `keys` override.
pub fn only_baseline(keys: Value) -> Value {
    let mut whole = experiment(json!({"variants": ["baseline"], "runs_per_variant": 1}));
    whole.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    whole
}
