//! The shipped demo as a contract: one command gives the effect that is known to be there, every file that is promised, in the form
//! that is promised; and what the other commands say of the model and the axis agrees with what the run measured.

mod commands;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::tiltmeter;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tiltmeter_model::probe::{AxisFile, Site};
use tiltmeter_test_support::{
    paths::{in_repo, json},
    process::{Finished, files},
};

const LABELS: [&str; 4] = ["baseline", "neutral", "simple", "complex"];
const SAMPLES: usize = 8;
const TURNS: usize = 16;
const WIDTH: usize = 128;
const MODEL: &str = "data/models/quay";
const AXIS: &str = "data/axes/quay_assistant.safetensors";

/// The demo with half its samples, run once for all tests.
struct Demo {
    dir: PathBuf,
    out: String,
}

impl Demo {
    fn get() -> &'static Self {
        static DEMO: OnceLock<Demo> = OnceLock::new();
        DEMO.get_or_init(|| {
            let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
            for old in fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path()) {
                // Of an earlier process; one that runs now is not an hour old.
                let age = fs::metadata(&old).and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
                let own = old.file_name().is_some_and(|name| name.to_string_lossy().starts_with("demo-"));
                if own && age.is_some_and(|age| age.as_secs() > 3600) {
                    let _ = fs::remove_dir_all(&old);
                }
            }
            let dir = home.join(format!("demo-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            let samples = format!("samples={SAMPLES}");
            let mut command = tiltmeter(["run", "experiments/demo.yaml", "--set", &samples, "--out"]);
            let out = Finished::of(command.arg(&dir)).success();
            Self { dir, out }
        })
    }

    fn json(&self, name: &str) -> Value {
        json(self.dir.join(name))
    }

    fn document(&self, label: &str) -> Value {
        self.json(&format!("generated_transcripts/demo_{label}.json"))
    }

    fn report(&self, further: &[&str]) -> String {
        Finished::of(tiltmeter(["report"]).arg(&self.dir).args(further)).success()
    }
}

/// Rows of a Parquet file by column name.
fn table(path: &Path) -> Vec<BTreeMap<String, Field>> {
    let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    rows.map(|row| row.into_columns().into_iter().collect()).collect()
}

fn float(field: &Field) -> f32 {
    match field {
        Field::Float(value) => *value,
        other => panic!("{other:?} is no f32"),
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn shape(value: &Value) -> (usize, usize) {
    let rows = value.as_array().unwrap();
    let widths: Vec<usize> = rows.iter().map(|row| row.as_array().unwrap().len()).collect();
    assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "ragged");
    (rows.len(), widths[0])
}

#[test]
fn the_effect_is_there_and_of_the_known_order() {
    let analysis: Value = serde_json::from_str(&Demo::get().report(&["--json"])).unwrap();
    let mean = |label: &str| analysis["conditions"][label]["mean"].as_f64().unwrap();
    assert!(mean("complex") > mean("simple") && mean("simple") > mean("baseline"), "{}", analysis["conditions"]);
    for (a, b) in [("complex", "simple"), ("complex", "baseline"), ("simple", "baseline")] {
        let contrasts = analysis["contrasts"].as_array().unwrap();
        let contrast = contrasts.iter().find(|c| (c["a"].as_str(), c["b"].as_str()) == (Some(a), Some(b))).unwrap();
        for p in ["p", "permutation_p"] {
            assert!(contrast[p].as_f64().unwrap() < 0.01, "{a} - {b}: {p} {}", contrast[p]);
        }
        assert!(contrast["diff"].as_f64().unwrap() > 0.0);
    }
    let axis = AxisFile::open(Path::new(&in_repo(AXIS))).unwrap();
    let best = axis.sites.values().filter_map(|site| site.stats.auroc).fold(0.0, f64::max);
    assert!(best >= 0.95, "the shipped axis tells its sides apart with {best}");
    assert_eq!(axis.axis(Some(Site::BlockOut(4))).unwrap().auroc.map(|auroc| auroc >= 0.95), Some(true));
}

#[test]
fn nothing_is_computed_twice_and_the_ratio_is_printed() {
    let line = Demo::get().out.lines().find(|line| line.starts_with("work ")).unwrap();
    let ratio = line.split("unique tokens: ").nth(1).unwrap().split(' ').next().unwrap();
    assert!((1.0..=1.05).contains(&ratio.parse::<f64>().unwrap()), "{line}");
    let work = &Demo::get().json("manifest.json")["work"];
    let [passes, unique] = ["forward_tokens", "unique_tokens"].map(|key| work[key].as_f64().unwrap());
    assert!(unique > 10_000.0 && passes / unique <= 1.05, "{work}");
    assert!(line.contains(&format!("{passes} forward")) && line.contains(&format!("{unique} unique")), "{line}");
}

#[test]
fn every_promised_file_is_there_and_the_manifest_names_it() {
    let demo = Demo::get();
    let found = files(&demo.dir);
    let mut promised: Vec<String> = LABELS.map(|label| format!("generated_transcripts/demo_{label}.json")).into();
    promised.extend(
        [
            "demo_summary.json",
            "images/demo.png",
            "images/demo.svg",
            "invocation.json",
            "journal.jsonl",
            "manifest.json",
            "methods.md",
            "plan.json",
            "report.html",
            "report.md",
            "session.log",
            "tokens.parquet",
            "turns.jsonl",
            "turns.parquet",
            "vectors.safetensors",
        ]
        .map(String::from),
    );
    promised.sort();
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), promised);
    let said: Vec<&str> = demo.out.lines().filter_map(|line| line.strip_prefix("wrote      ")).collect();
    let unsaid = ["invocation.json", "journal.jsonl", "plan.json", "session.log"];
    for name in promised.iter().filter(|name| !unsaid.contains(&name.as_str())) {
        assert!(said.contains(&demo.dir.join(name).to_str().unwrap()), "{name} is not said to be written: {said:?}");
    }

    let manifest = demo.json("manifest.json");
    for key in [
        "tool",
        "started",
        "finished",
        "plan_hash",
        "sessions",
        "models",
        "axis_hashes",
        "device",
        "dtype",
        "host",
        "files",
        "work",
    ] {
        assert!(
            !manifest[key].is_null() && manifest[key] != json!("") && manifest[key] != json!([]),
            "{key}: {}",
            manifest[key]
        );
    }
    assert_eq!(manifest["tool"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["plan_hash"], demo.json("plan.json")["hash"]);
    assert_eq!(manifest["notes"]["sampling"], json!({"temperature": 0.6, "top_p": null, "top_k": null, "min_p": null}));
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of_file = |path: &str| hex(&fs::read(in_repo(path)).unwrap());
    let model = &manifest["models"][0];
    assert_eq!(model["fingerprint"], format!("sha256:{}", of_file(&format!("{MODEL}/model.safetensors"))));
    assert_eq!(model["template_sha256"], of_file(&format!("{MODEL}/chat_template.jinja")));
    assert_eq!(manifest["axis_hashes"], json!({"quay-assistant@block.4.out": of_file(AXIS)}));
    let entries = manifest["files"].as_array().unwrap();
    assert_eq!(
        entries.len(),
        promised.len() - 6,
        "all but itself, the journal, the plan, what was asked for, and what tells the story"
    );
    for entry in entries {
        let bytes = &found[entry["path"].as_str().unwrap()];
        assert_eq!((&entry["bytes"], &entry["sha256"]), (&json!(bytes.len()), &json!(hex(bytes))), "{entry}");
    }
}

#[test]
fn the_documents_have_the_published_schema() {
    let yaml = fs::read_to_string(in_repo("experiments/demo.yaml")).unwrap();
    for label in LABELS {
        let document = Demo::get().document(label);
        let published = [
            "model",
            "transcript_source",
            "condition",
            "n_samples",
            "temperature",
            "seed",
            "system_prompt",
            "projections",
            "conversations",
        ];
        assert_eq!(keys(&document)[..published.len()], published);
        assert_eq!(document["model"], MODEL);
        assert_eq!(document["transcript_source"], "quay_storm.json");
        assert_eq!(document["condition"], format!("demo_{label}"));
        assert_eq!([&document["n_samples"], &document["seed"]], [&json!(SAMPLES), &json!(42)]);
        assert_eq!(document["temperature"], 0.6);
        for key in ["projections", "statuses", "prompt_tokens", "generated_tokens", "measured_tokens"] {
            assert_eq!(shape(&document[key]), (SAMPLES, TURNS), "{key}");
        }
        assert!(
            document["projections"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|row| row.as_array().unwrap())
                .all(Value::is_number)
        );
        let system = document["system_prompt"].as_str();
        assert_eq!(system.is_none(), label == "baseline");
        assert!(system.is_none_or(|text| yaml.contains(text.split(". ").next().unwrap())), "{system:?}");
        let conversations = document["conversations"].as_array().unwrap();
        assert_eq!(conversations.len(), SAMPLES);
        for conversation in conversations {
            let roles: Vec<&str> =
                conversation.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
            let turn: &[&str] =
                if system.is_some() { &["user", "system", "assistant"] } else { &["user", "assistant"] };
            assert_eq!(roles, turn.repeat(TURNS));
        }
        assert!(conversations[0] != conversations[1], "samples differ");
        assert!(document["rendered_prompt"].as_str().unwrap().starts_with("<|im_start|>user\nGood morning."));
    }
}

#[test]
fn tables_and_vectors_agree_with_the_documents() {
    const PROJECTION: &str = "projection.quay-assistant@block.4.out";
    let demo = Demo::get();
    let [turns, tokens] = ["turns", "tokens"].map(|name| table(&demo.dir.join(format!("{name}.parquet"))));
    assert_eq!(turns.len(), LABELS.len() * SAMPLES * TURNS + TURNS, "the reference has rows too");
    let mut by_turn: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for row in &tokens {
        by_turn.entry(format!("{} {}", row["run_id"], row["turn"])).or_default().push(float(&row[PROJECTION]));
    }
    let documents: BTreeMap<String, Value> = LABELS.map(|label| (format!("{label:?}"), demo.document(label))).into();
    for row in &turns {
        let each = &by_turn[&format!("{} {}", row["run_id"], row["turn"])];
        assert_eq!(row["measured_tokens"].to_string(), each.len().to_string());
        let (mean, own) =
            (float(&row[PROJECTION]), each.iter().map(|&x| f64::from(x)).sum::<f64>() / each.len() as f64);
        assert!((f64::from(mean) - own).abs() < 1e-4, "{row:?}: its tokens have the mean {own}");
        let Some(document) = documents.get(&row["condition"].to_string()) else { continue };
        let at = |name: &str| row[name].to_string().parse::<usize>().unwrap();
        assert_eq!(document["projections"][at("sample")][at("turn") - 1].as_f64().unwrap() as f32, mean);
    }

    let bytes = fs::read(demo.dir.join("vectors.safetensors")).unwrap();
    let vectors = SafeTensors::deserialize(&bytes).unwrap();
    let unit =
        AxisFile::open(Path::new(&in_repo(AXIS))).unwrap().axis(Some(Site::BlockOut(4))).unwrap().unit().unwrap();
    assert_eq!(vectors.len(), LABELS.len());
    for label in LABELS {
        let tensor = vectors.tensor(&format!("{label}.block.4.out")).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[SAMPLES, TURNS, WIDTH][..]));
        // Another axis needs no model any more: the same one gives what was measured.
        let expected = &demo.document(label)["projections"];
        for (index, vector) in floats(tensor.data()).chunks(WIDTH).enumerate() {
            let expected = expected[index / TURNS][index % TURNS].as_f64().unwrap();
            assert!((dot(vector, &unit) - expected).abs() < 1e-3, "{label} {index}");
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn the_figures_can_be_opened_and_the_reports_stand_alone() {
    let demo = Demo::get();
    let file = fs::File::open(demo.dir.join("images/demo.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert!(info.width >= 800 && info.height >= 500, "{info:?}");
    assert!(pixels.iter().any(|&byte| byte != pixels[0]), "an empty figure");

    let svg = fs::read_to_string(demo.dir.join("images/demo.svg")).unwrap();
    assert!(svg.starts_with("<svg ") || svg.starts_with("<?xml "), "{}", &svg[..40]);
    well_formed(&svg).unwrap_or_else(|error| panic!("{error}"));
    let [html, markdown] = ["report.html", "report.md"].map(|name| fs::read_to_string(demo.dir.join(name)).unwrap());
    for text in [&svg, &html, &markdown] {
        assert!(LABELS.iter().all(|label| text.contains(label)));
    }
    for remote in ["src=\"http", "href=\"http", "src=\"images", "@import", "url(http"] {
        assert!(!html.contains(remote), "report.html is not one file: {remote}");
    }
    assert!(html.contains("<svg ") && markdown.contains("images/demo.png"));
    assert!(
        markdown.contains("&lt;\\|im\\_start") || markdown.contains("<|im_start|>user"),
        "the first prompts are shown"
    );
    let summary = demo.json("demo_summary.json");
    let grand = |label: &str| summary["conditions"][label]["mean"].as_f64().unwrap();
    assert!(grand("complex") > grand("baseline"));
    assert_eq!(summary["conditions"]["simple"]["per_turn"].as_array().unwrap().len(), TURNS);
    assert_eq!(keys(&summary["conditions"]["simple"]["per_turn"][0]), ["turn", "mean", "sem", "n", "ddof"]);
}

/// Whether tags are closed in the order they were opened; enough to see a text that was not escaped.
fn well_formed(xml: &str) -> Result<(), String> {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        if text
            .split('&')
            .skip(1)
            .any(|entity| !entity.split(';').next().is_some_and(|name| name.len() < 8 && entity.contains(';')))
        {
            return Err(format!("a bare & in {text:?}"));
        }
        let end = tag.find('>').ok_or("a tag without an end")?;
        let inside = &tag[1..end];
        rest = &tag[end + 1..];
        if inside.contains('<') {
            return Err(format!("a tag inside <{inside}>"));
        } else if let Some(name) = inside.strip_prefix('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("</{name}> closes {last:?}"));
            }
        } else if !inside.ends_with('/') && !inside.starts_with(['?', '!']) {
            open.push(inside.split_whitespace().next().ok_or("a tag without a name")?);
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("not closed: {open:?}")) }
}

#[test]
fn a_text_that_is_no_xml_is_found() {
    well_formed("<?xml version=\"1.0\"?><a b=\"1\"><c/>x &lt; y</a>").unwrap();
    for bad in ["<a>", "<a></b>", "<a>x & y</a>", "<a><b></a></b>", "<a b=\"<\"></a>"] {
        assert!(well_formed(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_json_report_keeps_its_keys() {
    let report: Value = serde_json::from_str(&Demo::get().report(&["--json"])).unwrap();
    let has = |value: &Value, wanted: &[&str]| {
        let found = keys(value);
        assert!(wanted.iter().all(|key| found.contains(key)), "{wanted:?} are promised, {found:?} are there");
    };
    has(&report, &["conditions", "contrasts", "mde"]);
    assert_eq!(keys(&report["conditions"]), LABELS);
    for label in LABELS {
        let condition = &report["conditions"][label];
        has(condition, &["n", "turns", "per_turn", "mean", "sem", "icc", "design_effect", "flagged"]);
        assert_eq!([&condition["n"], &condition["turns"]], [&json!(SAMPLES), &json!(TURNS)]);
        for key in ["mean", "sem"] {
            assert_eq!(condition["per_turn"][key].as_array().unwrap().len(), TURNS);
        }
    }
    let contrasts = report["contrasts"].as_array().unwrap();
    assert_eq!(contrasts.len(), 6);
    for contrast in contrasts {
        has(contrast, &["a", "b", "diff", "se", "t", "df", "p", "ci95", "hedges_g", "permutation_p", "per_turn"]);
        for key in ["diff", "p", "holm_p", "maxt_p"] {
            assert_eq!(contrast["per_turn"][key].as_array().unwrap().len(), TURNS, "{key}");
        }
    }
    assert!(report["mde"].as_object().unwrap().values().all(|value| value.as_f64().unwrap() > 0.0));
    let of = |ddof: &str| serde_json::from_str::<Value>(&Demo::get().report(&["--json", "--ddof", ddof])).unwrap();
    let sem = |report: &Value| report["conditions"]["simple"]["sem"].as_f64().unwrap();
    let ratio = sem(&of("0")) / sem(&of("1"));
    assert!((ratio - ((SAMPLES - 1) as f64 / SAMPLES as f64).sqrt()).abs() < 1e-9, "{ratio}");
}

#[test]
fn a_report_of_the_documents_is_the_report_of_the_folder() {
    let demo = Demo::get();
    let mut command = tiltmeter(["report", "--json"]);
    command.args(LABELS.map(|label| demo.dir.join(format!("generated_transcripts/demo_{label}.json"))));
    let documents = Finished::of(&mut command).success();
    assert_ne!(documents, demo.report(&["--json"]), "the documents name the experiment too");
    assert_eq!(documents.replace("\"demo_", "\""), demo.report(&["--json"]));
    let tables = demo.report(&[]);
    assert!(LABELS.iter().all(|label| tables.contains(label)) && tables.contains("permutation p"), "{tables}");
}
