//! Files of other people that hold something else than they seem to: each is refused with its place, or read as it was meant; nothing is
//! emptied, overwritten or waited for.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tiltmeter_test_support::{paths::in_repo, process::Finished};

use crate::tiltmeter;

fn quay() -> String {
    in_repo("data/models/quay")
}

fn capture(messages: &Path, out: &Path) -> Finished {
    let mut command = tiltmeter(["capture", &quay(), "--sites", "embed", "--messages"]);
    Finished::of(command.arg(messages).arg("--out").arg(out))
}

/// A copy of the demo's model without its template.
fn model_with(home: &Path, template: &str) -> String {
    let folder = home.join("model");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(quay()).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    folder.display().to_string()
}

#[test]
fn half_of_a_surrogate_pair_is_refused_wherever_json_is_read() {
    let home = tempfile::tempdir().unwrap();
    let messages = home.path().join("m.json");
    fs::write(&messages, r#"[{"role": "user", "content": "Good morning \ud83d to you."}]"#).unwrap();
    let refused = capture(&messages, &home.path().join("o.safetensors"));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.problems()[0].contains("m.json:1:30"), "{}", refused.stderr);
    let experiment = home.path().join("e.json");
    let text = fs::read_to_string(in_repo("experiments/demo.yaml")).unwrap();
    assert!(text.contains("kind: projection"));
    fs::write(
        &experiment,
        format!(
            r#"{{"kind": "projection", "experiment": "e", "model": "{}", "axis": "{}", "site": "block.4.out",
            "transcript": "{}", "samples": 2, "conditions": [{{"label": "a", "system_prompt": "Be kind \udc00."}}]}}"#,
            quay(),
            in_repo("data/axes/quay_assistant.safetensors"),
            in_repo("data/transcripts/quay_storm.json"),
        ),
    )
    .unwrap();
    let refused = Finished::of(tiltmeter(["plan"]).arg(&experiment));
    assert!(refused.code == Some(2) && refused.problems()[0].contains("not valid Unicode"), "{}", refused.stderr);
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read_and_replaced() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::write(at("m.json"), r#"[{"role": "user", "content": "hi"}]"#).unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    let began = Instant::now();
    let refused = capture(&at("m.json"), &at("fifo"));
    assert!(refused.code != Some(0) && refused.problems()[0].contains("pipe"), "{}", refused.stderr);
    assert!(!fs::symlink_metadata(at("fifo")).unwrap().is_file(), "the pipe is still there");
    let refused = capture(&at("fifo"), &at("o.safetensors"));
    assert!(refused.code == Some(2) && refused.problems()[0].contains("pipe"), "{}", refused.stderr);
    let refused = Finished::of(tiltmeter(["plan"]).arg(at("fifo")));
    assert!(refused.code == Some(2) && refused.problems()[0].contains("pipe"), "{}", refused.stderr);
    assert!(began.elapsed() < Duration::from_secs(20), "nothing waits for the other end");
    fs::write(at("target"), "old").unwrap();
    std::os::unix::fs::symlink("target", at("link")).unwrap();
    capture(&at("m.json"), &at("link")).success();
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink(), "a link is followed");
    assert_ne!(fs::read(at("target")).unwrap(), b"old");
}

#[test]
fn a_small_experiment_file_costs_little() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x.yaml");
    let aliases = vec!["*a"; 100_000].join(",");
    let keys: String = (0..190_000).map(|i| format!("k{i}: 1\n")).collect();
    for text in [format!("a: &a \"{}\"\nb: [{aliases}]\n", "x".repeat(1_000_000)), keys] {
        fs::write(&path, text).unwrap();
        let began = Instant::now();
        let refused = Finished::of(tiltmeter(["plan"]).arg(&path));
        assert_eq!(refused.code, Some(2), "{}", refused.stderr.chars().take(500).collect::<String>());
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(refused.problems().len() < 100, "what is printed can be read");
    }
}

#[test]
fn a_template_that_leaves_a_message_out_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let model = model_with(
        home.path(),
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    );
    let messages = home.path().join("m.json");
    fs::write(&messages, r#"[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]"#).unwrap();
    let out = home.path().join("o.safetensors");
    let refused = Finished::of(
        tiltmeter(["capture", &model, "--sites", "embed", "--messages"]).arg(&messages).arg("--out").arg(&out),
    );
    assert!(refused.problems()[0].contains("leaves out message 1 (system)"), "{}", refused.stderr);
    let set = format!("model={model}");
    let refused = Finished::of(&mut tiltmeter(["plan", "experiments/demo.yaml", "--set", &set]));
    assert!(refused.code == Some(2) && refused.stderr.contains("leaves out message 2 (system)"), "{}", refused.stderr);
}

#[cfg(unix)]
#[test]
fn a_file_of_another_program_in_the_place_of_the_journal_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("r");
    fs::create_dir(&out).unwrap();
    let precious = "one line without a line break, of another program";
    fs::write(out.join("journal.jsonl"), precious).unwrap();
    let run = || {
        Finished::of(tiltmeter(["run", "experiments/demo.yaml", "--set", "samples=1", "--resume", "--out"]).arg(&out))
    };
    assert_ne!(run().code, Some(0));
    assert_eq!(fs::read_to_string(out.join("journal.jsonl")).unwrap(), precious);
    fs::rename(out.join("journal.jsonl"), home.path().join("precious")).unwrap();
    std::os::unix::fs::symlink("../precious", out.join("journal.jsonl")).unwrap();
    assert_ne!(run().code, Some(0));
    assert_eq!(fs::read_to_string(home.path().join("precious")).unwrap(), precious);
}

#[cfg(unix)]
#[test]
fn a_journal_deleted_during_the_run_is_written_again_and_the_run_goes_on_from_it() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("r");
    let child = tiltmeter(["run", "experiments/demo.yaml", "--out"]).arg(&out).spawn().unwrap();
    let journal = out.join("journal.jsonl");
    while fs::metadata(&journal).map_or(0, |found| found.len()) < 20_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(&journal).unwrap();
    let ended: Finished = child.wait_with_output().unwrap().into();
    assert!(ended.code != Some(0) && ended.stderr.contains("deleted, moved or replaced"), "{}", ended.stderr);
    assert!(fs::metadata(&journal).unwrap().len() >= 20_000);
    Finished::of(tiltmeter(["run", "experiments/demo.yaml", "--resume", "--out"]).arg(&out)).success();
    Finished::of(tiltmeter(["validate"]).arg(&out)).success();
}
