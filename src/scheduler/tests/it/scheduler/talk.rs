//! The run the scheduler's specification is told with: a conversation in which everything depends on everything before.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use serde_json::{Value, json};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Plan, Run, RunContext, RunError, Schedule, Summary, seed_for};
use tiltmeter_store::{Outcome, RunFolder, RunKey};

/// What a test does in a step before the step answers.
pub type Hook = Arc<dyn Fn(&str, usize) -> Result<(), RunError> + Send + Sync>;

/// A conversation of `steps` turns in which each request depends on all replies before it.
#[derive(Clone)]
pub struct Talk {
    pub key: RunKey,
    pub steps: usize,
    pub paid: bool,
    /// Part of every request.
    pub setting: String,
    pub acts: Arc<AtomicUsize>,
    pub hook: Hook,
}

#[async_trait::async_trait]
impl Run for Talk {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError> {
        let mut said = vec![seed_for(7, context.id()).to_string()];
        for turn in 0..self.steps {
            let request = json!({"setting": self.setting, "said": said});
            let act = || async {
                self.acts.fetch_add(1, SeqCst);
                (self.hook)(context.id(), turn)?;
                tokio::task::yield_now().await;
                let reply = blake3::hash(request.to_string().as_bytes()).to_hex().to_string();
                Ok(reply[..12].to_owned())
            };
            let reply: String = if self.paid {
                context.step("turn", &request, act).await?
            } else {
                context.step_repeatable("turn", &request, act).await?
            };
            context.count("turns", 1);
            said.push(reply);
        }
        Ok(Outcome {
            labels: BTreeMap::from([("cell".to_owned(), self.key.cell.clone())]),
            metrics: BTreeMap::from([("third".to_owned(), said.len() as f64 / 3.0)]),
            turns: said.into_iter().map(Value::from).collect(),
            ..Outcome::default()
        })
    }
}

/// Talks of `cells` x `samples`, and the experiment's plan and folder.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub talks: Vec<Talk>,
    pub acts: Arc<AtomicUsize>,
}

impl Bench {
    pub fn new(cells: usize, samples: usize, steps: usize) -> Self {
        let acts = Arc::new(AtomicUsize::new(0));
        let talk = |cell: usize, sample| Talk {
            key: RunKey { experiment: "talk".to_owned(), cell: format!("c{cell}"), sample },
            steps,
            paid: (cell + sample).is_multiple_of(2),
            setting: "a".to_owned(),
            acts: Arc::clone(&acts),
            hook: Arc::new(|_, _| Ok(())),
        };
        let talks = (0..cells).flat_map(|cell| (0..samples).map(move |sample| (cell, sample)));
        Self {
            dir: tempfile::tempdir().unwrap(),
            talks: talks.map(|(cell, sample)| talk(cell, sample)).collect(),
            acts,
        }
    }

    pub fn hook(mut self, hook: impl Fn(&str, usize) -> Result<(), RunError> + Send + Sync + 'static) -> Self {
        let hook: Hook = Arc::new(hook);
        for talk in &mut self.talks {
            talk.hook = Arc::clone(&hook);
        }
        self
    }

    pub fn folder(&self) -> RunFolder {
        RunFolder::at(self.dir.path().join("out"))
    }

    pub fn runs(&self) -> Vec<Arc<dyn Run>> {
        self.talks.iter().map(|talk| Arc::new(talk.clone()) as Arc<dyn Run>).collect()
    }

    pub fn schedule(&self) -> Schedule {
        Schedule::new(Plan::freeze(json!({"steps": 4, "temperature": 0.7})), self.folder()).parallel(3)
    }

    pub async fn resume(&self) -> Result<Summary, Problem> {
        self.schedule().resume(true).run(self.runs()).await
    }

    pub fn acts(&self) -> usize {
        self.acts.swap(0, SeqCst)
    }

    pub fn journal(&self) -> Vec<u8> {
        fs::read(self.folder().journal()).unwrap()
    }
}
