//! Owns what is promised of the shipped batch that needs no key: it runs through a sitting, every metric finds something, the local
//! actor is projected, and everything can be made again from the journal alone.
//! Must not know: how a turn goes.

use std::{fs, path::Path, sync::Arc};

use serde_json::json;
use tiltmeter::{
    scheduler::{Progress, StopSignal},
    session::{self, Opening, Running},
};

use crate::program::{ROOT, files, in_root, json as read_json};

/// The shipped file with its paths whole, so that it runs wherever the tests stand.
fn shipped(folder: &Path) -> std::path::PathBuf {
    let text = fs::read_to_string(in_root("experiments/regulation_local.yaml")).unwrap();
    let text = text.replace("local/data/models/quay", &format!("local/{ROOT}/data/models/quay"));
    let text = text.replace("data/axes/", &format!("{ROOT}/data/axes/"));
    let text = text.replace("scenarios/test", &format!("{ROOT}/experiments/scenarios/test"));
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
    let prepared = session::prepare(loaded, &Opening::default()).map_err(|problems| format!("{problems:?}")).unwrap();
    let running = Running { out: Some(out.clone()), ..Running::default() };
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
    let series = &sitting.summary.outcomes.iter().find(|(key, _)| key.id() == "var-001-run-001").unwrap().1;
    let tiltmeter::scheduler::RunState::Done(outcome) = series else { panic!("{series:?}") };
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
    assert!(unsound.iter().all(|what| what.contains("cut at its longest length")), "{unsound:?}");
}
