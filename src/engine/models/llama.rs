//! Owns the block of Llama (Touvron et al., 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024): norms *before*
//! attention and feed-forward, `h += attn(norm(h)); h += mlp(norm(h))`.
//! Must not know: batching, capture.

use candle_core::{Result, Tensor};

use super::{Attention, Block, Linear, Mlp, Parts, RmsNorm};
use crate::problem::Problem;

pub struct LlamaBlock {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
}

impl LlamaBlock {
    pub fn load(parts: &Parts, layer: usize) -> std::result::Result<Self, Problem> {
        let [q, k, v, o] = parts.projections(layer)?;
        let norm = |name: &str| parts.norm(&format!("model.layers.{layer}.{name}.weight"), parts.config.hidden_size);
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
            mlp: parts.mlp(layer)?,
            q,
            k,
            v,
            o,
        })
    }
}

impl Block for LlamaBlock {
    fn forward(&self, h: &Tensor, attention: &mut Attention) -> Result<Tensor> {
        let x = self.input_norm.forward(h)?;
        let (q, k, v) = (self.q.forward(&x)?, self.k.forward(&x)?, self.v.forward(&x)?);
        let h = (h + self.o.forward(&attention.forward(&q, &k, &v)?)?)?;
        let fed = self.mlp.forward(&self.post_attention_norm.forward(&h)?)?;
        h + fed
    }
}
