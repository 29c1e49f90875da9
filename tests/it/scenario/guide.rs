//! Tests of the guide's batch as a person carries it out, with its own file and the program: planned without a key, run
//! side by side, interrupted, killed, gone on with, analysed; the files it leaves, and where its limits end it.

mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltmeter_test_support::{
    fault_server::{Act, FaultServer, PROMPT_TOKENS, REPLY_TOKENS, Received},
    paths::{in_repo, json as read_json},
    process::{Finished, files},
};

use crate::crash::books::Books;
use tree::{every_file_of_the_guide, holds};

/// The configuration of the scenario guide.
const GUIDE: &str = include_str!("../../fixtures/scenario_guide.yaml");
/// Where the guide's file stands, and where its results go.
const FILE: &str = "experiments/my-experiment/batch-config.yaml";
const OUT: &str = "experiments/my-experiment";
const RUNS: usize = 40;
/// Two actors and the world.
const CALLS_A_TURN: usize = 3;
/// Of a reply. What comes sooner after another came from a run beside it.
const DELAY: Duration = Duration::from_millis(15);

/// Dollars per million tokens at which every call costs a quarter of a dollar.
const PRICE: (u64, u64) = (8, 31_229);
const CALL_MICRO_USD: u64 = 250_000;

/// A folder as the guide has it: its file, as it stands, and its scenario.
struct Desk {
    home: TempDir,
}

impl Desk {
    /// `further` stands after the guide's file; `turns` are what its scenario has.
    fn new(turns: usize, further: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let scenario = home.path().join("scenarios/test-regulation-negotiation");
        for (name, bytes) in files(Path::new(&in_repo("experiments/scenarios/test-regulation-negotiation"))) {
            let text = String::from_utf8(bytes).unwrap().replace("\nturns: 5\n", &format!("\nturns: {turns}\n"));
            fs::create_dir_all(scenario.join(&name).parent().unwrap()).unwrap();
            fs::write(scenario.join(name), text).unwrap();
        }
        fs::create_dir_all(home.path().join(OUT)).unwrap();
        fs::write(home.path().join(FILE), format!("{GUIDE}{further}")).unwrap();
        Self { home }
    }

    /// With its models behind this server instead of the providers'.
    fn served(turns: usize, server: &FaultServer, further: &str) -> Self {
        let (url, (input, output)) = (server.base_url(), PRICE);
        let model = |name: &str| {
            format!("  {name}: {{name: {name}, base_url: \"{url}\", price: {{input: {input}, output: {output}}}}}\n")
        };
        let models = model("openai/gpt-4o-mini") + &model("anthropic/claude-3-haiku");
        let fast = "{requests_per_minute: 1000000}";
        Self::new(turns, &format!("models:\n{models}lanes: {{openai: {fast}, anthropic: {fast}}}\n{further}"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tiltmeter(arguments);
        command.current_dir(self.home.path());
        for key in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"] {
            command.env(key, "sk-of-nobody");
        }
        command
    }

    async fn ended(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || Finished::of(&mut command)).await.unwrap()
    }

    async fn run(&self, further: &[&str]) -> Finished {
        self.ended(&[&["run", FILE], further].concat()).await
    }

    fn out(&self, path: &str) -> PathBuf {
        self.home.path().join(OUT).join(path)
    }

    fn json(&self, path: &str) -> Value {
        read_json(self.out(path))
    }

    /// How many runs each variation has done.
    fn done(&self) -> BTreeMap<String, usize> {
        let mut done: BTreeMap<String, usize> = (1..=4).map(|n| (format!("var-{n:03}"), 0)).collect();
        let mut seen = BTreeSet::new();
        for run in self.json("batch-state.json")["completed_runs"].as_array().unwrap() {
            let run = run.as_str().unwrap().to_owned();
            *done.get_mut(run.split("-run-").next().unwrap()).unwrap() += 1;
            assert!(seen.insert(run.clone()), "{run} is listed twice");
        }
        done
    }
}

/// What the models say: a decision, or what the world became.
fn says(n: usize, received: &Received) -> String {
    match received.body.to_string().contains("You keep the state of this world") {
        true => format!(
            "The talks go on.\nINDICATORS\ncooperation_level: {}\nsafety_commitment: 6.5\nagreement_reached: yes\npublic_mood: calm",
            n % 10
        ),
        false => {
            "REASONING\nIt is time.\nACTION\nWe propose sixty days.\nINDICATORS\nrelease_delay_weeks: 4".to_owned()
        }
    }
}

/// Waits until the server has billed so many calls.
async fn billed(server: &FaultServer, calls: usize, child: &mut Child) {
    while server.bill().len() < calls {
        assert!(child.try_wait().unwrap().is_none(), "it ended after {} calls", server.bill().len());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn interrupt(child: &Child) {
    Command::new("sh").args(["-c", &format!("kill -INT {} 2>/dev/null", child.id())]).status().unwrap();
}

#[test]
fn the_guides_file_as_it_stands_is_planned_without_a_key() {
    let desk = Desk::new(5, "");
    let before = files(desk.home.path());
    let mut command = desk.command(&["plan", FILE]);
    command.env_remove("OPENAI_API_KEY").env_remove("ANTHROPIC_API_KEY");
    let ended = Finished::of(&mut command);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for part in [
        "4 variations x 10 runs = 40",
        "var-004: regulator=anthropic/claude-3-haiku, tech-company=anthropic/claude-3-haiku",
        "600 paid calls, $",
        "cooperation_level",
    ] {
        assert!(ended.stdout.contains(part), "{part}\n{}", ended.stdout);
    }
    for key in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"] {
        assert_eq!(
            ended.stderr.matches(&format!("note: a run needs this: {key} is not set")).count(),
            1,
            "{}",
            ended.stderr
        );
    }
    let mut command = desk.command(&["run", FILE]);
    let ended = Finished::of(command.env_remove("OPENAI_API_KEY").env_remove("ANTHROPIC_API_KEY"));
    assert_eq!((ended.code, ended.problems().len()), (Some(2), 3), "{}", ended.stderr);
    assert!(ended.problems()[0].contains("2 prerequisites are missing"), "{}", ended.stderr);
    assert!(before == files(desk.home.path()), "nothing is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_runs_are_interrupted_killed_completed_and_analysed() {
    const TURNS: usize = 2;
    const CALLS: usize = RUNS * TURNS * CALLS_A_TURN;
    let server = FaultServer::start(|n, received| Act::Late(DELAY, says(n, received))).await;
    // The quarter dollars of this server would end the guide's own budget.
    let desk = Desk::served(TURNS, &server, "");
    let raised = ["--set", "budget_limit=1000", "--set", "cost_per_run_limit=100", "--progress", "plain"];
    let command = |further: &[&str]| desk.command(&[&["run", FILE], &raised[..], further].concat());

    // Ctrl+C, twice.
    let mut child = command(&[]).spawn().unwrap();
    billed(&server, 60, &mut child).await;
    interrupt(&child);
    tokio::time::sleep(2 * DELAY).await;
    interrupt(&child);
    let ended: Finished = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap().into();
    assert_eq!(ended.code, Some(130), "{}\n{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.contains("SCENARIO BATCH INCOMPLETE") && ended.stderr.contains("continue with tiltmeter run"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.lines().any(|line| line.starts_with("[") && line.contains("/40] Completed: ")),
        "{}",
        ended.stderr
    );
    let done: usize = desk.done().values().sum();
    assert!((1..RUNS).contains(&done), "{done} runs are done");
    let before_kill = server.bill().len();
    assert!((60..CALLS).contains(&before_kill), "{before_kill} calls");
    let books = Books::read(&desk.home.path().join(OUT));
    assert_eq!((books.paid_steps, books.open_attempts), (before_kill, 0), "every reply is kept");
    let arrived: Vec<_> = server.received().iter().map(|received| received.at).collect();
    let beside = arrived.windows(2).filter(|pair| pair[1] - pair[0] < DELAY).count();
    assert!(beside > 10, "only {beside} calls were made while another was answered");

    // Gone on with, looked at from outside, and killed.
    let mut child = command(&["--resume"]).spawn().unwrap();
    billed(&server, before_kill + 60, &mut child).await;
    let ended = desk.ended(&["analyze", OUT, "--json"]).await;
    assert!(child.try_wait().unwrap().is_none(), "it should be running still");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("note: the batch is still running"), "{}", ended.stderr);
    let seen: Value = serde_json::from_str(&ended.stdout).unwrap();
    let so_far = seen["runs_completed"].as_u64().unwrap();
    assert_eq!((&seen["under_way"], &seen["runs_planned"]), (&json!(true), &json!(RUNS)));
    assert!(so_far >= done as u64 && so_far < RUNS as u64, "{so_far}");
    assert_eq!(seen["patterns"]["total_runs"], so_far, "what is under way is left out");
    child.kill().unwrap();
    child.wait().unwrap();

    // The last line of the journal may be torn; what comes before it stands.
    let journal = desk.out("journal.jsonl");
    let torn = [fs::read(&journal).unwrap(), b"0000 {\"n\":".to_vec()].concat();
    fs::write(&journal, torn).unwrap();
    let ended = desk.ended(&["analyze", OUT]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("note: the batch is not complete") && ended.stderr.contains("--resume"),
        "{}",
        ended.stderr
    );

    let ended = Finished::of(&mut command(&["--resume"]));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.contains("SCENARIO BATCH COMPLETE") && ended.stderr.contains("[40/40] Completed: 40"),
        "{}",
        ended.stderr
    );
    assert!(desk.done().values().all(|n| *n == 10), "{:?}", desk.done());
    let books = Books::read(&desk.home.path().join(OUT));
    assert_eq!((books.done, books.done_twice, books.steps_twice, books.paid_steps), (RUNS, 0, 0, CALLS));
    let bill = server.bill().len();
    assert!(
        (CALLS..=CALLS + 2).contains(&bill),
        "{bill} calls are billed: only those under way at the kill are made again"
    );

    for name in ["analysis-report.md", "metrics-analysis.json", "variation-statistics.json", "patterns.json"] {
        fs::remove_file(desk.out(&format!("analysis/{name}"))).unwrap();
    }
    let said = desk.ended(&["analyze", &format!("{OUT}/"), "--report"]).await.success();
    let page = fs::read_to_string(desk.out("analysis/analysis-report.md")).unwrap();
    assert!(said.starts_with(&page) && said.contains("analysis-report.md\n"), "{said}");
    for part in
        ["40 of 40 runs", "**100.0%**", "| cooperation_level ", "best first", "## Cost efficiency", "## Patterns"]
    {
        assert!(page.contains(part), "{part}\n{page}");
    }
    every_file_of_the_guide(&desk, TURNS);
    let validated = desk.ended(&["validate", OUT]).await.success();
    assert!(validated.contains("all 40 planned runs are done"), "{validated}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_thirty_dollars_stops_at_twenty_with_as_many_runs_of_each_variation_and_goes_on() {
    const CALLS: usize = RUNS * CALLS_A_TURN;
    let server = FaultServer::start(|n, received| Act::Reply(says(n, received))).await;
    // A call may cost up to thirty cents and costs twenty-five.
    let desk = Desk::served(1, &server, "sampling: {max_new_tokens: 8}\nworld_max_tokens: 8\n");
    assert_eq!(PROMPT_TOKENS * PRICE.0 + REPLY_TOKENS * PRICE.1, CALL_MICRO_USD);
    assert_eq!(CALLS as u64 * CALL_MICRO_USD, 30_000_000);
    let bill = || server.bill().len() as u64 * CALL_MICRO_USD;

    let ended = desk.run(&[]).await;
    assert_eq!(ended.code, Some(3), "{}\n{}", ended.stdout, ended.stderr);
    let problem = &ended.problems()[0];
    assert!(problem.contains("Budget limit reached") && problem.contains("of $20.00 are spent"), "{problem}");
    assert!(
        problem.contains("raise budget_limit") && problem.contains(&format!("tiltmeter run {FILE} --resume")),
        "{problem}"
    );
    assert!((19_000_000..=20_000_000).contains(&bill()), "{} micro-dollars of 20 dollars", bill());
    let done = desk.done();
    let (least, most) = (done.values().min().unwrap(), done.values().max().unwrap());
    assert!(most - least <= 1 && *least >= 6, "{done:?}");
    let costs = desk.json("batch-costs.json");
    assert_eq!(costs["summary"]["total_spent"].as_f64(), Some(bill() as f64 / 1e6), "our books are the server's bill");
    assert_eq!(costs["summary"]["budget_limit"], json!(20.0));
    let patterns = desk.json("analysis/patterns.json");
    assert_eq!(patterns["successful_runs"], done.values().sum::<usize>(), "what was left is no success");

    let ended = desk.run(&["--resume", "--set", "budget_limit=40"]).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert!(desk.done().values().all(|n| *n == 10), "{:?}", desk.done());
    assert_eq!((server.bill().len(), bill()), (CALLS, 30_000_000), "nothing is billed twice");
    assert_eq!(desk.json("batch-costs.json")["summary"]["total_spent"], json!(30.0));
    assert!(ended.stdout.contains("spent      $30.00 of $40.00"), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_over_its_own_limit_ends_itself_or_the_batch_as_the_file_says() {
    for (ends, begun) in [("stop_run", 4), ("halt_batch", 1)] {
        let server = FaultServer::start(|n, received| Act::Reply(says(n, received))).await;
        let further = "sampling: {max_new_tokens: 8}\nworld_max_tokens: 8\n";
        let desk = Desk::served(1, &server, &format!("{further}on_run_cost_limit: {ends}\n"));
        let small = ["--set", "runs_per_variation=1", "--set", "max_parallel=1"];
        // Two calls of a quarter dollar, and no third.
        let ended = desk.run(&[&small[..], &["--set", "cost_per_run_limit=0.6"]].concat()).await;
        assert_eq!(ended.code, Some(3), "{ends}: {}\n{}", ended.stdout, ended.stderr);
        let problem = &ended.problems()[0];
        assert!(problem.contains("Budget limit of a run reached") && problem.contains("--resume"), "{problem}");
        assert_eq!(server.bill().len(), 2 * begun, "{ends}");
        let costs = desk.json("batch-costs.json");
        assert_eq!(
            (&costs["summary"]["runs_budget_exceeded"], &costs["summary"]["runs_completed"]),
            (&json!(begun), &json!(0))
        );
        assert_eq!(desk.json("runs/var-001-run-001/scenario-state.json")["status"], "cost_limit");
        assert!(
            fs::read_to_string(desk.out("runs/var-001-run-001/scenario.log")).unwrap().contains("left (cost_limit)")
        );

        let ended = desk.run(&[&small[..], &["--resume", "--set", "cost_per_run_limit=2"]].concat()).await;
        assert_eq!(ended.code, Some(0), "{ends}: {}\n{}", ended.stdout, ended.stderr);
        assert_eq!((desk.done().values().sum::<usize>(), server.bill().len()), (4, 4 * CALLS_A_TURN), "{ends}");
    }
}

/// The guide's models as scripts: no key, no server.
const SCRIPTS: &str = r#"models:
  openai/gpt-4o-mini: {name: scripted, script: [{when: "Write the new state", reply: "cooperation_level: 7"}, {reply: "ACTION\nWe sign."}]}
  anthropic/claude-3-haiku: {name: scripted, script: [{reply: "ACTION\nWe wait."}]}
"#;

#[test]
fn without_aggregation_only_the_analysis_that_is_asked_for_is_written() {
    let desk = Desk::new(1, SCRIPTS);
    let few = ["--set", "runs_per_variation=2", "--set", "aggregate_metrics=false"];
    Finished::of(&mut desk.command(&[&["run", FILE], &few[..]].concat())).success();
    assert!(!desk.out("analysis").exists());
    let said = Finished::of(&mut desk.command(&["analyze", OUT])).success();
    assert!(said.contains("8 of 8 runs") && said.contains("No run cost anything."), "{said}");
    let written: Vec<String> = files(&desk.out("analysis")).into_keys().collect();
    assert_eq!(written, ["metrics-analysis.json", "patterns.json", "variation-statistics.json"]);
    let ended = Finished::of(&mut desk.command(&["analyse", OUT, "--report", "--json"]));
    let document: Value = serde_json::from_str(&ended.clone().success()).unwrap();
    holds(
        &document,
        "folder under_way runs_planned runs_completed runs_failed metrics_analysis variation_statistics patterns",
    );
    assert_eq!(document["patterns"], desk.json("analysis/patterns.json"));
    assert!(
        desk.out("analysis/analysis-report.md").is_file() && ended.stderr.contains("analysis-report.md"),
        "{}",
        ended.stderr
    );
}

#[test]
fn what_cannot_be_analysed_is_told_in_one_error_and_left_as_it_is() {
    let desk = Desk::new(1, SCRIPTS);
    let wrong = |arguments: &[&str], what: &str, hint: &str| {
        let ended = Finished::of(&mut desk.command(arguments));
        let problems = ended.problems();
        assert_eq!((ended.code, problems.len()), (Some(2), 1), "{arguments:?}: {}\n{}", ended.stdout, ended.stderr);
        assert!(problems[0].contains(what) && problems[0].contains(hint), "{arguments:?}: {}", problems[0]);
        assert_eq!(ended.stdout, "");
    };
    wrong(&["analyze", "nowhere"], "there is no such folder", "check the path");
    fs::create_dir(desk.home.path().join("empty")).unwrap();
    wrong(&["analyze", "empty"], "no run is recorded in this folder", "give a run folder");
    wrong(&["analyze", FILE], "Not a directory", "a file, not a folder");

    let interview = json!({
        "kind": "interview", "experiment": "x", "prompt_set": in_repo("experiments/interviews/vault.yaml"),
        "steward": {"name": "scripted", "script": [{"reply": "No."}]}, "runs_per_variant": 1,
        "judge": {"name": "scripted", "script": [{"reply": json!({
            "strategy": "Evasion", "outcome": "VAULT PROTECTED", "reasoning": "r", "critical_response": "c",
            "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": true},
        }).to_string()}]},
    });
    fs::write(desk.home.path().join("x.json"), interview.to_string()).unwrap();
    Finished::of(&mut desk.command(&["run", "x.json", "--out", "x"])).success();
    wrong(&["analyze", "x"], "`kind: interview` has no `analyze` step", "tiltmeter report x");

    Finished::of(&mut desk.command(&["run", FILE, "--set", "runs_per_variation=1"])).success();
    let journal = desk.out("journal.jsonl");
    let mut damaged = fs::read(&journal).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    wrong(&["analyze", OUT], "of the journal is damaged", "put back an undamaged copy");
    assert!(fs::read(&journal).unwrap() == damaged, "it only reads");
}
