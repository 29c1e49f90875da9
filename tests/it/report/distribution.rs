//! The way of labels through a run folder: runs that were judged, reported on by the library and by the program.

use std::{path::Path, sync::Arc};

use crate::tiltmeter;
use serde_json::{Value, json};
use tiltmeter::session::{ReportInput, Reported, report};
use tiltmeter_model::problem::Problem;
use tiltmeter_report::Options;
use tiltmeter_scheduler::{Plan, Run, RunContext, RunError, Schedule};
use tiltmeter_store::{Outcome, RunFolder, RunKey, Series};
use tiltmeter_test_support::process::Finished;

/// A run that leaves what it was given.
struct Judged(RunKey, Outcome);

#[async_trait::async_trait]
impl Run for Judged {
    fn key(&self) -> &RunKey {
        &self.0
    }

    async fn execute(&self, _: &RunContext) -> Result<Outcome, RunError> {
        Ok(self.1.clone())
    }
}

fn run(cell: &str, sample: usize, strategy: Option<&str>, series: &[(&str, &[Option<f64>])]) -> Arc<dyn Run> {
    let mut outcome = Outcome::default();
    outcome.labels.extend(strategy.map(|strategy| ("strategy".to_owned(), strategy.to_owned())));
    for (name, values) in series {
        let statuses = values.iter().map(|value| if value.is_some() { "ok" } else { "empty" }.to_owned()).collect();
        outcome.series.push(Series { name: (*name).to_owned(), values: values.to_vec(), statuses });
    }
    Arc::new(Judged(RunKey { experiment: "stakes".to_owned(), cell: cell.to_owned(), sample }, outcome))
}

fn plan(categories: Value) -> Value {
    json!({
        "experiment": "stakes",
        "conditions": [{"label": "low", "title": "Low stakes"}, {"label": "high"}, {"label": "later"}],
        "categories": categories,
    })
}

fn strategy() -> Value {
    json!([{"label": "strategy", "title": "Strategy", "menu": ["honest", "evasive", "deceptive"]}])
}

/// Two conditions of six judged runs; one judge failed.
fn judged(series: &[(&str, &[Option<f64>])]) -> Vec<Arc<dyn Run>> {
    let low = ["honest", "honest", "honest", "honest", "evasive", "honest"].map(Some);
    let high = [Some("deceptive"), Some("deceptive"), None, Some("evasive"), Some("deceptive"), Some("deceptive")];
    let of = |cell: &'static str, labels: [Option<&'static str>; 6]| {
        labels.into_iter().enumerate().map(move |(sample, label)| run(cell, sample, label, series))
    };
    of("low", low).chain(of("high", high)).collect()
}

async fn reported(dir: &Path, plan: Value, runs: Vec<Arc<dyn Run>>) -> Result<Reported, Vec<Problem>> {
    Schedule::new(Plan::freeze(plan), RunFolder::at(dir)).run(runs).await.unwrap();
    report(&ReportInput::Folder(dir.to_owned()), &Options { permutations: 199, ..Options::default() })
}

#[tokio::test]
async fn categories_without_series_are_reported_by_the_program_in_words_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let found = reported(dir.path(), plan(strategy()), judged(&[])).await.unwrap();
    assert!(found.measures.is_empty());
    let (distribution, analysis) = &found.distributions[0];
    assert_eq!(distribution.title, "stakes: Strategy");
    assert_eq!(distribution.groups[0].name(), "Low stakes");
    let high = analysis.groups.get("high").unwrap();
    assert_eq!((high.n, high.missing), (5, 1));
    assert_eq!(analysis.groups.get("later").unwrap().n, 0, "a condition without a finished run is still there");
    // Of the 462 ways to deal the categories to 6 and 5 runs, 3 are no likelier than [5, 1, 0] and [0, 1, 4].
    let p = analysis.pairs[0].test.as_ref().unwrap().fisher_p.unwrap();
    assert!((p - 3.0 / 462.0).abs() < 1e-12, "{p}");

    let text = Finished::of(tiltmeter(["report"]).arg(dir.path())).success();
    assert!(
        text.starts_with("stakes: Strategy\n") && text.contains("5 (83.3 %)") && text.contains("no category"),
        "{text}"
    );
    let json: Value =
        serde_json::from_str(&Finished::of(tiltmeter(["report", "--json"]).arg(dir.path())).success()).unwrap();
    assert_eq!(json["distributions"][0]["groups"]["high"]["categories"]["deceptive"]["count"], 4);
    assert_eq!(json.as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn measures_come_before_categories() {
    let dir = tempfile::tempdir().unwrap();
    let runs = judged(&[("warmth@block.1.out", &[Some(1.0)])]);
    let found = reported(dir.path(), plan(strategy()), runs).await.unwrap();
    assert_eq!((found.measures.len(), found.distributions.len()), (1, 1));
    let json = found.json();
    assert_eq!(json["conditions"]["low"]["n"], 6, "a series of one turn is a series");
    assert_eq!(json["distributions"][0]["label"], "strategy");
    let text = Finished::of(tiltmeter(["report"]).arg(dir.path())).success();
    assert!(text.find("warmth@block.1.out").unwrap() < text.find("runs by `strategy`").unwrap(), "{text}");
}

#[tokio::test]
async fn runs_without_a_series_or_with_a_shorter_one_are_missing_there_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (long, short): (&[_], &[_]) = (&[Some(1.0), Some(2.0), Some(2.5)], &[Some(1.5), Some(1.0)]);
    let runs = vec![
        run("low", 0, None, &[]),
        run("low", 1, None, &[("a", long)]),
        run("low", 2, None, &[("b", short), ("a", short)]),
        run("low", 3, None, &[("a", long)]),
        run("high", 0, None, &[("a", short), ("c", &[None])]),
        run("high", 1, None, &[("a", short)]),
    ];
    let mut plan = plan(json!([]));
    plan["axes"] = json!([{"name": "x", "site": "block.0.out", "span": [0.0, 1.0]}]);
    let found = reported(dir.path(), plan, runs).await.unwrap();
    let units: Vec<&str> = found.measures.iter().map(|(comparison, _)| comparison.unit.as_str()).collect();
    assert_eq!(units, ["a", "b"], "in the order in which they appear; what no run has a value of is left out");
    let (comparison, analysis) = &found.measures[0];
    let low = analysis.conditions.get("low").unwrap();
    assert_eq!((low.n, low.turns, low.dropped), (3, 3, 1));
    assert_eq!(low.per_turn.n, [3, 3, 2]);
    assert_eq!(comparison.span, None, "the span of another axis is not taken for its own");
    let notes = comparison.notes.join("\n");
    for note in [
        "1 of 4 runs of `low` have no `a`",
        "`low` differ in length",
        "`c` cannot be reported: no run has a value of it.",
    ] {
        assert!(notes.contains(note), "{notes}");
    }
    let only_low = &found.measures[1].0;
    assert_eq!(only_low.groups.len(), 1);
    assert!(only_low.notes.iter().any(|note| note.contains("No run of `high` has a value of `b`")));
}

#[tokio::test]
async fn a_category_off_the_menu_and_a_broken_menu_are_problems_and_nothing_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut runs = judged(&[]);
    runs.push(run("high", 6, Some("sarcastic"), &[]));
    let problems = reported(dir.path(), plan(strategy()), runs).await.unwrap_err();
    assert_eq!(problems[0].what, "label `strategy`: `sarcastic` is not on the menu");
    assert_eq!(problems[0].place.as_deref(), Some("condition `high`, run high-006"));
    let told = Finished::of(tiltmeter(["report"]).arg(dir.path()));
    assert_ne!(told.code, Some(0));
    assert!(told.problems()[0].contains("sarcastic"), "{}", told.stderr);

    let dir = tempfile::tempdir().unwrap();
    let problems = reported(dir.path(), plan(json!([{"label": "strategy"}])), judged(&[])).await.unwrap_err();
    assert!(problems[0].what.contains("missing field `menu`"), "{}", problems[0]);
}

#[tokio::test]
async fn nothing_finished_and_nothing_to_report_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let problems = reported(dir.path(), plan(strategy()), Vec::new()).await.unwrap_err();
    assert!(problems[0].what.contains("no run of any condition is finished yet"));
    let dir = tempfile::tempdir().unwrap();
    let problems = reported(dir.path(), plan(Value::Null), judged(&[])).await.unwrap_err();
    assert!(problems[0].what.contains("no measured series and no categories"), "{}", problems[0]);
}
