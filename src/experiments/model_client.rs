//! `ModelClient`: each request to a model is one numbered step on the model's lane, reserved in the budget. Steps of local models are
//! repeatable, because a lost reply costs nothing.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::plan::ModelPlan;
use tiltmeter_model::failure::{Class, Failure};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, ConversationId, Message, Model, ModelError, Sampling, SeedKey};
use tiltmeter_scheduler::{Call, CallPolicy, Cost, RunContext, RunError};

/// A model in its part in an experiment.
#[derive(Clone)]
pub struct ModelClient {
    pub model: Arc<dyn Model>,
    /// Name of one of the schedule's lanes.
    pub lane: String,
    pub policy: CallPolicy,
    /// On this machine: it can be probed, and a lost reply can be made again for nothing.
    pub local: bool,
    /// Price, date and source as the frozen plan holds them; null for what costs nothing.
    pub price: Value,
}

/// What a step is recognised by. The messages stand for themselves: a history that differs is another request.
#[derive(Serialize)]
struct Asked<'a> {
    model: &'a str,
    messages: &'a [Message],
    sampling: &'a Sampling,
    max_new_tokens: Option<usize>,
    seed: SeedKey,
    response_schema: Option<&'a Value>,
    probes: usize,
}

impl ModelClient {
    /// The model as the plan names it.
    pub fn plan(&self, base_url: Option<&str>) -> ModelPlan {
        ModelPlan {
            base_url: base_url.map(str::to_owned),
            price: self.price.clone(),
            seed_support: Some(self.model.seed_support()),
            ..ModelPlan::of(self.model.card())
        }
    }

    /// Positions of the context; `None` for a model behind an API.
    pub fn context_limit(&self) -> Option<usize> {
        let card = self.model.card();
        card.hidden_size.and(card.max_positions)
    }

    /// The prompt of a request and its number of tokens.
    ///
    /// # Errors
    /// The model is behind an API, or its chat template refuses the messages.
    pub fn rendered(&self, request: &ChatRequest) -> Result<(String, usize), Problem> {
        let rendered = self.model.render(&request.messages).map_err(|error| error.problem())?;
        Ok((rendered.text, rendered.token_ids.len()))
    }

    /// One reply.
    pub async fn ask(&self, ctx: &RunContext, step: &str, request: &ChatRequest) -> Result<ChatReply, RunError> {
        self.ask_checked(ctx, step, request, |_| Ok(())).await
    }

    /// One reply that `check` accepts. A reply it does not accept is malformed: it is paid for, and asked for once more.
    pub async fn ask_checked(
        &self,
        ctx: &RunContext,
        step: &str,
        request: &ChatRequest,
        check: impl Fn(&ChatReply) -> Result<(), Problem> + Send + Sync,
    ) -> Result<ChatReply, RunError> {
        let asked = Asked {
            model: &self.model.card().name,
            messages: &request.messages,
            sampling: &request.sampling,
            max_new_tokens: request.max_new_tokens,
            seed: request.seed,
            response_schema: request.response_schema.as_ref(),
            probes: request.probes.as_ref().map_or(0, |plan| plan.probes.len()),
        };
        let worst = Cost {
            // Without a price nothing is charged; under a budget the plan refuses that.
            micro_usd: self.model.worst_case_micro_usd(request).unwrap_or(0),
            input_tokens: request.most_input_tokens(),
            output_tokens: request.max_new_tokens.unwrap_or(0) as u64,
        };
        let call =
            Call { lane: &self.lane, name: step, request: &asked, worst, policy: self.policy, repeatable: self.local };
        let check = &check;
        ctx.call(call, |_| async move {
            let reply = self.model.chat(request).await.map_err(failure)?;
            let cost = cost(&reply);
            match check(&reply) {
                Ok(()) => Ok((reply, cost)),
                Err(problem) => {
                    Err(Failure { cost_micro_usd: Some(cost.micro_usd), ..Failure::new(Class::Malformed, problem) })
                }
            }
        })
        .await
    }
}

/// Conversations of a run; dropping it tells the models that they are over.
pub struct OpenConversations<'a>(pub Vec<(&'a dyn Model, ConversationId)>);

impl Drop for OpenConversations<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|(model, conversation)| model.close(*conversation));
    }
}

fn cost(reply: &ChatReply) -> Cost {
    Cost {
        // Micro-dollars below 2^53 pass through a double unharmed.
        micro_usd: (reply.usage.cost_usd * 1e6).round() as u64,
        input_tokens: reply.usage.prompt_tokens,
        output_tokens: reply.usage.completion_tokens,
    }
}

/// What did not reach a provider cost nothing and will not go better the next time.
fn failure(error: ModelError) -> Failure {
    match error {
        ModelError::Call(failure) => *failure,
        other => Failure { cost_micro_usd: Some(0), ..Failure::new(Class::BadRequest, other.problem()) },
    }
}
