//! Owns the port: what every model answers, be it on this machine or behind an API.
//! Must not know: candle, HTTP, experiments.

pub mod problem;
pub mod failure;
pub mod secret;
pub mod probe;
mod chat;
mod error;
mod scripted;

pub use chat::{
    ChatReply, ChatRequest, ConversationId, Finish, Group, Message, ReadReply, ReadRequest, Rendered, Role, Sampling,
    SeedKey, SeedSupport, Usage,
};
pub use error::ModelError;
pub use scripted::ScriptedModel;

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// What is known of a model before it answers: goes into the manifest, and axis files are checked against it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The name as the experiment gives it (`allenai/Olmo-3-7B-Instruct`, `data/models/quay`).
    pub name: String,
    /// `olmo3`, `olmo2`, `llama`, or a provider's name.
    pub family: String,
    /// `sha256:<hex>` of the weights; `None` for an API model, which does not show them.
    pub fingerprint: Option<String>,
    pub template_sha256: Option<String>,
    pub hidden_size: Option<usize>,
    pub num_layers: Option<usize>,
    /// Longest sequence in tokens the model was made for.
    pub max_positions: Option<usize>,
    pub dtype: Option<String>,
    /// Number format of the keys and values that are kept.
    pub kv_dtype: Option<String>,
    pub device: Option<String>,
    /// Sampler defaults the checkpoint carries (generation_config.json). Recorded, never applied silently.
    pub sampler_defaults: Option<serde_json::Value>,
    /// Token ids that end a turn.
    pub stop_ids: Vec<u32>,
}

/// Forward passes done so far, to show that nothing is computed twice, and the memory that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Tokens that went through the layers, each pass counted; wrong guesses apart.
    pub forward_tokens: u64,
    /// Distinct (conversation, position, token) among them.
    pub unique_tokens: u64,
    /// Sampled tokens.
    pub generated_tokens: u64,
    /// Engine steps (batched forward passes).
    pub steps: u64,
    /// Tokens fed because they were guessed to be drawn next, and how many were. Results do not depend on them.
    #[serde(default)]
    pub draft_tokens: u64,
    #[serde(default)]
    pub accepted_draft_tokens: u64,
    /// Of weights in this computer's memory.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Of keys and values there, the most at a time.
    #[serde(default)]
    pub kv_bytes: u64,
}

/// A model that holds conversations.
#[async_trait::async_trait]
pub trait Model: Send + Sync {
    fn card(&self) -> &ModelCard;

    /// Answers the conversation with one assistant message.
    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError>;

    /// Reads an existing conversation without generating: one readout per assistant message.
    async fn read(&self, _request: &ReadRequest) -> Result<ReadReply, ModelError> {
        Err(ModelError::unsupported(self.card(), "reading hidden states"))
    }

    /// The prompt exactly as the model sees it.
    fn render(&self, _messages: &[Message]) -> Result<Rendered, ModelError> {
        Err(ModelError::unsupported(self.card(), "showing its rendered prompt"))
    }

    /// The conversation is over; whatever is kept for it may be dropped.
    fn close(&self, _conversation: ConversationId) {}

    /// Whether the model can be asked this at all; for the plan, before anything is spent.
    fn check(&self, _request: &ChatRequest) -> Result<(), Problem> {
        Ok(())
    }

    /// The most this request can cost, in micro-dollars; `None`: nobody knows, because the model is unpriced or the reply has no
    /// longest length.
    fn worst_case_micro_usd(&self, _request: &ChatRequest) -> Option<u64> {
        Some(0)
    }

    fn seed_support(&self) -> SeedSupport {
        SeedSupport::Exact
    }

    fn work(&self) -> Work {
        Work::default()
    }

    /// What whoever runs an experiment should know and was not told yet; each line once.
    fn take_notes(&self) -> Vec<String> {
        Vec::new()
    }
}
