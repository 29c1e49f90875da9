//! Owns the decoder in candle's operations, all families in one: they differ in where the norms stand. The residual stream and the
//! norms are f32 whatever the weights are held in, as in every other way of running a model here.
//! Must not know: batching, what is captured and why.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::{
    backend::Batch,
    backend::reference::attention::LayerCache,
    backend::reference::broken,
    checkpoint::config::{Family, ModelConfig, RopeSpec},
    checkpoint::weights::Weights,
};
use tiltmeter_model::probe::Site;
use tiltmeter_model::problem::Problem;

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

    fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

/// `y = x Wᵀ`, in f32 outside and in the weights' precision inside.
struct Linear {
    /// `[k_in, n_out]`, transposed once.
    weight: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.to_dtype(self.weight.dtype())?.matmul(&self.weight)?.to_dtype(DType::F32)
    }
}

/// `x / rms(x) · w` over each row, f32.
struct Norm {
    weight: Tensor,
    eps: f64,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(mean + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight)
    }
}

struct Layer {
    /// q, k, v, o.
    projections: [Linear; 4],
    /// gate, up, down.
    mlp: [Linear; 3],
    /// Before (Llama) or after (OLMo) attention and feed-forward.
    norms: [Norm; 2],
    /// Over the whole width of q and of k.
    qk_norms: Option<[Norm; 2]>,
    inverse_frequencies: Tensor,
    attention_scaling: f64,
}

pub struct Model {
    embeddings: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    precision: Precision,
    device: Device,
}

const EMBEDDINGS: &str = "model.embed_tokens.weight";

impl Model {
    pub fn load(
        config: &ModelConfig,
        weights: &Weights,
        precision: Precision,
        device: Device,
    ) -> std::result::Result<Self, Problem> {
        let loader = Loader { weights, precision, device: &device, eps: config.rms_norm_eps };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let layers = (0..config.num_layers).map(|layer| loader.layer(config, layer));
        let head = if config.tie_embeddings { EMBEDDINGS } else { "lm_head.weight" };
        Ok(Self {
            embeddings: loader.tensor(EMBEDDINGS, &[vocab, hidden])?,
            layers: layers.collect::<std::result::Result<_, _>>()?,
            norm: loader.norm("model.norm.weight", hidden)?,
            head: loader.linear(head, vocab, hidden)?,
            precision,
            device,
        })
    }

    /// One pass over `batch`; `seen` is shown the states `[rows, hidden]` of each site in `sites`. Gives the logits
    /// `[logit_rows, vocab]`.
    pub fn forward(
        &self,
        config: &ModelConfig,
        batch: &Batch,
        caches: &mut [&mut Vec<LayerCache>],
        sites: &[Site],
        seen: &mut dyn FnMut(Site, &[f32]),
    ) -> Result<Vec<f32>> {
        let mut show = |site: Site, h: &Tensor| -> Result<()> {
            if sites.contains(&site) {
                seen(site, &h.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(())
        };
        let ids = Tensor::from_slice(&batch.tokens, batch.tokens.len(), &self.device)?;
        let positions: Vec<f32> = batch.positions.iter().map(|&position| position as f32).collect();
        let positions = Tensor::from_vec(positions, (batch.tokens.len(), 1), &self.device)?;
        let mut h = self.embeddings.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        show(Site::Embed, &h)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let mut attention = |x: &Tensor| self.attention(config, index, batch, &positions, caches, x);
            let [first, second] = &layer.norms;
            h = match config.family {
                Family::Olmo2 | Family::Olmo3 => {
                    let h = (&h + first.forward(&attention(&h)?)?)?;
                    (&h + second.forward(&layer.feed_forward(&h)?)?)?
                }
                Family::Llama => {
                    let h = (&h + attention(&first.forward(&h)?)?)?;
                    (&h + layer.feed_forward(&second.forward(&h)?)?)?
                }
            };
            show(Site::BlockOut(index), &h)?;
        }
        if sites.contains(&Site::FinalNorm) {
            show(Site::FinalNorm, &self.norm.forward(&h)?)?;
        }
        if batch.logit_rows.is_empty() {
            return Ok(Vec::new());
        }
        let rows = Tensor::from_slice(&batch.logit_rows, batch.logit_rows.len(), &self.device)?;
        self.head.forward(&self.norm.forward(&h.index_select(&rows, 0)?)?)?.flatten_all()?.to_vec1::<f32>()
    }

    /// `o(attend(rope(q), rope(k), v))` of all rows, each over the keys of its own sequence.
    fn attention(
        &self,
        config: &ModelConfig,
        index: usize,
        batch: &Batch,
        positions: &Tensor,
        caches: &mut [&mut Vec<LayerCache>],
        x: &Tensor,
    ) -> Result<Tensor> {
        let layer = &self.layers[index];
        let [q, k, v, o] = &layer.projections;
        let (mut q, mut k, v) = (q.forward(x)?, k.forward(x)?, v.forward(x)?);
        if let Some([q_norm, k_norm]) = &layer.qk_norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        // Angles in f32, as the reference implementations compute them.
        let angles = positions.broadcast_mul(&layer.inverse_frequencies)?;
        let turn = ((angles.cos()? * layer.attention_scaling)?, (angles.sin()? * layer.attention_scaling)?);
        let q = rotate(&heads(&q, config.num_heads)?, &turn)?;
        let k = rotate(&heads(&k, config.num_kv_heads)?, &turn)?.to_dtype(self.precision.dtype())?;
        let v = heads(&v, config.num_kv_heads)?.to_dtype(self.precision.dtype())?;
        let mut row = 0;
        let mut out = Vec::new();
        for rows in &batch.sequences {
            let own = |t: &Tensor| t.narrow(1, row, rows.len)?.contiguous();
            let cache = &mut caches[rows.cache][index];
            cache.append(own(&k)?, own(&v)?)?;
            out.push(cache.attend(&own(&q)?, config.layer_windows[index])?);
            row += rows.len;
        }
        o.forward(&Tensor::cat(&out, 0)?)
    }
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

impl Layer {
    /// `down(silu(gate(x)) · up(x))`.
    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        let [gate, up, down] = &self.mlp;
        down.forward(&(candle_nn::ops::silu(&gate.forward(x)?)? * up.forward(x)?)?)
    }
}

/// Puts tensors of a checkpoint on the device.
struct Loader<'a> {
    weights: &'a Weights,
    precision: Precision,
    device: &'a Device,
    eps: f64,
}

impl Loader<'_> {
    fn f32(&self, name: &str, shape: &[usize]) -> std::result::Result<Tensor, Problem> {
        Tensor::from_vec(self.weights.f32(name, shape)?, shape, self.device).map_err(broken)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> std::result::Result<Tensor, Problem> {
        self.f32(name, shape)?.to_dtype(self.precision.dtype()).map_err(broken)
    }

    fn linear(&self, name: &str, n_out: usize, k_in: usize) -> std::result::Result<Linear, Problem> {
        let weight = self.tensor(name, &[n_out, k_in])?;
        Ok(Linear { weight: weight.t().and_then(|t| t.contiguous()).map_err(broken)? })
    }

    fn norm(&self, name: &str, width: usize) -> std::result::Result<Norm, Problem> {
        Ok(Norm { weight: self.f32(name, &[width])?, eps: self.eps })
    }

    fn layer(&self, config: &ModelConfig, layer: usize) -> std::result::Result<Layer, Problem> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let linear = |part: &str, n_out, k_in| self.linear(&name(part), n_out, k_in);
        let norm = |part: &str, width| self.norm(&name(part), width);
        let olmo = config.family != Family::Llama;
        let norms = match config.family {
            Family::Olmo2 | Family::Olmo3 => ["post_attention_layernorm", "post_feedforward_layernorm"],
            Family::Llama => ["input_layernorm", "post_attention_layernorm"],
        };
        let (inverse_frequencies, attention_scaling) = self.frequencies(&config.rope[layer], config.head_dim)?;
        Ok(Layer {
            projections: [
                linear("self_attn.q_proj", q, hidden)?,
                linear("self_attn.k_proj", kv, hidden)?,
                linear("self_attn.v_proj", kv, hidden)?,
                linear("self_attn.o_proj", hidden, q)?,
            ],
            mlp: [
                linear("mlp.gate_proj", inner, hidden)?,
                linear("mlp.up_proj", inner, hidden)?,
                linear("mlp.down_proj", hidden, inner)?,
            ],
            norms: [norm(norms[0], hidden)?, norm(norms[1], hidden)?],
            qk_norms: match olmo {
                true => Some([norm("self_attn.q_norm", q)?, norm("self_attn.k_norm", kv)?]),
                false => None,
            },
            inverse_frequencies,
            attention_scaling,
        })
    }

    fn frequencies(&self, rope: &RopeSpec, head_dim: usize) -> std::result::Result<(Tensor, f64), Problem> {
        let (frequencies, scaling) = rope.frequencies(head_dim);
        let tensor = Tensor::from_vec(frequencies, (1, head_dim / 2), self.device).map_err(broken)?;
        Ok((tensor, f64::from(scaling)))
    }
}
