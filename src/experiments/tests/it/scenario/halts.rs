//! Tests of runs that do not come to their end: they count as what they are, what they have is kept, and they go on.

use serde_json::{Value, json};
use tiltmeter_experiments::config::ScenarioSpec;
use tiltmeter_scheduler::{HaltReason, RunRecord, StopLevel, recorded};
use tiltmeter_store::RunFolder;

use super::{Left, Stage, folder, small, too_many_requests};

/// Three actors and the world over two turns: eight calls a run.
const CALLS: u64 = 8;

fn spec(runs: usize) -> ScenarioSpec {
    small(&folder("turns: 2\n", ""), json!({"runs_per_variation": runs}))
}

fn word(left: &Left, run: usize) -> Value {
    left.json(&format!("runs/var-001-run-{run:03}/scenario-state.json"))["status"].clone()
}

#[test]
fn a_run_over_its_own_limit_is_left_alone_and_goes_on_when_the_limit_is_raised() {
    let stage = Stage::of(spec(2)).priced(100).limited(None, Some(550));
    let left = stage.run();
    assert_eq!((left.summary.completed, left.summary.failed, left.summary.pending), (0, 0, 2));
    assert_eq!(left.summary.halt.as_ref().unwrap().reason, HaltReason::RunBudget);
    let costs = left.json("batch-costs.json");
    assert_eq!(costs["summary"]["runs_budget_exceeded"], 2);
    assert_eq!(
        (&costs["summary"]["total_spent"], &costs["summary"]["cost_per_run_limit"]),
        (&json!(0.001), &json!(0.00055))
    );
    assert_eq!(costs["run_costs"][0]["status"], "cost_limit");
    let summary = left.json("batch-summary.json");
    assert_eq!((&summary["runs_completed"], &summary["runs_halted"]), (&json!(0), &json!(2)));
    assert_eq!(summary["halted_runs"][0]["status"], "cost_limit");
    let state = left.json("runs/var-001-run-001/scenario-state.json");
    assert_eq!(
        (&state["status"], &state["halt_reason"], &state["current_turn"]),
        (&json!("cost_limit"), &json!("run_budget"), &json!(1))
    );
    assert!(left.text("runs/var-001-run-001/scenario.log").contains("left (cost_limit)"));
    assert_eq!(left.json("analysis/patterns.json")["success_rate"], 0.0);
    assert_eq!(left.json("runs/var-001-run-001/metrics.json")["final_metrics"], json!({}), "nothing is final");

    let left = Stage::of(stage.spec.clone()).priced(100).limited(None, Some(10_000)).run_in(left.home);
    assert_eq!((left.summary.completed, left.summary.pending), (2, 0));
    assert_eq!(left.seen.len() as u64, 2 * (CALLS - 5), "nothing is paid twice");
    assert_eq!(left.json("batch-costs.json")["summary"]["total_spent"], json!(0.0016));
    assert_eq!(left.json("batch-costs.json")["summary"]["runs_budget_exceeded"], 0);
    assert_eq!(left.json("analysis/patterns.json")["success_rate"], 1.0);
    assert_eq!(word(&left, 1), "completed");
}

#[test]
fn a_run_over_its_limit_can_end_the_batch() {
    let stage = |ends| Stage { run_limit_ends_batch: ends, ..Stage::of(spec(3)).priced(100).limited(None, Some(550)) };
    let begun = |left: &Left| left.json("batch-costs.json")["run_costs"].as_array().unwrap().len();
    assert_eq!(begun(&stage(false).run()), 3);
    let left = stage(true).run();
    assert_eq!((begun(&left), left.summary.pending), (1, 3));
    assert_eq!(left.json("batch-summary.json")["runs_pending"], 3);
    assert_eq!(left.json("analysis/patterns.json")["total_runs"], 1, "what was not begun did not fail");
}

#[test]
fn the_batchs_limit_stops_it_and_saves_the_state() {
    let left = Stage::of(spec(3)).priced(100).limited(Some(1_200), None).run();
    assert_eq!((left.summary.completed, left.summary.pending), (1, 2));
    let state = left.json("batch-state.json");
    assert_eq!(state["completed_runs"], json!(["var-001-run-001"]));
    assert_eq!(state["halted_runs"][0]["status"], "budget_limit");
    assert_eq!(word(&left, 2), "budget_limit");
    let costs = left.json("batch-costs.json");
    assert_eq!(
        (&costs["summary"]["budget_limit"], &costs["summary"]["remaining_budget"]),
        (&json!(0.0012), &json!(0.0))
    );
    let patterns = left.json("analysis/patterns.json");
    assert_eq!(
        (&patterns["total_runs"], &patterns["successful_runs"], &patterns["success_rate"]),
        (&json!(2), &json!(1), &json!(0.5))
    );
    let left = Stage::of(spec(3)).priced(100).limited(Some(2_400), None).run_in(left.home);
    assert_eq!((left.summary.completed, left.seen.len() as u64), (3, 2 * CALLS - 4));
}

#[test]
fn an_account_that_has_run_dry_is_no_success() {
    let left = Stage::of(spec(2)).answers("ben", |_| Err(too_many_requests())).run();
    assert_eq!((left.summary.completed, left.summary.pending), (0, 2));
    assert_eq!(word(&left, 1), "quota");
    let patterns = left.json("analysis/patterns.json");
    assert_eq!((&patterns["successful_runs"], &patterns["success_rate"]), (&json!(0), &json!(0.0)));
    assert_eq!(patterns["failure_modes"][0]["mode"], "quota");
    assert!(left.text("analysis/analysis-report.md").contains("is no success"));
}

#[test]
fn a_run_that_fails_keeps_its_turns_and_says_why() {
    let left = Stage::of(spec(1))
        .answers("world", |request| {
            Ok(if request.messages[1].content.contains("Turn 2 of") { " " } else { "A state." }.to_owned())
        })
        .run();
    assert_eq!(left.summary.failed, 1);
    let summary = left.json("batch-summary.json");
    assert_eq!((&summary["runs_failed"], &summary["runs_completed"]), (&json!(1), &json!(0)));
    let failed = &summary["failed_runs"][0];
    assert_eq!((&failed["run_id"], &failed["status"]), (&json!("var-001-run-001"), &json!("failed")));
    assert!(failed["error"].as_str().unwrap().contains("an empty state"), "{failed}");
    let run = "runs/var-001-run-001";
    assert_eq!(left.json(&format!("{run}/scenario-state.json"))["current_turn"], 1);
    assert!(left.text(&format!("{run}/world-state-001.md")).contains("A state."));
    assert!(left.text(&format!("{run}/scenario.log")).contains("failed: "));
    let left = Stage::of(spec(1)).run_in(left.home);
    assert_eq!((left.summary.completed, left.seen.len()), (1, 1), "only the state that was missing is asked for");
}

#[test]
fn a_stop_leaves_runs_that_go_on_in_mid_conversation() {
    let stage = Stage::of(spec(2));
    let stop = stage.stop.clone();
    let left = stage
        .answers("cay", move |_| {
            stop.raise(StopLevel::Stop);
            Ok("ACTION\nI wait.".to_owned())
        })
        .run();
    assert_eq!((left.summary.completed, left.summary.pending), (0, 2));
    assert_eq!(word(&left, 1), "incomplete");
    let state = left.json("batch-state.json");
    assert_eq!((&state["completed_runs"], &state["failed_runs"]), (&json!([]), &json!([])));
    let before = left.seen.len();
    let left = Stage::of(spec(2)).run_in(left.home);
    assert_eq!((left.summary.completed, before + left.seen.len()), (2, 2 * CALLS as usize), "no call is made twice");
}

#[test]
fn what_a_run_kept_turn_by_turn_is_read_back_whole_from_a_journal_that_grows_with_its_turns() {
    let spec = |turns: usize| {
        let metrics = "metrics:\n  level: {pattern: 'turn (\\d+)', type: int}\n";
        small(&folder(&format!("turns: {turns}\n"), metrics), json!({}))
    };
    let played = |turns: usize, last: usize| {
        Stage::of(spec(turns))
            .answers("world", move |request| {
                let told = &request.messages[1].content;
                let turn: usize = told.split("Turn ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
                Ok(if turn > last { String::new() } else { format!("The world after turn {turn}.") })
            })
            .run()
    };
    let left = played(9, 6);
    assert_eq!(left.summary.failed, 1);
    let of = |runs: &[RunRecord]| {
        let run = runs.iter().find(|run| run.key.id() == "var-001-run-001").unwrap();
        run.outcome.clone().expect("a checkpoint")
    };
    let kept = of(&left.summary.runs);
    let turns: Vec<u64> = kept.turns.iter().map(|turn| turn["turn"].as_u64().unwrap()).collect();
    assert_eq!(turns, [1, 2, 3, 4, 5, 6]);
    let recorded = recorded(&RunFolder::at(left.home.path())).unwrap();
    assert_eq!(of(&recorded.runs), kept);

    let left = Stage::of(spec(9)).answers("world", |_| Ok("It goes on.".to_owned())).run_in(left.home);
    assert_eq!(left.summary.completed, 1, "it goes on with them");

    let bytes = |turns| {
        let left = played(turns, turns);
        assert_eq!(left.summary.completed, 1);
        std::fs::metadata(left.home.path().join("journal.jsonl")).unwrap().len() as f64
    };
    let (few, many) = (bytes(16), bytes(64));
    assert!(many / few < 4.2, "{few} bytes with 16 turns, {many} with 64");
}
