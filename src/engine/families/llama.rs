//! Llama (Touvron et al. 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024): norms before attention and feed-forward,
//! `h += attn(norm(h)); h += mlp(norm(h))`.

use super::{
    decoder::{Defaults, Sizes},
    rope,
};
use crate::{
    checkpoint::config::ConfigJson,
    spec::{ArchSpec, BlockSpec, NormCast},
};
use tiltmeter_model::problem::Problem;

const DEFAULTS: Defaults = Defaults { head_dim: None, kv_heads: None, max_positions: 2_048, eps: 1e-6 };

pub fn spec(json: &ConfigJson) -> Result<ArchSpec, Problem> {
    let sizes = Sizes::read(json, DEFAULTS)?;
    let (rope, _) = rope::parse(json, 10_000.0, DEFAULTS.max_positions)?;
    Ok(sizes.model(NormCast::Before, |_, tensor| {
        let norm = |name: &str| Some(sizes.norm(tensor(name), sizes.hidden, NormCast::Before));
        BlockSpec {
            pre_norm: norm("input_layernorm"),
            attention: sizes.attention(&tensor("self_attn"), rope),
            post_norm: None,
            pre_mlp_norm: norm("post_attention_layernorm"),
            mlp: sizes.gated_mlp(&tensor("mlp")),
            post_mlp_norm: None,
        }
    }))
}
