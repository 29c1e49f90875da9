//! Tests of a run that is cut off: killed, stopped or out of space at any moment, `--resume` brings it to the same
//! files, byte for byte, as if nothing had happened; and what is not the same experiment is not gone on with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltmeter_test_support::{
    paths::{in_repo, json},
    process::{Finished, files},
};

const TURNS: usize = 5;
const SAMPLES: usize = 3;

/// The demo with its first turns, fewer samples and shorter replies, and room for runs of it.
struct Bench {
    home: TempDir,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let whole = json(in_repo("data/transcripts/quay_storm.json"));
        let first: Vec<Value> = whole["conversation"].as_array().unwrap()[..2 * TURNS].to_vec();
        fs::write(home.path().join("first.json"), json!({"conversation": first}).to_string()).unwrap();
        Self { home }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn run(&self, name: &str, further: &[&str]) -> Command {
        let transcript = format!("transcript={}", self.dir("first.json").display());
        let samples = format!("samples={SAMPLES}");
        let mut command = tiltmeter(["run", "experiments/demo.yaml", "--set", "sampling.max_new_tokens=16"]);
        command.args(["--set", &transcript, "--set", &samples, "--out"]).arg(self.dir(name)).args(further);
        command
    }

    fn finished(&self, name: &str, further: &[&str]) -> BTreeMap<String, Vec<u8>> {
        Finished::of(&mut self.run(name, further)).success();
        results(&self.dir(name))
    }

    /// Begins a run and ends it by `act` once that many turns are in its journal.
    fn cut_at(&self, name: &str, turns: usize, further: &[&str], act: impl FnOnce(u32)) -> Finished {
        let mut child = self.run(name, further).spawn().unwrap();
        while turns_kept(&self.dir(name)) < turns {
            assert!(child.try_wait().unwrap().is_none(), "{name} ended before its turn {turns}");
            thread::sleep(Duration::from_millis(1));
        }
        act(child.id());
        child.wait_with_output().unwrap().into()
    }
}

/// Everything that must not depend on what happened on the way: all files but what was asked for, the journal, the log and the methods, which tell just that, and the manifest,
/// of which only the story and the work of this sitting are left out.
fn results(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = files(folder);
    for name in ["invocation.json", "journal.jsonl", "methods.md", "session.log"] {
        assert!(found.remove(name).is_some(), "{name}");
    }
    let mut manifest: Value = serde_json::from_slice(&found.remove("manifest.json").unwrap()).unwrap();
    let story = manifest.as_object_mut().unwrap();
    for key in ["started", "finished", "sessions", "notes"] {
        assert!(story.remove(key).is_some_and(|value| !value.is_null()), "{key}");
    }
    for key in ["forward_tokens", "unique_tokens", "engine_steps"] {
        assert!(story["work"].as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    found.insert("manifest.json".into(), manifest.to_string().into_bytes());
    found
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>, what: &str) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    let differ: Vec<&String> = expected.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differ.is_empty(), "{what}: {differ:?} differ");
}

/// How many turns a journal holds; a line counts when it is whole.
fn turns_kept(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join("journal.jsonl")).unwrap_or_default();
    text.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.contains(r#""kind":"result""#)).count()
}

/// By the shell, which has it everywhere.
fn send(signal: &str, id: u32) {
    assert!(Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status().unwrap().success());
}

/// A repeatable number in [0, 1) (splitmix64).
fn fraction(seed: u64) -> f64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x632B_E59B_D9B4_E019);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[test]
fn killed_at_any_moment_it_comes_to_the_same_files() {
    const TRIALS: usize = 20;
    let bench = Bench::new();
    let began = Instant::now();
    let expected = bench.finished("whole", &["--threads", "1"]);
    let whole = began.elapsed();

    let next = AtomicUsize::new(0);
    let trial = |trial: usize| -> Vec<usize> {
        let name = format!("trial-{trial}");
        let folder = bench.dir(&name);
        let mut kept = Vec::new();
        for kill in 0..1 + usize::from(trial % 4 == 3) + usize::from(trial % 8 == 7) {
            let mut wait = whole.mul_f64(0.03 + 0.97 * fraction((100 * kill + trial) as u64));
            loop {
                let mut child = bench.run(&name, &["--threads", "1", "--resume"]).spawn().unwrap();
                thread::sleep(wait);
                child.kill().unwrap();
                if child.wait().unwrap().signal() == Some(9) {
                    break;
                }
                // It was done before: once more, and earlier.
                assert_same(&results(&folder), &expected, &name);
                fs::remove_dir_all(&folder).unwrap();
                wait = wait.mul_f64(0.7);
            }
            kept.push(turns_kept(&folder));
        }
        Finished::of(&mut bench.run(&name, &["--threads", "1", "--resume"])).success();
        assert_same(&results(&folder), &expected, &format!("{name}, killed after {kept:?} turns"));
        fs::remove_dir_all(&folder).unwrap();
        kept
    };
    let kept: Vec<usize> = thread::scope(|scope| {
        let work = || {
            let mut kept = Vec::new();
            loop {
                match next.fetch_add(1, Ordering::Relaxed) {
                    index if index < TRIALS => kept.extend(trial(index)),
                    _ => return kept,
                }
            }
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    // Kills that all fell into one moment would prove little.
    let moments: BTreeSet<usize> = kept.iter().copied().collect();
    assert!(kept.len() >= TRIALS + 5 && moments.len() >= 8, "{kept:?}");
    println!("killed after {kept:?} of {} turns; one run takes {whole:.1?}", 4 * SAMPLES * TURNS + 1);
}

#[test]
fn one_interrupt_finishes_what_was_begun_and_two_stop_at_the_next_turn() {
    let bench = Bench::new();
    let expected = bench.finished("whole", &[]);

    // With one conversation of each condition under way, most are still to be begun when the interrupt comes.
    const FEW: [&str; 4] = ["--set", "seeding=per_sample", "--set", "micro_batch=1"];
    let drained = bench.cut_at("drained", 3, &FEW, |id| send("INT", id));
    assert!(drained.stderr.contains("stopping: active runs finish"), "{}", drained.stderr);
    let status = Finished::of(&mut tiltmeter(["status", &bench.dir("drained").display().to_string()])).success();
    assert!(
        status.contains(", 0 failed, ") && status.contains(" pending (0 started)\n"),
        "a conversation was cut off:\n{status}"
    );
    assert!(!status.contains(" 0 pending "), "a drain begins nothing new:\n{status}");
    assert_eq!(drained.code, Some(130), "{status}{}", drained.stderr);

    for (name, signals) in [("twice", ["INT", "INT"].as_slice()), ("terminated", &["TERM"])] {
        let stopped = bench.cut_at(name, 5, &[], |id| {
            for signal in signals {
                send(signal, id);
                // Two signals in the same instant are one.
                thread::sleep(Duration::from_millis(30));
            }
        });
        assert_eq!(stopped.code, Some(130), "{}", stopped.stderr);
        assert!(
            stopped.stderr.contains("note: stopped: ") && stopped.stderr.contains("--resume"),
            "{}",
            stopped.stderr
        );
        let kept = turns_kept(&bench.dir(name));
        assert!((5..4 * SAMPLES * TURNS).contains(&kept), "{kept} turns");
        let status = Finished::of(&mut tiltmeter(["status", &bench.dir(name).display().to_string()])).success();
        assert!(status.contains("stopped; continue with --resume"), "{status}");
    }
    let few = bench.finished("few", &FEW);
    let resumed_few: Vec<&str> = ["--resume"].into_iter().chain(FEW).collect();
    for (name, resume, expected, how) in [
        ("drained", &resumed_few[..], &few, "drained"),
        ("twice", &["--resume"], &expected, "stopped"),
        ("terminated", &["--resume"], &expected, "stopped"),
    ] {
        assert_same(&bench.finished(name, resume), expected, name);
        let manifest = json(bench.dir(name).join("manifest.json"));
        let hows: Vec<&str> =
            manifest["sessions"].as_array().unwrap().iter().map(|s| s["how"].as_str().unwrap()).collect();
        assert_eq!(hows, [how, "finished"]);
    }
}

#[test]
fn of_two_at_once_the_second_is_refused() {
    let bench = Bench::new();
    let expected = bench.finished("whole", &[]);
    let first = bench.cut_at("busy", 2, &[], |id| {
        // Held still, so that it cannot be done before the other one comes.
        send("STOP", id);
        let second = Finished::of(&mut bench.run("busy", &["--resume"]));
        let status = Finished::of(&mut tiltmeter(["status", &bench.dir("busy").display().to_string()])).success();
        send("CONT", id);
        assert_eq!(second.code, Some(2), "{}", second.stderr);
        let problems = second.problems();
        assert!(problems.len() == 1 && problems[0].contains("another process is writing"), "{problems:?}");
        assert!(status.contains("state      running"), "{status}");
    });
    first.success();
    assert_same(&results(&bench.dir("busy")), &expected, "the first of two");
}

#[test]
fn a_torn_tail_is_left_out_and_damage_before_it_is_told() {
    let bench = Bench::new();
    let expected = bench.finished("torn", &[]);
    let journal = bench.dir("torn").join("journal.jsonl");
    let bytes = fs::read(&journal).unwrap();
    // In the middle of a line, one byte before its end, and a line of which only the first byte was written.
    let at = |share: f64| (bytes.len() as f64 * share) as usize;
    let line_end = bytes[..at(0.5)].iter().rposition(|&byte| byte == b'\n').unwrap();
    for cut in [at(0.3), line_end, line_end + 2, at(0.9)] {
        fs::write(&journal, &bytes[..cut]).unwrap();
        // What a kill leaves of a file that was being written.
        fs::write(bench.dir("torn").join("images/.writing-x"), "half").unwrap();
        assert_same(
            &bench.finished("torn", &["--resume"]),
            &expected,
            &format!("cut at byte {cut} of {}", bytes.len()),
        );
    }

    let mut damaged = bytes.clone();
    damaged[at(0.5)] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    let before = files(&bench.dir("torn"));
    let refused = Finished::of(&mut bench.run("torn", &["--resume"]));
    let line = bytes[..at(0.5)].iter().filter(|&&byte| byte == b'\n').count() + 1;
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let problems = refused.problems();
    assert!(
        problems.len() == 1 && problems[0].contains(&format!("line {line} of the journal is damaged")),
        "{problems:?}"
    );
    assert!(files(&bench.dir("torn")) == before, "a refused resume changed something");
}

#[test]
fn a_changed_plan_is_refused_field_by_field_and_accepted_on_request() {
    let bench = Bench::new();
    let base = ["--set", "seeding=per_sample", "--set", "micro_batch=2"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    bench.cut_at("run", 8, &base, |id| send("KILL", id));
    let before = files(&bench.dir("run"));

    let changes =
        ["--resume", "--set", "seed=7", "--set", "sampling.temperature=0.9", "--set", "conditions.0.label=first"];
    let refused = Finished::of(&mut bench.run("run", &with(&changes)));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let problems = refused.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for said in [
        "3 fields differ",
        r#"conditions[0].label: was "baseline", is "first""#,
        "sampling.temperature: was 0.6, is 0.9",
        "seed: was 42, is 7",
        "--accept-drift",
    ] {
        assert!(problems[0].contains(said), "{said}:\n{}", problems[0]);
    }
    let again = Finished::of(&mut bench.run("run", &base));
    assert_eq!((again.code, again.problems().len()), (Some(2), 1), "{}", again.stderr);
    assert!(
        again.stderr.contains("already contains the journal") && again.stderr.contains("--resume"),
        "{}",
        again.stderr
    );
    assert!(!again.stderr.contains(" runs | "), "no progress of a run that is none:\n{}", again.stderr);
    assert!(files(&bench.dir("run")) == before, "a refused resume changed something");

    // One sample more: those there were keep their ids and their words.
    let more = with(&["--set", "samples=4"]);
    let expected = bench.finished("more", &more);
    let mut found = bench.finished("run", &[&more[..], &["--resume", "--accept-drift"]].concat());
    let mut manifest: Value = serde_json::from_slice(&found["manifest.json"]).unwrap();
    let drift = json!([{"path": "samples", "was": 3, "is": 4}]);
    assert_eq!(std::mem::replace(&mut manifest["accepted_drifts"], json!([])), drift);
    found.insert("manifest.json".into(), manifest.to_string().into_bytes());
    assert_same(&found, &expected, "one sample more");
    let status = Finished::of(&mut tiltmeter(["status", &bench.dir("run").display().to_string()])).success();
    assert!(status.contains("accepted plan changes\n  samples: was 3, is 4"), "{status}");

    // What was said under another seed cannot be gone on with, even on request.
    bench.cut_at("mixed", 8, &base, |id| send("KILL", id));
    let mixed = Finished::of(&mut bench.run("mixed", &with(&["--resume", "--accept-drift", "--set", "seed=7"])));
    assert_eq!(mixed.code, Some(4), "{}", mixed.stderr);
    assert!(
        mixed.problems().iter().all(|problem| problem.contains("no longer matches its journal")),
        "{}",
        mixed.stderr
    );
}

#[test]
fn threads_and_micro_batches_change_nothing_but_the_time() {
    let bench = Bench::new();
    let with = |more: &[&'static str]| [&["--set", "seeding=per_sample"], more].concat();
    let expected = bench.finished("one", &with(&["--threads", "1"]));
    assert_same(&bench.finished("two", &with(&["--threads", "2"])), &expected, "two threads");

    // The plan names the micro-batch; what was said and measured does not depend on it.
    let measured = |mut files: BTreeMap<String, Vec<u8>>| {
        files.retain(|name, _| {
            name.starts_with("generated") || name.ends_with(".parquet") || name.ends_with(".safetensors")
        });
        assert_eq!(files.len(), 4 + 2 + 1);
        files
    };
    let expected = measured(expected);
    for size in ["micro_batch=1", "micro_batch=2"] {
        assert_same(&measured(bench.finished(size, &with(&["--set", size]))), &expected, size);
    }
    // With seeds per batch it is part of the seed: so the comparison above can fail.
    let whole = measured(bench.finished("batch", &[]));
    let parts = measured(bench.finished("batches", &["--set", "micro_batch=2"]));
    assert_ne!(whole["generated_transcripts/demo_simple.json"], parts["generated_transcripts/demo_simple.json"]);
}

/// A limit on the size of files stands for a full disk: it needs no rights, and the write fails in the same place.
#[test]
fn a_journal_that_has_no_room_says_so_and_keeps_what_it_has() {
    let bench = Bench::new();
    let expected = bench.finished("whole", &[]);
    let limited = |name: &str, blocks: usize| {
        let program = bench.run(name, &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")]).arg(program.get_program());
        shell.args(program.get_args()).current_dir(program.get_current_dir().unwrap());
        Finished::of(&mut shell)
    };
    // Blocks are of 512 bytes: not even the plan fits; a part of the turns fits.
    for (name, blocks, code) in [("nothing", 4, 2), ("some", 120, 1)] {
        let ended = limited(name, blocks);
        assert_eq!(ended.code, Some(code), "{name}: {}", ended.stderr);
        let problems = ended.problems();
        assert_eq!(problems.len(), 1, "{name}: {problems:?}");
        assert!(problems[0].contains("the journal can no longer be written: File too large"), "{problems:?}");
        assert!(problems[0].contains("ulimit -f") && problems[0].contains("--resume"), "{problems:?}");
        assert_eq!(turns_kept(&bench.dir(name)) > 0, name == "some");
        assert_same(&bench.finished(name, &["--resume"]), &expected, name);
    }
}
