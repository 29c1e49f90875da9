//! What the program says to bad input: one clear problem that tells what to do, exit code 2, and not a file made; and, where
//! the problem names a way out, that the way is open.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::tiltmeter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltmeter_model::probe::{AxisFile, AxisOrigin, AxisStats, Site, SiteAxis};
use tiltmeter_test_support::{
    paths::{in_repo, json},
    process::{Finished, files},
};

/// The smallest fixture with a chat template of its own: 3 blocks, 32 numbers wide.
const MODEL: &str = "tests/fixtures/parity/olmo3_plain_3l";

/// A folder to stand in, with one experiment that runs if nothing is wrong with it.
struct Desk {
    home: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { home: tempfile::tempdir().unwrap() };
        desk.axis("axis.safetensors", 32, &[Site::BlockOut(1)], None);
        fs::write(
            desk.path("talk.json"),
            r#"[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]"#,
        )
        .unwrap();
        desk.experiment(json!({}));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `x.json`, with these keys in place of its own.
    fn experiment(&self, keys: Value) {
        let mut document = json!({
            "kind": "projection", "experiment": "x", "model": in_repo(MODEL), "axis": "axis.safetensors",
            "transcript": "talk.json", "conditions": [{"label": "only"}], "samples": 1,
            "sampling": {"temperature": 0, "max_new_tokens": 4},
        });
        document.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        fs::write(self.path("x.json"), document.to_string()).unwrap();
    }

    fn axis(&self, name: &str, width: usize, sites: &[Site], fingerprint: Option<&str>) {
        let direction: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).cos()).collect();
        let axis = |site: &Site| (*site, SiteAxis { direction: direction.clone(), stats: AxisStats::default() });
        let file = AxisFile {
            name: "warmth".into(),
            origin: AxisOrigin::default(),
            fingerprint: fingerprint.map(str::to_owned),
            hidden_size: width,
            num_layers: None,
            sites: sites.iter().map(axis).collect(),
            sha256: String::new(),
        };
        fs::write(self.path(name), file.to_bytes().unwrap()).unwrap();
    }

    /// A copy of the fixture under this name, to be spoiled.
    fn model(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        fs::create_dir(&copy).unwrap();
        for file in [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "model.safetensors",
        ] {
            fs::copy(Path::new(&in_repo(MODEL)).join(file), copy.join(file)).unwrap();
        }
        copy
    }

    /// Every name in the folder, as long as what is in it.
    fn inventory(&self) -> BTreeMap<String, usize> {
        files(self.home.path()).into_iter().map(|(name, bytes)| (name, bytes.len())).collect()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = tiltmeter(line.split_whitespace());
        command.current_dir(self.home.path());
        command
    }

    fn call(&self, line: &str) -> Finished {
        Finished::of(&mut self.command(line))
    }

    /// The problems of a call that is refused: code 2, nothing printed as a result, nothing made.
    #[track_caller]
    fn refused(&self, line: &str) -> Vec<String> {
        let before = self.inventory();
        let ended = self.call(line);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{line}\n{}", ended.stderr);
        assert_eq!(self.inventory(), before, "{line}: made something");
        assert!(!self.path("data").exists() && !self.path("out").exists(), "{line}: left a folder");
        assert!(!ended.stderr.contains(" runs | "), "{line}: progress of nothing\n{}", ended.stderr);
        ended.problems()
    }

    /// The only problem of a call, which must say all this.
    #[track_caller]
    fn one(&self, line: &str, says: &[&str]) -> String {
        let problems = self.refused(line);
        assert_eq!(problems.len(), 1, "{line}\n{}", problems.concat());
        for said in says {
            assert!(problems[0].contains(said), "{line}: {said:?} is not in\n{}", problems[0]);
        }
        problems.concat()
    }
}

#[test]
fn the_desk_itself_is_in_order() {
    let desk = Desk::new();
    let ended = desk.call("run x.json --out out");
    assert!(ended.code == Some(0) && ended.stderr.contains("does not record the weights"), "{}", ended.stderr);
    ended.success();
    assert!(desk.path("out/report.md").is_file() && !desk.path("data").exists());
}

#[test]
fn what_is_not_there_is_named() {
    let desk = Desk::new();
    desk.one("run nothing.yaml", &["the file does not exist", "--> nothing.yaml", "relative to the current folder"]);
    desk.one("plan nothing.yaml", &["the file does not exist"]);
    desk.one("run x.json --set model=models/none", &["models/none", "config.json"]);
    desk.one("run x.json --set model=./none", &["./none"]);
    desk.one("run x.json --set axis=none.safetensors", &["none.safetensors"]);
    desk.one("run x.json --set transcript=none.json", &["none.json"]);
    desk.one("status none", &["there is no such folder", "--> none"]);
    desk.one("analyze none", &["there is no such folder", "--> none"]);
    desk.one("report none", &["cannot be read", "--> none"]);
    desk.one("axis show none.safetensors", &["--> none.safetensors"]);
    desk.one("axis import none.npy --out a.safetensors", &["none.npy"]);
}

#[test]
fn a_folder_that_is_no_checkpoint_or_a_damaged_one() {
    let desk = Desk::new();
    fs::create_dir(desk.path("empty")).unwrap();
    desk.one("run x.json --set model=./empty", &["`./empty` is not a checkpoint", "config.json"]);

    let cut = desk.model("cut").join("model.safetensors");
    let bytes = fs::read(&cut).unwrap();
    for length in [bytes.len() - 1, bytes.len() / 2, 100, 4, 0] {
        fs::write(&cut, &bytes[..length]).unwrap();
        desk.one("run x.json --set model=./cut", &["weights", "cut/model.safetensors", "cut short"]);
    }
    fs::remove_file(&cut).unwrap();
    desk.one("run x.json --set model=./cut", &["cut", "model.safetensors"]);

    for (file, broken) in
        [("config.json", "{"), ("tokenizer.json", "{}"), ("config.json", r#"{"model_type": "mamba"}"#)]
    {
        let folder = desk.model("broken");
        fs::write(folder.join(file), broken).unwrap();
        desk.one("run x.json --set model=./broken", &["broken"]);
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn an_axis_that_does_not_fit_the_model() {
    let desk = Desk::new();
    desk.axis("wide.safetensors", 48, &[Site::BlockOut(1)], None);
    desk.one("run x.json --set axis=wide.safetensors", &["has 48 dimensions", "hidden size of 32"]);
    desk.one("run x.json --set site=block.2.out", &["no direction at block.2.out", "it has: block.1.out"]);
    desk.axis("deep.safetensors", 32, &[Site::BlockOut(7)], None);
    desk.one("run x.json --set axis=deep.safetensors", &["block.7.out does not exist", "the last one is block.2.out"]);
    desk.axis("two.safetensors", 32, &[Site::BlockOut(1), Site::FinalNorm], None);
    desk.one("run x.json --set axis=two.safetensors", &["has 2 sites", "block.1.out, final_norm"]);
    fs::write(desk.path("text.safetensors"), "no").unwrap();
    desk.one("run x.json --set axis=text.safetensors", &["not an axis file", "axis import"]);
    let model = in_repo(MODEL);
    desk.one(&format!("chat {model} --axis wide.safetensors"), &["has 48 dimensions"]);
    desk.one(&format!("chat {model} --axis deep.safetensors"), &["block.7.out does not exist"]);
    desk.one(&format!("chat {model} --axis axis.safetensors --site block.0.out"), &["no direction at block.0.out"]);
}

#[test]
fn an_axis_of_another_model_and_the_two_ways_out() {
    let desk = Desk::new();
    let other = format!("sha256:{}", "ab".repeat(32));
    desk.axis("other.safetensors", 32, &[Site::BlockOut(1)], Some(&other));
    let problem =
        desk.one("run x.json --set axis=other.safetensors", &["was built with other weights", &other, "--model"]);
    desk.one(&format!("chat {} --axis other.safetensors", in_repo(MODEL)), &["was built with other weights"]);

    let accept = "accept_axis_of_other_model=true";
    assert!(problem.contains(accept), "{problem}");
    let ended = desk.call(&format!("run x.json --set axis=other.safetensors --set {accept} --out accepted"));
    assert!(ended.stderr.contains("note: the axis `warmth` was built with other weights"), "{}", ended.stderr);
    ended.success();

    let model = in_repo(MODEL);
    desk.call(&format!("axis import other.safetensors --model {model} --out own.safetensors")).success();
    let ended = desk.call("run x.json --set axis=own.safetensors --out own");
    assert!(!ended.stderr.contains("weights"), "{}", ended.stderr);
    ended.success();
    let measured = |name: &str| json(desk.path(name).join("generated_transcripts/x_only.json"))["projections"].clone();
    assert_eq!(measured("own"), measured("accepted"));
}

#[test]
fn a_mistyped_key_is_shown_with_its_place_and_the_nearest_one() {
    let desk = Desk::new();
    let yaml = fs::read_to_string(in_repo("experiments/demo.yaml")).unwrap().replace("\nsamples: 16", "\nsampels: 16");
    let line = yaml.lines().position(|line| line.starts_with("sampels")).unwrap() + 1;
    let yaml = yaml.replace(": data/", &format!(": {}/", in_repo("data")));
    fs::write(desk.path("demo.yaml"), yaml).unwrap();
    desk.one("run demo.yaml", &["`sampels` is not a key", &format!("demo.yaml:{line}:1"), "did you mean `samples`?"]);
    desk.one("run x.json --set sampling.temprature=1", &["sampling.temprature", "did you mean `temperature`?"]);
    // All that is wrong with a file at once, each with its place.
    desk.experiment(json!({"samples": 0, "seeding": "per_sampel"}));
    let problems = desk.refused("run x.json");
    assert_eq!(problems.len(), 2, "{}", problems.concat());
    assert!(problems.iter().all(|problem| problem.contains("x.json:1:")), "{}", problems.concat());
}

#[test]
fn a_conversation_that_cannot_fit_is_refused_before_the_first_word() {
    let desk = Desk::new();
    desk.one(
        "run x.json --set max_seq_len=12",
        &["condition `only` cannot fit", "turn 1 needs", "there are 12", "on_context_overflow"],
    );
    desk.one("plan x.json --set max_seq_len=12", &["cannot fit"]);
    let ended = desk.call("run x.json --set max_seq_len=12 --set on_context_overflow=stop_conversation --out stopped");
    assert!(
        ended.stderr.contains("note: condition `only` cannot fit"),
        "the way out is open, but not silent: {}",
        ended.stderr
    );
    let document = json(desk.path("stopped/generated_transcripts/x_only.json"));
    assert_eq!((&document["statuses"], &document["projections"]), (&json!([["context_exhausted"]]), &json!([[null]])));
}

#[test]
fn a_chat_template_that_refuses_is_quoted() {
    let desk = Desk::new();
    let template = desk.model("strict").join("chat_template.jinja");
    fs::write(&template, "{{ raise_exception('only sea stories are told here') }}").unwrap();
    desk.one("run x.json --set model=./strict", &["only sea stories are told here", "condition `only`"]);
    fs::write(&template, "{% for m in messages %}").unwrap();
    desk.one("run x.json --set model=./strict", &["template"]);
}

#[test]
fn a_place_that_cannot_be_written() {
    let desk = Desk::new();
    fs::write(desk.path("taken"), "mine").unwrap();
    desk.one("run x.json --out taken", &["--> taken", "another"]);
    desk.one("run x.json --out taken/run", &["--> taken/run", "another"]);
    assert_eq!(fs::read_to_string(desk.path("taken")).unwrap(), "mine");
    let model = in_repo(MODEL);
    desk.one(&format!("capture {model} --messages talk.json --out taken/states"), &["taken/states"]);
    fs::write(
        desk.path("v.npy"),
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }            \n\0\0\x80\x3f",
    )
    .unwrap();
    desk.one("axis import v.npy --site embed --out taken/axis", &["taken/axis"]);

    // What comes after the runs can fail too; then what was computed is kept and can be exported once the place is free.
    fs::create_dir(desk.path("half")).unwrap();
    fs::write(desk.path("half/images"), "mine").unwrap();
    let ended = desk.call("run x.json --out half");
    assert_eq!(ended.code, Some(1), "something ran: {}", ended.stderr);
    let problems = ended.problems();
    assert!(problems.len() == 1 && problems[0].contains("half/images"), "{problems:?}");
    fs::remove_file(desk.path("half/images")).unwrap();
    desk.call("run x.json --out half --resume").success();
    assert!(desk.path("half/images/x.png").is_file());
}

#[test]
fn a_device_that_is_not_there() {
    let desk = Desk::new();
    desk.one("run x.json --device cuda", &["CUDA", "--device cpu"]);
    desk.one("run x.json --device cuda:3", &["CUDA", "--device cpu"]);
    if cfg!(not(feature = "cuda")) {
        desk.one("run x.json --device cuda:3", &["cuda:3", "--features cuda"]);
        desk.one("bench --shape config.json --device cuda", &["--features cuda", "--device cpu"]);
    }
    let ended = desk.call("run x.json --device gpu");
    assert!(ended.code == Some(2) && ended.stderr.contains("use auto, cpu, cuda or cuda:N"), "{}", ended.stderr);
    desk.one("bench --shape config.json", &["--shape", "--device cuda"]);
}

#[test]
fn reports_of_nothing() {
    let desk = Desk::new();
    fs::create_dir(desk.path("empty")).unwrap();
    desk.one("report empty", &["no run is recorded in this folder", "--> empty"]);
    desk.one("status empty", &["no run is recorded in this folder", "--> empty"]);
    fs::write(desk.path("a.json"), r#"{"condition": "a"}"#).unwrap();
    desk.one("report a.json", &["missing field `projections`", "--> a.json"]);
    fs::write(desk.path("a.json"), r#"{"condition": "a", "projections": [[NaN]]}"#).unwrap();
    desk.one("report a.json", &["write null instead"]);
    fs::write(desk.path("a.json"), r#"{"condition": "a", "projections": [[1, 2], [1]]}"#).unwrap();
    desk.one("report a.json", &["--> a.json"]);
    fs::write(desk.path("a.json"), r#"{"condition": "a", "projections": []}"#).unwrap();
    desk.one("report a.json", &["--> a.json"]);
    desk.one("report empty a.json", &["a run folder cannot be combined with other inputs", "--> empty"]);
}

#[test]
fn captures_of_nothing() {
    let desk = Desk::new();
    let capture = |rest: &str| format!("capture {} --out states.safetensors {rest}", in_repo(MODEL));
    desk.one(
        &capture("--messages talk.json --sites embed,block.3.out"),
        &["block.3.out does not exist", "block.2.out"],
    );
    desk.one(&capture("--messages none.json"), &["--> none.json"]);
    fs::write(desk.path("talk.json"), r#"[{"role": "narrator", "content": "Hello"}]"#).unwrap();
    desk.one(&capture("--messages talk.json"), &["talk.json"]);
    let ended = desk.call(&capture("--messages talk.json --sites block3"));
    assert!(
        ended.code == Some(2) && ended.stderr.contains("`block3` is not a site (sites are `embed`"),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_instruction_set_that_is_not_here_is_one_problem() {
    let desk = Desk::new();
    for (wish, says) in
        [("mmx", "no such tier"), (if cfg!(target_arch = "x86_64") { "neon" } else { "avx512" }, "lacks it")]
    {
        for line in ["run x.json --out out", "plan x.json"] {
            let ended = Finished::of(desk.command(line).env("TILTMETER_ISA", wish));
            assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
            let problems = ended.problems();
            assert!(problems.len() == 1 && problems[0].contains(says), "{problems:?}");
            assert!(problems[0].contains("unset TILTMETER_ISA"), "{problems:?}");
        }
    }
    assert!(!desk.path("out").exists());
}

#[test]
fn an_engine_that_does_not_exist_is_one_problem_and_another_engine_does_not_go_on_with_a_run() {
    let desk = Desk::new();
    let by = |engine: &str, line: &str| Finished::of(desk.command(line).env("TILTMETER_ENGINE", engine));
    let ended = by("eagle", "plan x.json");
    assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
    assert!(
        matches!(&ended.problems()[..], [one] if one.contains("eagle") && one.contains("`reference`")),
        "{}",
        ended.stderr
    );
    by("", "run x.json --out out").success();
    let ended = by("reference", "run x.json --out out --resume");
    assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("f32 by candle"), "{}", ended.stderr);
}
