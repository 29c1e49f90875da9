//! [`ModelCard`] and [`EngineStats`]: what is recorded about a model.

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
