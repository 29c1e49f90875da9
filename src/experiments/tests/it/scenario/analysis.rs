//! Tests of the files of a batch: every file there is, every field in it, and that the numbers are right.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tiltmeter_test_support::process::files;

use super::{Left, Stage};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

#[track_caller]
fn holds(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(key).is_some(), "{key} is missing from {:?}", keys(value));
    }
}

/// Two models in one part, three runs each: `soft` ends at 6, 7, 8 and `hard` at 1, 2, 6.
fn compared(keys: Value) -> Left {
    let mut whole = json!({
        "runs_per_variation": 3,
        "variations": [
            {"type": "actor_model", "actor": "regulator", "values": ["hard", "soft"]},
            {"type": "actor_model", "actor": "tech-company", "values": ["tech"]},
            {"type": "scenario_parameter", "parameter": "world_state_model", "values": ["world"]},
            {"type": "scenario_parameter", "parameter": "turns", "values": [1]},
        ],
    });
    whole.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let (soft, hard) = (std::sync::Mutex::new(vec![8, 7, 6]), std::sync::Mutex::new(vec![6, 2, 1]));
    Stage::new(whole)
        .priced(100)
        .answers("world", move |request| {
            let list = if request.messages[1].content.contains("soft-1-action") { &soft } else { &hard };
            let level = list.lock().unwrap().pop().unwrap();
            let agreed = if level > 5 { "yes" } else { "no" };
            Ok(format!("So it goes.\ncooperation_level: {level}\nsafety_commitment: 2.5\nagreement_reached: {agreed}\npublic_mood: calm"))
        })
        .answers("tech", |_| Ok("ACTION\nWe agree.\nINDICATORS\nrelease_delay_weeks: 4".to_owned()))
        .run()
}

#[test]
fn the_folder_holds_every_file_of_the_guide() {
    let left = compared(json!({}));
    let found: BTreeMap<String, Vec<u8>> = files(left.home.path());
    let mut wanted = vec!["batch-summary.json", "batch-state.json", "batch-costs.json"];
    wanted.extend(["analysis-report.md", "metrics-analysis.json", "variation-statistics.json", "patterns.json"]);
    for name in wanted {
        let path = if name.starts_with("batch") { name.to_owned() } else { format!("analysis/{name}") };
        assert!(found.contains_key(&path), "{path}: {:?}", found.keys());
    }
    for variation in 1..=2 {
        for run in 1..=3 {
            for name in [
                "world-state-000.md",
                "world-state-001.md",
                "regulator-001.md",
                "tech-company-001.md",
                "metrics.json",
                "costs.json",
                "scenario-state.json",
                "scenario.log",
            ] {
                let path = format!("runs/var-{variation:03}-run-{run:03}/{name}");
                assert!(found.contains_key(&path), "{path}: {:?}", found.keys());
            }
        }
    }
    assert!(left.text("runs/var-001-run-001/world-state-000.md").contains("It is the first week of talks."));
    let page = left.text("runs/var-002-run-001/regulator-001.md");
    assert!(
        page.starts_with("# National Technology Authority, turn 1\n") && page.contains("## Action\n\nsoft-1-action"),
        "{page}"
    );
    let log = left.text("runs/var-001-run-001/scenario.log");
    assert!(
        log.contains("turn 1: regulator (hard) replied, 10 + 5 tokens, $0.000100")
            && log.contains("cooperation_level = 1"),
        "{log}"
    );

    let none = compared(json!({"save_individual_runs": false, "aggregate_metrics": false}));
    let found = files(none.home.path());
    assert!(
        found.keys().all(|path| !path.starts_with("runs/") && !path.starts_with("analysis/")),
        "{:?}",
        found.keys()
    );
    assert!(found.contains_key("batch-summary.json"));
    let analysis = tiltmeter_experiments::kind_of(&none.plan).unwrap().analysis(&none.ran(), &none.books()).unwrap();
    assert_eq!(analysis.document()["patterns"]["successful_runs"], 6, "it can still be asked for");
}

#[test]
fn the_files_of_the_batch_have_every_field() {
    let left = compared(json!({}));
    let summary = left.json("batch-summary.json");
    holds(
        &summary,
        &[
            "experiment_name",
            "base_scenario",
            "total_variations",
            "runs_per_variation",
            "total_runs_planned",
            "runs_completed",
            "runs_failed",
            "duration_seconds",
            "cost_summary",
            "failed_runs",
        ],
    );
    let counts = ["total_variations", "runs_per_variation", "total_runs_planned", "runs_completed", "runs_failed"];
    assert_eq!(counts.map(|key| summary[key].as_u64().unwrap()), [2, 3, 6, 6, 0]);
    assert_eq!((&summary["experiment_name"], &summary["failed_runs"]), (&json!("Regulation Study"), &json!([])));
    assert!(summary["duration_seconds"].as_i64().unwrap() >= 0);

    let state = left.json("batch-state.json");
    holds(
        &state,
        &["experiment_name", "completed_runs", "failed_runs", "variations", "start_time", "runs_per_variation"],
    );
    assert_eq!(state["completed_runs"].as_array().unwrap().len(), 6);
    assert_eq!(keys(&state["variations"][0]), ["variation_id", "description", "modifications"]);
    holds(&state["variations"][0]["modifications"], &["actor_models", "scenario_overrides"]);

    let under_way = tiltmeter_experiments::kind_of(&left.plan).unwrap().standing(&["var-001-run-002".to_owned()]);
    assert_eq!(under_way[0].path, "batch-state.json", "the state is not saved at the end alone");
    let under_way: Value = serde_json::from_str(&under_way[0].text).unwrap();
    assert_eq!((&under_way["completed_runs"], &under_way["failed_runs"]), (&json!(["var-001-run-002"]), &Value::Null));

    let costs = left.json("batch-costs.json");
    holds(&costs, &["summary", "run_costs", "variation_statistics"]);
    holds(
        &costs["summary"],
        &[
            "total_spent",
            "budget_limit",
            "cost_per_run_limit",
            "remaining_budget",
            "runs_completed",
            "runs_failed",
            "runs_budget_exceeded",
            "avg_cost_per_run",
        ],
    );
    assert_eq!(
        (&costs["summary"]["total_spent"], &costs["summary"]["avg_cost_per_run"]),
        (&json!(0.0018), &json!(0.0003))
    );
    assert_eq!(costs["variation_statistics"]["var-002"]["total_cost"], json!(0.0009));

    let run = left.json("runs/var-001-run-002/costs.json");
    assert_eq!(
        run["totals"],
        json!({"calls": 3, "prompt_tokens": 30, "completion_tokens": 15, "total_tokens": 45, "total_cost_usd": run["totals"]["total_cost_usd"]})
    );
    assert!((run["totals"]["total_cost_usd"].as_f64().unwrap() - 0.0003).abs() < 1e-12);
    assert_eq!(
        (&run["actors"]["regulator"]["total_tokens"], &run["actors"]["regulator"]["model"]),
        (&json!(15), &json!("hard"))
    );
    assert_eq!((&run["turns"][0]["turn"], &run["turns"][0]["world_state"]["calls"]), (&json!(1), &json!(1)));
    assert_eq!(run["world_state"]["model"], "world");
    let state = left.json("runs/var-001-run-002/scenario-state.json");
    assert_eq!(
        (&state["status"], &state["current_turn"], &state["total_turns"]),
        (&json!("completed"), &json!(1), &json!(1))
    );
    let metrics = left.json("runs/var-001-run-002/metrics.json");
    holds(&metrics, &["definitions", "by_turn", "final_metrics"]);
    assert_eq!(
        metrics["final_metrics"],
        json!({
            "agreement_reached": false, "cooperation_level": 2, "public_mood": "calm", "release_delay_weeks": 4, "safety_commitment": 2.5,
        })
    );
}

#[test]
fn the_numbers_of_the_analysis_are_right() {
    let left = compared(json!({}));
    let all = left.json("analysis/metrics-analysis.json");
    let level = &all["cooperation_level"];
    // 1, 2, 6, 6, 7, 8: mean 5, squares 16 + 9 + 1 + 1 + 4 + 9 = 40, so the variance is 8.
    let near =
        |value: &Value, expected: f64| assert!((value.as_f64().unwrap() - expected).abs() < 1e-9, "{value} {expected}");
    assert_eq!((&level["n"], &level["missing"]), (&json!(6), &json!(0)));
    for (key, expected) in [
        ("mean", 5.0),
        ("std", 8_f64.sqrt()),
        ("min", 1.0),
        ("max", 8.0),
        ("median", 6.0),
        ("sem", (8.0_f64 / 6.0).sqrt()),
    ] {
        near(&level[key], expected);
    }
    // t quantile 0.975 with 5 degrees of freedom.
    near(&level["ci95"][1], 5.0 + 2.570_581_835_636_314 * (8.0_f64 / 6.0).sqrt());
    assert_eq!(all["agreement_reached"]["values"], json!({"false": 2, "true": 4}));
    assert_eq!(all["public_mood"]["values"], json!({"calm": 6}));

    let variations = left.json("analysis/variation-statistics.json");
    near(&variations["variations"]["var-001"]["metrics"]["cooperation_level"]["mean"], 3.0);
    let ranked = variations["comparison"]["cooperation_level"].as_array().unwrap();
    let order: Vec<&str> = ranked.iter().map(|entry| entry["variation_id"].as_str().unwrap()).collect();
    assert_eq!(order, ["var-002", "var-001"], "best first");
    let effect =
        variations["effects"].as_array().unwrap().iter().find(|row| row["metric"] == "cooperation_level").unwrap();
    assert_eq!(
        (&effect["factor"], &effect["value"], &effect["against"]),
        (&json!("model of regulator"), &json!("soft"), &json!("hard"))
    );
    near(&effect["difference"], 4.0);

    let patterns = left.json("analysis/patterns.json");
    holds(
        &patterns,
        &["success_rate", "total_runs", "best_variation", "cost_efficiency", "success_factors", "failure_modes"],
    );
    assert_eq!((&patterns["success_rate"], &patterns["total_runs"]), (&json!(1.0), &json!(6)));
    assert_eq!(patterns["best_variation"], "var-002");
    holds(&patterns["cost_efficiency"][0], &["variation_id", "runs_per_dollar"]);
    near(&patterns["cost_efficiency"][0]["runs_per_dollar"], 3.0 / 0.0009);
    assert_eq!(patterns["failure_modes"], json!([]));

    // Columns stand below each other: what is between two cells is of no account here.
    let report = left.text("analysis/analysis-report.md");
    let widths: Vec<usize> =
        report.lines().filter(|line| line.starts_with("| var-")).map(|line| line.chars().count()).take(2).collect();
    assert_eq!(widths[0], widths[1], "{report}");
    let line = |line: &str| format!("{}\n", line.split_whitespace().collect::<Vec<_>>().join(" "));
    let report: String = report.lines().map(line).collect();
    for part in [
        "# Regulation Study: analysis",
        "## Overall success rate",
        "6 of 6 runs",
        "## Metrics after the last turn",
        "| cooperation_level | 6 | 0 | 5 | 2.828 | 1 | 8 | 6 |",
        "## Variations",
        "### cooperation_level, best first",
        "## Cost efficiency",
        "## Patterns",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
}

#[test]
fn a_person_is_told_how_the_batch_ended() {
    let left = compared(json!({}));
    let closing = tiltmeter_experiments::kind_of(&left.plan).unwrap().closing(&left.ran()).unwrap();
    assert!(closing.contains("SCENARIO BATCH COMPLETE - SUMMARY"), "{closing}");
    assert!(closing.contains("Planned runs: 6\nCompleted: 6\nFailed: 0\n"), "{closing}");
    assert!(closing.contains("var-002: 3/3 regulator=soft"), "{closing}");
}
