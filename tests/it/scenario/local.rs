//! Tests of the shipped batch that needs no key: it runs through a sitting, every metric finds something, the local
//! actor is projected, and everything can be made again from the journal alone.

use std::{fs, path::Path, sync::Arc};

use serde_json::json;
use tiltmeter::session::{self, ModelOptions, RunOptions};
use tiltmeter_scheduler::{Progress, StopSignal};
use tiltmeter_test_support::{
    paths::{in_repo, json as read_json},
    process::files,
};

/// The shipped file with its paths whole, so that it runs wherever the tests stand.
fn shipped(folder: &Path) -> std::path::PathBuf {
    let text = fs::read_to_string(in_repo("experiments/regulation_local.yaml")).unwrap();
    let text = text.replace("local/data/models/quay", &format!("local/{}", in_repo("data/models/quay")));
    let text = text.replace("data/axes/", &in_repo("data/axes/"));
    let text = text.replace("scenarios/test", &in_repo("experiments/scenarios/test"));
    let path = folder.join("regulation_local.yaml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_shipped_batch_runs_without_a_key_and_can_be_made_again_from_its_journal() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let file = shipped(home.path());
    let loaded = session::load(&file, &[]).map_err(|problems| format!("{problems:?}")).unwrap();
    let prepared =
        session::prepare(loaded, &ModelOptions::default()).map_err(|problems| format!("{problems:?}")).unwrap();
    let running = RunOptions { out: Some(out.clone()), ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sitting =
        runtime.block_on(prepared.run(&running, Arc::new(Progress::default()), StopSignal::new())).expect("it runs");
    assert_eq!((sitting.summary.completed, sitting.summary.failed, sitting.summary.pending), (6, 0, 0));
    assert!(sitting.closing.unwrap().contains("SCENARIO BATCH COMPLETE"));

    assert_eq!(fs::read(out.join("batch-config.yaml")).unwrap(), fs::read(&file).unwrap(), "as it was written");
    let metrics = read_json(out.join("analysis/metrics-analysis.json"));
    for id in ["cooperation_level", "safety_commitment", "release_delay_weeks"] {
        assert_eq!((&metrics[id]["n"], &metrics[id]["missing"]), (&json!(6), &json!(0)), "{id}");
    }
    let scripted = read_json(out.join("runs/var-002-run-001/metrics.json"));
    assert_eq!(scripted["final_metrics"]["cooperation_level"], 8);
    assert_eq!(scripted["final_metrics"]["agreement_reached"], true);
    let run = sitting.summary.runs.iter().find(|run| run.key.id() == "var-001-run-001").unwrap();
    let outcome = run.done().expect("a finished run");
    let projected = outcome.series.iter().find(|series| series.name == "regulator.quay-assistant@block.4.out").unwrap();
    assert!(projected.values.iter().all(Option::is_some), "{projected:?}");
    // The report shows the course of every metric and of the projection, and calls a variation by its name.
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    for (what, figure) in [
        ("cooperation_level", ""),
        ("safety_commitment", "_safety_commitment"),
        ("release_delay_weeks", "_release_delay_weeks"),
        ("regulator.quay-assistant@block.4.out", "_regulator.quay-assistant_block.4.out"),
    ] {
        assert!(report.contains(&format!("Measured: {what}.\n")), "{what}: {report}");
        assert!(report.contains(&format!("](<images/regulation-local{figure}.png>)")), "{what}: {report}");
        assert!(out.join(format!("images/regulation-local{figure}.png")).is_file(), "{figure}");
    }
    assert!(report.contains("# regulation-local: Level of cooperation between the actors"), "{report}");
    assert!(report.contains("| var-002 | regulator=by-the-book |") && !report.contains("-run"), "{report}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<a href=\"report_safety_commitment.html\">"), "further pages are found");
    for name in ["runs.parquet", "turns.parquet", "report.md", "methods.md", "manifest.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }

    let made = |path: &str| {
        path.starts_with("runs/")
            || path.starts_with("analysis/")
            || path.starts_with("batch-s")
            || path.starts_with("batch-costs")
    };
    let before: Vec<_> = files(&out).into_iter().filter(|(path, _)| made(path)).collect();
    for (path, _) in &before {
        fs::remove_file(out.join(path)).unwrap();
    }
    session::collect(&out).map_err(|problem| problem.to_string()).unwrap();
    let after: Vec<_> = files(&out).into_iter().filter(|(path, _)| made(path)).collect();
    assert!(before == after, "deleting them loses nothing");
    let validation = session::validate(&out).unwrap();
    let unsound: Vec<String> = validation.defects.iter().map(|problem| problem.what.clone()).collect();
    assert!(unsound.iter().all(|what| what.contains("cut off at the length limit")), "{unsound:?}");
}

/// The scenario of the shipped batch, with private messages before every decision.
fn with_letters(home: &Path) -> std::path::PathBuf {
    let (from, to) = (in_repo("experiments/scenarios/test-regulation-negotiation"), home.join("scenario"));
    fs::create_dir_all(to.join("actors")).unwrap();
    for (name, bytes) in files(Path::new(&from)) {
        fs::write(to.join(name), bytes).unwrap();
    }
    let file = to.join("scenario.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\ncommunication: {{bilateral: true}}\n")).unwrap();
    let batch = shipped(home);
    let text = fs::read_to_string(&batch).unwrap();
    let old = in_repo("experiments/scenarios/test-regulation-negotiation");
    let text = text.replace(&old, &to.display().to_string()).replace("runs_per_variation: 3", "runs_per_variation: 1");
    fs::write(&batch, text).unwrap();
    batch
}

#[test]
fn private_messages_of_a_local_actor_have_a_trace_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let loaded = session::load(&with_letters(home.path()), &[]).map_err(|problems| format!("{problems:?}")).unwrap();
    let prepared =
        session::prepare(loaded, &ModelOptions::default()).map_err(|problems| format!("{problems:?}")).unwrap();
    let running = RunOptions { out: Some(out.clone()), ..RunOptions::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sitting =
        runtime.block_on(prepared.run(&running, Arc::new(Progress::default()), StopSignal::new())).expect("it runs");
    let run = sitting.summary.runs.iter().find(|run| run.key.cell == "var-001-run").unwrap();
    let outcome = run.done().expect("a finished run");
    let name = "regulator.letters.quay-assistant@block.4.out";
    let letters = outcome.series.iter().find(|series| series.name == name).unwrap();
    let means: Vec<Option<f64>> = outcome
        .turns
        .iter()
        .flat_map(|turn| turn["messages"].as_array().unwrap())
        .filter(|one| one["from"] == "regulator")
        .map(|one| one["reply"]["readout"]["projections"][0]["mean"].as_f64())
        .collect();
    assert!(means.len() == 3 && means.iter().all(Option::is_some), "one message a turn: {means:?}");
    let close = |(a, b): (&Option<f64>, &Option<f64>)| (a.unwrap() - b.unwrap()).abs() < 1e-6;
    assert!(letters.values.len() == 3 && letters.values.iter().zip(&means).all(close), "{letters:?} {means:?}");
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains(&format!("Measured: {name}, once per message.")), "{report}");
}
