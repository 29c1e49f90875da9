//! Tests where many processes carry out one plan in one folder: every run exactly once, whoever is killed, and all of
//! them together within the budget.
//!
//! ```text
//! cargo test --release --test it sharing:: -- --nocapture                               32 processes and 2,000 runs
//! TILTMETER_PULL=32x10000 cargo test --release --test it sharing::many -- --nocapture   10,000
//! ```

mod leases;
mod slurm;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tiltmeter_scheduler::seed_for;
use tiltmeter_test_support::process::Finished;

/// A batch of interviews of one variant, with this steward and these further keys.
fn experiment(home: &Path, questions: usize, runs: usize, steward: Value, more: Value) -> PathBuf {
    let prompts: Vec<String> = (1..=questions).map(|n| format!("Question {n}?")).collect();
    let set = home.join("set.json");
    let variants = json!({"calm": {"name": "Calm", "prompts": prompts}});
    fs::write(&set, json!({"briefing": "You keep a lighthouse.", "variants": variants}).to_string()).unwrap();
    let verdict = json!({
        "strategy": "Evasion", "outcome": "VAULT PROTECTED", "reasoning": "r", "critical_response": "c",
        "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": true},
    });
    let mut spec = json!({
        "kind": "interview", "experiment": "night", "prompt_set": set, "parallel": 2, "runs_per_variant": runs,
        "steward": steward, "judge": {"name": "scripted", "script": [{"reply": verdict.to_string()}]},
        "stop_on_refusal": {"rule": "none"}, "sampling": {"max_new_tokens": 20},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = home.join("night.json");
    fs::write(&path, spec.to_string()).unwrap();
    path
}

fn scripted() -> Value {
    json!({"name": "scripted", "script": [{"reply": "The lamp is lit."}]})
}

fn worker(file: &Path, folder: &Path, name: &str) -> Command {
    let mut command = tiltmeter(["run", "--resume", "--progress", "json", "--pull", name, "--out"]);
    command.arg(folder).arg(file).current_dir(file.parent().unwrap());
    command
}

/// How often each run is done, and how many journals have a step of it.
fn done(folder: &Path) -> BTreeMap<String, (usize, usize)> {
    let mut runs: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("journal") {
            continue;
        }
        let mut begun: BTreeMap<String, usize> = BTreeMap::new();
        for line in fs::read_to_string(entry.path()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if let Some(run) = line["run"].as_str() {
                *begun.entry(run.to_owned()).or_default() += usize::from(line["kind"] == "done");
            }
        }
        for (run, times) in begun {
            let known = runs.entry(run).or_default();
            *known = (known.0 + times, known.1 + 1);
        }
    }
    runs
}

fn exactly_once(folder: &Path, runs: usize) {
    let done = done(folder);
    assert_eq!(done.len(), runs);
    let other: Vec<_> = done.iter().filter(|(_, times)| **times != (1, 1)).collect();
    assert!(other.is_empty(), "done, and begun by so many: {other:?}");
}

fn collected(folder: &Path) -> usize {
    Finished::of(tiltmeter(["collect"]).arg(folder)).success();
    fs::read_to_string(folder.join("game_logs.jsonl")).unwrap().lines().count()
}

#[test]
fn many_workers_pull_runs_from_one_folder_and_each_is_done_exactly_once() {
    let size = std::env::var("TILTMETER_PULL").unwrap_or("32x2000".into());
    let (workers, runs) = size.split_once('x').map(|(w, r)| (w.parse().unwrap(), r.parse().unwrap())).unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = experiment(home.path(), 1, runs, scripted(), json!({}));
    let folder = home.path().join("out");
    let began = Instant::now();
    let start = |who: usize| worker(&file, &folder, &format!("w{who}")).stderr(Stdio::null()).spawn();
    let children: Vec<Child> = (0..workers).map(|who| start(who).unwrap()).collect();
    let ended: Vec<Finished> = children.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    assert!(ended.iter().all(|ended| ended.code == Some(0)), "{ended:?}");
    let took = began.elapsed();
    exactly_once(&folder, runs);
    let own = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("journal-"));
    let lines: Vec<usize> = own.map(|entry| fs::read_to_string(entry.path()).unwrap().lines().count()).collect();
    assert_eq!(lines.len(), workers);
    assert_eq!(collected(&folder), runs);
    println!(
        "{workers} processes pulled {runs} runs in {took:.1?}, each done exactly once; their journals have {} to {} lines",
        lines.iter().min().unwrap(),
        lines.iter().max().unwrap()
    );
}

#[test]
fn workers_that_are_killed_go_on_with_their_own_and_nothing_is_done_twice() {
    const RUNS: usize = 1_500;
    let home = tempfile::tempdir().unwrap();
    let file = experiment(home.path(), 2, RUNS, scripted(), json!({"parallel": 3}));
    let folder = home.path().join("out");
    let name = |who: usize| format!("node-{who}");
    // Nobody reads what they say while they run.
    let start =
        |who: usize| worker(&file, &folder, &name(who)).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut children: Vec<Child> = (0..6).map(start).collect();
    let mut kills = 0;
    for round in 0..10_u64 {
        std::thread::sleep(Duration::from_millis(30 + seed_for(7, &format!("pause {round}")) % 120));
        let who = (seed_for(7, &format!("who {round}")) % 4) as usize;
        if children[who].try_wait().unwrap().is_none() {
            children[who].kill().unwrap();
            children[who].wait().unwrap();
            kills += 1;
        }
        // Some come back at once; the others when the rest is through.
        if round % 2 == 0 {
            children[who] = start(who);
        }
    }
    for who in 0..6 {
        let ended = children[who].wait().unwrap();
        if !ended.success() {
            Finished::of(&mut worker(&file, &folder, &name(who))).success();
        }
    }
    assert!(kills >= 2, "it was over too soon to kill anybody");
    exactly_once(&folder, RUNS);
    assert_eq!(collected(&folder), RUNS);
    let late = Finished::of(&mut worker(&file, &folder, "late"));
    assert_eq!(late.code, Some(0), "there is nothing left to pull: {}", late.stderr);
    exactly_once(&folder, RUNS);
    println!("{RUNS} runs by 6 workers, {kills} times kill -9");
}

#[test]
fn workers_that_cannot_share_are_told_so() {
    let home = tempfile::tempdir().unwrap();
    let file = experiment(home.path(), 1, 3, scripted(), json!({}));
    let folder = home.path().join("out");
    let refused = |command: &mut Command, what: &str| {
        let ended = Finished::of(command);
        let problems = ended.problems();
        assert_eq!((ended.code, problems.len()), (Some(2), 1), "{what}\n{}", ended.stderr);
        assert!(problems[0].contains(what), "{what}\n{}", ended.stderr);
    };
    for name in ["../x", "a b", ".a", "x/../../y", &"n".repeat(61)] {
        refused(&mut worker(&file, &folder, name), "is not a valid worker name");
    }
    let without = Finished::of(tiltmeter(["run", "--resume", "--pull", "a"]).arg(&file));
    assert!(without.code == Some(2) && without.stderr.contains("--out"), "{}", without.stderr);

    Finished::of(&mut worker(&file, &folder, "a")).success();
    refused(worker(&file, &folder, "b").args(["--set", "sampling.max_new_tokens=21"]), "execute another plan");
    // A file stands where claims should.
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("claims"), "").unwrap();
    refused(&mut worker(&file, &other, "a"), "cannot write");
    // Slurm has the runs.
    fs::create_dir(folder.join("slurm")).unwrap();
    refused(&mut worker(&file, &folder, "b"), "were submitted to Slurm");
}
