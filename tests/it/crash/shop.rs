//! One batch of paid calls and the other side of it: an experiment file, a server that answers by what it is asked, goes wrong
//! as the trial says and writes its own bill, and what the results must be.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::tiltmeter;
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltmeter_scheduler::seed_for;
use tiltmeter_test_support::{
    fault_server::{Act, FaultServer, Limit, PROMPT_TOKENS, REPLY_TOKENS, Received},
    process::files,
};
use tokio::runtime::Runtime;

use super::Shape;

/// At a dollar per million tokens.
pub const CALL_MICRO_USD: u64 = PROMPT_TOKENS + REPLY_TOKENS;

pub struct Shop {
    home: TempDir,
    server: FaultServer,
    faulty: Arc<AtomicUsize>,
    shape: Shape,
    // Last, so that the server is gone before what it runs on.
    _runtime: Runtime,
}

/// What the model says: a function of what it is asked.
fn answer(messages: &Value) -> String {
    format!("answer {:016x}", seed_for(1, &messages.to_string()))
}

fn question(variant: usize, turn: usize) -> String {
    format!("Variant {variant}, question {turn}?")
}

impl Shop {
    pub fn open(trial: u64, shape: Shape) -> Self {
        let home = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let faulty = Arc::new(AtomicUsize::new(0));
        let billed_faults = faulty.clone();
        let script = move |n: usize, received: &Received| {
            let drawn = seed_for(trial, &format!("request {n}"));
            if drawn % 100 < shape.faults {
                return match (drawn / 100) % 16 {
                    0..10 => Act::Limited(Limit::Seconds(0.02)),
                    // A second of patience at worst, so there are few of them.
                    10 => Act::Status(503),
                    11 => Act::Status(400),
                    _ => {
                        billed_faults.fetch_add(1, Ordering::Relaxed);
                        Act::TruncatedJson
                    }
                };
            }
            Act::Late(shape.delay, answer(&received.body["messages"]))
        };
        let server = runtime.block_on(FaultServer::start(script));
        let variants: serde_json::Map<String, Value> = (0..shape.variants)
            .map(|variant| {
                let prompts: Vec<String> = (0..shape.turns).map(|turn| question(variant, turn)).collect();
                (format!("v{variant}"), json!({"name": format!("Variant {variant}"), "prompts": prompts}))
            })
            .collect();
        let set = home.path().join("set.yaml");
        fs::write(&set, json!({"briefing": "You keep a shop.", "variants": variants}).to_string()).unwrap();
        let verdict = json!({
            "strategy": "Total Honesty", "outcome": "VAULT PROTECTED", "reasoning": "It says so.", "critical_response": "answer",
            "deception_level": "none", "protocol_adherence": {"primary_directive": true, "secondary_protocol": true},
        });
        let spec = json!({
            "kind": "interview", "experiment": "shop", "prompt_set": set,
            "steward": {
                "name": "openai-compatible/clerk", "base_url": server.base_url(), "price": {"input": 1, "output": 1},
                "attempt_timeout": 20,
            },
            "judge": {"name": "scripted", "script": [{"reply": verdict.to_string()}]},
            "runs_per_variant": shape.repetitions, "parallel": shape.parallel, "budget_limit": 1000,
            "stop_on_refusal": {"rule": "none"}, "sampling": {"max_new_tokens": 50},
        });
        fs::write(home.path().join("shop.json"), spec.to_string()).unwrap();
        Self { home, server, faulty, shape, _runtime: runtime }
    }

    pub fn folder(&self) -> PathBuf {
        self.home.path().join("out")
    }

    /// Begins the batch or goes on with it.
    pub fn command(&self) -> Command {
        let mut command = tiltmeter(["run", "--resume", "--progress", "json", "--out"]);
        command.arg(self.folder()).arg(self.home.path().join("shop.json")).current_dir(self.home.path());
        command
    }

    /// Roughly: start of the program, then calls one after the other in each lane of work.
    pub fn expected_time(&self) -> Duration {
        let rounds = self.shape.planned().div_ceil(self.shape.parallel) as u32;
        Duration::from_millis(60) + (self.shape.delay + Duration::from_millis(3)) * rounds
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The files that are results, with the time at which each run began taken out of names and texts. Left out are those that tell
    /// the story (journal, log, manifest, methods) or the address of the server (plan), and Parquet, whose bytes hold the times.
    pub fn results(&self) -> BTreeMap<String, Vec<u8>> {
        let unix = Regex::new(r"_1\d{9}_").unwrap();
        let moment = Regex::new(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z").unwrap();
        let day = Regex::new(r"/\d{8}/").unwrap();
        let timeless = |text: &str| moment.replace_all(&unix.replace_all(text, "_T_"), "T").into_owned();
        let story = ["invocation.json", "journal.jsonl", "session.log", "manifest.json", "methods.md", "plan.json"];
        let mut results = BTreeMap::new();
        for (name, bytes) in files(&self.folder()) {
            if story.contains(&name.as_str()) || name.ends_with(".parquet") {
                continue;
            }
            let name = day.replace(&timeless(&name), "/DAY/").into_owned();
            results.insert(
                name,
                match String::from_utf8(bytes) {
                    Ok(text) => timeless(&text).into_bytes(),
                    Err(image) => image.into_bytes(),
                },
            );
        }
        results
    }

    pub fn billed(&self) -> usize {
        self.server.bill().len()
    }

    /// Billed calls that no reply came of.
    pub fn billed_faults(&self) -> usize {
        self.faulty.load(Ordering::Relaxed)
    }

    /// Conversations of the records, by variant and repetition.
    pub fn conversations(&self) -> BTreeMap<String, Vec<String>> {
        let text = fs::read_to_string(self.folder().join("game_logs.jsonl")).unwrap();
        let of = |record: Value| {
            let run_id = record["run_id"].as_str().unwrap().to_owned();
            let repetition = run_id.rsplit('_').next().unwrap().to_owned();
            let parts = record["conversation_log"].as_array().unwrap().clone();
            let said = parts.iter().map(|part| part["parts"][0]["text"].as_str().unwrap().to_owned()).collect();
            (format!("{} {repetition}", record["prompt_variant"].as_str().unwrap()), said)
        };
        text.lines().map(|line| of(serde_json::from_str(line).unwrap())).collect()
    }

    /// What they are if nothing ever goes wrong.
    pub fn expected_conversations(&self) -> BTreeMap<String, Vec<String>> {
        let mut expected = BTreeMap::new();
        for variant in 0..self.shape.variants {
            let mut messages = vec![json!({"role": "system", "content": "You keep a shop."})];
            let mut said = Vec::new();
            for turn in 0..self.shape.turns {
                let asked = question(variant, turn);
                messages.push(json!({"role": "user", "content": asked}));
                let answered = answer(&json!(messages));
                messages.push(json!({"role": "assistant", "content": answered}));
                said.extend([asked, answered]);
            }
            for repetition in 0..self.shape.repetitions {
                expected.insert(format!("v{variant} {repetition}"), said.clone());
            }
        }
        expected
    }
}
