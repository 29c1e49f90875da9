//! A model that judges transcripts: its request, greedy and held to a JSON schema where the model supports one, and its verdict.

use serde_json::Value;

use crate::ModelClient;
use crate::plan::JudgePlan;
use tiltmeter_model::Model;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, Finish, Message, Role, Sampling, SeedKey};
use tiltmeter_scheduler::{RunContext, RunError};

/// Prefix of every problem with a verdict.
pub const FAILURE: &str = "judge failure";

pub struct Judge {
    pub client: ModelClient,
    pub instructions: String,
    /// JSON schema of the verdict; `None` if the model supports none, so that the instructions alone ask for JSON.
    pub schema: Option<Value>,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
}

/// What a judge takes: greedy decoding or, where its temperature is fixed, its default; held to the schema or asked in words.
pub fn supported(
    model: &dyn Model,
    schema: Option<Value>,
    request: impl Fn(Sampling, Option<&Value>) -> ChatRequest,
) -> (Sampling, Option<Value>) {
    let takes = |sampling, schema: Option<&Value>| model.check(&request(sampling, schema)).is_ok();
    for sampling in [Sampling::default(), Sampling::model_default()] {
        if takes(sampling, schema.as_ref()) {
            return (sampling, schema);
        }
        if takes(sampling, None) {
            return (sampling, None);
        }
    }
    // Whatever else is wrong is reported when the request is made.
    (Sampling::default(), None)
}

impl Judge {
    pub fn new(client: ModelClient, instructions: String, schema: Value, max_new_tokens: usize) -> Self {
        let mut judge = Self { client, instructions, schema: None, sampling: Sampling::default(), max_new_tokens };
        let probe = |sampling, schema: Option<&Value>| ChatRequest {
            sampling,
            response_schema: schema.cloned(),
            ..judge.request("transcript".to_owned(), SeedKey::default())
        };
        (judge.sampling, judge.schema) = supported(judge.client.model.as_ref(), Some(schema), probe);
        judge
    }

    pub fn plan(&self, base_url: Option<&str>) -> JudgePlan {
        JudgePlan {
            model: self.client.plan(base_url),
            instructions: self.instructions.clone(),
            schema: self.schema.clone(),
            temperature: (!self.sampling.default_temperature).then_some(self.sampling.temperature),
            max_new_tokens: self.max_new_tokens,
        }
    }

    /// One line for the description of an experiment.
    pub fn describe(&self, name: &str) -> String {
        let form = if self.schema.is_some() { "given a JSON schema" } else { "asked for JSON in words" };
        format!("{name}, {}, at most {} tokens, {form}", self.sampling.describe_temperature(), self.max_new_tokens)
    }

    pub fn request(&self, transcript: String, seed: SeedKey) -> ChatRequest {
        let messages = vec![Message::new(Role::System, &*self.instructions), Message::new(Role::User, transcript)];
        ChatRequest {
            sampling: self.sampling,
            max_new_tokens: Some(self.max_new_tokens),
            seed,
            response_schema: self.schema.clone(),
            ..ChatRequest::new(messages)
        }
    }

    /// The verdict on a transcript. A reply that `parse` rejects is requested once more.
    ///
    /// # Errors
    /// The second reply is rejected too, or the call fails; the problem begins with [`FAILURE`].
    pub async fn verdict<V>(
        &self,
        ctx: &RunContext,
        step: &str,
        request: &ChatRequest,
        parse: impl Fn(&str) -> Result<V, Problem> + Send + Sync,
    ) -> Result<(V, ChatReply), RunError> {
        let verdict = |reply: &ChatReply| {
            parse(&reply.message.content)
                .map_err(|problem| Problem::new(failure(&problem.what)).hint(hint(reply.finish)))
        };
        let check = |reply: &ChatReply| verdict(reply).map(drop);
        let reply = self.client.ask_checked(ctx, step, request, check).await.map_err(|error| match error {
            RunError::Failed(problem) if !problem.what.starts_with(FAILURE) => {
                RunError::Failed(Problem { what: failure(&problem.what), ..problem })
            }
            other => other,
        })?;
        Ok((verdict(&reply)?, reply))
    }
}

fn failure(what: &str) -> String {
    format!("{FAILURE}: {what}")
}

fn hint(finish: Finish) -> &'static str {
    match finish {
        Finish::ContentFilter => "the provider withheld the judge's reply: use another judge",
        Finish::Length => "raise judge_max_tokens",
        Finish::Stop => {
            "the transcript is kept: run --resume asks the judge again; if it fails often, use another judge"
        }
    }
}
