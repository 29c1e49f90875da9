//! Owns what a kind makes of its frozen plan and of what its runs left: files of runs and of the batch, records for a dataset, closing
//! words, the methods section. No model is needed for it, so whatever was deleted can be made again from the journal alone.
//! Must not know: engine, provider, run folders, terminal.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Account, Spending};
use tiltmeter_store::{Outcome, RunKey, Session};

/// A run as far as it came.
#[derive(Clone, Debug)]
pub struct RunRecord {
    pub key: RunKey,
    /// The outcome; of a run that is not done, what it kept of one.
    pub outcome: Option<Outcome>,
    pub end: RunEnd,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEnd {
    Done,
    Failed(Problem),
    Pending,
}

/// What the journal knows of a batch besides its outcomes.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Every sitting, the first one first.
    pub sessions: Vec<Session>,
    /// All money, and the limits of the latest sitting.
    pub spending: Spending,
    /// What runs cost and why they were left, by run id.
    pub runs: BTreeMap<String, Account>,
}

/// A file below the run folder.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFile {
    /// Parts separated by `/`, each safe as a file name.
    pub path: String,
    pub text: String,
}

/// One JSON object for the dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetRecord {
    /// Value of its `run_id`.
    pub id: String,
    pub value: Value,
}

/// What a kind makes of a whole batch besides the report that every kind has.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchAnalysis {
    /// The page for people, in Markdown that also reads well as it stands.
    pub page: RunFile,
    /// Its numbers, one JSON file each.
    pub numbers: Vec<(String, Value)>,
}

impl BatchAnalysis {
    /// The files of the numbers.
    pub fn files(&self) -> impl Iterator<Item = RunFile> {
        self.numbers.iter().map(|(path, value)| RunFile { path: path.clone(), text: format!("{value:#}\n") })
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

/// Backups stand under this folder of the run folder, or in the folder that `local_backup_dir` names.
pub const BACKUPS: &str = "local_backups";

pub trait Recorder: Send + Sync {
    /// Files that the plan alone gives; they stand there before the first run.
    fn plan_files(&self) -> Vec<RunFile> {
        Vec::new()
    }

    /// Files of one run, whenever there is something of it: when it kept something, when it is done, when it failed.
    fn run_files(&self, _run: &RunRecord) -> Vec<RunFile> {
        Vec::new()
    }

    /// The one of a finished run's files whose removal asks for the run anew. It comes first among them.
    fn flag(&self, _run: &RunRecord) -> Option<String> {
        None
    }

    /// What the dataset and `game_logs.jsonl` get of a run; `None` if there is nothing to show for it.
    fn record(&self, _run: &RunRecord) -> Option<DatasetRecord> {
        None
    }

    /// Files of the whole batch.
    fn batch_files(&self, _runs: &[RunRecord]) -> Vec<RunFile> {
        Vec::new()
    }

    /// Files that say how far the batch is while runs go on; `done` are the ids of finished runs. Later `accounts` takes their place.
    fn standing(&self, _done: &[String]) -> Vec<RunFile> {
        Vec::new()
    }

    /// Files of the batch and of its runs that tell of money, time and halts; written after the others and in their place.
    fn accounts(&self, _runs: &[RunRecord], _books: &Ledger) -> Vec<RunFile> {
        Vec::new()
    }

    /// What the runs of a batch show together; `None`: this kind has nothing to add to the report.
    fn analysis(&self, _runs: &[RunRecord], _books: &Ledger) -> Option<BatchAnalysis> {
        None
    }

    /// What a person reads at the end.
    fn closing(&self, _runs: &[RunRecord]) -> Option<String> {
        None
    }

    /// What is wrong with a finished run, for `validate`.
    fn defects(&self, _run: &RunRecord) -> Vec<Problem> {
        Vec::new()
    }

    /// Paragraphs of the methods section: what was asked of whom, and how it was judged.
    fn methods(&self) -> Vec<String>;
}
