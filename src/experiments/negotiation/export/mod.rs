//! Everything that a sweep leaves, from its frozen plan and the journal:
//!
//! | file | content |
//! |---|---|
//! | `configs/config_<i>.json` | parameters of run i; for all planned runs |
//! | `logs/experiment_<i>.log` | the game turn by turn; FAILED or TIMEOUT and the reason if run i did not succeed |
//! | `logs/completed_<i>.flag` | present if run i succeeded; deleting it requests the run again |
//! | `<weak>_vs_<strong>/comp_<level>/result_<i>.json` | result of run i with all replies |
//! | `all_results.json` | results of all ended runs, without replies |
//! | `summary.json` | counts and means: overall, by pair, by level |
//! | `results.csv` | one line a run: parameters, then results |

mod defects;
mod log;
mod methods;
mod result;
mod summary;
mod tables;

use serde_json::{Value, json};

use super::NegotiationPlan;
use super::matrix::{Cell, order_name};
use super::run::run_id;
use crate::{DatasetRecord, Exports, Kind, Ledger, RunEnd, RunFile, RunRecord, defects::DAMAGED};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::TOO_LONG;
use tiltmeter_store::RunKey;

/// Status of an ended run in its result; `None` for a run that has not ended.
fn status(end: &RunEnd) -> Option<&'static str> {
    match end {
        RunEnd::Done => Some("SUCCESS"),
        RunEnd::Failed(problem) if problem.what.starts_with(TOO_LONG) => Some("TIMEOUT"),
        RunEnd::Failed(_) => Some("FAILED"),
        RunEnd::Pending => None,
    }
}

/// A run with its position in the matrix.
struct PlacedRun<'a> {
    run: &'a RunRecord,
    cell: Cell,
    /// Number of the run.
    index: usize,
}

impl NegotiationPlan {
    fn placed<'a>(&self, run: &'a RunRecord) -> Option<PlacedRun<'a>> {
        let cell = self.matrix.find(&run.key.cell)?;
        Some(PlacedRun { run, cell, index: self.matrix.index(cell, run.key.sample) })
    }

    /// Runs of this plan, by number.
    fn all_placed<'a>(&self, runs: &'a [RunRecord]) -> Vec<PlacedRun<'a>> {
        let mut placed: Vec<PlacedRun> = runs.iter().filter_map(|run| self.placed(run)).collect();
        placed.sort_by_key(|placed| placed.index);
        placed
    }

    /// Ended runs by number, each with its result without replies.
    fn results<'a>(&self, runs: &'a [RunRecord]) -> Vec<(PlacedRun<'a>, Value)> {
        let result = |placed| result::result(self, &placed).map(|result| (placed, result::without_replies(result)));
        self.all_placed(runs).into_iter().filter_map(result).collect()
    }

    /// Parameters of a run.
    fn config(&self, cell: Cell, repetition: usize) -> Value {
        let matrix = &self.matrix;
        let index = matrix.index(cell, repetition);
        let mut config = json!({
            "experiment_id": index,
            "weak_model": matrix.weak.get(cell.weak),
            "strong_model": matrix.strong.get(cell.strong),
            "competition_level": matrix.level(cell),
            "num_items": self.num_items,
            "max_rounds": self.max_rounds,
            "random_seed": matrix.seed(index),
            "output_dir": matrix.folder(cell),
        });
        // Only where runs differ in them.
        if matrix.orders.len() > 1 {
            config["order"] = json!(order_name(matrix.order(cell)));
        }
        if matrix.repetitions > 1 {
            config["repetition"] = json!(repetition);
        }
        config
    }
}

fn flag(index: usize) -> String {
    format!("logs/completed_{index}.flag")
}

impl Kind for NegotiationPlan {
    fn name(&self) -> &'static str {
        "negotiation"
    }

    fn run_keys(&self) -> Vec<RunKey> {
        let key = |cell, sample| RunKey { experiment: self.experiment.clone(), cell: self.matrix.name(cell), sample };
        let cells = self.matrix.cells().into_iter();
        cells.flat_map(|cell| (0..self.matrix.repetitions).map(move |sample| key(cell, sample))).collect()
    }

    fn exports(&self, runs: &[RunRecord], _ledger: &Ledger) -> Exports {
        tables::exports(self, runs)
    }

    fn plan_files(&self) -> Vec<RunFile> {
        let config = |index: usize| {
            let (cell, repetition) = self.matrix.run(index)?;
            Some(RunFile::json(format!("configs/config_{index}.json"), &self.config(cell, repetition)))
        };
        (0..self.matrix.total_runs()).filter_map(config).collect()
    }

    fn run_files(&self, run: &RunRecord) -> Vec<RunFile> {
        let Some(placed) = self.placed(run) else { return Vec::new() };
        let index = placed.index;
        if run.outcome.is_none() && run.end == RunEnd::Pending {
            return Vec::new();
        }
        let mut files = Vec::new();
        if run.end == RunEnd::Done {
            files.push(RunFile::new(flag(index), "SUCCESS\n"));
        }
        files.push(RunFile::new(format!("logs/experiment_{index}.log"), log::log(self, &placed)));
        if let Some(result) = result::result(self, &placed) {
            let path = format!("{}/result_{index}.json", self.matrix.folder(placed.cell));
            files.push(RunFile::json(path, &result));
        }
        files
    }

    fn flag(&self, run: &RunRecord) -> Option<String> {
        self.placed(run).map(|placed| flag(placed.index))
    }

    fn record(&self, run: &RunRecord) -> Option<DatasetRecord> {
        let placed = self.placed(run)?;
        let mut value = result::result(self, &placed)?;
        let id = run_id(placed.index);
        value["run_id"] = json!(id);
        Some(DatasetRecord { id, value })
    }

    fn batch_files(&self, runs: &[RunRecord]) -> Vec<RunFile> {
        let results = self.results(runs);
        let summary = summary::summary(self, &results, None);
        let results: Vec<Value> = results.into_iter().map(|(_, result)| result).collect();
        vec![
            RunFile::json("summary.json", &summary),
            RunFile::new("results.csv", summary::csv(&results)),
            RunFile::json("all_results.json", &Value::Array(results)),
        ]
    }

    fn accounts(&self, runs: &[RunRecord], ledger: &Ledger) -> Vec<RunFile> {
        let summary = summary::summary(self, &self.results(runs), Some(&ledger.spending));
        vec![RunFile::json("summary.json", &summary)]
    }

    fn closing(&self, runs: &[RunRecord]) -> Option<String> {
        Some(summary::closing(&self.all_placed(runs)))
    }

    fn defects(&self, run: &RunRecord) -> Vec<Problem> {
        match self.placed(run) {
            Some(placed) => defects::defects(self, &placed),
            None => vec![Problem::new("the plan has no such run").at(run.key.id()).hint(DAMAGED)],
        }
    }

    fn methods(&self) -> Vec<String> {
        methods::methods(self)
    }
}
