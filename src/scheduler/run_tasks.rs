//! `RunTasks`: one tokio task per run in flight, with the time limit of a run; journals how each run ends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};

use super::{
    context::RunContext,
    run::{Run, RunError},
    summary::{RunEnd, RunRecord},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

/// Runs in flight.
#[derive(Default)]
pub(super) struct RunTasks {
    pub tasks: JoinSet<(usize, RunRecord)>,
    /// A panicking task drops its own handle to the context.
    contexts: HashMap<Id, (usize, Arc<RunContext>)>,
}

impl RunTasks {
    pub fn start(&mut self, index: usize, run: Arc<dyn Run>, context: RunContext, time_limit: Option<Duration>) {
        let context = Arc::new(context);
        let own = Arc::clone(&context);
        let task = self.tasks.spawn(async move {
            let result = match time_limit {
                None => run.execute(&own).await,
                // The timeout also drops the call in progress, so a late reply is not counted.
                Some(limit) => timeout(limit, run.execute(&own)).await.unwrap_or_else(|_| Err(own.too_long(limit))),
            };
            (index, journal_end(&own, result).await)
        });
        self.contexts.insert(task.id(), (index, context));
    }

    /// Index and record of the run whose task ended; `None` if the task was aborted.
    pub async fn finished(&mut self, ended: Result<(Id, (usize, RunRecord)), JoinError>) -> Option<(usize, RunRecord)> {
        match ended {
            Ok((id, end)) => {
                self.contexts.remove(&id);
                Some(end)
            }
            Err(error) => {
                let (index, context) = self.contexts.remove(&error.id())?;
                if !error.is_panic() {
                    return None;
                }
                let payload = error.into_panic();
                let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
                let problem = Problem::new(format!("the run panicked: {text}"))
                    .at(format!("run {}", context.id()))
                    .hint("this is a bug in tiltmeter; the other runs continue");
                Some((index, journal_end(&context, Err(RunError::Failed(problem))).await))
            }
        }
    }
}

/// Journals how a run ended. If the scheduler ended the run, the run's own result is ignored.
async fn journal_end(context: &RunContext, result: Result<Outcome, RunError>) -> RunRecord {
    let (outcome, end) = match end_of(context, result).await {
        Ok(outcome) => (Some(outcome), RunEnd::Done),
        Err(end) => (None, end),
    };
    RunRecord { key: context.key().clone(), outcome, end }
}

async fn end_of(context: &RunContext, result: Result<Outcome, RunError>) -> Result<Outcome, RunEnd> {
    let result = match context.ended() {
        Some(reason) => Err(reason),
        None => result,
    };
    let failure = match result {
        Ok(outcome) => match context.commit_outcome(&outcome).await {
            Ok(outcome) => return Ok(outcome),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    Err(match failure {
        RunError::Failed(problem) | RunError::Desync(problem) => match context.commit_failure(&problem).await {
            Ok(()) => RunEnd::Failed(problem),
            Err(_) => RunEnd::Pending,
        },
        RunError::Halted(halt) => {
            // If the journal cannot be written, the schedule reports that error itself.
            let _ = context.commit_halt(&halt).await;
            context.note_halt(halt);
            RunEnd::Pending
        }
        RunError::Stopped | RunError::Journal(_) => RunEnd::Pending,
    })
}
