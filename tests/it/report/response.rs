//! The way of numbers through a run folder: what a plan wants shown of its runs, reported by the library and by the program; and
//! conditions that hold several cells, under names of their own.

use std::{path::Path, sync::Arc};

use crate::tiltmeter;
use serde_json::{Value, json};
use tiltmeter::session::{ReportInput, Reported, report};
use tiltmeter_model::problem::Problem;
use tiltmeter_report::Options;
use tiltmeter_scheduler::{Plan, Run, RunContext, RunError, Schedule};
use tiltmeter_store::{Outcome, RunFolder, RunKey, Series};
use tiltmeter_test_support::process::Finished;

/// A run that leaves what it was given, or fails.
struct Played(RunKey, Option<Outcome>);

#[async_trait::async_trait]
impl Run for Played {
    fn key(&self) -> &RunKey {
        &self.0
    }

    async fn execute(&self, _: &RunContext) -> Result<Outcome, RunError> {
        self.1.clone().ok_or_else(|| RunError::Failed(Problem::new("it broke").hint("mend it")))
    }
}

fn outcome(weak: &str, level: f64, gap: f64) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.labels.insert("weak".to_owned(), weak.to_owned());
    outcome.labels.insert("strong".to_owned(), "s".to_owned());
    outcome.metrics.extend([("gap".to_owned(), gap), ("level".to_owned(), level)]);
    let statuses = vec!["ok".to_owned(); 2];
    outcome.series.push(Series { name: "tilt".to_owned(), values: vec![Some(gap), Some(2.0 * gap)], statuses });
    outcome
}

fn played(weak: &str, level: f64, sample: usize, gap: Option<f64>) -> Arc<dyn Run> {
    let key = RunKey { experiment: "sweep".to_owned(), cell: format!("{weak}_{level}"), sample };
    Arc::new(Played(key, gap.map(|gap| outcome(weak, level, gap))))
}

fn plan() -> Value {
    let pair = |weak: &str| json!({"label": weak, "cells": [format!("{weak}_0"), format!("{weak}_1")]});
    let mut named = pair("b");
    named["name"] = json!("bee");
    named["title"] = json!("The second of them");
    let menu = json!({"label": "weak", "title": "weak one", "menu": ["a", "b"]});
    json!({
        "experiment": "sweep",
        "cells": ["a_0", "a_1", "b_0", "b_1"],
        "conditions": [pair("a"), named],
        "axes": [{"name": "tilt", "site": "x", "step": "reply"}],
        "responses": [{
            "metric": "gap", "title": "Gap", "unit": "gap (points)",
            "against": {"metric": "level", "title": "level", "levels": [0.0, 1.0]},
            "by": menu, "rows": menu, "columns": {"label": "strong", "title": "strong one", "menu": ["s", "t"]},
        }],
    })
}

fn runs() -> Vec<Arc<dyn Run>> {
    vec![
        played("a", 0.0, 0, Some(1.0)),
        played("a", 0.0, 1, Some(3.0)),
        played("a", 1.0, 0, Some(8.0)),
        played("b", 0.0, 0, Some(-2.0)),
        played("b", 1.0, 0, None),
        played("b", 1.0, 1, Some(0.0)),
    ]
}

async fn reported(dir: &Path, plan: Value) -> Result<Reported, Vec<Problem>> {
    Schedule::new(Plan::freeze(plan), RunFolder::at(dir)).run(runs()).await.unwrap();
    report(&ReportInput::Folder(dir.to_owned()), &Options { permutations: 99, ..Options::default() })
}

#[tokio::test]
async fn what_a_plan_wants_shown_is_reported_in_words_and_as_json_and_a_failed_run_is_no_zero() {
    let dir = tempfile::tempdir().unwrap();
    let found = reported(dir.path(), plan()).await.unwrap();
    let (response, analysis) = &found.responses[0];
    assert_eq!((response.title.as_str(), analysis.overall.n, analysis.missing), ("sweep: Gap", 5, 0));
    assert_eq!(analysis.overall.mean, Some(2.0), "10 over five runs, not over six");
    let at_one = analysis.lines[0].levels[1].runs;
    assert_eq!((at_one.n, at_one.mean), (2, Some(4.0)));
    let text = Finished::of(tiltmeter(["report"]).arg(dir.path())).success();
    assert!(text.contains("sweep: Gap\ngap (points)\n") && text.contains("weak one \\ strong one"), "{text}");
    let json: Value =
        serde_json::from_str(&Finished::of(tiltmeter(["report", "--json"]).arg(dir.path())).success()).unwrap();
    assert_eq!(json["responses"][0]["lines"][2]["label"], "b");
    assert_eq!(
        json["responses"][0]["lines"][2]["levels"][1],
        json!({"level": 1.0, "n": 1, "mean": 0.0, "sem": null, "ci95": null})
    );
    assert_eq!(json["responses"][0]["table"]["cells"][0][1]["mean"], Value::Null, "nobody met `t`");
}

#[tokio::test]
async fn conditions_hold_the_runs_of_their_cells_and_are_called_as_people_call_them() {
    let dir = tempfile::tempdir().unwrap();
    let found = reported(dir.path(), plan()).await.unwrap();
    let (comparison, analysis) = &found.measures[0];
    let groups: Vec<(&str, usize, Option<&str>)> =
        comparison.groups.iter().map(|g| (g.label.as_str(), g.samples.len(), g.title.as_deref())).collect();
    assert_eq!(groups, [("a", 3, None), ("bee", 2, Some("The second of them"))]);
    assert_eq!(analysis.conditions.get("a").unwrap().mean, (1.5 + 4.5 + 12.0) / 3.0);
    let text = Finished::of(tiltmeter(["report"]).arg(dir.path())).success();
    assert_eq!(text.matches("The second of them").count(), 1, "the key is said once: {text}");
}

#[tokio::test]
async fn a_plan_whose_responses_cannot_be_read_or_do_not_fit_is_refused_with_what_to_do() {
    for (change, what) in [
        (json!([{"metric": "gap"}]), "the plan cannot be read"),
        (json!([{"metric": "gap", "title": "", "unit": "", "colour": "red"}]), "unknown field `colour`"),
        (json!([{"metric": "gap", "title": "", "unit": ""}]), "nothing to show the number against"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan();
        plan["responses"] = change;
        let problems = reported(dir.path(), plan).await.unwrap_err();
        assert!(problems[0].what.contains(what) && problems[0].hint.is_some(), "{problems:?}");
    }
}
