//! Owns the engine's thread: the machine is made on it, lives on it and never leaves it, as a GPU's stream wants it.
//! Must not know: text, templates, architectures.

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

/// Makes a machine on a thread of its own and serves what is sent there, until every sender is gone.
pub fn start<M: Backend>(
    limits: Limits,
    work: Arc<Mutex<EngineStats>>,
    notes: Notes,
    make: impl FnOnce() -> Result<M, Problem> + Send + 'static,
) -> Result<(mpsc::Sender<Job>, BackendInfo), Problem> {
    let (jobs, inbox) = mpsc::channel();
    let (made, wait) = mpsc::sync_channel(1);
    let run = move || {
        let machine = match make() {
            Ok(machine) => machine,
            Err(problem) => return drop(made.send(Err(problem))),
        };
        if made.send(Ok(machine.facts())).is_ok() {
            serve(Batcher::new(machine, limits, work).telling(notes), &inbox);
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
