//! Kinds of experiment, from the keys of their files to the files of their runs.
//!
//! `config` reads an experiment file into a `Spec`. An `Experiment` is a spec with open models: it makes the frozen plan, the runs and
//! the forecast. A `Kind` is read back from a frozen plan by `kind_of`, without models, and turns the journal into exports, analysis
//! and methods; both sides share the typed plan (`ProjectionPlan`, `InterviewPlan`). `ReportPlan` is the part of every plan that the
//! report reads. `ModelClient` executes each request as a journaled, budgeted step.
//!
//! A new kind is one folder here, one row of `KINDS`, one variant of `Spec` and one arm in `session/build.rs`.
//!
//! Invariants: no kind opens a model, writes a file or prints; no method of `Kind` depends on anything but the plan and the journal;
//! no result depends on which runs execute together.

pub mod config;
pub mod projection;
pub mod interview;
pub mod negotiation;
pub mod scenario;

// Shared by all kinds.
mod defects;
mod judge;
mod kind;
mod model_client;
mod plan;
mod probe_plan;
mod reply_record;
mod report_plan;
mod tables;
mod worst_case;
pub mod extract;

use std::sync::Arc;

use serde_json::Value;

use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::Run;
use tiltmeter_store::RunKey;

pub use kind::{
    BACKUPS, BatchAnalysis, DatasetRecord, Exports, Kind, Ledger, NamedTensor, RunEnd, RunFile, RunRecord, finished,
};
pub use model_client::ModelClient;
pub use plan::ResponsePlan;
pub use report_plan::ReportPlan;

/// An experiment with open models: plan, runs and forecast. `Kind` covers everything that needs no model.
pub trait Experiment: Send + Sync {
    fn name(&self) -> &str;

    /// The resolved plan: everything that determines the results. Frozen and hashed before the first run.
    fn plan(&self) -> Value;

    /// The experiment as `(key, value)` lines.
    fn describe(&self) -> Vec<(String, String)>;

    /// Lines printed before the first run.
    fn banner(&self) -> Vec<String> {
        Vec::new()
    }

    /// Name of the experiment file's copy in the run folder; `None` keeps no copy.
    fn kept_config(&self) -> Option<&'static str> {
        None
    }

    /// Continues the numbering of repetitions after `earlier` plans of the same name, oldest first, or that of the `resumed` plan. Called
    /// before all other methods.
    fn continue_numbering(&mut self, _earlier: &[Value], _resumed: Option<&Value>) {}

    /// All runs, cell by cell.
    fn runs(&self) -> Vec<Arc<dyn Run>>;

    /// Default number of parallel runs.
    fn in_flight(&self) -> usize;

    /// Totals of the progress counters, as `(unit, total)`.
    fn totals(&self) -> Vec<(&'static str, u64)>;

    /// The forecast made when the experiment was opened.
    fn forecast(&self) -> &Forecast;

    /// Key of the run of this number, from 0.
    fn numbered(&self, number: usize) -> Option<RunKey> {
        self.runs().get(number).map(|run| run.key().clone())
    }
}

/// The forecast of one cell.
#[derive(Clone, Debug)]
pub struct CellForecast {
    pub cell: String,
    pub runs: usize,
    pub turns: usize,
    /// `None` without a local tokenizer.
    pub tokens: Option<TokenForecast>,
    /// The first prompt after the chat template; empty for models behind an API.
    pub first_prompt: String,
}

/// Prompt tokens of a cell.
#[derive(Clone, Copy, Debug)]
pub struct TokenForecast {
    /// At the last turn, with empty replies and with replies of the maximum length.
    pub least: usize,
    pub most: usize,
    /// The first turn, from 1, at which the longest replies do not fit.
    pub may_overflow_at: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Forecast {
    pub cells: Vec<CellForecast>,
    /// Context length in tokens, if known.
    pub limit: Option<usize>,
    pub max_new_tokens: usize,
    /// Number of paid calls.
    pub paid_calls: u64,
    /// Worst-case cost in micro-dollars; `None` without known prices.
    pub worst_micro_usd: Option<u64>,
    pub notes: Vec<String>,
}

type ReadPlan = fn(&Value) -> Result<Box<dyn Kind>, Problem>;

/// The kinds of experiment: value of `kind` in a plan, and how to read the plan. A new kind adds a row here, and one where a session
/// opens its models.
const KINDS: [(&str, ReadPlan); 4] = [
    ("projection", |plan| Ok(Box::new(projection::ProjectionPlan::read(plan)?))),
    ("interview", |plan| Ok(Box::new(interview::InterviewPlan::read(plan)?))),
    ("negotiation", |plan| Ok(Box::new(negotiation::NegotiationPlan::read(plan)?))),
    ("scenario", |plan| Ok(Box::new(scenario::ScenarioPlan::read(plan)?))),
];

/// The kind of a frozen plan.
///
/// # Errors
/// The plan names an unknown kind, or its fields do not fit the kind.
pub fn kind_of(plan: &Value) -> Result<Box<dyn Kind>, Problem> {
    let name = plan["kind"].as_str().unwrap_or_default();
    let Some((_, read)) = KINDS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
        return Err(Problem::new(format!("unknown kind of experiment `{name}`"))
            .at("kind")
            .hint(format!("this version knows {}", known.join(", "))));
    };
    read(plan)
}

/// Reads a typed plan from its JSON form.
fn read_plan<P: serde::de::DeserializeOwned>(plan: &Value) -> Result<P, Problem> {
    P::deserialize(plan).map_err(|error| {
        Problem::new(format!("the plan cannot be read: {error}")).hint("the run folder may come from another version")
    })
}
