//! Owns the block of OLMo 2 and OLMo 3 (OLMo Team, "2 OLMo 2 Furious", 2025; "Olmo 3", 2025). The norms stand *after* attention
//! and feed-forward, inside the residual branch, and q and k are normalised over their whole width before the heads are split:
//! `h += norm(attn(h)); h += norm(mlp(h))`. OLMo 3 adds sliding windows and per-layer RoPE, both facts of the configuration.
//! Must not know: batching, capture.

use super::{Attention, Block, Linear, Mlp, Parts, RmsNorm, States};
use tiltmeter_model::problem::Problem;

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
    pub fn load(parts: &Parts, layer: usize) -> Result<Self, Problem> {
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
    fn forward(&self, States { h, branch, q, k, v, wide: [a, b], .. }: States, attention: &mut Attention) {
        let (raw_q, raw_k) = (&mut a[..q.len()], &mut b[..k.len()]);
        Linear::forward_each([&self.q, &self.k, &self.v], h, [&mut *raw_q, &mut *raw_k, &mut *v]);
        self.q_norm.forward(raw_q, q);
        self.k_norm.forward(raw_k, k);
        let attended = &mut a[..q.len()];
        attention.forward(q, k, v, attended);
        self.o.forward(attended, branch);
        self.post_attention_norm.add(branch, h);
        self.mlp.forward(h, [a, b], branch);
        self.post_feedforward_norm.add(branch, h);
    }
}
