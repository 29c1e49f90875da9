//! Owns what is promised of the file of a negotiation: the shipped sweep is the guide's, and everything wrong is said at once.
//! Must not know: the form of a journal line.

use std::path::PathBuf;

use serde_json::json;

use super::{Desk, experiment};
use crate::program::in_root;

#[test]
fn the_shipped_sweep_is_300_games_numbered_as_the_guide_says() {
    let path = PathBuf::from(in_root("experiments/bargain_scaling.yaml"));
    let loaded = tiltmeter::spec::load(&path, &[]).expect("it can be read");
    assert_eq!(loaded.notes, []);
    let tiltmeter::spec::Spec::Negotiation(spec) = loaded.spec else { panic!("a negotiation") };
    let labels =
        |list: &[tiltmeter::spec::BargainerRef]| list.iter().map(|entry| entry.label.clone()).collect::<Vec<_>>();
    assert_eq!(labels(&spec.weak_models), ["gpt-4o", "claude-3-opus", "gemini-1-5-pro"]);
    assert_eq!(
        labels(&spec.strong_models),
        [
            "gemini-2-0-flash",
            "gemini-2-5-flash",
            "gemini-2-5-pro",
            "claude-3-5-haiku",
            "claude-4-sonnet",
            "claude-4-opus",
            "o3-mini",
            "o4-mini",
            "o3",
            "chatgpt-5"
        ]
    );
    assert_eq!(spec.competition_levels, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);
    assert_eq!((spec.num_items, spec.max_rounds, spec.gamma, spec.seed), (5, 10, 0.9, 42));
    assert_eq!((spec.conduct.parallel, spec.conduct.timeout_per_run), (Some(4), Some(600.0)));
}

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
    let problems = desk.refused(&experiment(json!({"axis": in_root("data/axes/quay_assistant.safetensors")})));
    assert_eq!(problems[0].what, "no bargainer exposes its hidden states, so there is nothing to project");
    let problems = desk.refused(&experiment(json!({"competition_levels": [0.1, 0.1]})));
    assert_eq!(problems[0].what, "the level 0.1 is listed twice");
}
