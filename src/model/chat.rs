//! Owns the words of a conversation and of one request to a model.
//! Must not know: candle, HTTP, experiments.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::probe::{ProbePlan, Readout};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What a reply cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cost_usd: f64,
}

/// How the next token is drawn. What is `None` is off; temperature 0 is greedy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    pub temperature: f64,
    pub top_p: Option<f64>,
    pub top_k: Option<usize>,
    pub min_p: Option<f64>,
}

/// Names one stream of the counter-based generator: token `i` of a reply uses counter `(i, stream)` under `key`,
/// so a token depends on this and never on what else runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedKey {
    pub key: u64,
    pub stream: u64,
}

/// Turns of one conversation share what the model keeps between them (its KV cache).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConversationId(pub u64);

/// At most `cap` requests of one group run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: u64,
    pub cap: usize,
}

/// One turn asked of a model.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    pub messages: Vec<Message>,
    pub sampling: Sampling,
    pub max_new_tokens: Option<usize>,
    /// Longest prompt + reply in tokens; a request that could outgrow it is `ModelError::ContextOverflow`.
    pub max_seq_len: Option<usize>,
    pub seed: SeedKey,
    /// What to read while generating. Only local models answer it.
    pub probes: Option<Arc<ProbePlan>>,
    /// JSON schema the reply is held to. Only API models that can answer it.
    pub response_schema: Option<serde_json::Value>,
    pub conversation: Option<ConversationId>,
    pub group: Option<Group>,
}

impl ChatRequest {
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

/// Role marks and turn ends of a message, in any provider's chat format.
const TOKENS_PER_MESSAGE: u64 = 16;
/// What a provider puts before every prompt, and what it adds when a schema holds the reply.
const TOKENS_PER_CALL: u64 = 64;
const TOKENS_PER_SCHEMA: u64 = 1024;

impl ChatRequest {
    /// No prompt made of this request has more tokens: a byte-level tokenizer makes at most one of a byte.
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
    /// The provider withheld the rest.
    ContentFilter,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatReply {
    pub message: Message,
    /// Sampled ids, the stop token included where one was sampled; empty for API models.
    pub token_ids: Vec<u32>,
    pub finish: Finish,
    pub usage: Usage,
    /// Prompt tokens whose state was kept from earlier turns.
    pub reused_tokens: u64,
    pub readout: Option<Readout>,
    /// The name under which an API model answered, often with the date of its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What becomes of a request's seed. It goes into the record: nobody shall take a seed for more than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedSupport {
    /// The same seed gives the same reply.
    Exact,
    /// Sent; the provider says it tries to repeat itself and does not promise it.
    BestEffort,
    /// Sent (by OpenRouter's way only where it does not narrow the choice of endpoints), and nothing is said of what it does.
    Uncertain,
    /// The API has no such field: nothing is sent.
    NotSent,
}

/// A forward pass over a conversation that already has its replies.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    pub messages: Vec<Message>,
    pub max_seq_len: Option<usize>,
    pub probes: Arc<ProbePlan>,
}

/// One entry per assistant message; `None` where the context was exhausted before its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadReply {
    pub readouts: Vec<Option<Readout>>,
    pub prompt_tokens: u64,
}

/// A prompt as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rendered {
    pub text: String,
    pub token_ids: Vec<u32>,
}
