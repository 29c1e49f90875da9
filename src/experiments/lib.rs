//! Owns the kinds of experiment: what runs there are, what each does, and what their outcomes mean together.
//! A new kind is one file here, one arm in `recorder` and one where a session opens its models; scheduler, report and command line
//! know none of them.
//! Must not know: engine, provider, run folders, terminal.

pub mod config;
pub mod projection;
pub mod interview;
pub mod negotiation;
pub mod scenario;

// What kinds share: how a model is asked, and what is made of what runs leave.
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
mod report_plan;
pub use plan::ResponsePlan;

/// What a kind answers, so that one session can plan, run and report any of them.
pub trait Experiment: Send + Sync {
    fn name(&self) -> &str;

    /// Everything that decides the results, resolved: frozen and hashed before the first run.
    fn plan(&self) -> Value;

    /// The experiment as it was understood, one `(what, how)` a line.
    fn describe(&self) -> Vec<(String, String)>;

    /// What is said once, before the first run.
    fn banner(&self) -> Vec<String> {
        Vec::new()
    }

    /// Name under which the file that the experiment is written in is kept in the run folder, where it is.
    fn kept_config(&self) -> Option<&'static str> {
        None
    }

    /// ParsedOutcome, before anything else is asked, which plans of the same name were begun before, the oldest first, and which of them is
    /// gone on with, if any: a kind that numbers its repetitions through goes on with its numbers.
    fn continue_numbering(&mut self, _earlier: &[Value], _resumed: Option<&Value>) {}

    /// All runs, cell by cell.
    fn runs(&self) -> Vec<Arc<dyn Run>>;

    /// How many runs are begun at the same time; the others wait, so that a stop leaves few conversations half done.
    fn in_flight(&self) -> usize;

    /// Totals of what runs count while they go on, as `(unit, total)`.
    fn totals(&self) -> Vec<(&'static str, u64)>;

    /// What was predicted when the experiment was opened.
    fn forecast(&self) -> &Forecast;

    /// The run of this number, from 0, as results name it.
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
    /// Where a tokenizer is at hand.
    pub tokens: Option<TokenForecast>,
    /// The first prompt as the model sees it; empty where only the provider knows.
    pub first_prompt: String,
}

/// Prompt tokens of a cell.
#[derive(Clone, Copy, Debug)]
pub struct TokenForecast {
    /// At the last turn, if every reply were empty, and if every reply took all it may.
    pub least: usize,
    pub most: usize,
    /// The first turn (from 1) at which the longest replies would not fit, if any.
    pub may_overflow_at: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Forecast {
    pub cells: Vec<CellForecast>,
    /// Tokens of the context, where they are known.
    pub limit: Option<usize>,
    pub max_new_tokens: usize,
    /// Calls that cost money.
    pub paid_calls: u64,
    /// What they can cost at worst, in micro-dollars; `None`: nobody knows.
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
