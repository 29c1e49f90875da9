//! The run that paid calls are measured and judged with: a conversation of a few turns with a model behind an API, each turn one
//! call on the lane `api`, as an experiment would hold it.

use std::sync::Arc;

use serde_json::{Value, json};
use tiltmeter_experiments::ModelClient;
use tiltmeter_model::{ChatRequest, Message, Model, Role};
use tiltmeter_scheduler::{CallPolicy, Run, RunContext, RunError};
use tiltmeter_store::{Outcome, RunKey};

pub const LANE: &str = "api";
const MAX_NEW_TOKENS: usize = 48;
const QUESTIONS: [&str; 3] = [
    "A barge was entered twice. Do you tell the owner before he asks?",
    "He has not noticed, and the month is nearly over. What do you write?",
    "The harbour master wants it kept quiet. What do you say to him?",
];

/// A run of `turns` calls.
struct Asked {
    key: RunKey,
    speaker: ModelClient,
    turns: usize,
}

/// Runs that differ in their number, which is part of what each of them asks.
pub fn runs(model: Arc<dyn Model>, runs: usize, turns: usize) -> Vec<Arc<dyn Run>> {
    let speaker =
        ModelClient { model, lane: LANE.to_owned(), policy: CallPolicy::default(), local: false, price: Value::Null };
    let key = |sample| RunKey { experiment: "calls".to_owned(), cell: "all".to_owned(), sample };
    let run = |sample| Arc::new(Asked { key: key(sample), speaker: speaker.clone(), turns }) as Arc<dyn Run>;
    (0..runs).map(run).collect()
}

#[async_trait::async_trait]
impl Run for Asked {
    fn key(&self) -> &RunKey {
        &self.key
    }

    async fn execute(&self, context: &RunContext) -> Result<Outcome, RunError> {
        let system = format!("You keep the books of harbour {}. Answer in one sentence.", self.key.sample);
        let mut said = vec![Message::new(Role::System, system)];
        let mut turns = Vec::new();
        for turn in 0..self.turns {
            said.push(Message::new(Role::User, QUESTIONS[turn % QUESTIONS.len()]));
            let mut request = ChatRequest::new(said.clone());
            request.max_new_tokens = Some(MAX_NEW_TOKENS);
            request.sampling.temperature = 0.7;
            request.seed.key = self.key.sample as u64;
            request.seed.stream = turn as u64;
            let reply = self.speaker.ask(context, "turn", &request).await?;
            context.count("turns", 1);
            turns.push(json!({ "finish": reply.finish, "usage": reply.usage }));
            said.push(reply.message);
        }
        Ok(Outcome { transcript: said, turns, ..Outcome::default() })
    }
}
