//! The port between experiments and models: every model, local or behind an API, implements [`Model`].
//!
//! Main types: [`Message`], [`ChatRequest`] and [`ChatReply`]; [`Sampling`] and [`SeedKey`]; [`ProbePlan`], what to measure while
//! generating, and [`Readout`], the result; [`Site`], a point of the residual stream; [`Axis`] and [`AxisFile`], a direction and its file;
//! [`ModelError`] and [`Failure`], a classified error of a provider; [`Problem`], an error as the user sees it; [`Keys`] and [`Scrubber`].
//!
//! No crate of the workspace is a dependency of this one. No type here depends on a tensor library, an HTTP client or an experiment. No
//! key can be printed or serialised. No error reaches a user except as a [`Problem`].

pub mod failure;
pub mod probe;
pub mod problem;
pub mod secret;

mod chat;
mod error;
mod scripted;

pub use chat::{
    ChatReply, ChatRequest, ConversationId, Finish, Group, Message, ReadReply, ReadRequest, Rendered, Role, Sampling,
    SeedKey, SeedSupport, Usage,
};
pub use error::ModelError;
pub use failure::{Class, Failure};
pub use probe::{
    Axis, AxisFile, AxisOrigin, AxisStats, LayerConvention, Probe, ProbePlan, ProbeReadout, Readout, Site, SiteAxis,
    SiteVector, Span,
};
pub use problem::Problem;
pub use scripted::ScriptedModel;
pub use secret::{ApiKey, Keys, Scrubber};

use serde::{Deserialize, Serialize};

/// Properties of a model, known once it is open. Recorded in the manifest; axes are checked against it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The name in the experiment: `allenai/Olmo-3-7B-Instruct`, `data/models/quay`.
    pub name: String,
    /// Model family (`olmo3`, `llama`) or the provider's prefix.
    pub family: String,
    /// `sha256:<hex>` of the weights; `None` for an API model.
    pub fingerprint: Option<String>,
    /// SHA-256 of the chat template, lower-case hex.
    pub template_sha256: Option<String>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Number of decoder blocks.
    pub num_layers: Option<usize>,
    /// Context length of the checkpoint, in tokens.
    pub max_positions: Option<usize>,
    /// Data type of the weights.
    pub dtype: Option<String>,
    /// Data type of the KV cache.
    pub kv_dtype: Option<String>,
    /// `cpu`, `cuda:0`.
    pub device: Option<String>,
    /// Sampling defaults in generation_config.json. Recorded, never applied.
    pub sampler_defaults: Option<serde_json::Value>,
    /// Token ids that end a reply.
    pub stop_ids: Vec<u32>,
}

/// Counters of a local engine since it was opened, and the memory it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStats {
    /// Tokens through the layers, counted once per pass, rejected draft tokens excluded.
    pub forward_tokens: u64,
    /// Distinct (conversation, position, token) among them; fewer than `forward_tokens` if anything was recomputed.
    pub unique_tokens: u64,
    /// Sampled tokens.
    pub generated_tokens: u64,
    /// Engine steps (batched forward passes).
    pub steps: u64,
    /// Draft tokens of speculative decoding that were verified. They never change a result.
    #[serde(default)]
    pub draft_tokens: u64,
    /// Draft tokens that were accepted.
    #[serde(default)]
    pub accepted_draft_tokens: u64,
    /// Weights in host memory.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Peak of the KV cache in host memory.
    #[serde(default)]
    pub kv_bytes: u64,
}

/// A chat model.
#[async_trait::async_trait]
pub trait Model: Send + Sync {
    fn card(&self) -> &ModelCard;

    /// Generates one assistant message.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError>;

    /// Measures an existing conversation without generating: one readout per assistant message.
    ///
    /// # Errors
    /// Not supported by models behind an API.
    async fn read(&self, _request: &ReadRequest) -> Result<ReadReply, ModelError> {
        Err(ModelError::unsupported(self.card(), "reading hidden states"))
    }

    /// Applies the chat template and the tokenizer.
    ///
    /// # Errors
    /// Not supported by models behind an API.
    fn render(&self, _messages: &[Message]) -> Result<Rendered, ModelError> {
        Err(ModelError::unsupported(self.card(), "rendering its prompt"))
    }

    /// Ends a conversation and releases its KV cache.
    fn close(&self, _conversation: ConversationId) {}

    /// Checks that the model supports the request, without sending or computing anything.
    ///
    /// # Errors
    /// A field the model does not support.
    fn check(&self, _request: &ChatRequest) -> Result<(), Problem> {
        Ok(())
    }

    /// The most a request can cost, in micro-dollars; `None` if the model has no price or the request no `max_new_tokens`.
    fn worst_case_micro_usd(&self, _request: &ChatRequest) -> Option<u64> {
        Some(0)
    }

    /// What a seed guarantees.
    fn seed_support(&self) -> SeedSupport {
        SeedSupport::Exact
    }

    /// Counters of a local engine; zeros for other models.
    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// Notes for the user that were not taken yet.
    fn take_notes(&self) -> Vec<String> {
        Vec::new()
    }
}
