//! What stands in the output tree of the guide's batch: every file of the batch and of every run, down to every field.

use std::fs;

use serde_json::{Value, json};
use tiltmeter_test_support::fault_server::{PROMPT_TOKENS, REPLY_TOKENS};

use super::{CALL_MICRO_USD, CALLS_A_TURN, Desk, FILE, RUNS};

/// The named fields, and no more has to be there.
#[track_caller]
pub fn holds(value: &Value, wanted: &str) {
    for key in wanted.split_whitespace() {
        assert!(value.get(key).is_some(), "{key} is missing: {value:#}");
    }
}

/// Parses every file that the guide names, of every run, down to every field.
pub fn every_file_of_the_guide(desk: &Desk, turns: usize) {
    assert_eq!(fs::read(desk.out("batch-config.yaml")).unwrap(), fs::read(desk.home.path().join(FILE)).unwrap());
    let summary = desk.json("batch-summary.json");
    holds(
        &summary,
        "experiment_name base_scenario total_variations runs_per_variation total_runs_planned runs_completed",
    );
    holds(&summary, "runs_failed duration_seconds cost_summary failed_runs description start_time end_time");
    holds(&summary["cost_summary"], "total_spent budget_limit cost_per_run_limit remaining_budget avg_cost_per_run");
    let counts = ["total_variations", "runs_per_variation", "total_runs_planned", "runs_completed", "runs_failed"];
    assert_eq!(counts.map(|key| summary[key].as_u64().unwrap()), [4, 10, 40, 40, 0]);
    assert!(summary["duration_seconds"].is_u64() && summary["failed_runs"] == json!([]));

    let state = desk.json("batch-state.json");
    holds(&state, "experiment_name completed_runs failed_runs variations start_time runs_per_variation");
    for variation in state["variations"].as_array().unwrap() {
        holds(variation, "variation_id description modifications");
        let models = variation["modifications"]["actor_models"].as_object().unwrap();
        assert_eq!(models.keys().collect::<Vec<_>>(), ["regulator", "tech-company"]);
        assert!(variation["modifications"]["scenario_overrides"].is_object());
    }

    let costs = desk.json("batch-costs.json");
    holds(&costs["summary"], "total_spent budget_limit cost_per_run_limit remaining_budget runs_completed runs_failed");
    holds(&costs["summary"], "runs_budget_exceeded avg_cost_per_run");
    let run_costs = costs["run_costs"].as_array().unwrap();
    assert_eq!(run_costs.len(), RUNS);
    run_costs.iter().for_each(|run| holds(run, "run_id variation_id status cost_usd total_tokens"));
    let statistics = costs["variation_statistics"].as_object().unwrap();
    assert_eq!(statistics.len(), 4);
    statistics.values().for_each(|one| holds(one, "runs_completed total_cost avg_cost_per_run"));

    let run_usd = (turns * CALLS_A_TURN) as f64 * CALL_MICRO_USD as f64 / 1e6;
    for run in run_costs {
        let id = run["run_id"].as_str().unwrap();
        one_run(desk, id, turns);
        let of_run = desk.json(&format!("runs/{id}/costs.json"));
        assert!((of_run["totals"]["total_cost_usd"].as_f64().unwrap() - run_usd).abs() < 1e-9, "{id}");
    }

    let metrics = desk.json("analysis/metrics-analysis.json");
    for id in ["cooperation_level", "safety_commitment", "release_delay_weeks"] {
        holds(&metrics[id], "mean std min max median n sem ci95 missing type description");
        assert_eq!((&metrics[id]["n"], metrics[id]["mean"].is_f64()), (&json!(RUNS), true), "{id}");
    }
    for id in ["agreement_reached", "public_mood"] {
        holds(&metrics[id], "n missing values type");
    }
    let variations = desk.json("analysis/variation-statistics.json");
    holds(&variations, "variations comparison effects");
    for variation in variations["variations"].as_object().unwrap().values() {
        holds(
            variation,
            "description modifications runs_completed success metrics total_cost_usd avg_cost_usd avg_tokens",
        );
        assert_eq!(variation["runs_completed"], 10);
    }
    for (metric, better) in [("cooperation_level", 1.0), ("release_delay_weeks", -1.0)] {
        let ranked = variations["comparison"][metric].as_array().unwrap();
        let means: Vec<f64> = ranked.iter().map(|entry| better * entry["mean"].as_f64().unwrap()).collect();
        assert!(
            ranked.len() == 4 && means.windows(2).all(|pair| pair[0] >= pair[1]),
            "{metric}, best first: {means:?}"
        );
    }
    let patterns = desk.json("analysis/patterns.json");
    holds(&patterns, "success_rate total_runs best_variation cost_efficiency success_factors failure_modes");
    assert_eq!((&patterns["success_rate"], &patterns["total_runs"]), (&json!(1.0), &json!(RUNS)));
    for entry in patterns["cost_efficiency"].as_array().unwrap() {
        holds(entry, "variation_id runs_per_dollar");
    }
}

fn one_run(desk: &Desk, id: &str, turns: usize) {
    let path = |name: &str| format!("runs/{id}/{name}");
    let text = |name: String| {
        fs::read_to_string(desk.out(&path(&name))).unwrap_or_else(|error| panic!("{id}/{name}: {error}"))
    };
    for turn in 0..=turns {
        assert!(text(format!("world-state-{turn:03}.md")).starts_with("# Test Regulation Negotiation: the world "));
        for actor in ["regulator", "tech-company"].iter().filter(|_| turn > 0) {
            let page = text(format!("{actor}-{turn:03}.md"));
            assert!(page.contains("\n## Action\n\nWe propose sixty days."), "{page}");
        }
    }
    assert!(text("scenario.log".into()).lines().last().unwrap().starts_with("billed $"));

    let metrics = desk.json(&path("metrics.json"));
    holds(&metrics, "definitions by_turn final_metrics");
    assert_eq!(metrics["by_turn"].as_array().unwrap().len(), turns);
    assert_eq!(metrics["definitions"]["cooperation_level"]["type"], "integer");
    let last = &metrics["final_metrics"];
    assert!(last["cooperation_level"].is_u64(), "`type: int` is a number: {last}");
    assert_eq!((&last["release_delay_weeks"], &last["safety_commitment"]), (&json!(4), &json!(6.5)));
    assert_eq!((&last["agreement_reached"], &last["public_mood"]), (&json!(true), &json!("calm")));

    let costs = desk.json(&path("costs.json"));
    holds(&costs, "actors turns world_state totals");
    holds(&costs["totals"], "total_tokens total_cost_usd");
    let tokens = (turns * CALLS_A_TURN) as u64 * (PROMPT_TOKENS + REPLY_TOKENS);
    assert_eq!(costs["totals"]["total_tokens"], tokens);
    for actor in ["regulator", "tech-company"] {
        holds(&costs["actors"][actor], "model calls total_tokens cost_usd");
    }
    assert_eq!(costs["turns"].as_array().unwrap().len(), turns);
    costs["turns"]
        .as_array()
        .unwrap()
        .iter()
        .for_each(|turn| holds(turn, "turn actors world_state total_tokens cost_usd"));

    let state = desk.json(&path("scenario-state.json"));
    holds(&state, "run_id variation_id scenario status current_turn total_turns world_state actors costs");
    assert_eq!((&state["status"], &state["current_turn"]), (&json!("completed"), &json!(turns)));
}
