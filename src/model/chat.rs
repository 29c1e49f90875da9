//! Messages, requests and replies.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::probe::{ProbePlan, Readout};

/// Author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// Input to the model.
    User,
    /// Reply of the model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Author.
    pub role: Role,
    /// Plain text, before the chat template.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Tokens and cost of one reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Generated tokens, thinking included.
    pub completion_tokens: u64,
    /// US dollars; 0 for local models and models without a price.
    pub cost_usd: f64,
}

/// Sampling parameters; `None` disables a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 or more; 0 is greedy.
    pub temperature: f64,
    /// Nucleus sampling: the smallest set of tokens with at least this probability mass.
    pub top_p: Option<f64>,
    /// The k most probable tokens.
    pub top_k: Option<usize>,
    /// Tokens with at least this fraction of the highest probability.
    pub min_p: Option<f64>,
    /// An API is asked without a temperature, since some models refuse the field; `temperature` is 1 then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_temperature: bool,
}

impl Sampling {
    /// The temperature that a model has of its own.
    pub fn model_default() -> Self {
        Self { temperature: 1.0, default_temperature: true, ..Self::default() }
    }

    /// `greedy (temperature 0)`, `temperature 0.7`, or `the model's default temperature`.
    pub fn describe_temperature(&self) -> String {
        match self.temperature {
            _ if self.default_temperature => "the model's default temperature".to_owned(),
            0.0 => "greedy (temperature 0)".to_owned(),
            temperature => format!("temperature {temperature}"),
        }
    }
}

/// One stream of the counter-based random generator (Philox). Token `i` of a reply uses counter `(i, stream)` under `key`, so that a
/// sampled token never depends on the other sequences of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedKey {
    /// Seed of the run.
    pub key: u64,
    /// Number of the call within the run.
    pub stream: u64,
}

/// Identifies a conversation, whose turns share a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConversationId(pub u64);

/// A concurrency limit: at most `cap` requests with this id are processed at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Requests with the same id share the limit.
    pub id: u64,
    /// Most requests at the same time.
    pub cap: usize,
}

/// A request for one assistant message.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The conversation so far, oldest message first.
    pub messages: Vec<Message>,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// Longest reply in tokens.
    pub max_new_tokens: Option<usize>,
    /// Longest prompt and reply together, in tokens; a request that could exceed it fails with `ModelError::ContextOverflow`.
    pub max_seq_len: Option<usize>,
    /// Stream of the random generator.
    pub seed: SeedKey,
    /// Projections to compute while generating; local models only.
    pub probes: Option<Arc<ProbePlan>>,
    /// JSON schema that constrains the reply; API models only.
    pub response_schema: Option<serde_json::Value>,
    /// Keeps the KV cache for the next turn, until `Model::close`.
    pub conversation: Option<ConversationId>,
    /// Concurrency limit, for local models.
    pub group: Option<Group>,
}

impl ChatRequest {
    /// A greedy request without limits, probes or schema.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            sampling: Sampling::default(),
            max_new_tokens: None,
            max_seq_len: None,
            seed: SeedKey::default(),
            probes: None,
            response_schema: None,
            conversation: None,
            group: None,
        }
    }
}

/// Role markers and separators of one message, in any chat format.
const TOKENS_PER_MESSAGE: u64 = 16;
/// Tokens a provider adds to every prompt, and for a schema.
const TOKENS_PER_CALL: u64 = 64;
const TOKENS_PER_SCHEMA: u64 = 1024;

impl ChatRequest {
    /// Upper bound of the prompt's tokens: a byte-level tokenizer makes at most one token per byte.
    pub fn most_input_tokens(&self) -> u64 {
        let messages: u64 = self.messages.iter().map(|m| m.content.len() as u64 + TOKENS_PER_MESSAGE).sum();
        let schema = self.response_schema.as_ref().map_or(0, |s| s.to_string().len() as u64 + TOKENS_PER_SCHEMA);
        messages + schema + TOKENS_PER_CALL
    }
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// `max_new_tokens` was reached.
    Length,
    /// The provider's filter withheld the reply or its rest.
    ContentFilter,
}

/// A reply to a `ChatRequest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatReply {
    /// The assistant message.
    pub message: Message,
    /// Sampled token ids, including the stop token if one was sampled; empty for API models.
    pub token_ids: Vec<u32>,
    /// Why the reply ended.
    pub finish: Finish,
    /// Tokens and cost.
    pub usage: Usage,
    /// Prompt tokens found in the prefix cache.
    pub reused_tokens: u64,
    /// Projections, where the request had probes.
    pub readout: Option<Readout>,
    /// The model's name in the API's reply, often with a version date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What a seed guarantees; recorded with every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedSupport {
    /// The same seed gives the same reply.
    Exact,
    /// Sent; the provider documents best-effort determinism.
    BestEffort,
    /// Sent where that does not narrow the choice of endpoints; the provider documents no effect.
    Uncertain,
    /// Not sent: the API has no such field.
    NotSent,
}

/// A request to measure an existing conversation without generating.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// The conversation with its replies.
    pub messages: Vec<Message>,
    /// Longest prompt in tokens; later messages are not read.
    pub max_seq_len: Option<usize>,
    /// What to measure.
    pub probes: Arc<ProbePlan>,
}

/// The measurements of a `ReadRequest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadReply {
    /// One entry per assistant message; `None` if the context ended before the message did.
    pub readouts: Vec<Option<Readout>>,
    /// Tokens of the whole conversation that were read.
    pub prompt_tokens: u64,
}

/// A prompt after the chat template and the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rendered {
    /// Output of the chat template.
    pub text: String,
    /// Input ids of the model.
    pub token_ids: Vec<u32>,
}
