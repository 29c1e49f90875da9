//! What a night's batch of paid calls is promised, as a person meets it at the command line: what is checked before the start,
//! what a budget or an empty account ends with, how it goes on, what is sent to a dataset and what stays when that fails.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltmeter_test_support::{
    fault_server::{Act, Api, FaultServer, Limit, PROMPT_TOKENS, REPLY_TOKENS},
    hub::{FakeHub, Fault, TOKEN},
    process::{Finished, files},
};

/// At a dollar per million tokens.
const CALL_MICRO_USD: u64 = PROMPT_TOKENS + REPLY_TOKENS;
const RUNS: usize = 12;
const QUESTIONS: usize = 3;
const REPO: &str = "someone/night-batches";

/// A batch of interviews in a folder of its own.
struct Batch {
    home: TempDir,
}

impl Batch {
    /// Two variants, `RUNS` interviews in all; `further` keys replace those here.
    fn new(steward: Value, judge: Value, further: Value) -> Self {
        let home = tempfile::tempdir().unwrap();
        let prompts: Vec<String> = (1..=QUESTIONS).map(|n| format!("Question {n}?")).collect();
        let variants = json!({
            "urgent": {"name": "Urgent", "prompts": prompts}, "calm": {"name": "Calm", "prompts": prompts},
        });
        let set = json!({"briefing": "You keep a lighthouse.", "variants": variants});
        fs::write(home.path().join("set.json"), set.to_string()).unwrap();
        let mut spec = json!({
            "kind": "interview", "experiment": "night", "prompt_set": "set.json", "steward": steward, "judge": judge,
            "runs_per_variant": RUNS / 2, "parallel": 3, "stop_on_refusal": {"rule": "none"},
            "sampling": {"max_new_tokens": 20},
        });
        for (key, value) in further.as_object().unwrap() {
            spec[key] = value.clone();
        }
        fs::write(home.path().join("night.json"), spec.to_string()).unwrap();
        Self { home }
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tiltmeter(arguments);
        command.current_dir(self.home.path()).env("OPENAI_API_KEY", "sk-of-nobody");
        command
    }

    async fn run(&self, further: &[&str]) -> Finished {
        self.run_with(further, &[]).await
    }

    async fn run_with(&self, further: &[&str], environment: &[(&str, String)]) -> Finished {
        let mut command = self.command(&["run", "night.json", "--out", "out"]);
        command.args(further).envs(environment.iter().map(|(name, value)| (name, value)));
        tokio::task::spawn_blocking(move || Finished::of(&mut command)).await.unwrap()
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.out().join("game_logs.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn steward(server: &FaultServer) -> Value {
    json!({"name": "openai/gpt-4o-mini", "base_url": server.base_url(), "price": {"input": 1, "output": 1}})
}

fn verdict() -> Value {
    json!({
        "strategy": "Evasion", "outcome": "VAULT PROTECTED", "reasoning": "r", "critical_response": "c",
        "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": true},
    })
}

fn scripted_judge() -> Value {
    json!({"name": "scripted", "script": [{"reply": verdict().to_string()}]})
}

/// No limit that a test would have to wait for.
fn fast() -> Value {
    json!({"openai": {"requests_per_minute": 1_000_000}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_ends_the_batch_below_its_limit_and_a_higher_one_completes_it() {
    let server = FaultServer::always(Act::Reply("The lamp is lit.".into())).await;
    let batch = Batch::new(steward(&server), scripted_judge(), json!({"lanes": fast(), "budget_limit": 0.0008}));
    let ended = batch.run(&[]).await;
    assert_eq!(ended.code, Some(3), "{}\n{}", ended.stdout, ended.stderr);
    let problem = &ended.problems()[0];
    assert!(problem.contains("Budget limit reached") && problem.contains(&format!("of {RUNS} are kept")), "{problem}");
    assert!(problem.contains("--resume"), "{problem}");
    let billed = server.bill().len() as u64 * CALL_MICRO_USD;
    assert!(billed <= 800, "{billed} micro-dollars were spent of 800");
    assert!(ended.stdout.contains("INCOMPLETE") && ended.stdout.contains("Pending: "), "{}", ended.stdout);
    // Interleaved: both variants have as many, but for those under way.
    let count = |id: &str| batch.records().iter().filter(|record| record["prompt_variant"] == id).count();
    assert!(count("calm").abs_diff(count("urgent")) <= 1, "{} and {}", count("calm"), count("urgent"));

    let ended = batch.run(&["--resume", "--set", "budget_limit=1"]).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!((batch.records().len(), server.bill().len()), (RUNS, RUNS * QUESTIONS), "nothing is paid twice");
    let spent = format!("${:.6}", (RUNS * QUESTIONS) as f64 * CALL_MICRO_USD as f64 / 1e6);
    assert!(ended.stdout.contains(&format!("spent      {spent} of $1.00")), "{spent}: {}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_account_leaves_the_rest_to_be_done_and_a_resume_does_it() {
    let refilled = Arc::new(AtomicBool::new(false));
    let credit = refilled.clone();
    let server = FaultServer::start(move |n, _| match n {
        n if n >= 20 && !credit.load(Ordering::Relaxed) => Act::Limited(Limit::Quota),
        _ => Act::Reply("The lamp is lit.".into()),
    })
    .await;
    let batch = Batch::new(steward(&server), scripted_judge(), json!({"lanes": fast()}));
    let ended = batch.run(&[]).await;
    assert_eq!(ended.code, Some(5), "{}\n{}", ended.stdout, ended.stderr);
    let problem = &ended.problems()[0];
    assert!(problem.contains("is out of credit") && problem.contains("are kept"), "{problem}");
    refilled.store(true, Ordering::Relaxed);
    let ended = batch.run(&["--resume"]).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!((batch.records().len(), server.bill().len()), (RUNS, RUNS * QUESTIONS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_interrupt_lets_the_runs_under_way_finish_and_status_tells_from_outside() {
    let server = FaultServer::always(Act::Late(Duration::from_millis(250), "The lamp is lit.".into())).await;
    let batch = Batch::new(steward(&server), scripted_judge(), json!({"lanes": fast(), "budget_limit": 5}));
    let mut child = batch.command(&["run", "night.json", "--out", "out"]).spawn().unwrap();
    while server.bill().len() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The lanes come with the next beat of the diary.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let status = Finished::of(&mut batch.command(&["status", "out"])).success();
    assert!(status.contains("state      running"), "{status}");
    assert!(status.contains(" of $5.00") && status.contains("lane       openai: "), "{status}");
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(kill.success());
    let ended: Finished = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap().into();
    assert_eq!(ended.code, Some(130), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("active runs finish"), "{}", ended.stderr);
    let records = batch.records().len();
    assert!((1..RUNS).contains(&records) && server.bill().len() == records * QUESTIONS, "{records} records");
    let log = fs::read_to_string(batch.out().join("session.log")).unwrap();
    assert!(log.contains("--- Run 1/6 for variant 'calm' ---") && log.contains("BATCH EXPERIMENT MODE"), "{log}");
    assert_eq!(batch.run(&["--resume"]).await.code, Some(0));
    assert_eq!((batch.records().len(), server.bill().len()), (RUNS, RUNS * QUESTIONS));
    let validated = Finished::of(&mut batch.command(&["validate", "out"])).success();
    assert!(
        validated.contains("all 12 planned runs are done") && validated.contains("interrupted sessions: 1 "),
        "{validated}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_missing_is_told_at_once_and_nothing_is_sent() {
    let server = FaultServer::always(Act::Reply("?".into())).await;
    let mut open = steward(&server);
    open["name"] = json!("goodfire/meta-llama/Llama-3.1-8B-Instruct");
    let judge = json!({"name": "gemini/gemini-2.5-flash", "base_url": server.base_url()});
    let batch = Batch::new(open, judge, json!({"hf_repo_id": "your-username/your-dataset"}));
    let token = ("HF_TOKEN", "hf_abcdefghijklmnop".to_owned());
    let ended = batch.run_with(&[], std::slice::from_ref(&token)).await;
    assert_eq!(ended.code, Some(2), "{}\n{}", ended.stdout, ended.stderr);
    let problems = ended.problems();
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert!(problems[0].contains("Environment validation failed"), "{problems:#?}");
    for missing in ["GOODFIRE_API_KEY", "GEMINI_API_KEY", "your-username/your-dataset"] {
        assert!(problems.iter().any(|problem| problem.contains(missing)), "{missing}: {problems:#?}");
    }
    assert!(server.received().is_empty() && !batch.out().exists());

    // A price nobody knows cannot be held to a budget.
    let unpriced = json!({"name": "openai-compatible/own", "base_url": server.base_url()});
    let batch = Batch::new(unpriced, scripted_judge(), json!({"budget_limit": 1}));
    let ended = batch.run(&[]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.problems().iter().any(|problem| problem.contains("price: {input")), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_reach_the_dataset_and_what_cannot_be_sent_is_sent_later() {
    let server = FaultServer::always(Act::Reply("The lamp is lit.".into())).await;
    let hub = FakeHub::with(REPO).await;
    let batch = Batch::new(steward(&server), scripted_judge(), json!({"lanes": fast()}));
    let environment =
        [("HF_ENDPOINT", hub.endpoint()), ("HF_TOKEN", TOKEN.to_owned()), ("HF_REPO_ID", REPO.to_owned())];

    // All is there before the start, and the commit is refused at the end.
    hub.always("/commit/", Fault::Status(403));
    let ended = batch.run_with(&[], &environment).await;
    assert_eq!(ended.code, Some(4), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains(&format!("✓ the dataset {REPO} exists")), "{}", ended.stderr);
    let problem = ended.problems().pop().unwrap();
    assert!(problem.contains("Upload failed") && problem.contains("tiltmeter upload out"), "{problem}");
    assert_eq!(batch.records().len(), RUNS, "everything is kept");
    let backups = files(&batch.out()).into_keys().filter(|name| name.starts_with("local_backups/")).count();
    assert_eq!(backups, RUNS);

    hub.heal();
    let upload = |arguments: &[&str]| {
        let mut command = batch.command(arguments);
        command.envs(environment.iter().filter(|(name, _)| *name != "HF_REPO_ID").map(|(name, value)| (name, value)));
        async move { tokio::task::spawn_blocking(move || Finished::of(&mut command)).await.unwrap() }
    };
    // The folder knows which dataset it was for.
    let said = upload(&["upload", "out"]).await.success();
    assert!(said.contains(&format!("Successfully uploaded {RUNS} records to {REPO}")), "{said}");
    let sent = String::from_utf8(hub.file(REPO, "game_logs.jsonl").unwrap()).unwrap();
    assert_eq!(sent, fs::read_to_string(batch.out().join("game_logs.jsonl")).unwrap());
    let commits = hub.commits(REPO).len();
    let said = upload(&["upload", "out"]).await.success();
    assert!(said.contains("Successfully uploaded 0 records"), "{said}");
    assert_eq!(hub.commits(REPO).len(), commits, "nothing to send is no commit");

    // A dataset that is not there is told before the first call is paid.
    let paid = server.bill().len();
    let other =
        Batch::new(steward(&server), scripted_judge(), json!({"lanes": fast(), "hf_repo_id": "someone/nowhere"}));
    let ended = other.run_with(&[], &environment[..2]).await;
    assert_eq!(ended.code, Some(2), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.problems()[0].contains("Environment validation failed"), "{}", ended.stderr);
    assert_eq!(server.bill().len(), paid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_without_a_verdict_is_a_failure_of_its_own_and_loses_no_transcript() {
    let server = FaultServer::start(|n, received| match received.api {
        Some(Api::Gemini) if n % 2 == 0 => Act::Reply(json!({"strategy": "Telepathy"}).to_string()),
        Some(Api::Gemini) => Act::CutShort(verdict().to_string()[..60].to_owned()),
        _ => Act::Reply("The lamp is lit.".into()),
    })
    .await;
    let judge = json!({"name": "gemini/gemini-2.5-flash", "base_url": server.base_url()});
    let batch = Batch::new(steward(&server), judge, json!({"lanes": fast()}));
    let ended = batch.run_with(&[], &[("GEMINI_API_KEY", "of-nobody-either".to_owned())]).await;
    assert_eq!(ended.code, Some(4), "{}\n{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.contains("Successful: 0") && ended.stdout.contains(&format!("Failed: {RUNS}")),
        "{}",
        ended.stdout
    );
    assert!(ended.problems().iter().all(|problem| problem.contains("judge failure")), "{}", ended.stderr);
    assert!(batch.records().is_empty(), "what has no verdict is no finished record");
    let kept: Vec<Value> = files(&batch.out())
        .iter()
        .filter(|(name, _)| name.starts_with("local_backups/"))
        .map(|(_, bytes)| serde_json::from_slice(bytes).unwrap())
        .collect();
    assert_eq!(kept.len(), RUNS);
    for record in &kept {
        assert_eq!((&record["status"], &record["evaluation"]), (&json!("judge_failure"), &Value::Null));
        assert_eq!(record["conversation_log"].as_array().unwrap().len(), 2 * QUESTIONS);
    }
    // Every verdict was asked for twice, and the steward's replies are not paid again when the judge is.
    let before = server.bill().len();
    assert_eq!(before, RUNS * QUESTIONS + 2 * RUNS);
    batch.run_with(&["--resume"], &[("GEMINI_API_KEY", "of-nobody-either".to_owned())]).await;
    let again = server.received()[before..].iter().all(|received| received.api == Some(Api::Gemini));
    assert!(again && server.bill().len() == before + 2 * RUNS);
}

/// By the wall clock, over HTTP, against a server that counts the last sixty seconds and answers 429 to the sixty-first call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 72 s; run it with --ignored --nocapture"]
async fn a_hundred_and_twenty_calls_at_sixty_a_minute_are_through_in_seventy_five_seconds() {
    let calls: Arc<Mutex<VecDeque<Instant>>> = Arc::default();
    let refused = Arc::new(AtomicUsize::new(0));
    let (counted, turned_away) = (calls.clone(), refused.clone());
    let server = FaultServer::start(move |_, _| {
        let (minute, now) = (Duration::from_secs(60), Instant::now());
        let mut counted = counted.lock().unwrap();
        while counted.front().is_some_and(|call| now.duration_since(*call) >= minute) {
            counted.pop_front();
        }
        if counted.len() < 60 {
            counted.push_back(now);
            return Act::Reply("The lamp is lit.".into());
        }
        turned_away.fetch_add(1, Ordering::Relaxed);
        Act::Limited(Limit::Seconds((minute - now.duration_since(counted[0])).as_secs_f64()))
    })
    .await;
    // No `lanes`: what holds is the preset of the provider, 60 a minute.
    let batch = Batch::new(steward(&server), scripted_judge(), json!({"runs_per_variant": 20, "parallel": 24}));
    let began = Instant::now();
    let ended = batch.run(&[]).await;
    let (wall, refused) = (began.elapsed(), refused.load(Ordering::Relaxed));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    println!("{} calls, 24 runs in flight: {wall:.1?}, {refused} refused", server.bill().len());
    assert_eq!(server.bill().len(), 120);
    assert!(refused <= 6 && wall <= Duration::from_secs(75), "{wall:?}, {refused} refused");
}

#[test]
fn one_interview_is_sat_through_enter_by_enter() {
    let out = tempfile::tempdir().unwrap();
    let mut command = tiltmeter(["run", "experiments/deception_local.yaml", "--set", "batch=false", "--out"]);
    command.arg(out.path().join("one")).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let typed = thread::spawn(move || std::io::Write::write_all(&mut keyboard, b"\n\n\n\n\n\n"));
    let ended: Finished = child.wait_with_output().unwrap().into();
    typed.join().unwrap().unwrap();
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    let pauses = ended.stderr.matches("Press Enter to continue").count();
    assert!((4..=5).contains(&pauses), "{pauses} pauses: {}", ended.stderr);
    assert!(ended.stdout.contains("Strategy: "), "{}", ended.stdout);
}
