//! Tests of the file of a negotiation: the shipped sweep is the guide's, and everything wrong is said at once.

use serde_json::json;
use tiltmeter_test_support::paths::in_repo;

use super::{Desk, experiment};

#[test]
fn everything_wrong_with_a_file_is_said_at_once() {
    let desk = Desk::new();
    let problems = desk.refused(&experiment(json!({
        "weak_models": ["openai/gpt-4o", {"name": "openai-compatible/gpt-4o", "base_url": "http://localhost:1"}],
        "strong_models": [{"name": "programmed", "strategy": "fierce"}, {"name": "programmed", "label": "a_vs_b"}],
        "competition_levels": [0.1, 1.2, 0.1], "num_items": 1, "gamma": 2, "orders": "weakest", "random_seed": 1,
    })));
    let whats: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
    for expected in [
        "two entries of `weak_models` are called `gpt-4o`",
        "`strategy` cannot be `fierce`",
        "the label `a_vs_b` cannot be used",
        "an entry of `competition_levels` is out of range: 1.2",
        "`num_items` is out of range: 1",
        "`gamma` is out of range: 2",
        "`orders` cannot be `weakest`",
        "`random_seed` is not a key of the experiment",
    ] {
        assert!(whats.contains(&expected), "{expected}: {whats:#?}");
    }
    let problems = desk.refused(&experiment(json!({"axis": in_repo("data/axes/quay_assistant.safetensors")})));
    assert_eq!(problems[0].what, "no bargainer exposes its hidden states, so there is nothing to project");
    let problems = desk.refused(&experiment(json!({"competition_levels": [0.1, 0.1]})));
    assert_eq!(problems[0].what, "the level 0.1 is listed twice");
}
