//! Owns the kinds of experiment: what runs there are, what each does, and what their outcomes mean together.
//! A new kind is one file here and one arm in `open`; scheduler, report and command line know none of them.
//! Must not know: engine, provider, run folders, terminal.

pub mod projection;

use std::sync::Arc;

use serde_json::Value;

use crate::record::{Outcome, RunKey, Table};
use crate::scheduler::Run;

/// What a kind answers, so that one session can plan, run and report any of them.
pub trait Experiment: Send + Sync {
    fn name(&self) -> &str;

    /// Everything that decides the results, resolved: frozen and hashed before the first run.
    fn plan(&self) -> Value;

    /// All runs, cell by cell.
    fn runs(&self) -> Vec<Arc<dyn Run>>;

    /// How many runs are begun at the same time; the others wait, so that a stop leaves few conversations half done.
    fn in_flight(&self) -> usize;

    /// Totals of what runs count while they go on, as `(unit, total)`.
    fn totals(&self) -> Vec<(&'static str, u64)>;

    /// What was predicted when the experiment was opened.
    fn forecast(&self) -> &Forecast;

    /// Puts outcomes together. Runs that did not finish are missing from `outcomes`.
    fn collect(&self, outcomes: &[(RunKey, Outcome)]) -> Collected;
}

/// The forecast of one cell.
#[derive(Clone, Debug)]
pub struct CellForecast {
    pub cell: String,
    pub runs: usize,
    pub turns: usize,
    /// Prompt tokens at the last turn if every reply were empty, and if every reply took all it may.
    pub least_tokens: usize,
    pub most_tokens: usize,
    /// The first turn (from 1) at which the longest replies would not fit, if any.
    pub may_overflow_at: Option<usize>,
    /// The first prompt as the model sees it.
    pub first_prompt: String,
}

#[derive(Clone, Debug, Default)]
pub struct Forecast {
    pub cells: Vec<CellForecast>,
    /// Tokens of the context.
    pub limit: usize,
    pub max_new_tokens: usize,
    pub notes: Vec<String>,
}

/// A tensor to keep.
pub type NamedTensor = (String, ndarray::ArrayD<f32>);

/// What the outcomes of an experiment mean together.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// JSON documents for other tools: file stem and content.
    pub documents: Vec<(String, Value)>,
    /// Parquet tables.
    pub tables: Vec<Table>,
    pub tensors: Vec<NamedTensor>,
    pub notes: Vec<String>,
}
