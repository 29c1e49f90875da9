//! A decoder in candle's operations, interpreted as its spec says. The residual stream and the norms are f32 whatever the weights are
//! held in, as in the other backends.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{attention::LayerCache, load::Loader};
use crate::{
    backend::Batch,
    checkpoint::weights::Weights,
    spec::{Activation, ArchSpec, AttentionSpec, QkNorm},
};
use tiltmeter_model::{probe::Site, problem::Problem};

/// What weights, keys and values are held in, and what products are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
    F16,
}

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    pub fn bytes(self) -> usize {
        if self == Precision::F32 { 4 } else { 2 }
    }

    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

/// `y = x Wᵀ + b`, in f32 outside and in the weights' precision inside.
pub struct Linear {
    /// `[k_in, n_out]`, transposed once.
    pub weight: Tensor,
    /// `[n_out]`, f32.
    pub bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.to_dtype(self.weight.dtype())?.matmul(&self.weight)?.to_dtype(DType::F32)?;
        match &self.bias {
            None => Ok(y),
            Some(bias) => y.broadcast_add(bias),
        }
    }
}

/// `x / rms(x) · w` over the last dimension, f32.
pub struct Norm {
    pub weight: Tensor,
    pub eps: f64,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(mean + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)
    }
}

/// `norm(x)`; `x` itself without a norm.
fn normalised(norm: Option<&Norm>, x: &Tensor) -> Result<Tensor> {
    norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
}

/// `c · tanh(x / c)`.
pub fn soft_cap(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap.map(f64::from) {
        None => Ok(x),
        Some(cap) => (x / cap)?.tanh()? * cap,
    }
}

/// The tensors of a block.
pub struct Block {
    pub pre_norm: Option<Norm>,
    /// q, k, v, o.
    pub projections: [Linear; 4],
    pub qk_norm: Option<(QkNorm, [Norm; 2])>,
    /// Radians per token `[1, head_dim / 2]`, and the factor on cos and sin.
    pub rope: (Tensor, f64),
    pub post_norm: Option<Norm>,
    pub pre_mlp_norm: Option<Norm>,
    /// gate, up, down.
    pub mlp: [Linear; 3],
    pub act: Activation,
    pub post_mlp_norm: Option<Norm>,
}

pub struct Model {
    arch: ArchSpec,
    embeddings: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
    precision: Precision,
    device: Device,
}

/// The rows of a pass: `[rows, 1]` positions, and the caches of the batch's sequences, a `LayerCache` per layer each.
struct Rows<'a, 'b> {
    batch: &'a Batch,
    positions: Tensor,
    caches: &'a mut [&'b mut Vec<LayerCache>],
}

impl Model {
    pub fn load(
        arch: ArchSpec,
        weights: &Weights,
        precision: Precision,
        device: Device,
    ) -> std::result::Result<Self, Problem> {
        let loader = Loader { weights, precision, device: &device };
        let blocks = arch.blocks.iter().map(|spec| loader.block(spec));
        Ok(Self {
            embeddings: loader.embeddings(&arch)?,
            blocks: blocks.collect::<std::result::Result<_, _>>()?,
            norm: loader.norm(&arch.final_norm)?,
            head: loader.linear(&arch.head)?,
            precision,
            device,
            arch,
        })
    }

    pub fn arch(&self) -> &ArchSpec {
        &self.arch
    }

    /// One pass over `batch`; `observe` is called with the states `[rows, hidden]` of each site in `sites`. Returns the logits
    /// `[logit_rows, vocab]`.
    pub fn forward(
        &self,
        batch: &Batch,
        caches: &mut [&mut Vec<LayerCache>],
        sites: &[Site],
        observe: &mut dyn FnMut(Site, &[f32]),
    ) -> Result<Vec<f32>> {
        let mut show = |site: Site, h: &Tensor| -> Result<()> {
            if sites.contains(&site) {
                observe(site, &h.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(())
        };
        let ids = Tensor::from_slice(&batch.tokens, batch.tokens.len(), &self.device)?;
        let positions: Vec<f32> = batch.positions.iter().map(|&position| position as f32).collect();
        let positions = Tensor::from_vec(positions, (batch.tokens.len(), 1), &self.device)?;
        let mut rows = Rows { batch, positions, caches };
        let mut h = self.embeddings.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        show(Site::Embed, &h)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let branch = self.attention(layer, &mut rows, &normalised(block.pre_norm.as_ref(), &h)?)?;
            h = (&h + normalised(block.post_norm.as_ref(), &branch)?)?;
            let branch = block.feed_forward(&normalised(block.pre_mlp_norm.as_ref(), &h)?)?;
            h = (&h + normalised(block.post_mlp_norm.as_ref(), &branch)?)?;
            show(Site::BlockOut(layer), &h)?;
        }
        if sites.contains(&Site::FinalNorm) {
            show(Site::FinalNorm, &self.norm.forward(&h)?)?;
        }
        if batch.logit_rows.is_empty() {
            return Ok(Vec::new());
        }
        let last = Tensor::from_slice(&batch.logit_rows, batch.logit_rows.len(), &self.device)?;
        let logits = self.head.forward(&self.norm.forward(&h.index_select(&last, 0)?)?)?;
        soft_cap(logits, self.arch.logit_softcap)?.flatten_all()?.to_vec1::<f32>()
    }

    /// `o(attend(rope(q), rope(k), v))` of all rows, each over the keys of its own sequence.
    fn attention(&self, layer: usize, rows: &mut Rows, x: &Tensor) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let spec = &self.arch.blocks[layer].attention;
        let [q, k, v, o] = &block.projections;
        let [mut q, mut k, v] = [q.forward(x)?, k.forward(x)?, v.forward(x)?].map(|x| clip(x, spec));
        if let Some((QkNorm::Whole, [q_norm, k_norm])) = &block.qk_norm {
            (q, k) = (q.and_then(|q| q_norm.forward(&q)), k.and_then(|k| k_norm.forward(&k)));
        }
        let (mut q, mut k) = (heads(&q?, spec.heads)?, heads(&k?, spec.kv_heads)?);
        if let Some((QkNorm::PerHead, [q_norm, k_norm])) = &block.qk_norm {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        // Angles in f32, as the reference implementations compute them.
        let (frequencies, scaling) = &block.rope;
        let angles = rows.positions.broadcast_mul(frequencies)?;
        let turn = ((angles.cos()? * *scaling)?, (angles.sin()? * *scaling)?);
        let q = rotate(&q, &turn)?;
        let k = rotate(&k, &turn)?.to_dtype(self.precision.dtype())?;
        let v = heads(&v?, spec.kv_heads)?.to_dtype(self.precision.dtype())?;
        let mut row = 0;
        let mut out = Vec::new();
        for sequence in &rows.batch.sequences {
            let own = |t: &Tensor| t.narrow(1, row, sequence.len)?.contiguous();
            let cache = &mut rows.caches[sequence.cache][layer];
            cache.append(own(&k)?, own(&v)?)?;
            out.push(cache.attend(&own(&q)?, spec)?);
            row += sequence.len;
        }
        o.forward(&Tensor::cat(&out, 0)?)
    }
}

fn clip(x: Tensor, spec: &AttentionSpec) -> Result<Tensor> {
    spec.clip_qkv.map_or_else(|| Ok(x.clone()), |limit| x.clamp(-limit, limit))
}

/// `[rows, n_heads * head_dim]` -> `[n_heads, rows, head_dim]`.
fn heads(x: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    x.reshape((rows, n_heads, width / n_heads))?.transpose(0, 1)?.contiguous()
}

/// Turns the pairs (i, i + head_dim / 2) by the angles `[rows, head_dim / 2]`.
fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[&first, &second], 2)
}

impl Block {
    /// `down(act(gate(x)) · up(x))`.
    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let [gate, up, down] = &self.mlp;
        let gate = gate.forward(x)?;
        let gate = match self.act {
            Activation::Silu => candle_nn::ops::silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        down.forward(&(gate * up.forward(x)?)?)
    }
}
