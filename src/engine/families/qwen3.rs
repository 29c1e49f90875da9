//! Qwen3 (Yang et al., "Qwen3 Technical Report", 2025): Llama's block with an RMS norm over each head of q and k before RoPE, and a head
//! size of its own. Layers slide only where `use_sliding_window` says so, from `max_window_layers` on.

use super::{
    decoder::{Defaults, Sizes, sliding_layers, window},
    rope,
};
use crate::{
    checkpoint::config::ConfigJson,
    spec::{ArchSpec, AttentionSpec, BlockSpec, NormCast, QkNorm},
};
use tiltmeter_model::problem::Problem;

const DEFAULTS: Defaults = Defaults { head_dim: Some(128), kv_heads: Some(32), max_positions: 32_768, eps: 1e-6 };

pub fn spec(json: &ConfigJson) -> Result<ArchSpec, Problem> {
    let sizes = Sizes::read(json, DEFAULTS)?;
    let window = if json.flag("use_sliding_window")? { window(json, 4096)? } else { None };
    let first_sliding = json.optional_size("max_window_layers")?.unwrap_or(28);
    let slides = sliding_layers(json, sizes.layers, |layer| window.is_some() && layer >= first_sliding)?;
    let (rope, _) = rope::parse(json, 10_000.0, DEFAULTS.max_positions)?;
    Ok(sizes.model(NormCast::Before, |layer, tensor| {
        let norm = |name: &str| Some(sizes.norm(tensor(name), sizes.hidden, NormCast::Before));
        let module = tensor("self_attn");
        BlockSpec {
            pre_norm: norm("input_layernorm"),
            attention: AttentionSpec {
                qk_norm: sizes.qk_norm(&module, QkNorm::PerHead, NormCast::Before),
                window: window.filter(|_| slides[layer]),
                ..sizes.attention(&module, rope)
            },
            post_norm: None,
            pre_mlp_norm: norm("post_attention_layernorm"),
            mlp: sizes.gated_mlp(&tensor("mlp")),
            post_mlp_norm: None,
        }
    }))
}
