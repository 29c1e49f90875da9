//! Every file of a run folder follows from its plan and journal: `collect` writes all of them with the same bytes.

use std::{collections::BTreeMap, fs, path::Path};

use tiltmeter_test_support::{
    paths::{in_repo, json},
    process::{Finished, files},
};

use crate::tiltmeter;

/// Journals and claims are the source; the session log is a log of the program, not a result.
fn is_source(name: &str) -> bool {
    name.starts_with("journal") || name.starts_with("claims/") || ["plan.json", "session.log"].contains(&name)
}

/// Runs the experiment into `out`.
fn run(experiment: &str, out: &Path, further: &[&str]) {
    let mut command = tiltmeter(["run", &in_repo(&format!("experiments/{experiment}.yaml")), "--out"]);
    Finished::of(command.arg(out).args(further)).success();
}

/// Runs the command on the folder, from another folder than the one it ran in.
fn command(command: &str, out: &Path) -> String {
    let elsewhere = tempfile::tempdir().unwrap();
    Finished::of(tiltmeter([command]).arg(out).current_dir(elsewhere.path())).success()
}

/// Deletes everything but the source and the log, then collects.
fn collect_again(out: &Path) -> BTreeMap<String, Vec<u8>> {
    for name in files(out).keys().filter(|name| !is_source(name)) {
        fs::remove_file(out.join(name)).unwrap();
    }
    command("collect", out);
    files(out)
}

#[track_caller]
fn assert_same(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) {
    let names = before.keys().chain(after.keys());
    let differ: Vec<&String> = names.filter(|name| before.get(*name) != after.get(*name)).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

#[track_caller]
fn collect_reproduces(experiment: &str, further: &[&str], promised: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    run(experiment, &out, further);
    let before = files(&out);
    for name in promised.iter().chain(&["manifest.json", "methods.md", "report.md", "report.html", "turns.parquet"]) {
        assert!(before.contains_key(*name), "{name}: {:?}", before.keys());
    }
    assert_same(&before, &collect_again(&out));
    command("validate", &out);
}

#[test]
fn a_projection_is_collected_byte_for_byte() {
    let transcripts = "generated_transcripts/demo_simple.json";
    collect_reproduces(
        "demo",
        &[],
        &[transcripts, "tokens.parquet", "turns.jsonl", "demo_summary.json", "images/demo.png"],
    );
}

#[test]
fn vectors_are_collected_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    run("demo", &out, &["--set", "vectors=true", "--set", "samples=2"]);
    let before = files(&out);
    assert!(before.contains_key("vectors.safetensors"));
    assert_same(&before, &collect_again(&out));
}

#[test]
fn interviews_are_collected_byte_for_byte() {
    collect_reproduces("deception_local", &[], &["runs.parquet", "batch_summary.json", "game_logs.jsonl"]);
}

#[test]
fn negotiations_are_collected_byte_for_byte() {
    // At the file's own limit replies are cut, which `validate` reports.
    let longer = ["--set", "sampling.max_new_tokens=256"];
    collect_reproduces("bargain_local", &longer, &["runs.parquet", "results.csv", "summary.json"]);
}

#[test]
fn scenarios_are_collected_byte_for_byte() {
    collect_reproduces("regulation_local", &[], &["runs.parquet", "batch-state.json", "batch-config.yaml"]);
}

/// Workers leave journals; the rest comes from `collect` and is the same as after a run by one process.
#[test]
fn a_batch_of_workers_gets_every_file_from_collect() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, pulled) = (folder.path().join("alone"), folder.path().join("pulled"));
    run("demo", &alone, &[]);
    for worker in ["a", "b"] {
        run("demo", &pulled, &["--resume", "--pull", worker]);
    }
    assert!(!pulled.join("manifest.json").exists() && !pulled.join("report.md").exists());
    command("collect", &pulled);
    let before = files(&pulled);
    assert_same(&before, &collect_again(&pulled));
    command("validate", &pulled);
    let made_by = ["manifest.json", "methods.md", "invocation.json"];
    let comparable = |files: &BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
        let kept = files.iter().filter(|(name, _)| !is_source(name) && !made_by.contains(&name.as_str()));
        kept.map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
    };
    assert_same(&comparable(&files(&alone)), &comparable(&before));
    let (of_one, of_workers) = (json(alone.join("manifest.json")), json(pulled.join("manifest.json")));
    for key in ["tool", "models", "axis_hashes", "device", "dtype", "plan_hash", "host"] {
        assert_eq!(of_one[key], of_workers[key], "{key}");
    }
    assert_eq!(of_one["work"]["forward_tokens"], of_workers["work"]["forward_tokens"]);
}

/// `images/` and `data/generated_transcripts/` hold copies of the latest run; no run depends on them.
#[test]
fn a_second_run_breaks_nothing_of_the_first() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("data")).unwrap();
    for name in ["axes", "models", "transcripts"] {
        std::os::unix::fs::symlink(in_repo(&format!("data/{name}")), home.path().join("data").join(name)).unwrap();
    }
    for seed in ["1", "2"] {
        let set = format!("seed={seed}");
        let arguments = ["run", &in_repo("experiments/demo.yaml"), "--set", &set, "--set", "samples=2"];
        Finished::of(tiltmeter(arguments).current_dir(home.path())).success();
    }
    let mut folders: Vec<_> =
        fs::read_dir(home.path().join("data/runs/demo")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 2);
    for folder in &folders {
        command("validate", folder);
        let manifest = json(folder.join("manifest.json"));
        let listed: Vec<&str> =
            manifest["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
        assert!(listed.iter().all(|path| folder.join(path).is_file()), "{listed:?}");
    }
    let read = |path: &Path| fs::read(path).unwrap();
    let latest = folders.iter().find(|folder| json(folder.join("plan.json"))["document"]["seed"] == 2).unwrap();
    for (copy, own) in [
        ("images/demo.png", "images/demo.png"),
        ("data/generated_transcripts/demo_simple.json", "generated_transcripts/demo_simple.json"),
    ] {
        assert_eq!(read(&home.path().join(copy)), read(&latest.join(own)), "{copy}");
    }
}
