//! The shipped negotiation sweep reads as its guide describes it.

use std::path::PathBuf;

use tiltmeter_test_support::paths::in_repo;

#[test]
fn the_shipped_sweep_is_300_games_numbered_as_the_guide_says() {
    let path = PathBuf::from(in_repo("experiments/bargain_scaling.yaml"));
    let loaded = tiltmeter_experiments::config::load(&path, &[]).expect("it can be read");
    assert_eq!(loaded.notes, []);
    let tiltmeter_experiments::config::Spec::Negotiation(spec) = loaded.spec else { panic!("a negotiation") };
    let labels = |list: &[tiltmeter_experiments::config::BargainerRef]| {
        list.iter().map(|entry| entry.label.clone()).collect::<Vec<_>>()
    };
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
