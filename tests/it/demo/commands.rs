//! What the other commands say of the demo, its model and its axis: it agrees with what the run measured.

use std::{fs, io::Write, path::Path, process::Stdio};

use crate::tiltmeter;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tiltmeter_model::probe::{AxisFile, Site};
use tiltmeter_test_support::{
    paths::{in_repo, json},
    process::Finished,
};

use super::{AXIS, Demo, LABELS, MODEL, SAMPLES, TURNS, WIDTH, dot, float, floats, table};

#[test]
fn status_and_plan_say_what_there_is() {
    let demo = Demo::get();
    let status = Finished::of(tiltmeter(["status"]).arg(&demo.dir)).success();
    let (runs, turns) = (LABELS.len() * SAMPLES + 1, LABELS.len() * SAMPLES * TURNS);
    assert!(
        status.starts_with(&format!("runs       {runs}/{runs} done (100 %), 0 failed, 0 pending (0 started)\n")),
        "{status}"
    );
    assert!(
        status.contains(&format!("turns      {turns}/{turns} (100 %)")) && status.contains("state      complete"),
        "{status}"
    );
    let hash = demo.json("plan.json")["hash"].as_str().unwrap().to_owned();
    let planned =
        |samples: &str| Finished::of(&mut tiltmeter(["plan", "experiments/demo.yaml", "--set", samples])).success();
    let plan = planned("samples=8");
    assert!(plan.contains(&format!("plan        {hash}")), "{plan}");
    assert!(!planned("samples=9").contains(&hash));
    for said in [
        "512 replies to measure",
        "always fits",
        "first prompt of complex",
        "  | Reminder: You are",
        "time        up to about",
    ] {
        assert!(plan.contains(said), "{said}:\n{plan}");
    }
    let dry =
        Finished::of(&mut tiltmeter(["run", "experiments/demo.yaml", "--set", "samples=8", "--dry-run"])).success();
    let steady =
        |text: &str| text.lines().filter(|line| !line.starts_with("time ")).map(String::from).collect::<Vec<_>>();
    assert_eq!(steady(&dry), steady(&plan));
}

/// One question, answered greedily: by an experiment, by `capture` and by `chat`.
#[test]
fn what_is_captured_and_said_is_what_the_probes_saw() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let question = "The storm took my boat. What do I do now?";
    let messages = json!([{"role": "user", "content": question}]);
    fs::write(path("talk.json"), messages.to_string()).unwrap();

    let experiment = json!({
        "kind": "projection", "experiment": "one", "model": MODEL, "axis": AXIS, "site": "block.4.out", "transcript": path("talk.json"),
        "conditions": [{"label": "only"}], "samples": 1, "sampling": {"temperature": 0, "max_new_tokens": 40},
    });
    fs::write(path("one.json"), experiment.to_string()).unwrap();
    Finished::of(&mut tiltmeter(["run", &path("one.json"), "--out", &path("run")])).success();
    let document = json(path("run/generated_transcripts/one_only.json"));
    let reply = document["conversations"][0][1]["content"].as_str().unwrap();
    let mean = document["projections"][0][0].as_f64().unwrap();
    let tokens = table(&home.path().join("run/tokens.parquet"));
    let measured: Vec<f32> = tokens.iter().map(|row| float(&row["projection.quay-assistant@block.4.out"])).collect();
    assert!(measured.len() >= 5, "a reply of {} tokens shows little", measured.len());

    let states = path("states.safetensors");
    let capture =
        ["capture", MODEL, "--messages", &path("talk.json"), "--max-new-tokens", "40", "--logits", "--out", &states];
    let said = Finished::of(&mut tiltmeter(capture)).success();
    assert!(said.contains(reply.trim()), "{reply:?} is not in\n{said}");
    let bytes = fs::read(&states).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<String> = Site::all(8).iter().map(Site::to_string).collect();
    names.extend(["input_ids", "generated_ids", "logits"].map(String::from));
    names.sort();
    let mut found: Vec<&str> = tensors.names().into_iter().collect();
    found.sort_unstable();
    assert_eq!(found, names);
    let ids = |name: &str| -> Vec<i64> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64);
        tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (prompt, generated) = (ids("input_ids").len(), ids("generated_ids"));
    let measured_ids: Vec<String> = tokens.iter().map(|row| row["token_id"].to_string()).collect();
    let generated_ids: Vec<String> = generated.iter().map(i64::to_string).collect();
    assert_eq!(measured_ids, generated_ids[..measured.len()]);
    let all = prompt + generated.len();
    for site in Site::all(8) {
        let tensor = tensors.tensor(&site.to_string()).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[all, WIDTH][..]), "{site}");
    }
    let logits = tensors.tensor("logits").unwrap();
    assert_eq!(logits.shape()[0], all);
    // The row before a token chose it.
    let row = |at: usize| floats(&logits.data()[at * 4 * logits.shape()[1]..][..4 * logits.shape()[1]]);
    for (index, &id) in generated.iter().enumerate() {
        let scores = row(prompt + index - 1);
        assert!(scores.iter().all(|&score| score <= scores[id as usize]), "token {index} is not the likeliest");
    }
    let unit =
        AxisFile::open(Path::new(&in_repo(AXIS))).unwrap().axis(Some(Site::BlockOut(4))).unwrap().unit().unwrap();
    let states = floats(tensors.tensor("block.4.out").unwrap().data());
    for (index, (state, &measured)) in states.chunks(WIDTH).skip(prompt).zip(&measured).enumerate() {
        let delta = (dot(state, &unit) - f64::from(measured)).abs();
        assert!(delta < 1e-4, "token {index}: captured and measured differ by {delta}");
    }

    let chat = ["chat", MODEL, "--axis", AXIS, "--site", "block.4.out", "--temperature", "0", "--max-new-tokens", "40"];
    let mut child = tiltmeter(chat).stdin(Stdio::piped()).spawn().unwrap();
    let typed = format!("{question}\nAnd then?\n/reset\n{question}\n/quit\nnever\n");
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let said = Finished::from(child.wait_with_output().unwrap()).success();
    let first =
        format!("{}\n  [quay-assistant at block.4.out: {mean:+.4} | {} tokens", reply.trim_end(), measured.len());
    assert!(said.starts_with(&first), "{first}\nis not how this begins:\n{said}");
    let (before, after) = said.split_once("(new conversation)\n").unwrap();
    assert!(before.matches("  [quay-assistant at").count() == 2 && before.starts_with(after), "{said}");
}

#[test]
fn an_axis_goes_in_and_comes_out_as_it_was() {
    let shown = Finished::of(&mut tiltmeter(["axis", "show", AXIS])).success();
    for said in ["name      quay-assistant", "width     128", "blocks    8", "block.4.out", "final_norm"] {
        assert!(shown.contains(said), "{said}:\n{shown}");
    }
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let shipped = AxisFile::open(Path::new(&in_repo(AXIS))).unwrap();
    let direction = &shipped.sites[&Site::BlockOut(4)].direction;
    let mut head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({WIDTH},), }}");
    head = format!("{head:<117}\n");
    let data: Vec<u8> = direction.iter().flat_map(|x| x.to_le_bytes()).collect();
    let npy = [&b"\x93NUMPY\x01\x00"[..], &(head.len() as u16).to_le_bytes(), head.as_bytes(), &data].concat();
    fs::write(path("v.npy"), npy).unwrap();
    let import = [
        "axis",
        "import",
        &path("v.npy"),
        "--site",
        "block.4.out",
        "--model",
        MODEL,
        "--name",
        "again",
        "--out",
        &path("v.safetensors"),
    ];
    let said = Finished::of(&mut tiltmeter(import)).success();
    let read = AxisFile::open(Path::new(&path("v.safetensors"))).unwrap();
    assert_eq!((read.name.as_str(), &read.fingerprint, read.num_layers), ("again", &shipped.fingerprint, Some(8)));
    assert_eq!(read.sites.keys().collect::<Vec<_>>(), [&Site::BlockOut(4)]);
    assert_eq!(&read.sites[&Site::BlockOut(4)].direction, direction);
    let shown = Finished::of(&mut tiltmeter(["axis", "show", &path("v.safetensors")])).success();
    assert!(said.starts_with(&shown) && shown.contains(&read.sha256), "{said}\n{shown}");
}

#[test]
fn a_bench_says_what_the_machine_does_beside_what_it_can() {
    let bench = ["bench", MODEL, "--batch", "1,3", "--context", "24", "--tokens", "6", "--json"];
    let said: serde_json::Value = serde_json::from_str(&Finished::of(&mut tiltmeter(bench)).success()).unwrap();
    let number = |pointer: &str| said.pointer(pointer).and_then(|x| x.as_f64()).unwrap_or_else(|| panic!("{pointer}"));
    assert_eq!((number("/decode/0/batch"), number("/decode/1/batch"), number("/prefill/tokens")), (1.0, 3.0, 24.0));
    // Eight blocks of four square projections and three of the feed-forward, and the head, in bf16.
    let config = json(Path::new(&in_repo(MODEL)).join("config.json"));
    let size = |key: &str| config[key].as_u64().unwrap();
    let (hidden, blocks) = (size("hidden_size"), size("num_hidden_layers"));
    let weights = blocks * hidden * (4 * hidden + 3 * size("intermediate_size")) + size("vocab_size") * hidden;
    assert_eq!(number("/weight_bytes"), 2.0 * weights as f64);
    for pointer in ["/read_bytes_per_s", "/peak_flops", "/prefill/tokens_per_s", "/decode/0/tokens_per_s"] {
        assert!(number(pointer) > 0.0, "{pointer}");
    }
    for row in ["/decode/0", "/decode/1"] {
        let step = number(&format!("{row}/step_ms")) / 1e3;
        assert!((number(&format!("{row}/tokens_per_s")) * step / number(&format!("{row}/batch")) - 1.0).abs() < 1e-9);
        let floor = number(&format!("{row}/floor_ms")) / number(&format!("{row}/step_ms"));
        assert!((floor / number(&format!("{row}/share_of_floor")) - 1.0).abs() < 1e-9);
        let share = number(&format!("{row}/flops")) / number("/peak_flops");
        assert!((share - number(&format!("{row}/share_of_peak"))).abs() < 1e-9);
    }
    let table =
        Finished::of(&mut tiltmeter(["bench", MODEL, "--batch", "2", "--context", "24", "--tokens", "6"])).success();
    for part in
        ["device     cpu, ", "prefill ", "decode x2 ", "capture    8 axes at 4 sites", "capture    8 axes at 8 sites"]
    {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let refused = Finished::of(&mut tiltmeter(["bench", MODEL, "--context", "1000000"]));
    assert_eq!(refused.code, Some(2));
    assert!(refused.problems()[0].contains("lower --context"), "{}", refused.stderr);
}
