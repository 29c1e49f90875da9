//! Owns the files of a sweep, made from the frozen plan and the journal alone:
//!
//! | file | content |
//! |---|---|
//! | `configs/config_<i>.json` | what run i is; of all planned runs, whether anything has run or not |
//! | `logs/experiment_<i>.log` | the game as it goes; of a run that did not succeed, FAILED or TIMEOUT and why |
//! | `logs/completed_<i>.flag` | there for success alone; whoever removes it asks for the run anew |
//! | `<weak>_vs_<strong>/comp_<level>/result_<i>.json` | what run i came to, with everything said |
//! | `all_results.json` | the results of all runs that ended, without what was said |
//! | `summary.json` | counts and means, in all, by pair and by level |
//! | `results.csv` | a line a run, what it is before what it came to |
//!
//! Must not know: engine, provider, run folders, terminal.

mod defects;
mod log;
mod result;
mod summary;

use serde_json::{Value, json};

use super::matrix::{Cell, Matrix};
use super::{collect, methods, run};
use crate::{DatasetRecord, Exports, Kind, Ledger, RunEnd, RunFile, RunRecord};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::TOO_LONG;
use tiltmeter_store::RunKey;

/// How a run stands, in the words of its result; `None`: it has not ended.
fn status(end: &RunEnd) -> Option<&'static str> {
    match end {
        RunEnd::Done => Some("SUCCESS"),
        RunEnd::Failed(problem) if problem.what.starts_with(TOO_LONG) => Some("TIMEOUT"),
        RunEnd::Failed(_) => Some("FAILED"),
        RunEnd::Pending => None,
    }
}

/// The files and records of one frozen plan.
pub struct Records {
    plan: Value,
    /// `None` for a plan that another version made and this one cannot read.
    matrix: Option<Matrix>,
}

/// A run with its place in the matrix.
struct Placed<'a> {
    run: &'a RunRecord,
    cell: Cell,
    index: usize,
}

impl Records {
    pub fn of(plan: &Value) -> Self {
        Self { plan: plan.clone(), matrix: serde_json::from_value(plan["matrix"].clone()).ok() }
    }

    fn placed<'a>(&self, run: &'a RunRecord) -> Option<(&Matrix, Placed<'a>)> {
        let matrix = self.matrix.as_ref()?;
        let cell = matrix.find(&run.key.cell)?;
        Some((matrix, Placed { run, cell, index: matrix.index(cell, run.key.sample) }))
    }

    /// The runs that ended, by number, each with its result but for what was said.
    fn results<'a>(&self, runs: &'a [RunRecord]) -> Vec<(Placed<'a>, Value)> {
        let mut placed: Vec<Placed> = runs.iter().filter_map(|run| Some(self.placed(run)?.1)).collect();
        placed.sort_by_key(|placed| placed.index);
        let result = |placed| result::result(self, &placed).map(|result| (placed, result::short(result)));
        placed.into_iter().filter_map(result).collect()
    }

    /// What a run is.
    fn config(&self, matrix: &Matrix, cell: Cell, repetition: usize) -> Value {
        let index = matrix.index(cell, repetition);
        let mut config = json!({
            "experiment_id": index,
            "weak_model": matrix.weak.get(cell.weak),
            "strong_model": matrix.strong.get(cell.strong),
            "competition_level": matrix.level(cell),
            "num_items": self.plan["num_items"],
            "max_rounds": self.plan["max_rounds"],
            "random_seed": matrix.seed(index),
            "output_dir": matrix.folder(cell),
        });
        // Where they tell runs apart.
        if matrix.orders.len() > 1 {
            config["order"] = json!(run::order_name(matrix.order(cell)));
        }
        if matrix.repetitions > 1 {
            config["repetition"] = json!(repetition);
        }
        config
    }
}

/// JSON for people, with a line feed at its end.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn flag(index: usize) -> String {
    format!("logs/completed_{index}.flag")
}

fn file(path: String, text: String) -> RunFile {
    RunFile { path, text }
}

impl Kind for Records {
    fn name(&self) -> &'static str {
        "negotiation"
    }

    fn run_keys(&self) -> Vec<RunKey> {
        let Some(matrix) = &self.matrix else { return Vec::new() };
        let experiment = self.plan["experiment"].as_str().unwrap_or_default();
        let key = |cell, sample| RunKey { experiment: experiment.to_owned(), cell: matrix.name(cell), sample };
        matrix
            .cells()
            .into_iter()
            .flat_map(|cell| (0..matrix.repetitions).map(move |sample| key(cell, sample)))
            .collect()
    }

    fn exports(&self, runs: &[RunRecord], _ledger: &Ledger) -> Exports {
        self.matrix.as_ref().map(|matrix| collect::collect(matrix, &self.plan["axes"], runs)).unwrap_or_default()
    }

    fn run_files(&self, run: &RunRecord) -> Vec<RunFile> {
        let Some((matrix, placed)) = self.placed(run) else { return Vec::new() };
        let index = placed.index;
        if run.outcome.is_none() && run.end == RunEnd::Pending {
            return Vec::new();
        }
        let mut files = Vec::new();
        if run.end == RunEnd::Done {
            files.push(file(flag(index), "SUCCESS\n".to_owned()));
        }
        files.push(file(format!("logs/experiment_{index}.log"), log::log(self, &placed)));
        if let Some(result) = result::result(self, &placed) {
            let path = format!("{}/result_{index}.json", matrix.folder(placed.cell));
            files.push(file(path, pretty(&result)));
        }
        files
    }

    fn flag(&self, run: &RunRecord) -> Option<String> {
        self.placed(run).map(|(_, placed)| flag(placed.index))
    }

    fn record(&self, run: &RunRecord) -> Option<DatasetRecord> {
        let (_, placed) = self.placed(run)?;
        let mut value = result::result(self, &placed)?;
        let id = run::run_id(placed.index);
        value["run_id"] = json!(id);
        Some(DatasetRecord { id, value })
    }

    fn plan_files(&self) -> Vec<RunFile> {
        let Some(matrix) = &self.matrix else { return Vec::new() };
        let config = |index: usize| {
            let (cell, repetition) = matrix.run(index)?;
            Some(file(format!("configs/config_{index}.json"), pretty(&self.config(matrix, cell, repetition))))
        };
        (0..matrix.total_runs()).filter_map(config).collect()
    }

    fn batch_files(&self, runs: &[RunRecord]) -> Vec<RunFile> {
        let Some(matrix) = &self.matrix else { return Vec::new() };
        let results = self.results(runs);
        let summary = summary::summary(self, matrix, &results, None);
        let results: Vec<Value> = results.into_iter().map(|(_, result)| result).collect();
        vec![
            file("summary.json".to_owned(), pretty(&summary)),
            file("results.csv".to_owned(), summary::csv(&results)),
            file("all_results.json".to_owned(), pretty(&Value::Array(results))),
        ]
    }

    fn accounts(&self, runs: &[RunRecord], books: &Ledger) -> Vec<RunFile> {
        let Some(matrix) = &self.matrix else { return Vec::new() };
        let results = self.results(runs);
        let summary = summary::summary(self, matrix, &results, Some(&books.spending));
        vec![file("summary.json".to_owned(), pretty(&summary))]
    }

    fn closing(&self, runs: &[RunRecord]) -> Option<String> {
        self.matrix.as_ref()?;
        let mut placed: Vec<Placed> = runs.iter().filter_map(|run| Some(self.placed(run)?.1)).collect();
        placed.sort_by_key(|placed| placed.index);
        Some(summary::closing(&placed))
    }

    fn defects(&self, run: &RunRecord) -> Vec<Problem> {
        match self.placed(run) {
            Some((matrix, placed)) => defects::of(self, matrix, &placed),
            None => vec![
                Problem::new("the plan has no such run")
                    .at(run.key.id())
                    .hint("the journal is damaged or was made by another version: run it again in a new folder"),
            ],
        }
    }

    fn methods(&self) -> Vec<String> {
        methods::methods(&self.plan)
    }
}
