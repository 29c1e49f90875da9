//! The traits `Run` and `RunHooks`, and `RunError`.

use super::{call::Halt, context::RunContext};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Outcome, RunKey};

/// A unit of work that can be stopped and resumed.
///
/// A run must be a function of its own fields and of the results of its steps: given the same results, it takes the same steps with
/// the same requests in the same order. Time, randomness, models and files are accessed in steps only.
#[async_trait::async_trait]
pub trait Run: Send + Sync {
    /// Identity of the run.
    fn key(&self) -> &RunKey;

    /// Executes the run from its beginning. Steps that finished in an earlier session return their journaled result at once.
    async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError>;
}

/// Why a run has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The run failed. Other runs continue; a resume retries it from its first unfinished step.
    #[error("{0}")]
    Failed(Problem),
    /// A step's request differs from the journaled one. The run does not continue.
    #[error("{0}")]
    Desync(Problem),
    /// The stop signal was raised; the run stays pending.
    #[error("stopped; --resume continues this run")]
    Stopped,
    /// The budget is exhausted or the lane is off; the run stays pending.
    #[error("{}", .0.problem)]
    Halted(Halt),
    /// The journal cannot be written; the run stays pending and the schedule ends.
    #[error("{0}")]
    Journal(Problem),
}

impl From<Problem> for RunError {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// Callbacks of a schedule. Checkpoints and outcomes are passed on once they are durable in the journal; a resumed schedule passes
/// them on again.
#[async_trait::async_trait]
pub trait RunHooks: Send + Sync {
    /// The folder is locked, the plan is accepted, and no run has started. An error ends the schedule.
    fn on_start(&self) -> Result<(), Problem> {
        Ok(())
    }

    /// A run saved a partial outcome and continues.
    fn on_checkpoint(&self, key: &RunKey, outcome: &Outcome);

    /// A run is done.
    fn on_done(&self, key: &RunKey, outcome: &Outcome);

    /// A run asks for confirmation before it continues. Returns at once unless overridden.
    async fn confirm(&self, _text: &str) {}
}

/// Prefix of the problem of a run that exceeded its time limit, so that a kind can tell this failure from others.
pub const TOO_LONG: &str = "the run took longer than";
