//! Owns the block of Llama (Touvron et al., 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024): norms *before*
//! attention and feed-forward, `h += attn(norm(h)); h += mlp(norm(h))`.
//! Must not know: batching, capture.

use tiltmeter_kernels::add;

use super::{Attention, Block, Linear, Mlp, Parts, RmsNorm, States};
use tiltmeter_model::problem::Problem;

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
    pub fn load(parts: &Parts, layer: usize) -> Result<Self, Problem> {
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
    fn forward(&self, States { h, x, branch, q, k, v, wide: [a, b] }: States, attention: &mut Attention) {
        self.input_norm.forward(h, x);
        Linear::forward_each([&self.q, &self.k, &self.v], x, [&mut *q, &mut *k, &mut *v]);
        let attended = &mut a[..q.len()];
        attention.forward(q, k, v, attended);
        self.o.forward(attended, branch);
        add(branch, h, attention.pool);
        self.post_attention_norm.forward(h, x);
        self.mlp.forward(x, [a, b], branch);
        add(branch, h, attention.pool);
    }
}
