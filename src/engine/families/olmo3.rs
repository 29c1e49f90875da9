//! OLMo 3 (OLMo Team, "Olmo 3", 2025): OLMo 2's block; all layers but every fourth slide, and only the full ones stretch RoPE.

use super::{
    decoder::{Defaults, Sizes, sliding_layers, window},
    olmo2, rope,
};
use crate::{
    checkpoint::config::ConfigJson,
    spec::{ArchSpec, NormCast, RopeScaling, RopeSpec},
};
use tiltmeter_model::problem::Problem;

const DEFAULTS: Defaults = Defaults { head_dim: None, kv_heads: None, max_positions: 2_048, eps: 1e-5 };

pub fn spec(json: &ConfigJson) -> Result<ArchSpec, Problem> {
    let sizes = Sizes::read(json, DEFAULTS)?;
    let slides = sliding_layers(json, sizes.layers, |layer| (layer + 1) % 4 != 0)?;
    let window = window(json, 4096)?;
    let (full, sliding) = rope::parse(json, 500_000.0, DEFAULTS.max_positions)?;
    // A configuration without parameters of its own for sliding layers leaves them plain frequencies of the same theta.
    let plain = RopeSpec { theta: full.theta, scaling: RopeScaling::None };
    let sliding = sliding.unwrap_or(plain);
    Ok(sizes.model(NormCast::After, |layer, tensor| match slides[layer] {
        true => olmo2::block(&sizes, tensor, sliding, window),
        false => olmo2::block(&sizes, tensor, full, None),
    }))
}
