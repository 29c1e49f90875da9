//! One decoder block, interpreted as its `BlockSpec` says.

use std::sync::Arc;

use tiltmeter_kernels::{Pool, add};

use super::{
    attention::Attention,
    ops::{Linear, Mlp, RmsNorm, RopeTable},
};
use crate::{
    backend::not_yet,
    checkpoint::weights::Weights,
    spec::{BlockSpec, LinearSpec, MlpSpec, NormSpec, Part},
};
use tiltmeter_model::problem::Problem;

/// The values of a pass, `[rows, their width]`. All but the residual stream are scratch.
pub struct States<'a> {
    /// The residual stream.
    pub h: &'a mut [f32],
    /// As wide as the residual stream: a branch's input, and its output.
    pub x: &'a mut [f32],
    pub branch: &'a mut [f32],
    pub q: &'a mut [f32],
    pub k: &'a mut [f32],
    pub v: &'a mut [f32],
    /// As wide as the queries or the feed-forward, whichever is more.
    pub wide: [&'a mut [f32]; 2],
}

pub struct Block {
    pre_norm: Option<RmsNorm>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Of q and k; the weights' length tells whether all heads are normalised together or each alone.
    qk_norm: Option<[RmsNorm; 2]>,
    pub rope: Arc<RopeTable>,
    post_norm: Option<RmsNorm>,
    pre_mlp_norm: Option<RmsNorm>,
    mlp: Mlp,
    post_mlp_norm: Option<RmsNorm>,
}

impl Block {
    pub fn forward(&self, States { h, x, branch, q, k, v, wide: [a, b] }: States, attention: &mut Attention) {
        let input = normalised(self.pre_norm.as_ref(), h, x);
        match &self.qk_norm {
            None => Linear::forward_each([&self.q, &self.k, &self.v], input, [&mut *q, &mut *k, &mut *v]),
            Some([q_norm, k_norm]) => {
                let (raw_q, raw_k) = (&mut a[..q.len()], &mut b[..k.len()]);
                Linear::forward_each([&self.q, &self.k, &self.v], input, [&mut *raw_q, &mut *raw_k, &mut *v]);
                q_norm.forward(raw_q, q);
                k_norm.forward(raw_k, k);
            }
        }
        let attended = &mut a[..q.len()];
        attention.forward(q, k, v, attended);
        self.o.forward(attended, branch);
        add_branch(self.post_norm.as_ref(), branch, h, attention.pool);
        let input = normalised(self.pre_mlp_norm.as_ref(), h, x);
        self.mlp.forward(input, [a, b], branch);
        add_branch(self.post_mlp_norm.as_ref(), branch, h, attention.pool);
    }
}

/// `norm(h)`, written to `x`; `h` itself without a norm.
fn normalised<'a>(norm: Option<&RmsNorm>, h: &'a [f32], x: &'a mut [f32]) -> &'a [f32] {
    match norm {
        None => h,
        Some(norm) => {
            norm.forward(h, x);
            x
        }
    }
}

/// `h += norm(branch)`.
fn add_branch(norm: Option<&RmsNorm>, branch: &[f32], h: &mut [f32], pool: &Pool) {
    match norm {
        None => add(branch, h, pool),
        Some(norm) => norm.add(branch, h),
    }
}

/// Builds the parts of a model from a checkpoint.
pub struct Loader<'a> {
    pub weights: &'a Weights,
    pub pool: &'a Arc<Pool>,
}

impl Loader<'_> {
    pub fn linear(&self, spec: &LinearSpec) -> Result<Linear, Problem> {
        let weights = self.weights.linear(&spec.weight(), spec.n_out, spec.k_in)?;
        Ok(Linear { weights, pool: self.pool.clone() })
    }

    pub fn norm(&self, spec: &NormSpec) -> Result<RmsNorm, Problem> {
        let weight = self.weights.f32(&spec.weight_name(), &[spec.width])?;
        Ok(RmsNorm { weight, eps: spec.eps as f32, pool: self.pool.clone() })
    }

    pub fn block(&self, spec: &BlockSpec, rope: Arc<RopeTable>) -> Result<Block, Problem> {
        let norm = |spec: &Option<NormSpec>| spec.as_ref().map(|spec| self.norm(spec)).transpose();
        let attention = &spec.attention;
        let qk_norm = match &attention.qk_norm {
            None => None,
            Some(qk) => Some([self.norm(&qk.q)?, self.norm(&qk.k)?]),
        };
        let MlpSpec::Gated(mlp) = &spec.mlp else {
            return Err(not_yet(Part::MixtureOfExperts, "the CPU"));
        };
        Ok(Block {
            pre_norm: norm(&spec.pre_norm)?,
            q: self.linear(&attention.q)?,
            k: self.linear(&attention.k)?,
            v: self.linear(&attention.v)?,
            o: self.linear(&attention.o)?,
            qk_norm,
            rope,
            post_norm: norm(&spec.post_norm)?,
            pre_mlp_norm: norm(&spec.pre_mlp_norm)?,
            mlp: Mlp { gate: self.linear(&mlp.gate)?, up: self.linear(&mlp.up)?, down: self.linear(&mlp.down)? },
            post_mlp_norm: norm(&spec.post_mlp_norm)?,
        })
    }
}
