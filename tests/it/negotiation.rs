//! Tests of `kind: negotiation`: the matrix and its numbers, what is played, what an invalid proposal is worth, which
//! files there are and when, what is kept of a run that fails, and what a person is told.

mod figures;
mod plan;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tiltmeter::session::{self, ModelOptions, RunOptions, RunReport};
use tiltmeter_experiments::{RunEnd, RunRecord, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Progress, StopSignal, TOO_LONG};
use tiltmeter_test_support::{
    paths::{in_repo, json},
    process::files,
};

/// A place for one experiment and what it leaves.
struct Desk {
    home: tempfile::TempDir,
}

/// Programmed bargainers, one cell; the keys given win.
fn experiment(keys: Value) -> Value {
    let mut whole = json!({
        "kind": "negotiation", "experiment": "bargain",
        "weak_models": [{"name": "programmed", "strategy": "fair"}],
        "strong_models": [{"name": "programmed", "strategy": "greedy"}],
        "competition_levels": [0.5],
    });
    whole.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    whole
}

/// A model that answers by rules over the last message.
fn scripted(label: &str, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|(when, reply)| json!({"when": when, "reply": reply})).collect();
    json!({"name": "scripted", "label": label, "script": rules})
}

const FOUR_TO_ONE: &str =
    r#"{"allocation": {"Alpha": ["Anchor"], "Beta": ["Basket", "Candle", "Drum", "Easel"]}, "reasoning": "so"}"#;
const ACCEPT: &str = r#"{"votes": {"1": "accept", "2": "accept"}, "reasoning": "well"}"#;

/// Proposes the same split in either seat and accepts everything.
fn agreeable(label: &str) -> Value {
    scripted(label, &[("proposal\\] Propose", FOUR_TO_ONE), ("voting\\] Vote", ACCEPT), (".", "Let us agree.")])
}

impl Desk {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    fn write(&self, experiment: &Value) -> PathBuf {
        let path = self.home.path().join("experiment.json");
        fs::write(&path, experiment.to_string()).unwrap();
        path
    }

    fn run(&self, experiment: &Value) -> RunReport {
        self.run_so(experiment, RunOptions::default())
    }

    fn run_so(&self, experiment: &Value, running: RunOptions) -> RunReport {
        let loaded = session::load(&self.write(experiment), &[]).expect("a good experiment");
        let prepared =
            session::prepare(loaded, &ModelOptions::default()).map_err(|p| format!("{p:?}")).expect("it opens");
        let running = RunOptions { out: Some(self.out()), ..running };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(prepared.run(&running, Arc::<Progress>::default(), StopSignal::new())).expect("it runs")
    }

    /// Why it cannot be run.
    fn refused(&self, experiment: &Value) -> Vec<Problem> {
        match session::load(&self.write(experiment), &[]) {
            Err(problems) => problems,
            Ok(loaded) => session::prepare(loaded, &ModelOptions::default()).err().expect("it is refused"),
        }
    }

    fn result(&self, pair: &str, level: &str, index: usize) -> Value {
        json(self.out().join(format!("{pair}/comp_{level}/result_{index}.json")))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.out().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn plan_of(folder: &Path) -> Value {
    json(folder.join("plan.json"))["document"].clone()
}

fn ran(sitting: &RunReport) -> Vec<RunRecord> {
    sitting.summary.runs.clone()
}

#[test]
fn the_files_of_a_sweep_are_those_of_the_guide() {
    let desk = Desk::new();
    let whole = experiment(json!({
        "weak_models": [{"name": "programmed", "label": "w0"}, {"name": "programmed", "label": "w1"}],
        "strong_models": [
            {"name": "programmed", "strategy": "greedy", "label": "s0"},
            {"name": "programmed", "strategy": "conceder", "label": "s1"},
        ],
        "competition_levels": [0.1, 0.5, 1.0],
    }));
    let sitting = desk.run(&whole);
    assert_eq!((sitting.summary.completed, sitting.summary.failed), (12, 0));
    let config = json(desk.out().join("configs/config_7.json"));
    assert_eq!(
        config,
        json!({
            "experiment_id": 7, "weak_model": "w1", "strong_model": "s0", "competition_level": 0.5, "num_items": 5,
            "max_rounds": 10, "random_seed": 49, "output_dir": "w1_vs_s0/comp_0.5",
        })
    );
    let found = files(&desk.out());
    for i in 0..12 {
        assert!(found.contains_key(&format!("configs/config_{i}.json")));
        assert!(found.contains_key(&format!("logs/experiment_{i}.log")));
        assert!(found.contains_key(&format!("logs/completed_{i}.flag")));
    }
    assert!(found.contains_key("w0_vs_s1/comp_1.0/result_5.json"));
    let all = json(desk.out().join("all_results.json"));
    let ids: Vec<u64> =
        all.as_array().unwrap().iter().map(|result| result["experiment_id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (0..12).collect::<Vec<u64>>());
    let csv = desk.read("results.csv");
    let header = csv.lines().next().unwrap();
    assert!(
        header.starts_with(
            "experiment_id,weak_model,strong_model,competition_level,num_items,max_rounds,random_seed,status,consensus_reached,"
        ),
        "{header}"
    );
    assert_eq!(csv.lines().count(), 13);
    assert!(csv.lines().nth(8).unwrap().starts_with("7,w1,s0,0.5,5,10,49,SUCCESS,"));
    let summary = json(desk.out().join("summary.json"));
    assert_eq!((&summary["total_experiments"], &summary["successful"]), (&json!(12), &json!(12)));
    assert_eq!(summary["success_rate"], 1.0);
    assert_eq!(summary["by_model_pair"].as_object().unwrap().len(), 4);
    assert_eq!(summary["by_model_pair"]["w1_vs_s0"]["successful"], 3);
    assert_eq!(summary["by_competition_level"]["1.0"]["successful"], 4);
    assert!(sitting.closing.as_ref().unwrap().contains("NEGOTIATION SWEEP COMPLETE - SUMMARY"));
    for name in ["runs.parquet", "turns.parquet", "methods.md"] {
        assert!(desk.out().join(name).is_file(), "{name}");
    }
    let kind = kind_of(&plan_of(&desk.out())).unwrap();
    assert_eq!(ran(&sitting).iter().flat_map(|run| kind.defects(run)).collect::<Vec<_>>(), []);
    assert_eq!(kind.plan_files().len(), 12, "configs are made of the plan alone");
}

#[test]
fn a_result_tells_who_got_what_and_it_adds_up() {
    let desk = Desk::new();
    desk.run(&experiment(json!({"weak_models": [agreeable("w")], "strong_models": [agreeable("s")]})));
    let result = desk.result("w_vs_s", "0.5", 0);
    assert_eq!((&result["job_id"], &result["status"], &result["error"]), (&json!(0), &json!("SUCCESS"), &Value::Null));
    assert_eq!((&result["consensus_reached"], &result["final_round"]), (&json!(true), &json!(1)));
    assert_eq!(result["final_allocation"]["Alpha"], json!(["Anchor"]));
    let worth = |agent: usize, items: &[&str]| -> f64 {
        items.iter().map(|item| result["agents"][agent]["values"][*item].as_f64().unwrap()).sum()
    };
    assert_eq!((&result["agents"][0]["side"], &result["agents"][1]["model"]), (&json!("weak"), &json!("s")));
    let (weak, strong) = (worth(0, &["Anchor"]), worth(1, &["Basket", "Candle", "Drum", "Easel"]));
    let near = |key: &str, expected: f64| {
        let found = result[key].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-9, "{key}: {found} is not {expected}");
    };
    near("weak_utility", weak);
    near("strong_utility", strong);
    near("strong_share", strong / (weak + strong));
    near("exploitation", strong / (weak + strong) - result["strong_fair_share"].as_f64().unwrap());
    assert!((result["cosine_similarity"].as_f64().unwrap() - 0.5).abs() <= 1e-6);
    assert_eq!(result["winner_agent_id"], if strong > weak { "Beta" } else { "Alpha" });
    let log = result["conversation_logs"].as_array().unwrap();
    let phases: Vec<&str> = log.iter().map(|entry| entry["phase"].as_str().unwrap()).collect();
    assert_eq!(
        phases,
        ["discussion", "discussion", "thinking", "thinking", "proposal", "proposal", "voting", "voting"]
    );
    assert_eq!((&log[0]["public"], &log[2]["public"]), (&json!(true), &json!(false)));
    assert_eq!(log[6]["votes"], json!(["accept", "accept"]));
}

#[test]
fn an_unreadable_proposal_is_counted_and_gives_nobody_anything() {
    let desk = Desk::new();
    let mute = scripted("mute", &[("proposal\\] Propose", "I take everything."), (".", "Hm.")]);
    let sitting = desk.run(&experiment(json!({
        "weak_models": [agreeable("w")], "strong_models": [mute.clone()], "max_rounds": 2,
    })));
    assert_eq!(sitting.summary.completed, 1);
    let result = desk.result("w_vs_mute", "0.5", 0);
    assert_eq!((&result["consensus_reached"], &result["invalid_proposals"]), (&json!(false), &json!(2)));
    assert_eq!(result["missing_votes"], 2, "`Hm.` is no vote on the one valid proposal of each round");
    assert_eq!((&result["weak_utility"], &result["strong_utility"]), (&json!(0.0), &json!(0.0)));
    assert_eq!((&result["exploitation"], &result["winner_agent_id"]), (&Value::Null, &Value::Null));
    assert!(desk.read("logs/experiment_0.log").contains("invalid: no JSON object can be read in it"));
    assert!(!desk.read("results.csv").lines().nth(1).unwrap().contains("null"));

    let desk = Desk::new();
    desk.run(&experiment(json!({"weak_models": [mute.clone()], "strong_models": [mute], "max_rounds": 1})));
    let result = desk.result("mute_vs_mute", "0.5", 0);
    let phases = result["conversation_logs"].as_array().unwrap().len();
    assert_eq!((phases, &result["final_round"]), (6, &json!(1)), "nothing to vote on");
}

#[test]
fn what_one_says_the_other_reads_and_what_it_thinks_the_other_does_not() {
    let desk = Desk::new();
    let open = scripted(
        "open",
        &[("thinking\\] Think", "SECRET-THOUGHT"), ("discussion\\] Speak", "PUBLIC-WORD"), (".", "x")],
    );
    let heard = scripted("heard", &[("SECRET-THOUGHT", "LEAK"), ("PUBLIC-WORD", "HEARD"), (".", "y")]);
    desk.run(&experiment(json!({"weak_models": [open], "strong_models": [heard], "max_rounds": 2})));
    let result = desk.result("open_vs_heard", "0.5", 0);
    let said: Vec<&str> = result["conversation_logs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["agent_id"] == "Beta")
        .map(|entry| entry["content"].as_str().unwrap())
        .collect();
    assert!(said.contains(&"HEARD") && !said.contains(&"LEAK"), "{said:?}");
}

#[test]
fn the_strong_side_opens_where_the_experiment_says_so() {
    let desk = Desk::new();
    let sitting = desk.run(&experiment(json!({"orders": "both", "repetitions": 2})));
    assert_eq!(sitting.summary.completed, 4);
    let pair = "programmed-fair_vs_programmed-greedy";
    let order = |i: usize| desk.result(pair, "0.5", i);
    assert_eq!((&order(0)["order"], &order(0)["agents"][0]["side"]), (&json!("weak_first"), &json!("weak")));
    assert_eq!((&order(1)["order"], &order(1)["agents"][0]["side"]), (&json!("strong_first"), &json!("strong")));
    assert_eq!((&order(2)["order"], &order(2)["repetition"]), (&json!("weak_first"), &json!(1)));
    assert_eq!(order(3)["random_seed"], 45);
    assert_ne!(order(0)["agents"][0]["values"], order(2)["agents"][0]["values"], "a repetition has values of its own");
    let ids: Vec<String> = sitting.summary.runs.iter().map(|run| run.key.id()).collect();
    assert!(ids.contains(&format!("{pair}_comp_0.5_strong_first-001")), "{ids:?}");
}

#[test]
fn a_run_that_failed_has_no_flag_and_says_why_and_a_retry_makes_it_whole() {
    let desk = Desk::new();
    // No rule matches the reflection, so the run fails after its first round.
    let stuck = scripted("w", &[("discussion\\]|thinking\\]|proposal\\]|voting\\]", "x")]);
    let whole =
        |weak: Value| experiment(json!({"weak_models": [weak], "max_rounds": 2, "competition_levels": [0.5, 0.9]}));
    let sitting = desk.run(&whole(stuck));
    assert_eq!((sitting.summary.completed, sitting.summary.failed), (0, 2));
    let found = files(&desk.out());
    assert!(!found.keys().any(|name| name.ends_with(".flag")), "{:?}", found.keys());
    assert!(desk.read("logs/experiment_0.log").contains("\nFAILED: no rule of the script matches"));
    let pair = "w_vs_programmed-greedy";
    assert_eq!(desk.result(pair, "0.9", 1)["status"], "FAILED");
    let summary = json(desk.out().join("summary.json"));
    assert_eq!((&summary["failed"], &summary["success_rate"]), (&json!(2), &json!(0.0)));
    assert_eq!(summary["failed_experiments"][1]["experiment_id"], 1);
    let closing = sitting.closing.unwrap();
    assert!(closing.contains("Failed experiments:\n  0: no rule of the script matches"), "{closing}");

    let mended = scripted("w", &[("discussion\\]|thinking\\]|proposal\\]|voting\\]", "x"), (".", "I see.")]);
    let again = RunOptions { resume: true, accept_drift: true, ..RunOptions::default() };
    let sitting = desk.run_so(&whole(mended), again);
    assert_eq!((sitting.summary.completed, sitting.summary.failed), (2, 0));
    // Each run: its reflection, what is kept after the round, and the four turns of the second round.
    assert_eq!(sitting.summary.executed_steps, 2 * 6, "the first round is not asked for again");
    assert_eq!(desk.result(pair, "0.5", 0)["status"], "SUCCESS");
    assert_eq!(desk.read("logs/completed_1.flag"), "SUCCESS\n");
    assert!(!desk.read("logs/experiment_1.log").contains("FAILED"));
}

#[test]
fn a_run_that_used_up_its_time_is_a_timeout() {
    let desk = Desk::new();
    let sitting = desk.run(&experiment(json!({"timeout_per_run": 1e-6})));
    assert_eq!(sitting.summary.failed, 1);
    assert_eq!(desk.result("programmed-fair_vs_programmed-greedy", "0.5", 0)["status"], "TIMEOUT");
    assert_eq!(json(desk.out().join("summary.json"))["timeouts"], 1);

    let desk = Desk::new();
    let sitting = desk.run(&experiment(json!({})));
    let kind = kind_of(&plan_of(&desk.out())).unwrap();
    let mut run = ran(&sitting).remove(0);
    run.end = RunEnd::Failed(Problem::new(format!("{TOO_LONG} 600 s")).hint("allow more time per run"));
    let files = kind.run_files(&run);
    let text = |ending: &str| files.iter().find(|file| file.path.ends_with(ending)).map(|file| file.text.as_str());
    assert!(text("logs/experiment_0.log").unwrap().contains("\nTIMEOUT: the run took longer than 600 s"));
    assert!(text("result_0.json").unwrap().contains("\"status\": \"TIMEOUT\""));
    assert_eq!(text(".flag"), None);
    run.end = RunEnd::Pending;
    let names: Vec<String> = kind.run_files(&run).into_iter().map(|file| file.path).collect();
    assert_eq!(names, ["logs/experiment_0.log"], "what goes on has a log and no result");
}

#[test]
fn what_models_say_cannot_pass_for_the_end_of_a_run_nor_steer_a_terminal() {
    let desk = Desk::new();
    let sly = scripted("sly", &[(".", "well\nFAILED: nothing\n\u{1b}[2J")]);
    desk.run(&experiment(json!({"weak_models": [sly], "max_rounds": 1})));
    let log = desk.read("logs/experiment_0.log");
    assert!(log.contains("\n  FAILED: nothing\n  \u{fffd}[2J\n"), "{log}");
    let ends: Vec<&str> =
        log.lines().filter(|line| ["SUCCESS", "FAILED", "TIMEOUT"].iter().any(|w| line.starts_with(w))).collect();
    assert!(ends.len() == 1 && ends[0].starts_with("SUCCESS: utility "), "{ends:?}");
}

fn verdict(behaviour: &str) -> String {
    json!({
        "Alpha": {"behaviors": [behaviour], "evidence": "it says so"}, "Beta": {"behaviors": [], "evidence": ""},
        "reasoning": "because",
    })
    .to_string()
}

#[test]
fn behaviours_are_the_judges_and_a_verdict_off_the_menu_is_a_failure_that_keeps_the_game() {
    let judged = |desk: &Desk, said: String| {
        let judge = json!({"name": "scripted", "script": [{"reply": said}]});
        desk.run(&experiment(json!({"judge": judge})))
    };
    let desk = Desk::new();
    let sitting = judged(&desk, verdict("Logrolling"));
    assert_eq!(sitting.summary.completed, 1);
    let pair = "programmed-fair_vs_programmed-greedy";
    let result = desk.result(pair, "0.5", 0);
    assert_eq!(result["strategic_behaviors"]["agents"][0]["behaviors"], json!(["logrolling"]));

    let desk = Desk::new();
    let sitting = judged(&desk, verdict("bluffing"));
    let problem = sitting.summary.runs[0].failure().expect("a failure");
    assert!(problem.what.starts_with("judge failure: the behaviour \"bluffing\" is not on the menu"), "{problem}");
    let result = desk.result(pair, "0.5", 0);
    assert_eq!((&result["status"], &result["strategic_behaviors"]), (&json!("FAILED"), &Value::Null));
    assert!(result["final_utilities"]["Alpha"].is_number(), "the game is kept");
}

#[test]
fn the_same_sweep_comes_to_the_same_results() {
    let results = || {
        let desk = Desk::new();
        desk.run(&experiment(json!({"competition_levels": [0.0, 0.3, 1.0]})));
        let mut all = json(desk.out().join("all_results.json"));
        all.as_array_mut().unwrap().iter_mut().for_each(|result| {
            result.as_object_mut().unwrap().remove("timestamp");
        });
        all
    };
    assert_eq!(results(), results());
}

#[test]
fn what_does_not_follow_from_the_game_is_found() {
    let desk = Desk::new();
    let sitting = desk.run(&experiment(json!({})));
    let kind = kind_of(&plan_of(&desk.out())).unwrap();
    let found = |change: &dyn Fn(&mut RunRecord)| {
        let mut run = ran(&sitting).remove(0);
        change(&mut run);
        kind.defects(&run).into_iter().map(|problem| problem.what).collect::<Vec<_>>()
    };
    assert_eq!(found(&|_| ()), [""; 0]);
    let utility = found(&|run| {
        run.outcome.as_mut().unwrap().metrics.insert("strong_utility".to_owned(), 100.0);
    });
    assert!(utility.len() == 1 && utility[0].starts_with("the recorded `strong_utility` differs "), "{utility:?}");
    let turned = |pointer: &str, value: Value| {
        found(&|run| {
            let mut turns = json!(run.outcome.as_ref().unwrap().turns);
            *turns.pointer_mut(pointer).unwrap() = value.clone();
            run.outcome.as_mut().unwrap().turns = turns.as_array().unwrap().clone();
        })
    };
    assert!(turned("/0/seed", json!(7))[0].starts_with("the run was played with the seed 7"));
    assert!(turned("/0/agents/0/values/0", json!(77.0)).iter().any(|what| what.contains("cosine similarity")));
    assert!(turned("/1/phase", json!("voting"))[0].contains("break the rules of the game"));
    assert!(turned("/1/part", json!("nonsense")).iter().any(|what| what.contains("cannot be read")));
}

#[test]
fn the_shipped_local_sweep_runs_and_its_model_is_projected_in_every_reply() {
    let desk = Desk::new();
    let path = PathBuf::from(in_repo("experiments/bargain_local.yaml"));
    let set = [
        ("competition_levels", "[0.5]".to_owned()),
        ("max_rounds", "1".to_owned()),
        ("sampling.max_new_tokens", "6".to_owned()),
        ("axis", in_repo("data/axes/quay_assistant.safetensors")),
        ("weak_models.1.name", in_repo("data/models/quay")),
    ];
    let set = set.map(|(key, value)| (key.to_owned(), value));
    let loaded = session::load(&path, &set).expect("it can be read");
    let prepared = session::prepare(loaded, &ModelOptions::default()).map_err(|p| format!("{p:?}")).expect("it opens");
    let running = RunOptions { out: Some(desk.out()), ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sitting =
        runtime.block_on(prepared.run(&running, Arc::<Progress>::default(), StopSignal::new())).expect("it runs");
    assert_eq!((sitting.summary.completed, sitting.summary.failed), (4, 0));
    let result = desk.result("quay_vs_programmed-greedy", "0.5", 2);
    let log = result["conversation_logs"].as_array().unwrap();
    for entry in log.iter().filter(|entry| entry["model"] == "quay") {
        let read = &entry["activations"][0];
        assert_eq!((&read["axis"], &read["site"]), (&json!("quay-assistant"), &json!("block.4.out")));
    }
    assert!(result["invalid_proposals"].as_u64().unwrap() >= 1, "quay knows nothing of JSON");
    assert!(log.iter().any(|entry| entry["status"] == "programmed" && entry["activations"].is_null()));
}

#[test]
fn every_file_can_be_made_again_from_the_journal_and_the_folder_is_valid() {
    let desk = Desk::new();
    desk.run(&experiment(json!({"competition_levels": [0.2, 0.8], "orders": "both"})));
    let own = |name: &str| {
        let folders = ["configs/", "logs/", "programmed-fair_vs_programmed-greedy/"];
        folders.iter().any(|folder| name.starts_with(folder))
            || ["all_results.json", "summary.json", "results.csv", "game_logs.jsonl"].contains(&name)
    };
    let before = files(&desk.out());
    assert_eq!(before.keys().filter(|name| own(name)).count(), 4 * 4 + 4);
    for name in before.keys().filter(|name| own(name)) {
        fs::remove_file(desk.out().join(name)).unwrap();
    }
    session::collect(&desk.out()).expect("it is collected");
    let after = files(&desk.out());
    for name in before.keys().filter(|name| own(name)) {
        assert!(after.get(name) == before.get(name), "{name} is as it was");
    }
    let validation = session::validate(&desk.out()).expect("it is looked at");
    assert_eq!(validation.defects, []);
}
