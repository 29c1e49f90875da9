//! What a report shows of a sweep: the projections of everything that a bargainer on this machine says, and what the strong side
//! gets more than the weak one.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tiltmeter::session::{self, ModelOptions, RunOptions, RunReport};
use tiltmeter_scheduler::{Progress, StopSignal};
use tiltmeter_test_support::{
    paths::{in_repo, json as read_json},
    process::files,
};

use super::Desk;

const SERIES: &str = "weak.quay-assistant@block.4.out";

/// The shipped sweep, small.
fn shipped(desk: &Desk) -> RunReport {
    let set = [
        ("competition_levels", "[0.25, 0.75]".to_owned()),
        ("max_rounds", "2".to_owned()),
        ("sampling.max_new_tokens", "8".to_owned()),
        ("axis", in_repo("data/axes/quay_assistant.safetensors")),
        ("weak_models.1.name", in_repo("data/models/quay")),
    ];
    let set = set.map(|(key, value)| (key.to_owned(), value));
    let loaded =
        session::load(&PathBuf::from(in_repo("experiments/bargain_local.yaml")), &set).expect("it can be read");
    let prepared = session::prepare(loaded, &ModelOptions::default()).map_err(|p| format!("{p:?}")).expect("it opens");
    let running = RunOptions { out: Some(desk.out()), ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(prepared.run(&running, Arc::<Progress>::default(), StopSignal::new())).expect("it runs")
}

/// What the result of a run says of quay's replies: projection and status, in the order of speaking.
fn told(result: &Value) -> Vec<(f64, String)> {
    let entries = result["conversation_logs"].as_array().unwrap().iter().filter(|entry| entry["model"] == "quay");
    entries
        .map(|entry| (entry["activations"][0]["mean"].as_f64().unwrap(), entry["status"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn a_sweep_with_the_shipped_model_ends_with_a_trace_of_every_reply_and_the_utility_gap() {
    let desk = Desk::new();
    let sitting = shipped(&desk);
    assert_eq!((sitting.summary.completed, sitting.summary.failed), (8, 0));
    let results: Vec<Value> = read_json(desk.out().join("all_results.json")).as_array().unwrap().clone();

    // Every value of the trace is the one of the record.
    let mut by_pair: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    for run in &sitting.summary.runs {
        let (key, outcome) = (&run.key, run.done().expect("a finished run"));
        if !key.cell.starts_with("quay") {
            assert!(outcome.series.is_empty(), "a programmed bargainer has no hidden states");
            continue;
        }
        let [series] = outcome.series.as_slice() else { panic!("{:?}", outcome.series) };
        let id: usize = outcome.labels["run_id"].trim_start_matches("experiment_").parse().unwrap();
        let (pair, level) = key.cell.split_once("_comp_").unwrap();
        let told = told(&desk.result(pair, level, id));
        assert_eq!(series.name, SERIES);
        let values: Vec<f64> = series.values.iter().map(|value| value.expect("every reply is read")).collect();
        assert!(
            values.len() >= 4 && values.iter().zip(&told).all(|(a, (b, _))| (a - b).abs() < 1e-6),
            "{values:?} {told:?}"
        );
        assert_eq!(series.statuses, told.iter().map(|(_, status)| status.clone()).collect::<Vec<_>>());
        assert_eq!(series.statuses.len(), outcome.metrics["replies"] as usize);
        by_pair.entry(pair.to_owned()).or_default().push(values);
    }

    // And the report's means are means of those.
    let report =
        session::report(&session::ReportInput::Folder(desk.out()), &Default::default()).expect("it is reported");
    let json = report.json();
    let groups: Vec<&String> = json["conditions"].as_object().unwrap().keys().collect();
    assert_eq!(groups, ["quay_vs_programmed-greedy", "quay_vs_programmed-conceder"]);
    for (pair, runs) in &by_pair {
        assert_eq!(runs.len(), 2, "both levels in one condition");
        let mean = runs.iter().map(|run| run[0]).sum::<f64>() / 2.0;
        let found = json["conditions"][pair.as_str()]["per_turn"]["mean"][0].as_f64().unwrap();
        assert!((found - mean).abs() < 1e-9, "{found} {mean}");
    }
    assert_eq!(report.measures[0].0.step(), "reply");
    assert!(report.measures[0].0.span.is_some(), "the axis' own span");

    // The gap is the difference of the results, and the table is over the runs of the pair.
    for result in &results {
        let number = |key: &str| result[key].as_f64().unwrap();
        assert!((number("utility_gap") - (number("strong_utility") - number("weak_utility"))).abs() < 1e-12);
    }
    let response = &json["responses"][0];
    assert_eq!((&response["metric"], &response["overall"]["n"]), (&json!("utility_gap"), &json!(8)));
    let of_pair =
        |result: &&Value| result["weak_model"] == "programmed-fair" && result["strong_model"] == "programmed-greedy";
    let gaps: Vec<f64> = results.iter().filter(of_pair).map(|result| result["utility_gap"].as_f64().unwrap()).collect();
    let cell = &response["table"]["cells"][0][0];
    assert_eq!(cell["n"], 2);
    assert!((cell["mean"].as_f64().unwrap() - gaps.iter().sum::<f64>() / 2.0).abs() < 1e-9);
    assert_eq!(response["lines"][0]["levels"][1]["level"], 0.75);

    let page = fs::read_to_string(desk.out().join("report.md")).unwrap();
    for what in [SERIES, "once per reply", "utility_gap.png", "utility_gap_heatmap.png", "A game without a deal"] {
        assert!(page.contains(what), "{what}: {page}");
    }
    let written = files(&desk.out());
    let stem = |end: &str| format!("images/bargain_local{end}");
    for name in [".png", ".svg", "_utility_gap.png", "_utility_gap_heatmap.svg"].map(stem) {
        assert!(written.contains_key(&name), "{name}");
    }
    assert!(desk.read("results.csv").lines().next().unwrap().contains("strong_utility,utility_gap,strong_share"));

    // All of it can be made again from the journal alone.
    fs::remove_file(desk.out().join("report.md")).unwrap();
    fs::remove_dir_all(desk.out().join("images")).unwrap();
    session::collect(&desk.out()).expect("it is collected");
    let again = files(&desk.out());
    for (name, bytes) in written.iter().filter(|(name, _)| name.starts_with("images/") || *name == "report.md") {
        assert!(again.get(name) == Some(bytes), "{name} is as it was");
    }
}
