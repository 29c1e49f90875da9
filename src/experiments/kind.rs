//! The trait `Kind`: everything that a frozen plan and the journal of its runs give without a model, namely files of runs and of the
//! batch, exports, records for a dataset, the analysis, the summary on the terminal, the methods section.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use tiltmeter_model::problem::Problem;
pub use tiltmeter_scheduler::{Ledger, RunEnd, RunRecord};
use tiltmeter_store::{Outcome, RunKey, Table};

/// A file below the run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Parts separated by `/`, each safe as a file name.
    pub path: String,
    pub text: String,
}

impl RunFile {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Indented JSON with a final line feed.
    pub fn json(path: impl Into<String>, value: &Value) -> Self {
        Self::new(path, format!("{value:#}\n"))
    }
}

/// One JSON object for the dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetRecord {
    /// Value of its `run_id`.
    pub id: String,
    pub value: Value,
}

/// Analysis of a batch that a kind adds to the report that every kind has.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchAnalysis {
    /// The report, in Markdown.
    pub page: RunFile,
    /// Path and content of each JSON file.
    pub numbers: Vec<(String, Value)>,
}

impl BatchAnalysis {
    /// The files of the numbers.
    pub fn files(&self) -> impl Iterator<Item = RunFile> {
        self.numbers.iter().map(|(path, value)| RunFile::json(path, value))
    }

    /// All numbers as one object, by the names of their files: `metrics_analysis` for `analysis/metrics-analysis.json`.
    pub fn document(&self) -> Map<String, Value> {
        let name = |path: &str| {
            let file = path.rsplit('/').next().unwrap_or(path);
            file.trim_end_matches(".json").replace('-', "_")
        };
        self.numbers.iter().map(|(path, value)| (name(path), value.clone())).collect()
    }
}

/// A named tensor for `vectors.safetensors`.
pub type NamedTensor = (String, ndarray::ArrayD<f32>);

/// Data of finished runs for other tools.
#[derive(Clone, Debug, Default)]
pub struct Exports {
    /// JSON documents, by file stem.
    pub documents: Vec<(String, Value)>,
    /// Parquet tables.
    pub tables: Vec<Table>,
    /// `[samples, turns, hidden]`; NaN where a turn was not measured.
    pub tensors: Vec<NamedTensor>,
    /// Remarks for the report.
    pub notes: Vec<String>,
}

/// Folder for backups, in the run folder or in the folder that `local_backup_dir` names.
pub const BACKUPS: &str = "local_backups";

/// Keys and outcomes of the finished runs.
pub fn finished(runs: &[RunRecord]) -> impl Iterator<Item = (&RunKey, &Outcome)> {
    let done = runs.iter().filter(|run| run.end == RunEnd::Done);
    done.filter_map(|run| Some((&run.key, run.outcome.as_ref()?)))
}

/// A kind of experiment, read from a frozen plan. Its methods are pure functions of the plan and the journal, so every file can be
/// deleted and written again.
pub trait Kind: Send + Sync {
    /// Value of `kind` in the plan.
    fn name(&self) -> &'static str;

    /// All planned runs, cell by cell.
    fn run_keys(&self) -> Vec<RunKey>;

    /// Documents, tables and tensors of the finished runs.
    fn exports(&self, runs: &[RunRecord], ledger: &Ledger) -> Exports;

    /// Files that depend on the plan alone; written before the first run.
    fn plan_files(&self) -> Vec<RunFile> {
        Vec::new()
    }

    /// Files of one run; written when the run saves a partial outcome, finishes or fails.
    fn run_files(&self, _run: &RunRecord) -> Vec<RunFile> {
        Vec::new()
    }

    /// Path of the flag file of a finished run; deleting that file requests the run again. First among `run_files`.
    fn flag(&self, _run: &RunRecord) -> Option<String> {
        None
    }

    /// The run's record for the dataset and `game_logs.jsonl`; `None` if the run has no record.
    fn record(&self, _run: &RunRecord) -> Option<DatasetRecord> {
        None
    }

    /// Files of the whole batch.
    fn batch_files(&self, _runs: &[RunRecord]) -> Vec<RunFile> {
        Vec::new()
    }

    /// Files that show the progress of the batch while runs are under way; `done` holds the ids of finished runs. `accounts` replaces
    /// them at the end.
    fn standing(&self, _done: &[String]) -> Vec<RunFile> {
        Vec::new()
    }

    /// Files with costs, durations and halts; written last, replacing files of the same path.
    fn accounts(&self, _runs: &[RunRecord], _ledger: &Ledger) -> Vec<RunFile> {
        Vec::new()
    }

    /// Analysis of the batch; `None` if the kind has none.
    fn analysis(&self, _runs: &[RunRecord], _ledger: &Ledger) -> Option<BatchAnalysis> {
        None
    }

    /// Summary printed after the last run.
    fn closing(&self, _runs: &[RunRecord]) -> Option<String> {
        None
    }

    /// Defects of a finished run, for `validate`.
    fn defects(&self, _run: &RunRecord) -> Vec<Problem> {
        Vec::new()
    }

    /// Paragraphs of the methods section.
    fn methods(&self) -> Vec<String>;
}
