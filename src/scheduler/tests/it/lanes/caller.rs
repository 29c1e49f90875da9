//! The run that lanes and budget are specified with: a conversation of paid calls to a scripted other side.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tiltmeter_model::{
    failure::{Class, Failure},
    problem::Problem,
};
use tiltmeter_scheduler::{Call, CallPolicy, Cost, Plan, Run, RunContext, RunError, Schedule};
use tiltmeter_store::{Outcome, RunFolder, RunKey};

/// One attempt at a call: run, turn, attempt.
pub type Act = Arc<dyn Fn(String, usize, u32) -> BoxFuture<'static, Result<(String, Cost), Failure>> + Send + Sync>;

/// Turns of one run; turn `n` goes over lane `n` of `lanes`, the last one for all turns after.
#[derive(Clone)]
pub struct Caller {
    pub key: RunKey,
    pub turns: usize,
    pub lanes: Vec<&'static str>,
    pub worst: Cost,
    pub policy: CallPolicy,
    pub act: Act,
}

#[async_trait::async_trait]
impl Run for Caller {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError> {
        let mut said: Vec<String> = Vec::new();
        for turn in 0..self.turns {
            let request = json!({"said": said});
            let call = Call {
                lane: self.lanes[turn.min(self.lanes.len() - 1)],
                name: "turn",
                request: &request,
                worst: self.worst,
                policy: self.policy,
                repeatable: false,
            };
            said.push(context.call(call, |attempt| (self.act)(context.id().to_owned(), turn, attempt)).await?);
            context.count("turns", 1);
        }
        Ok(Outcome { turns: said.into_iter().map(Value::from).collect(), ..Outcome::default() })
    }
}

/// What a turn of a run answers whenever it answers.
pub fn reply(run: &str, turn: usize) -> String {
    format!("{run} says {turn}")
}

pub fn usd(micro_usd: u64) -> Cost {
    Cost { micro_usd, input_tokens: 10, output_tokens: 10 }
}

pub fn failure(class: Class, status: Option<u16>, retry_after: Option<Duration>) -> Failure {
    Failure { status, retry_after, ..Failure::new(class, Problem::new("refused").hint("wait")) }
}

/// Hardly any pause, so that tests take none.
pub fn hasty() -> CallPolicy {
    CallPolicy {
        attempt_timeout: Duration::from_secs(20),
        max_attempts: 6,
        first_backoff: Duration::from_micros(200),
        longest_backoff: Duration::from_millis(1),
    }
}

/// Callers of `cells` x `samples`, and a folder.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub callers: Vec<Caller>,
}

impl Bench {
    pub fn new(cells: usize, samples: usize, turns: usize, worst: u64, act: Act) -> Self {
        let caller = |(cell, sample): (usize, usize)| Caller {
            key: RunKey { experiment: "calls".to_owned(), cell: format!("c{cell}"), sample },
            turns,
            lanes: vec!["shop"],
            worst: usd(worst),
            policy: hasty(),
            act: Arc::clone(&act),
        };
        let all = (0..cells).flat_map(|cell| (0..samples).map(move |sample| (cell, sample)));
        Self { dir: tempfile::tempdir().unwrap(), callers: all.map(caller).collect() }
    }

    pub fn folder(&self) -> RunFolder {
        RunFolder::at(self.dir.path().join("out"))
    }

    pub fn runs(&self) -> Vec<Arc<dyn Run>> {
        self.callers.iter().map(|caller| Arc::new(caller.clone()) as Arc<dyn Run>).collect()
    }

    /// Begins or goes on.
    pub fn schedule(&self) -> Schedule {
        Schedule::new(Plan::freeze(json!({"calls": "some"})), self.folder()).parallel(4).resume(true)
    }
}

/// An other side that is asked about each attempt.
pub fn act<F, Fut>(answer: F) -> Act
where
    F: Fn(String, usize, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(String, Cost), Failure>> + Send + 'static,
{
    Arc::new(move |run, turn, attempt| Box::pin(answer(run, turn, attempt)))
}
