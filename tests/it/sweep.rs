//! Tests of a sweep that goes wrong: with calls that fail and processes that are killed, a run has its flag if and only if
//! it succeeded, a retry carries out exactly the rest, removing a flag carries out exactly that run anew, and the books are the bill.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tiltmeter_scheduler::seed_for;
use tiltmeter_test_support::{
    fault_server::{Act, FaultServer, Limit, PROMPT_TOKENS, REPLY_TOKENS, Received},
    paths::json,
    process::Finished,
};
use tokio::runtime::Runtime;

use crate::crash::books::Books;

/// At a dollar per million tokens.
const CALL_MICRO_USD: u64 = PROMPT_TOKENS + REPLY_TOKENS;
/// Two agents discuss, think, propose and vote once: they agree in the first round.
const CALLS: usize = 8;
const PARALLEL: &str = "8";

/// What a bargainer says, by what it is asked last.
fn answer(received: &Received) -> String {
    let last = received.body["messages"].as_array().and_then(|list| list.last()).unwrap();
    let asked = last["content"].as_str().unwrap();
    if asked.contains("proposal] Propose") {
        return r#"{"allocation": {"Alpha": ["Anchor", "Basket"], "Beta": ["Candle", "Drum", "Easel"]}, "reasoning": "so"}"#.into();
    }
    if asked.contains("voting] Vote") {
        return r#"{"votes": {"1": "accept", "2": "accept"}, "reasoning": "well"}"#.into();
    }
    "Let us agree.".into()
}

/// A sweep and the other side of it.
struct Sweep {
    home: tempfile::TempDir,
    server: FaultServer,
    /// Whether calls go wrong.
    stormy: Arc<AtomicBool>,
    /// Billed calls that no reply came of.
    wasted: Arc<AtomicUsize>,
    // Last, so that the server is gone before what it runs on.
    _runtime: Runtime,
}

impl Sweep {
    fn open(weak: usize, strong: usize, levels: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stormy, wasted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (storm, waste) = (stormy.clone(), wasted.clone());
        let server = runtime.block_on(FaultServer::start(move |n, received| {
            match seed_for(4, &format!("request {n}")) % 1000 {
                // Nothing that helps to try again: the run fails.
                0..8 if storm.load(Ordering::Relaxed) => Act::Status(400),
                8..12 if storm.load(Ordering::Relaxed) => Act::Limited(Limit::Seconds(0.02)),
                12..20 if storm.load(Ordering::Relaxed) => {
                    waste.fetch_add(1, Ordering::Relaxed);
                    Act::TruncatedJson
                }
                _ => Act::Late(Duration::from_millis(2), answer(received)),
            }
        }));
        let side = |what: &str, count: usize| -> Vec<Value> {
            let model = |i| {
                json!({
                    "name": format!("openai-compatible/{what}{i}"), "base_url": server.base_url(),
                    "price": {"input": 1, "output": 1},
                })
            };
            (0..count).map(model).collect()
        };
        let levels: Vec<f64> = (1..=levels).map(|level| level as f64 / 10.0).collect();
        let spec = json!({
            "kind": "negotiation", "experiment": "sweep", "weak_models": side("weak", weak),
            "strong_models": side("strong", strong), "competition_levels": levels, "sampling": {"max_new_tokens": 50},
        });
        fs::write(home.path().join("sweep.json"), spec.to_string()).unwrap();
        Self { home, server, stormy, wasted, _runtime: runtime }
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tiltmeter(arguments);
        command.current_dir(self.home.path());
        command
    }

    /// Begins or goes on.
    fn run(&self) -> Command {
        self.command(&["run", "sweep.json", "--resume", "--out", "out", "--parallel", PARALLEL, "--progress", "plain"])
    }

    fn billed(&self) -> usize {
        self.server.bill().len()
    }

    fn kill_when_billed(&self, calls: usize) {
        let mut child = self.run().spawn().unwrap();
        while self.billed() < calls {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {calls} calls were made");
            thread::sleep(Duration::from_micros(500));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Numbers of the runs that have a flag.
    fn flags(&self) -> BTreeSet<usize> {
        let names =
            fs::read_dir(self.out().join("logs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_prefix("completed_")?.strip_suffix(".flag")?.parse().ok()).collect()
    }

    /// `all_results.json` by number.
    fn results(&self) -> BTreeMap<usize, Value> {
        let results = json(self.out().join("all_results.json"));
        let number = |result: &Value| result["job_id"].as_u64().unwrap() as usize;
        results.as_array().unwrap().iter().map(|result| (number(result), result.clone())).collect()
    }
}

/// The journal's books and what is printed of money are the server's bill.
fn assert_paid(sweep: &Sweep, books: &Books) {
    let bill = sweep.billed() as u64 * CALL_MICRO_USD;
    let open = books.open_attempts as u64 * CALL_MICRO_USD;
    let settled = books.settled;
    assert!(settled <= bill && bill <= settled + open, "bill {bill}, settled {settled}, of unknown end at most {open}");
    let said = json(sweep.out().join("summary.json"))["spending"]["settled_usd"].as_f64().unwrap();
    assert_eq!((said * 1e6).round() as u64, settled);
}

#[test]
fn three_hundred_runs_with_failures_and_two_kills_are_retried_and_asked_for_again_one_by_one() {
    let sweep = Sweep::open(3, 10, 10);
    sweep.stormy.store(true, Ordering::Relaxed);
    sweep.kill_when_billed(600);
    sweep.kill_when_billed(1300);
    let ended = Finished::of(&mut sweep.run());
    assert_eq!(ended.code, Some(4), "{}\n{}", ended.stdout, ended.stderr);

    // A flag for success and for nothing else.
    let results = sweep.results();
    let of = |status: &str| -> BTreeSet<usize> {
        results.iter().filter(|(_, result)| result["status"] == status).map(|(number, _)| *number).collect()
    };
    let (successful, failed) = (of("SUCCESS"), of("FAILED"));
    assert_eq!(successful.len() + failed.len(), 300);
    assert!(!failed.is_empty() && failed.len() < 60, "{} failed", failed.len());
    assert_eq!(sweep.flags(), successful);
    let summary = json(sweep.out().join("summary.json"));
    assert_eq!((&summary["successful"], &summary["failed"]), (&json!(successful.len()), &json!(failed.len())));
    for number in &failed {
        let log = fs::read_to_string(sweep.out().join(format!("logs/experiment_{number}.log"))).unwrap();
        assert!(log.contains("\nFAILED: "), "{log}");
        assert!(ended.stdout.contains(&format!("\n  {number}: ")), "{number} is not in the list of failures");
    }
    let books = Books::read(&sweep.out());
    assert_eq!((books.done, books.done_twice, books.steps_twice), (successful.len(), 0, 0));
    assert_paid(&sweep, &books);

    // The retry: exactly the rest, from where each was, with the old logs put aside.
    sweep.stormy.store(false, Ordering::Relaxed);
    let before = sweep.billed();
    let told = Finished::of(&mut sweep.command(&["retry", "out", "--parallel", PARALLEL]));
    assert_eq!(told.code, Some(0), "{}\n{}", told.stdout, told.stderr);
    assert!(
        told.stderr.contains(&format!("retrying {} failed runs, continuing 0 unfinished runs", failed.len())),
        "{}",
        told.stderr
    );
    let retried = sweep.billed() - before;
    assert!((failed.len()..failed.len() * CALLS).contains(&retried), "{retried} calls for {} runs", failed.len());
    let books = Books::read(&sweep.out());
    assert_eq!((books.done, books.done_twice, books.steps_twice), (300, 0, 0));
    assert_eq!(books.paid_steps, 300 * CALLS);
    let archive = fs::read_dir(sweep.out().join("archive")).unwrap().next().unwrap().unwrap().path();
    let archived: BTreeSet<String> =
        fs::read_dir(archive.join("logs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(archived, failed.iter().map(|number| format!("experiment_{number}.log")).collect());
    let said = Finished::of(&mut sweep.command(&["retry", "out"])).success();
    assert_eq!(said, "every run is done\n");

    // What is put together is what was paid for: nothing of a reply is lost or counted twice.
    for name in ["all_results.json", "summary.json", "results.csv"] {
        fs::remove_file(sweep.out().join(name)).unwrap();
    }
    Finished::of(&mut sweep.command(&["collect", "out"])).success();
    let results = sweep.results();
    assert_eq!(results.keys().copied().collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
    assert_eq!(sweep.flags().len(), 300);
    let sum = |of: fn(&Value) -> f64| results.values().map(of).sum::<f64>();
    let calls = (300 * CALLS) as u64;
    assert_eq!(sum(|result| result["usage"]["prompt_tokens"].as_f64().unwrap()) as u64, calls * PROMPT_TOKENS);
    assert_eq!((sum(|result| result["cost_usd"].as_f64().unwrap()) * 1e6).round() as u64, calls * CALL_MICRO_USD);
    assert_paid(&sweep, &books);
    let (billed, wasted) = (sweep.billed(), sweep.wasted.load(Ordering::Relaxed));
    assert!(billed <= 300 * CALLS + wasted + 2 * 8, "{billed} calls are billed, {wasted} of them gave no reply");

    // One flag, one run.
    let flag = |number: usize| sweep.out().join(format!("logs/completed_{number}.flag"));
    fs::remove_file(flag(42)).unwrap();
    let said = Finished::of(&mut sweep.run());
    assert!(said.stderr.contains("runs again: its flag was removed"), "{}", said.stderr);
    said.success();
    assert_eq!(sweep.billed(), billed + CALLS);
    assert!(flag(42).is_file());
    let books = Books::read(&sweep.out());
    assert_eq!((books.done, books.done_twice), (301, 0));
    assert_paid(&sweep, &books);
    let again = results_but_time(sweep.results());
    assert_eq!(again, results_but_time(results), "it comes to the same");

    // Tidying up is no wish: without its other files a missing flag is only written again.
    fs::remove_dir_all(sweep.out().join("logs")).unwrap();
    Finished::of(&mut sweep.run()).success();
    assert_eq!((sweep.billed(), sweep.flags().len()), (billed + CALLS, 300));
    println!("300 runs, 2 kills: {} failed and were retried with {retried} calls; {billed} calls billed", failed.len());
}

fn results_but_time(mut results: BTreeMap<usize, Value>) -> BTreeMap<usize, Value> {
    results.values_mut().for_each(|result| result["timestamp"] = Value::Null);
    results
}

#[test]
fn single_runs_are_carried_out_side_by_side_in_one_folder_and_put_together() {
    let sweep = Sweep::open(1, 2, 5);
    let job = |number: &str| sweep.command(&["run", "sweep.json", "--job", number, "--out", "out"]);
    let both: Vec<_> = ["3", "7"].map(|number| job(number).spawn().unwrap()).into_iter().collect();
    for child in both {
        Finished::from(child.wait_with_output().unwrap()).success();
    }
    assert_eq!((sweep.flags(), sweep.billed()), ([3, 7].into(), 2 * CALLS));
    let result: Vec<PathBuf> = results_of(&sweep.out(), 7);
    assert_eq!(json(&result[0])["status"], "SUCCESS");
    // Done is done, also for the whole batch.
    Finished::of(&mut job("7")).success();
    assert_eq!(sweep.billed(), 2 * CALLS);
    Finished::of(&mut sweep.run()).success();
    assert_eq!((sweep.billed(), sweep.results().len()), (10 * CALLS, 10));
    // A run that another process carried out is asked for again in the same way.
    fs::remove_file(sweep.out().join("logs/completed_7.flag")).unwrap();
    Finished::of(&mut sweep.run()).success();
    assert_eq!((sweep.billed(), sweep.flags().len()), (11 * CALLS, 10));
    let refused = Finished::of(&mut job("10"));
    assert_eq!(refused.code, Some(2));
    assert!(refused.problems()[0].contains("runs are numbered from 0 to 9"), "{}", refused.stderr);
}

/// Every `result_<number>.json` below a folder.
fn results_of(folder: &Path, number: usize) -> Vec<PathBuf> {
    let name = format!("result_{number}.json");
    tiltmeter_test_support::process::files(folder)
        .into_keys()
        .filter(|path| path.ends_with(&name))
        .map(|path| folder.join(path))
        .collect()
}

#[test]
fn a_job_that_fails_leaves_its_log_and_no_flag_and_is_tried_again_alone() {
    let sweep = Sweep::open(1, 1, 2);
    sweep.stormy.store(true, Ordering::Relaxed);
    let mut tries = 0;
    // Somewhere among the requests is one that goes wrong.
    while Finished::of(&mut sweep.command(&["run", "sweep.json", "--job", "1", "--out", "out"])).code == Some(0) {
        fs::remove_dir_all(sweep.out()).unwrap();
        tries += 1;
        assert!(tries < 200, "nothing ever goes wrong");
    }
    let log = fs::read_to_string(sweep.out().join("logs/experiment_1.log")).unwrap();
    assert!(log.contains("\nFAILED: ") && sweep.flags().is_empty(), "{log}");
    assert_eq!(json(&results_of(&sweep.out(), 1)[0])["status"], "FAILED");
    sweep.stormy.store(false, Ordering::Relaxed);
    Finished::of(&mut sweep.command(&["run", "sweep.json", "--job", "1", "--out", "out"])).success();
    assert_eq!(sweep.flags(), [1].into());
}

#[test]
fn a_folder_that_cannot_be_retried_says_what_to_do() {
    let sweep = Sweep::open(1, 1, 2);
    let refused = |arguments: &[&str], part: &str| {
        let ended = Finished::of(&mut sweep.command(arguments));
        assert_eq!(ended.code, Some(2), "{}\n{}", ended.stdout, ended.stderr);
        assert!(ended.problems()[0].contains(part), "{}", ended.stderr);
    };
    refused(&["retry", "nowhere"], "there is no such folder");
    Finished::of(&mut sweep.command(&["run", "sweep.json", "--job", "1", "--out", "out"])).success();
    let invocation = sweep.out().join("invocation.json");
    let text = fs::read_to_string(&invocation).unwrap();
    fs::write(&invocation, &text[..text.len() / 2]).unwrap();
    refused(&["retry", "out"], "cannot read the command that started this folder");
    fs::remove_file(&invocation).unwrap();
    refused(&["retry", "out"], "tiltmeter run FILE --resume --out DIR");
    fs::write(&invocation, &text).unwrap();
    let file = sweep.home.path().join("sweep.json");
    let spec = fs::read_to_string(&file).unwrap();
    fs::write(&file, spec.replace("\"max_new_tokens\":50", "\"max_new_tokens\":60")).unwrap();
    refused(&["retry", "out"], "max_new_tokens");
    fs::remove_file(&file).unwrap();
    refused(&["retry", "out"], "sweep.json");
    fs::write(&file, &spec).unwrap();
    Finished::of(&mut sweep.command(&["retry", "out"])).success();
    assert_eq!(sweep.results().len(), 2);
}

#[test]
fn a_budget_that_one_process_had_for_itself_is_not_shared_afterwards() {
    let sweep = Sweep::open(1, 1, 2);
    let limited = |arguments: &[&str]| {
        let all = [&["run", "sweep.json", "--out", "out", "--set", "budget_limit=1"], arguments].concat();
        Finished::of(&mut sweep.command(&all))
    };
    limited(&["--job", "1"]).success();
    assert_eq!(sweep.billed(), CALLS);
    limited(&["--resume"]).success();
    let refused = limited(&["--job", "1"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stdout);
    assert!(refused.problems()[0].contains("without --job and --pull"), "{}", refused.stderr);
    let refused = limited(&["--resume", "--pull", "a"]);
    assert_eq!((refused.code, sweep.billed()), (Some(2), 2 * CALLS), "{}", refused.stderr);
}

#[test]
fn a_plan_can_be_written_before_anything_runs() {
    let sweep = Sweep::open(1, 2, 2);
    let said = Finished::of(&mut sweep.command(&["plan", "sweep.json", "--out", "out"])).success();
    assert!(said.contains("config_3.json") && said.contains("plan.json"), "{said}");
    let config = json(sweep.out().join("configs/config_3.json"));
    assert_eq!((&config["strong_model"], &config["random_seed"]), (&json!("strong1"), &json!(45)));
    assert_eq!(sweep.billed(), 0);
    Finished::of(&mut sweep.run()).success();
    assert_eq!(sweep.billed(), 4 * CALLS);
    let again = Finished::of(&mut sweep.command(&["plan", "sweep.json", "--out", "out"]));
    assert_eq!(again.code, Some(2), "a folder with results is not planned into");
}
