//! Owns the runs under way: each is a task of its own, held to its time limit, and whatever it comes to is made durable.
//! Must not know: which run is next, models, kinds.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};

use super::{
    context::{Run, RunContext, RunError},
    summary::RunState,
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

/// Runs under way.
#[derive(Default)]
pub(super) struct Flight {
    pub tasks: JoinSet<(usize, RunState)>,
    /// A task that panics takes its own context along, so another handle is kept here.
    contexts: HashMap<Id, (usize, Arc<RunContext>)>,
}

impl Flight {
    pub fn start(&mut self, index: usize, run: Arc<dyn Run>, context: RunContext, time_limit: Option<Duration>) {
        let context = Arc::new(context);
        let own = Arc::clone(&context);
        let task = self.tasks.spawn(async move {
            let result = match time_limit {
                None => run.execute(&own).await,
                // What the run was waiting for is dropped with it, so that a late reply is not counted.
                Some(limit) => timeout(limit, run.execute(&own)).await.unwrap_or_else(|_| Err(own.too_long(limit))),
            };
            (index, settle(&own, result).await)
        });
        self.contexts.insert(task.id(), (index, context));
    }

    /// How the task's run stands now; `None` if the task was dropped on purpose.
    pub async fn end_of(&mut self, ended: Result<(Id, (usize, RunState)), JoinError>) -> Option<(usize, RunState)> {
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
                    .hint("this is a mistake in the program; the other runs go on");
                Some((index, settle(&context, Err(RunError::Failed(problem))).await))
            }
        }
    }
}

/// Makes the end of a run durable. Where the schedule itself ended the run, what the run made of that does not count.
async fn settle(context: &RunContext, result: Result<Outcome, RunError>) -> RunState {
    let result = match context.ended() {
        Some(reason) => Err(reason),
        None => result,
    };
    let failure = match result {
        Ok(outcome) => match context.commit_outcome(&outcome).await {
            Ok(outcome) => return RunState::Done(outcome),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    match failure {
        RunError::Failed(problem) | RunError::Desync(problem) => match context.commit_failure(&problem).await {
            Ok(()) => RunState::Failed(problem),
            Err(_) => RunState::Pending,
        },
        RunError::Halted(halt) => {
            // For whoever reads the folder later; a journal that refuses it has told of that itself.
            let _ = context.commit_halt(&halt).await;
            context.note_halt(halt);
            RunState::Pending
        }
        RunError::Stopped | RunError::Journal(_) => RunState::Pending,
    }
}
