//! Owns the block of OLMo 2 and OLMo 3 (OLMo Team, "2 OLMo 2 Furious", 2025; "Olmo 3", 2025). The norms stand *after* attention
//! and feed-forward, inside the residual branch, and q and k are normalised over their whole width before the heads are split:
//! `h += norm(attn(h)); h += norm(mlp(h))`. OLMo 3 adds sliding windows and per-layer RoPE, both facts of the configuration.
//! Must not know: batching, capture.

use candle_core::{Result, Tensor};

use super::{Attention, Block, Linear, Mlp, Parts, RmsNorm};
use crate::problem::Problem;

pub struct OlmoBlock {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
    post_feedforward_norm: RmsNorm,
}

impl OlmoBlock {
    pub fn load(parts: &Parts, layer: usize) -> std::result::Result<Self, Problem> {
        let config = parts.config;
        let [q, k, v, o] = parts.projections(layer)?;
        let norm = |name: &str, width| parts.norm(&format!("model.layers.{layer}.{name}.weight"), width);
        Ok(Self {
            q_norm: norm("self_attn.q_norm", config.num_heads * config.head_dim)?,
            k_norm: norm("self_attn.k_norm", config.num_kv_heads * config.head_dim)?,
            post_attention_norm: norm("post_attention_layernorm", config.hidden_size)?,
            post_feedforward_norm: norm("post_feedforward_layernorm", config.hidden_size)?,
            mlp: parts.mlp(layer)?,
            q,
            k,
            v,
            o,
        })
    }
}

impl Block for OlmoBlock {
    fn forward(&self, h: &Tensor, attention: &mut Attention) -> Result<Tensor> {
        let q = self.q_norm.forward(&self.q.forward(h)?)?;
        let k = self.k_norm.forward(&self.k.forward(h)?)?;
        let v = self.v.forward(h)?;
        let attended = self.o.forward(&attention.forward(&q, &k, &v)?)?;
        let h = (h + self.post_attention_norm.forward(&attended)?)?;
        let fed = self.mlp.forward(&h)?;
        h + self.post_feedforward_norm.forward(&fed)?
    }
}
