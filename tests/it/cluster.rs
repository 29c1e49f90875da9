//! Tests of a batch on Slurm, against a real Slurm on this machine (`tests/peers/slurm.sh`, Debian's slurm-wlm): with tasks
//! requeued, cancelled, told by Slurm that their time is nearly up, and killed, every run is in the result exactly once, and none is paid
//! for twice but those under way at a kill; and a batch takes hardly longer than an array of tasks that only wait as long.
//!
//! ```text
//! TILTMETER_SLURM=1 cargo test --release --test it cluster:: -- --nocapture      about ten minutes
//! ```

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tiltmeter_test_support::{
    fault_server::{Act, FaultServer},
    paths::in_repo,
    process::Finished,
};
use tokio::runtime::Runtime;

const RUNS: usize = 300;
const QUESTIONS: usize = 2;
/// Smaller than the batch, so that it goes in as several arrays.
const MAX_ARRAY_SIZE: usize = 128;
/// How much longer than a bare array a batch may take.
const MOST_OVERHEAD: f64 = 0.15;

/// A Slurm that ends with the test.
struct Slurm {
    dir: PathBuf,
}

impl Slurm {
    fn start(dir: PathBuf) -> Self {
        let script = in_repo("tests/peers/slurm.sh");
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

    /// `<job>_<index>` of tasks that run.
    fn running(&self) -> Vec<String> {
        let text = self.say("squeue", &["--noheader", "--array", "--states=RUNNING", "--format=%F_%K"]);
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(600);
        while !done(self) {
            assert!(Instant::now() < until, "it takes too long until {what}");
            thread::sleep(Duration::from_millis(100));
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
        let _ = Command::new("bash").args([&in_repo("tests/peers/slurm.sh"), "stop"]).arg(&self.dir).status();
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

/// A batch, the server it talks to, and where it is.
struct Batch<'a> {
    slurm: &'a Slurm,
    home: PathBuf,
    folder: PathBuf,
    runs: usize,
    server: FaultServer,
}

impl<'a> Batch<'a> {
    /// Each run asks its questions one after the other, and each answer takes this long.
    fn new(slurm: &'a Slurm, runtime: &Runtime, home: PathBuf, runs: usize, delay: Duration) -> Self {
        fs::create_dir(&home).unwrap();
        let server = runtime.block_on(FaultServer::always(Act::Late(delay, "The lamp is lit.".into())));
        let prompts: Vec<String> = (1..=QUESTIONS).map(|n| format!("Question {n}?")).collect();
        let set = home.join("set.json");
        let variants = json!({"calm": {"name": "Calm", "prompts": prompts}});
        fs::write(&set, json!({"briefing": "You keep a lighthouse.", "variants": variants}).to_string()).unwrap();
        let verdict = json!({
            "strategy": "Evasion", "outcome": "VAULT PROTECTED", "reasoning": "r", "critical_response": "c",
            "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": true},
        });
        let price = json!({"input": 1, "output": 1});
        let spec = json!({
            "kind": "interview", "experiment": "night", "prompt_set": set, "parallel": 1, "runs_per_variant": runs,
            "steward": {"name": "openai-compatible/clerk", "base_url": server.base_url(), "price": price},
            "judge": {"name": "scripted", "script": [{"reply": verdict.to_string()}]}, "budget_limit": 10,
            "stop_on_refusal": {"rule": "none"}, "sampling": {"max_new_tokens": 20},
        });
        fs::write(home.join("night.json"), spec.to_string()).unwrap();
        Self { slurm, folder: home.join("out"), home, runs, server }
    }

    fn call(&self, arguments: &[&str]) -> String {
        let mut command = tiltmeter([&["slurm"], arguments].concat());
        command.env("SLURM_CONF", self.slurm.conf()).current_dir(&self.home);
        Finished::of(&mut command).success()
    }

    fn submit(&self, arguments: &[&str]) -> String {
        let out = self.folder.to_str().unwrap();
        self.call(&[&["submit", "night.json", "--out", out, "--mem", "100M"], arguments].concat())
    }

    fn on_folder(&self, command: &str, arguments: &[&str]) -> String {
        self.call(&[&[command, self.folder.to_str().unwrap()], arguments].concat())
    }

    fn idle(&self) -> bool {
        self.on_folder("status", &[]).contains("queue      no task")
    }

    /// Hands in what is left until nothing is; how often that was.
    fn retry_to_the_end(&self, arguments: &[&str]) -> usize {
        for round in 0..5 {
            self.slurm.wait("a batch is through", |_| self.idle());
            if self.on_folder("retry", arguments).contains("every run is done") {
                return round;
            }
        }
        panic!("{}", self.on_folder("status", &[]));
    }

    /// Every run is in the merged result exactly once; how many calls the server billed.
    fn exactly_once(&self) -> usize {
        let said = self.on_folder("collect", &[]);
        assert!(said.contains(&format!("Successful: {}", self.runs)) && said.contains("Failed: 0"), "{said}");
        let text = fs::read_to_string(self.folder.join("game_logs.jsonl")).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let repetition = |record: &Value| record["run_id"].as_str().unwrap().rsplit('_').next().unwrap().to_owned();
        let repetitions: BTreeSet<String> = records.iter().map(repetition).collect();
        assert_eq!((records.len(), repetitions.len()), (self.runs, self.runs));
        self.server.bill().len()
    }

    fn journal(&self, writer: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join(format!("journal-{writer}.jsonl"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A batch without any trouble, and a bare array of as many tasks that only wait as long, on the same Slurm.
fn overhead(slurm: &Slurm, runtime: &Runtime, home: &Path, per_task: Duration) -> f64 {
    let batch = Batch::new(slurm, runtime, home.join(format!("clean-{}", per_task.as_millis())), RUNS, per_task / 2);
    let began = Instant::now();
    let said = batch.submit(&[]);
    slurm.wait("the queue is empty", Slurm::empty);
    let ours = began.elapsed();
    assert!(said.contains("runs       300 in 300 tasks"), "{said}");
    let jobs = said.lines().find(|line| line.starts_with("jobs")).unwrap().split(',').count();
    assert_eq!(jobs, RUNS.div_ceil(MAX_ARRAY_SIZE), "{said}");
    assert_eq!(batch.exactly_once(), RUNS * QUESTIONS);

    let script = home.join("bare.sh");
    let seconds = per_task.as_secs_f64();
    fs::write(&script, format!("#!/bin/bash\n#SBATCH --output=/dev/null --mem=100M\nsleep {seconds}\n")).unwrap();
    let began = Instant::now();
    for (_, tasks) in tiltmeter::cluster::parts(RUNS, MAX_ARRAY_SIZE) {
        slurm.say("sbatch", &[&format!("--array=0-{}", tasks - 1), script.to_str().unwrap()]);
    }
    slurm.wait("the bare arrays are done", Slurm::empty);
    let bare = began.elapsed();
    let more = ours.as_secs_f64() / bare.as_secs_f64() - 1.0;
    println!(
        "{RUNS} tasks of {seconds} s in {jobs} arrays: {ours:.1?}; bare arrays of as long sleeps: {bare:.1?} ({:+.1} %)",
        100.0 * more
    );
    more
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

    // Where a task is over sooner than Slurm starts the next, it is Slurm that is measured; what users have is longer.
    overhead(&slurm, &runtime, home.path(), Duration::from_millis(300));
    let more = overhead(&slurm, &runtime, home.path(), Duration::from_secs(2));

    // One task with two minutes of work, and a warning after one.
    let long = Batch::new(&slurm, &runtime, home.path().join("long"), 60, Duration::from_secs(1));
    let dry = long.submit(&["--runs-per-task", "60", "--dry-run"]);
    assert!(dry.contains("#SBATCH --signal=B:USR2@120") && !long.folder.exists(), "{dry}");
    let said = long.submit(&["--runs-per-task", "60", "--time", "00:03:00"]);
    assert!(said.contains("runs       60 in 1 task"), "{said}");

    let batch = Batch::new(&slurm, &runtime, home.path().join("troubled"), RUNS, Duration::from_secs(1));
    let began = Instant::now();
    batch.submit(&[]);
    // Four tasks of the first hundred fare badly, each in its own way.
    let long_job = said.lines().find_map(|line| line.strip_prefix("jobs ")).unwrap().trim().to_owned();
    let own = |slurm: &Slurm| -> Vec<String> {
        let running = slurm.running().into_iter();
        running.filter(|task| !task.starts_with(&format!("{long_job}_"))).collect()
    };
    let mut troubled: BTreeSet<String> = BTreeSet::new();
    let mut requeued = String::new();
    for trouble in ["requeue", "cancel", "nearly up", "kill"] {
        slurm.wait("a task runs", |slurm| own(slurm).iter().any(|task| !troubled.contains(task)));
        let task = own(&slurm).into_iter().find(|task| !troubled.contains(task)).unwrap();
        let index: usize = task.rsplit('_').next().unwrap().parse().unwrap();
        let answered = || {
            fs::read_to_string(batch.folder.join(format!("journal-s1-{index}.jsonl")))
                .is_ok_and(|text| text.contains("\"result\""))
        };
        match trouble {
            "requeue" => {
                // In the middle of the run: the first question is answered, the second is not.
                slurm.wait("the task has an answer", |_| answered());
                requeued = format!("s1-{index}");
                slurm.say("scontrol", &["requeue", &task])
            }
            "cancel" => slurm.say("scancel", &[&task]),
            "nearly up" => slurm.say("scancel", &["--batch", "--signal=USR2", &task]),
            _ => {
                slurm.wait("a program runs", |_| !tasks_of(&batch.folder).is_empty());
                let id = tasks_of(&batch.folder)[0].to_string();
                Command::new("sh").args(["-c", &format!("kill -9 {id}")]).status().unwrap();
                String::new()
            }
        };
        troubled.insert(task);
    }

    // Slurm's own warning, a minute before the end of its time as it counts it: the run under way is finished, no other is begun.
    slurm.wait("the long task has ended", |_| long.idle());
    let ended = long.journal("s1-0");
    let finished = ended.iter().filter(|line| line["kind"] == "done").count();
    assert_eq!(ended.last().unwrap()["value"]["how"], "drained", "{}", ended.last().unwrap());
    assert!(finished > 0 && finished < 60, "{finished}");
    let said = long.on_folder("retry", &["--runs-per-task", "6", "--mem", "100M"]);
    assert!(said.contains(&format!("runs       {} in", 60 - finished)), "{said}\n{finished}");

    // Slurm lets a requeued task wait for two minutes.
    let rounds = batch.retry_to_the_end(&["--mem", "100M"]);
    let took = began.elapsed();
    let (billed, planned) = (batch.exactly_once(), RUNS * QUESTIONS);
    assert!(billed <= planned + 4, "{billed} calls are billed, {planned} were planned");
    let sessions = batch.journal(&requeued);
    let begun = sessions.iter().filter(|line| line["kind"] == "session").count();
    let first: Vec<u64> =
        sessions.iter().filter(|line| line["kind"] == "result").filter_map(|line| line["step"].as_u64()).collect();
    assert!(
        begun == 2 && first.first() == Some(&0) && first.iter().filter(|step| **step == 0).count() == 1,
        "{begun} {first:?}"
    );
    assert_eq!(long.retry_to_the_end(&[]), 0);
    assert_eq!(long.exactly_once(), 60 * QUESTIONS, "no call was lost to the warning");
    println!(
        "{RUNS} runs with a requeue, a cancel, a warning and a kill -9: {took:.1?} with {rounds} retries, {billed} of {planned} calls billed; \
         a task of 3 minutes was told by Slurm and had finished {finished} of 60 runs, a retry did the other {}",
        60 - finished
    );
    assert!(more <= MOST_OVERHEAD, "{:.1} % over a bare array", 100.0 * more);
}
