//! OLMo 2 (OLMo Team, "2 OLMo 2 Furious", 2025): norms after attention and feed-forward, inside the residual branch, and q and k
//! normalised over their whole width: `h += norm(attn(h)); h += norm(mlp(h))`.

use super::{
    decoder::{Defaults, Sizes},
    rope,
};
use crate::{
    checkpoint::config::ConfigJson,
    spec::{ArchSpec, AttentionSpec, BlockSpec, NormCast, QkNorm, RopeSpec},
};
use tiltmeter_model::problem::Problem;

const DEFAULTS: Defaults = Defaults { head_dim: None, kv_heads: None, max_positions: 2_048, eps: 1e-5 };

pub fn spec(json: &ConfigJson) -> Result<ArchSpec, Problem> {
    let sizes = Sizes::read(json, DEFAULTS)?;
    let (rope, _) = rope::parse(json, 10_000.0, DEFAULTS.max_positions)?;
    Ok(sizes.model(NormCast::After, |_, tensor| block(&sizes, tensor, rope, None)))
}

/// A block of OLMo 2, and of OLMo 3 with its windows.
pub fn block(sizes: &Sizes, tensor: &dyn Fn(&str) -> String, rope: RopeSpec, window: Option<usize>) -> BlockSpec {
    let norm = |name: &str| Some(sizes.norm(tensor(name), sizes.hidden, NormCast::After));
    let attention = tensor("self_attn");
    let qk_norm = sizes.qk_norm(&attention, QkNorm::Whole, NormCast::After);
    BlockSpec {
        pre_norm: None,
        attention: AttentionSpec { qk_norm, window, ..sizes.attention(&attention, rope) },
        post_norm: norm("post_attention_layernorm"),
        pre_mlp_norm: None,
        mlp: sizes.gated_mlp(&tensor("mlp")),
        post_mlp_norm: norm("post_feedforward_layernorm"),
    }
}
