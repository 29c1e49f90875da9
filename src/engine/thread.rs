//! The engine thread. The backend is created on it and never leaves it, since a GPU stream belongs to one thread.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};

use crate::{
    backend::{Backend, BackendInfo},
    batcher::{Batcher, Limits, Notes},
    sequence::Sequence,
};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, EngineStats};

pub enum Job {
    Run(Box<Sequence>),
    Close(ConversationId),
}

/// Creates a backend on a new thread and serves its jobs until every sender is dropped.
pub fn start<M: Backend>(
    limits: Limits,
    work: Arc<Mutex<EngineStats>>,
    notes: Notes,
    make: impl FnOnce() -> Result<M, Problem> + Send + 'static,
) -> Result<(mpsc::Sender<Job>, BackendInfo), Problem> {
    let (jobs, inbox) = mpsc::channel();
    let (made, wait) = mpsc::sync_channel(1);
    let run = move || {
        let backend = match make() {
            Ok(backend) => backend,
            Err(problem) => return drop(made.send(Err(problem))),
        };
        if made.send(Ok(backend.facts())).is_ok() {
            serve(Batcher::new(backend, limits, work).telling(notes), &inbox);
        }
    };
    thread::Builder::new()
        .name("engine".to_owned())
        .spawn(run)
        .map_err(|error| Problem::new(format!("the engine's thread cannot start: {error}")))?;
    let facts = wait.recv().map_err(|_| {
        Problem::new("the engine stopped while it loaded the model")
            .hint("this is a defect in tiltmeter: please report what was printed before")
    })??;
    Ok((jobs, facts))
}

/// Runs until every sender is gone. Requests that arrive during a pass join the next one.
fn serve<M: Backend>(mut batcher: Batcher<M>, inbox: &mpsc::Receiver<Job>) {
    loop {
        if !batcher.is_busy() {
            match inbox.recv() {
                Ok(job) => take(&mut batcher, job),
                Err(_) => return,
            }
        }
        for job in inbox.try_iter() {
            take(&mut batcher, job);
        }
        if let Err(problem) = batcher.step() {
            batcher.fail_all(&problem);
        }
    }
}

fn take<M: Backend>(batcher: &mut Batcher<M>, job: Job) {
    match job {
        Job::Run(sequence) => batcher.submit(*sequence),
        Job::Close(conversation) => batcher.close(conversation),
    }
}
