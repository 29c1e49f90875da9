//! What a person who writes an experiment may rely on: what the keys mean, and that every mistake is answered at once,
//! with its line, its column and what to do.

mod shipped;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tiltmeter_experiments::config::{self, Loaded, OverflowPolicy, Placement, ProjectionSpec, Seeding, SiteRef, Spec};
use tiltmeter_model::{
    probe::{LayerConvention, Site, Span},
    problem::Problem,
};

const SMALLEST: &str = "\
kind: projection
experiment: reminder
model: data/models/tiny
axis: axis.safetensors
transcript: talk.json
conditions:
  - label: baseline
";

/// A folder with the files an experiment names, and the experiment itself.
struct Desk {
    folder: tempfile::TempDir,
}

fn projection(loaded: Loaded) -> ProjectionSpec {
    match loaded.spec {
        Spec::Projection(spec) => *spec,
        other => panic!("{other:?}"),
    }
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        desk.put("axis.safetensors", "");
        desk.put("talk.json", r#"{"conversation": [{"role": "user", "content": "Hello"}]}"#);
        desk
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load_with(&self, text: &str, set: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
        let set: Vec<_> = set.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        config::load(&self.put("plan.yaml", text), &set)
    }

    fn good(&self, text: &str) -> ProjectionSpec {
        projection(self.load_with(text, &[]).expect("the experiment is valid"))
    }

    /// The problems, one a line, with the folder left out of the places.
    fn bad_with(&self, text: &str, set: &[(&str, &str)]) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        let problems = self.load_with(text, set).expect_err("the experiment is not valid");
        let line = |p: &Problem| {
            let (place, hint) = (p.place.as_deref().expect("a place"), p.hint.as_deref().expect("a hint"));
            format!("{place}: {} | {hint}", p.what).replace(&folder, "")
        };
        problems.iter().map(line).collect()
    }

    fn bad(&self, text: &str) -> Vec<String> {
        self.bad_with(text, &[])
    }

    /// The one problem of the smallest experiment with a line added.
    fn one(&self, line: &str) -> String {
        let problems = self.bad(&format!("{SMALLEST}{line}\n"));
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.into_iter().next().unwrap()
    }
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let desk = Desk::new();
    let spec = desk.good(SMALLEST);
    assert_eq!((spec.samples, spec.micro_batch, spec.seed, spec.seeding), (16, 16, 42, Seeding::PerBatch));
    assert_eq!((spec.sampling.temperature, spec.max_new_tokens), (1.0, 512));
    assert_eq!((spec.sampling.top_p, spec.sampling.top_k, spec.sampling.min_p), (None, None, None));
    assert_eq!((spec.max_seq_len, spec.on_context_overflow), (None, OverflowPolicy::Error));
    assert_eq!((spec.readouts.span, spec.reference, spec.vectors), (Span::Content, false, true));
    assert_eq!((spec.readouts.sites.len(), spec.output, spec.readouts.accept_axis_of_other_model), (0, None, false));
    assert_eq!((spec.conditions[0].system_prompt.clone(), spec.conditions[0].placement), (None, Placement::Start));
}

#[test]
fn every_key_is_read() {
    let desk = Desk::new();
    let spec = desk.good(
        "\
kind: projection
experiment: 003b
model: org/name
axes:
  - axis.safetensors
  - {file: axis.safetensors, name: warm, layer: 21, layer_convention: hidden_states}
  - file: axis.safetensors
    site: final_norm
site: [block.20.out, embed]
transcript: talk.json
conditions:
  - label: baseline
  - label: simple
    system_prompt: \"Reminder: You are a helpful assistant.\"
    placement: after_each_user
  - label: empty
    system_prompt: \"\"
samples: 8
micro_batch: 4
seed: 18446744073709551615
seeding: per_sample
sampling: {temperature: 0.5, top_p: 1, top_k: 50, min_p: 0, max_new_tokens: 128}
max_seq_len: 8192
on_context_overflow: drop_oldest_turns
span: content+stop
reference: true
vectors: false
accept_axis_of_other_model: true
output: data/runs/x
",
    );
    let layer = SiteRef::Layer { layer: 21, convention: LayerConvention::HiddenStates };
    assert_eq!(
        spec.readouts.axes.iter().map(|axis| axis.site).collect::<Vec<_>>(),
        [None, Some(layer), Some(SiteRef::Site(Site::FinalNorm))]
    );
    assert_eq!(spec.readouts.axes[1].name.as_deref(), Some("warm"));
    assert_eq!(spec.readouts.sites, [SiteRef::Site(Site::BlockOut(20)), SiteRef::Site(Site::Embed)]);
    assert_eq!(spec.conditions[1].placement, Placement::AfterEachUser);
    assert_eq!(spec.conditions[2].system_prompt.as_deref(), Some(""), "an empty system prompt is not the same as none");
    assert_eq!((spec.samples, spec.micro_batch, spec.seed, spec.seeding), (8, 4, u64::MAX, Seeding::PerSample));
    let s = spec.sampling;
    assert_eq!((s.temperature, s.top_p, s.top_k, s.min_p), (0.5, None, Some(50), Some(0.0)), "a top_p of 1 is off");
    assert_eq!((spec.max_new_tokens, spec.max_seq_len), (128, Some(8192)));
    assert_eq!((spec.on_context_overflow, spec.readouts.span), (OverflowPolicy::DropOldestTurns, Span::ContentAndStop));
    assert!(spec.reference && !spec.vectors && spec.readouts.accept_axis_of_other_model);
    assert_eq!(spec.output, Some("data/runs/x".into()));
}

#[test]
fn a_spec_survives_the_trip_through_a_frozen_plan() {
    let desk = Desk::new();
    let spec = desk
        .load_with(&format!("{SMALLEST}layer: 3\nspan: first_k(8)\nseed: 18446744073709551615\n"), &[])
        .unwrap()
        .spec;
    let json = serde_json::to_string(&spec).unwrap();
    assert!(json.contains(r#""kind":"projection""#), "{json}");
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
}

#[test]
fn the_same_experiment_may_be_written_in_json() {
    let desk = Desk::new();
    let path = desk.put(
        "plan.json",
        r#"{"kind": "projection", "experiment": "reminder", "model": "data/models/tiny", "axis": "axis.safetensors",
            "transcript": "talk.json", "conditions": [{"label": "baseline"}]}"#,
    );
    let from_json = projection(config::load(&path, &[]).unwrap());
    assert_eq!(from_json, desk.good(SMALLEST));
}

#[test]
fn every_problem_of_a_file_comes_at_once_in_the_order_of_the_file() {
    let desk = Desk::new();
    let problems = desk.bad(
        "\
kind: projection
experiment: my experiment
modle: tiny
axis: axes.safetensors
transcript: talk.jsn
conditions:
  - label: baseline
    sytem_prompt: Hello
  - label: Baseline
  - {system_prompt: 12}
samples: 0
samples: 4
micro_batch: 2.5
sampling:
  temperature: -1
  top_p: 0
  min_p: 1
  top_q: 3
span: contents
reference: yes
temperature: 1
colour: red
",
    );
    let expected = [
        "plan.yaml:2:13 (experiment): `experiment` `my experiment` cannot be a file name | use up to 80 of A-Z a-z 0-9 . _ -, beginning with a letter, a digit or _: `my_experiment`",
        "plan.yaml:3:1 (modle): `modle` is not a key of the experiment | did you mean `model`?",
        "plan.yaml:4:7 (axis): `axis` `axes.safetensors` does not exist | did you mean axis.safetensors?",
        "plan.yaml:5:13 (transcript): `transcript` `talk.jsn` does not exist | did you mean talk.json?",
        "plan.yaml:8:5 (conditions.0.sytem_prompt): `sytem_prompt` is not a key of `conditions.0` | did you mean `system_prompt`?",
        "plan.yaml:10:5 (conditions.2): `label` is missing from `conditions.2` | add it, as in `label: baseline`",
        "plan.yaml:10:21 (conditions.2.system_prompt): `system_prompt` must be text, found the number 12 | quote it: \"12\"",
        "plan.yaml:11:10 (samples): `samples` is out of range: 0 | it must be 1 to 1000000",
        "plan.yaml:12:1: `samples` is given twice | keep one of them; the first is at plan.yaml:11:1",
        "plan.yaml:13:14 (micro_batch): `micro_batch` must be a whole number, found the number 2.5 | write a whole number",
        "plan.yaml:15:16 (sampling.temperature): `temperature` is out of range: -1 | it must be 0 (greedy) or more",
        "plan.yaml:16:10 (sampling.top_p): `top_p` is out of range: 0 | it must be above 0 and at most 1 (1 is off)",
        "plan.yaml:17:10 (sampling.min_p): `min_p` is out of range: 1 | it must be at least 0 (off) and below 1",
        "plan.yaml:18:3 (sampling.top_q): `top_q` is not a key of `sampling` | did you mean `top_k`?",
        "plan.yaml:19:7 (span): `span` cannot be `contents` | did you mean `content`? It can be `content`, `content+stop`, `prompt`, `user` or `first_k(8)`",
        "plan.yaml:20:12 (reference): `reference` must be true or false, found the text `yes` | `yes` is text in YAML 1.2: write true or false",
        "plan.yaml:21:1 (temperature): `temperature` is not a key of the experiment | it belongs under `sampling:`",
    ];
    for (found, expected) in problems.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert!(problems[17].starts_with(
        "plan.yaml:22:1 (colour): `colour` is not a key of the experiment | remove it; the keys here are kind, "
    ));
    assert_eq!(problems.len(), 18, "{problems:#?}");
}

#[test]
fn labels_that_would_share_a_file_are_refused() {
    let desk = Desk::new();
    let end = |label: &str| desk.one(&format!("  - label: {label}"));
    assert!(end("baseline").contains("plan.yaml:8:5 (conditions.1): two conditions are called `baseline`"));
    assert!(end("Baseline").contains("the labels `baseline` and `Baseline` differ only in case"));
    assert!(end("summary").contains("the label `summary` is taken"));
    for label in ["../../etc/passwd", "a/b", "..", "\"a\\u0000b\"", "-rf", "naïve", "\"\"", "con:x", "\"x \""] {
        let problem = end(label);
        assert!(problem.contains("cannot be a file name") || problem.contains("is empty"), "{problem}");
    }
}

#[test]
fn the_checks_that_need_no_model() {
    let desk = Desk::new();
    for (lines, expected) in [
        ("micro_batch: 17", "`micro_batch` 17 is more than the 16 samples | use at most 16, or leave it out"),
        (
            "samples: 1001",
            "1001 samples with `seeding: per_batch` would share random numbers between turns | write `seeding: per_sample`",
        ),
        ("samples: 99999999999999999999999999999999999999999999", "`samples` is out of range"),
        ("samples: \"4\"", "`samples` must be a whole number, found the text `4` | remove the quotes"),
        ("samples: 1_0", "found the text `1_0` | write 10"),
        ("samples: 1e2", "found the number 1e2 | write 100"),
        ("seed: -1", "`seed` is out of range: -1 | it must be at least 0"),
        ("sampling: {temperature: .nan}", "`temperature` is out of range: .nan"),
        ("sampling: {temperature: .inf}", "`temperature` is out of range: .inf"),
        ("sampling: 0.5", "`sampling` must be a mapping of keys to values, found the number 0.5"),
        ("sampling: {seed: 1}", "`seed` is not a key of `sampling` | it belongs at the top of the file"),
        ("sampling: {top_k: 0}", "`top_k` is out of range: 0"),
        ("max_seq_len: 512", "`max_seq_len` 512 leaves no room for a prompt beside 512 new tokens"),
        ("site: 21", "`site` is a name, found the number 21 | write `layer: 21`"),
        ("site: block.x.out", "`block.x.out` is not a site | sites are `embed`"),
        ("site: [embed, embed]", "`site` lists the same place twice"),
        ("site: []", "`site` is an empty list | give it at least one entry"),
        ("layer_convention: block", "there is no `layer`"),
        ("layer: 3\nsite: embed", "`site` and `layer` are both given"),
        ("layer: 3\nlayer_convention: hidden_state", "did you mean `hidden_states`?"),
        ("span: first_k", "say how many tokens: first_k(8)"),
        ("span: first_k(0)", "say how many tokens: first_k(8)"),
        ("span: {first_k: 0}", "`first_k` is out of range: 0"),
        ("axes: [axis.safetensors]", "`axis` and `axes` are both given"),
        ("seeding: per_batches", "did you mean `per_batch`? It can be `per_batch` or `per_sample`"),
        ("output: \"\"", "`output` is empty"),
    ] {
        let problem = desk.one(lines);
        assert!(problem.contains(expected), "{lines}\n  said     {problem}\n  expected {expected}");
    }
    desk.good(&format!("{SMALLEST}samples: 1001\nseeding: per_sample\n"));
    assert_eq!(desk.good(&format!("{SMALLEST}span: first_k(3)\n")).readouts.span, Span::FirstK(3));
    assert_eq!(desk.good(&format!("{SMALLEST}span: {{first_k: 3}}\n")).readouts.span, Span::FirstK(3));
}

#[test]
fn what_is_odd_but_not_wrong_is_a_note() {
    let desk = Desk::new();
    let loaded = desk.load_with(&format!("{SMALLEST}sampling: {{temperature: 0}}\n"), &[]).unwrap();
    let what: Vec<_> = loaded.notes.iter().map(|note| note.what.as_str()).collect();
    assert_eq!(what, ["temperature 0 is greedy: every sample of a condition will be the same"]);
    let sampled = desk.load_with(&format!("{SMALLEST}    placement: after_each_user\n"), &[]).unwrap();
    assert!(sampled.notes.is_empty(), "a baseline may share its placement with the other conditions");
}

#[test]
fn text_that_is_not_yaml_is_answered_with_its_place() {
    let desk = Desk::new();
    for (text, place, expected) in [
        ("kind: projection\nsampling:\n\ttemperature: 1\n", "plan.yaml:3:", "replace the tab by spaces"),
        ("kind: projection\nmodel: a: b\n", "plan.yaml:2:", "put the text in quotes if it holds `: `"),
        ("kind: projection\nmodel: \"a\n", "plan.yaml:", "close the quote"),
        ("kind: projection\nsite: [embed\n", "plan.yaml:", "needs its `]`"),
        ("kind: projection\nmodel: *nobody\n", "plan.yaml:2:8", "needs an anchor `&name`"),
        ("kind: projection\nmodel: !secret x\n", "plan.yaml:2:", "remove the tag"),
        ("kind: projection\n---\nkind: projection\n", "plan.yaml:", "one experiment a file"),
        ("? [a, b]\n: c\n", "plan.yaml:1:3", "a key must be plain text"),
        (
            "- kind: projection\n",
            "plan.yaml:1:1",
            "the experiment must be a mapping of keys to values, found a list of 1 entry",
        ),
        ("", "plan.yaml", "the file holds no experiment"),
        ("# nothing here\n", "plan.yaml", "the file holds no experiment"),
    ] {
        let problems = desk.bad(text);
        assert_eq!(problems.len(), 1, "{text}{problems:#?}");
        assert!(problems[0].starts_with(place) && problems[0].contains(expected), "{text}{}", problems[0]);
    }
    let doubling = (1..30).map(|i| format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1)).collect::<String>();
    let problems = desk.bad(&format!("a0: &a0 x\n{doubling}"));
    assert!(problems[0].contains("too large or too deep"), "{problems:#?}");
    assert!(desk.bad(&"[".repeat(100_000))[0].contains("not valid YAML"));
}

#[test]
fn anchors_share_a_prompt() {
    let desk = Desk::new();
    let text = format!(
        "{SMALLEST}    system_prompt: &kind Be kind.\n  - {{label: after, system_prompt: *kind, placement: after_each_user}}\n"
    );
    let spec = desk.good(&text);
    assert_eq!(spec.conditions[0].system_prompt, spec.conditions[1].system_prompt);
}

#[test]
fn files_that_cannot_be_read_are_answered() {
    let desk = Desk::new();
    desk.put("plan.yaml", SMALLEST);
    let problem = |path: &Path| config::load(path, &[]).unwrap_err().remove(0);
    let missing = problem(&desk.folder.path().join("plan.yml"));
    assert_eq!(missing.what, "the file does not exist");
    assert!(missing.hint.unwrap().ends_with("plan.yaml?"));
    assert_eq!(problem(desk.folder.path()).what, "this is a folder, not a file");
    let latin = desk.folder.path().join("latin.yaml");
    std::fs::write(&latin, b"kind: projection\nmodel: caf\xe9\n").unwrap();
    let not_utf8 = problem(&latin);
    assert_eq!(not_utf8.what, "the file is not UTF-8 text");
    assert!(not_utf8.place.unwrap().ends_with("latin.yaml:2"));
    let windows = format!("\u{feff}{}", SMALLEST.replace('\n', "\r\n"));
    assert_eq!(desk.good(&windows), desk.good(SMALLEST));
}

#[test]
fn a_missing_kind_does_not_hide_the_other_problems() {
    let desk = Desk::new();
    let problems = desk.bad("model: x\nsampels: 3\n");
    assert!(problems.iter().any(|p| p.contains("`kind` is missing")), "{problems:#?}");
    assert!(problems.iter().any(|p| p.contains("did you mean `samples`?")), "{problems:#?}");
    let problems = desk.bad(&SMALLEST.replace("projection", "projecton"));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("did you mean `projection`?"), "{problems:#?}");
}

#[test]
fn set_wins_over_the_file() {
    let desk = Desk::new();
    let set = [
        ("sampling.temperature", "0.7"),
        ("conditions.0.label", "calm"),
        ("conditions.0.system_prompt", "Reminder: be kind"),
        ("samples", "4"),
        ("site", "[embed, final_norm]"),
        ("accept_axis_of_other_model", "true"),
        ("samples", "5"),
    ];
    let spec = projection(desk.load_with(SMALLEST, &set).unwrap());
    assert_eq!((spec.sampling.temperature, spec.samples), (0.7, 5));
    assert_eq!(spec.conditions[0].label, "calm");
    assert_eq!(spec.conditions[0].system_prompt.as_deref(), Some("Reminder: be kind"));
    assert_eq!(spec.readouts.sites, [SiteRef::Site(Site::Embed), SiteRef::Site(Site::FinalNorm)]);
    assert!(spec.readouts.accept_axis_of_other_model);
    let nothing = desk.load_with(&format!("{SMALLEST}max_seq_len: 9000\n"), &[("max_seq_len", "null")]).unwrap();
    let nothing = projection(nothing);
    assert_eq!(nothing.max_seq_len, None, "null takes a key away");
}

#[test]
fn a_mistake_in_set_names_the_set() {
    let desk = Desk::new();
    for (key, value, expected) in [
        (
            "sampling.temperature",
            "hot",
            "--set sampling.temperature=hot: `temperature` must be a number, found the text `hot`",
        ),
        (
            "sampling.temprature",
            "1",
            "--set sampling.temprature=1: `temprature` is not a key of `sampling` | did you mean `temperature`?",
        ),
        ("samples", "0", "--set samples=0: `samples` is out of range: 0"),
        (
            "conditions.1.label",
            "x",
            "--set conditions.1.label=x: `1` names no entry of a list of 1 | entries count from 0: use 0 to 0",
        ),
        (
            "model.name",
            "x",
            "--set model.name=x: there is nothing below the text `data/models/tiny`: `name` cannot be set",
        ),
        ("site", "[embed", "--set site=[embed: this is not valid YAML"),
        ("site", "[embed, nowhere]", "--set site=[embed, nowhere]: `nowhere` is not a site"),
        ("sampling..top_k", "3", "--set sampling..top_k=3: the key is empty"),
    ] {
        let problems = desk.bad_with(SMALLEST, &[(key, value)]);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].starts_with(expected), "{}\n{expected}", problems[0]);
    }
}
