//! Owns what is promised of a batch on Slurm, against a real Slurm on this machine (`tests/peers/slurm.sh`, Debian's slurm-wlm): with tasks
//! requeued, cancelled, told that their time is up and killed, every run is in the result exactly once, and none is paid for twice but those
//! under way at a kill.
//!
//! ```text
//! TILTMETER_SLURM=1 cargo test --release --test it cluster:: -- --nocapture
//! ```
//!
//! Must not know: how anything is done inside.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    faults::{Act, FaultServer},
    program::{Ended, in_root, tiltmeter},
};

const RUNS: usize = 300;
const QUESTIONS: usize = 2;
const DELAY: Duration = Duration::from_millis(150);
/// Smaller than the batch, so that it goes in as several arrays.
const MAX_ARRAY_SIZE: usize = 128;

/// A Slurm that ends with the test.
struct Slurm {
    dir: PathBuf,
}

impl Slurm {
    fn start(dir: PathBuf) -> Self {
        let script = in_root("tests/peers/slurm.sh");
        let size = MAX_ARRAY_SIZE.to_string();
        let started = Command::new("bash").args([&script, "start"]).arg(&dir).arg(size).output().unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Self { dir }
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("slurm.conf")
    }

    /// What one of Slurm's commands says.
    fn say(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).env("SLURM_CONF", self.conf()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// `(job_index, pid of the batch step)` of tasks that run.
    fn running(&self) -> Vec<String> {
        let text = self.say("squeue", &["--noheader", "--array", "--states=RUNNING", "--format=%F_%K"]);
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(240);
        while !done(self) {
            assert!(Instant::now() < until, "it takes too long until {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn empty(&self) -> bool {
        self.left() == 0
    }

    /// Tasks in the queue.
    fn left(&self) -> usize {
        self.say("squeue", &["--noheader", "--array", "--format=%i"]).lines().count()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = Command::new("bash").args([&in_root("tests/peers/slurm.sh"), "stop"]).arg(&self.dir).status();
    }
}

/// The programs of the tasks that run, by their process ids.
fn tasks_of(folder: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let ours = words.iter().any(|word| *word == folder.display().to_string().as_bytes());
        if ours && words.contains(&&b"--task"[..]) {
            found.push(id);
        }
    }
    found
}

fn experiment(home: &Path, base_url: &str) -> PathBuf {
    let prompts: Vec<String> = (1..=QUESTIONS).map(|n| format!("Question {n}?")).collect();
    let set = home.join("set.json");
    let variants = json!({"calm": {"name": "Calm", "prompts": prompts}});
    fs::write(&set, json!({"briefing": "You keep a lighthouse.", "variants": variants}).to_string()).unwrap();
    let verdict = json!({
        "strategy": "Evasion", "outcome": "VAULT PROTECTED", "reasoning": "r", "critical_response": "c",
        "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": true},
    });
    let spec = json!({
        "kind": "interview", "experiment": "night", "prompt_set": set, "parallel": 1, "runs_per_variant": RUNS,
        "steward": {"name": "openai-compatible/clerk", "base_url": base_url, "price": {"input": 1, "output": 1}},
        "judge": {"name": "scripted", "script": [{"reply": verdict.to_string()}]},
        "stop_on_refusal": {"rule": "none"}, "sampling": {"max_new_tokens": 20},
    });
    let path = home.join("night.json");
    fs::write(&path, spec.to_string()).unwrap();
    path
}

#[test]
fn a_batch_on_slurm_has_every_run_exactly_once_whatever_becomes_of_its_tasks() {
    if std::env::var_os("TILTMETER_SLURM").is_none() {
        // Past the capture of the harness: a test that did not run shall not look like one that did.
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN: the batch on a real Slurm; set TILTMETER_SLURM where slurm-wlm is installed"
        );
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let slurm = Slurm::start(home.path().join("slurm"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(FaultServer::always(Act::Late(DELAY, "The lamp is lit.".into())));
    let file = experiment(home.path(), &server.base_url());
    let folder = home.path().join("out");
    let call = |arguments: &[&str]| {
        let mut command = tiltmeter(arguments);
        command.env("SLURM_CONF", slurm.conf()).current_dir(home.path());
        Ended::of(&mut command).done()
    };
    let (file, out) = (file.to_str().unwrap(), folder.to_str().unwrap());

    let dry = call(&["slurm", "submit", file, "--out", out, "--runs-per-task", "1", "--dry-run"]);
    assert!(dry.contains("#SBATCH --signal=B:USR2@120") && !folder.exists(), "{dry}");

    let began = Instant::now();
    let said = call(&["slurm", "submit", file, "--out", out, "--mem", "100M"]);
    assert!(said.contains("runs       300 in 300 tasks"), "{said}");
    let jobs = said.lines().find(|line| line.starts_with("jobs")).unwrap().split(',').count();
    assert_eq!(jobs, RUNS.div_ceil(MAX_ARRAY_SIZE), "{said}");

    // Four tasks of the first hundred fare badly, each in its own way.
    let mut troubled = BTreeSet::new();
    for trouble in ["requeue", "cancel", "nearly up", "kill"] {
        slurm.wait("a task runs", |slurm| slurm.running().iter().any(|task| !troubled.contains(task)));
        let task = slurm.running().into_iter().find(|task| !troubled.contains(task)).unwrap();
        match trouble {
            "requeue" => slurm.say("scontrol", &["requeue", &task]),
            "cancel" => slurm.say("scancel", &[&task]),
            "nearly up" => slurm.say("scancel", &["--batch", "--signal=USR2", &task]),
            _ => {
                slurm.wait("a program runs", |_| !tasks_of(&folder).is_empty());
                let id = tasks_of(&folder)[0].to_string();
                Command::new("sh").args(["-c", &format!("kill -9 {id}")]).status().unwrap();
                String::new()
            }
        };
        troubled.insert(task);
    }
    // Slurm lets a requeued task wait for two minutes.
    slurm.wait("all but the requeued task are through", |slurm| slurm.left() <= 1);
    let first = began.elapsed();
    slurm.wait("the queue is empty", Slurm::empty);
    let status = call(&["slurm", "status", out]);
    assert!(status.contains("queue      no task"), "{status}");
    let mut rounds = 0;
    while !call(&["slurm", "retry", out, "--mem", "100M"]).contains("every run is done") {
        rounds += 1;
        assert!(rounds < 4, "{}", call(&["slurm", "status", out]));
        slurm.wait("the queue is empty again", Slurm::empty);
    }
    let said = call(&["slurm", "collect", out]);
    assert!(said.contains("Successful: 300") && said.contains("Failed: 0"), "{said}");

    let text = fs::read_to_string(folder.join("game_logs.jsonl")).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let repetitions: BTreeSet<String> = records
        .iter()
        .map(|record| record["run_id"].as_str().unwrap().rsplit('_').next().unwrap().to_owned())
        .collect();
    assert_eq!((records.len(), repetitions.len()), (RUNS, RUNS));
    let (billed, planned) = (server.bill().len(), RUNS * QUESTIONS);
    assert!(billed <= planned + 4, "{billed} calls are billed, {planned} were planned");

    // A bare array that only waits as long, on the same Slurm.
    let bare = home.path().join("bare.sh");
    let seconds = (DELAY * QUESTIONS as u32).as_secs_f64();
    fs::write(&bare, format!("#!/bin/bash\n#SBATCH --output=/dev/null --mem=100M\nsleep {seconds}\n")).unwrap();
    let began = Instant::now();
    for (_, tasks) in tiltmeter::cluster::parts(RUNS, MAX_ARRAY_SIZE) {
        let last = format!("--array=0-{}", tasks - 1);
        slurm.say("sbatch", &[&last, bare.to_str().unwrap()]);
    }
    slurm.wait("the bare arrays are done", Slurm::empty);
    let bare = began.elapsed();
    println!(
        "300 runs in {jobs} arrays: {first:.1?} with a cancel, a warning and a kill -9 (and a requeued task later), {rounds} retries, {billed} of {planned} calls billed; \
         a bare array of as long sleeps: {bare:.1?} ({:+.0} %)",
        100.0 * (first.as_secs_f64() / bare.as_secs_f64() - 1.0)
    );
}
