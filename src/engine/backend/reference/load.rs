//! Puts a checkpoint's tensors on candle's device.

use candle_core::{Device, Tensor};

use super::{
    broken,
    model::{Block, Linear, Norm, Precision},
};
use crate::{
    backend::not_yet,
    checkpoint::weights::Weights,
    spec::{ArchSpec, BlockSpec, LinearSpec, MlpSpec, NormSpec, NormWeight, Part, RopeSpec},
};
use tiltmeter_model::problem::Problem;

type Result<T> = std::result::Result<T, Problem>;

pub struct Loader<'a> {
    pub weights: &'a Weights,
    pub precision: Precision,
    pub device: &'a Device,
}

impl Loader<'_> {
    fn f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(self.weights.f32(name, shape)?, shape, self.device).map_err(broken)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.f32(name, shape)?.to_dtype(self.precision.dtype()).map_err(broken)
    }

    /// `[vocab, hidden]`, scaled by the factor as the weights' type holds it.
    pub fn embeddings(&self, arch: &ArchSpec) -> Result<Tensor> {
        let table = self.tensor(&arch.embed.weight(), &[arch.vocab_size, arch.hidden_size])?;
        let Some(scale) = arch.embed.scale else { return Ok(table) };
        let scale = Tensor::new(scale, self.device).and_then(|scale| scale.to_dtype(self.precision.dtype()));
        scale.and_then(|scale| table.broadcast_mul(&scale)).map_err(broken)
    }

    pub fn linear(&self, spec: &LinearSpec) -> Result<Linear> {
        let weight = self.tensor(&spec.weight(), &[spec.n_out, spec.k_in])?;
        let bias = spec.bias().map(|name| self.f32(&name, &[spec.n_out])).transpose()?;
        Ok(Linear { weight: weight.t().and_then(|t| t.contiguous()).map_err(broken)?, bias })
    }

    pub fn norm(&self, spec: &NormSpec) -> Result<Norm> {
        let weight = self.f32(&spec.weight_name(), &[spec.width])?;
        let weight = match spec.weight {
            NormWeight::Plain => weight,
            NormWeight::OnePlus => (weight + 1.0).map_err(broken)?,
        };
        Ok(Norm { weight, eps: spec.eps })
    }

    pub fn block(&self, spec: &BlockSpec) -> Result<Block> {
        let norm = |spec: &Option<NormSpec>| spec.as_ref().map(|spec| self.norm(spec)).transpose();
        let attention = &spec.attention;
        let qk_norm = match &attention.qk_norm {
            None => None,
            Some(qk) => Some((qk.extent, [self.norm(&qk.q)?, self.norm(&qk.k)?])),
        };
        let MlpSpec::Gated(mlp) = &spec.mlp else {
            return Err(not_yet(Part::MixtureOfExperts, "the reference engine"));
        };
        Ok(Block {
            pre_norm: norm(&spec.pre_norm)?,
            projections: [
                self.linear(&attention.q)?,
                self.linear(&attention.k)?,
                self.linear(&attention.v)?,
                self.linear(&attention.o)?,
            ],
            qk_norm,
            rope: self.frequencies(&attention.rope, attention.head_dim)?,
            post_norm: norm(&spec.post_norm)?,
            pre_mlp_norm: norm(&spec.pre_mlp_norm)?,
            mlp: [self.linear(&mlp.gate)?, self.linear(&mlp.up)?, self.linear(&mlp.down)?],
            act: mlp.act,
            post_mlp_norm: norm(&spec.post_mlp_norm)?,
        })
    }

    fn frequencies(&self, rope: &RopeSpec, head_dim: usize) -> Result<(Tensor, f64)> {
        let (frequencies, scaling) = rope.frequencies(head_dim);
        let tensor = Tensor::from_vec(frequencies, (1, head_dim / 2), self.device).map_err(broken)?;
        Ok((tensor, f64::from(scaling)))
    }
}
