//! An architecture as data: what a backend interprets to run a model, and the checkpoint tensors it reads.
//!
//! A family (`families/`) turns a config.json into an [`ArchSpec`]; nothing downstream knows families. Sizes count elements.

mod parts;
mod rope;

pub use parts::Part;
pub use rope::{RopeScaling, RopeSpec};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchSpec {
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    pub embed: EmbedSpec,
    /// At least one; heads and head sizes are the same in all of them.
    pub blocks: Vec<BlockSpec>,
    pub final_norm: NormSpec,
    /// Names the embeddings' tensor where they are tied.
    pub head: LinearSpec,
    /// `c · tanh(logits / c)`.
    pub logit_softcap: Option<f32>,
}

/// Token embeddings `[vocab, hidden]`.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedSpec {
    pub tensor: String,
    /// Factor on the embeddings, rounded to the type of the weights.
    pub scale: Option<f32>,
    /// The head uses the embeddings' weights.
    pub tied: bool,
}

/// `h += post_norm(attention(pre_norm(h))); h += post_mlp_norm(mlp(pre_mlp_norm(h)))`.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    pub pre_norm: Option<NormSpec>,
    pub attention: AttentionSpec,
    pub post_norm: Option<NormSpec>,
    pub pre_mlp_norm: Option<NormSpec>,
    pub mlp: MlpSpec,
    pub post_mlp_norm: Option<NormSpec>,
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub q: LinearSpec,
    pub k: LinearSpec,
    pub v: LinearSpec,
    pub o: LinearSpec,
    /// Applied before RoPE.
    pub qk_norm: Option<QkNormSpec>,
    pub rope: RopeSpec,
    /// Keys that a query sees, its own included; `None` is all before it.
    pub window: Option<usize>,
    /// `c · tanh(scores / c)`, before the mask.
    pub softcap: Option<f32>,
    /// Factor on q·k.
    pub scale: f32,
    /// A learned logit per head that takes part in the softmax without a value: its tensor `[heads]`.
    pub sinks: Option<String>,
    /// Clamps q, k and v to `[-c, c]` after their projections.
    pub clip_qkv: Option<f32>,
}

/// RMS norm of q and k. The width of the norms is `head_dim` per head, all heads together otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNormSpec {
    pub extent: QkNorm,
    pub q: NormSpec,
    pub k: NormSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Over all heads together.
    Whole,
    /// Over each head, with one weight for all heads.
    PerHead,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MlpSpec {
    Gated(GatedMlp),
    Moe(MoeSpec),
}

/// `down(act(gate(x)) · up(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedMlp {
    pub act: Activation,
    pub gate: LinearSpec,
    pub up: LinearSpec,
    pub down: LinearSpec,
}

/// Mixture of experts: softmax over all experts' router logits, then the `top_k` largest.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeSpec {
    pub router: LinearSpec,
    pub experts: Vec<GatedMlp>,
    pub top_k: usize,
    /// Whether the chosen probabilities are divided by their sum.
    pub renormalize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// `x / sqrt(mean(x²) + eps) · weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormSpec {
    /// Without `.weight`.
    pub tensor: String,
    pub width: usize,
    pub eps: f64,
    pub weight: NormWeight,
    pub cast: NormCast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormWeight {
    /// The tensor itself.
    Plain,
    /// One plus the tensor.
    OnePlus,
}

/// When the normalised row is rounded to the type of the weights: before it is multiplied by the weight, or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormCast {
    Before,
    After,
}

/// `y = x Wᵀ + b`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSpec {
    /// Without `.weight` and `.bias`.
    pub tensor: String,
    pub n_out: usize,
    pub k_in: usize,
    pub bias: bool,
}

/// A tensor that an architecture reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

impl EmbedSpec {
    pub fn weight(&self) -> String {
        format!("{}.weight", self.tensor)
    }
}

impl LinearSpec {
    pub fn weight(&self) -> String {
        format!("{}.weight", self.tensor)
    }

    /// The bias's name, where there is one.
    pub fn bias(&self) -> Option<String> {
        self.bias.then(|| format!("{}.bias", self.tensor))
    }

    fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        let weight = TensorSpec { name: self.weight(), shape: vec![self.n_out, self.k_in] };
        [weight].into_iter().chain(self.bias().map(|name| TensorSpec { name, shape: vec![self.n_out] }))
    }
}

impl NormSpec {
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.tensor)
    }

    fn tensor(&self) -> TensorSpec {
        TensorSpec { name: self.weight_name(), shape: vec![self.width] }
    }
}

impl MlpSpec {
    /// Of a mixture, its experts'.
    pub fn activation(&self) -> Activation {
        match self {
            MlpSpec::Gated(mlp) => mlp.act,
            MlpSpec::Moe(moe) => moe.experts.first().map_or(Activation::Silu, |mlp| mlp.act),
        }
    }

    fn linears(&self) -> Vec<&LinearSpec> {
        match self {
            MlpSpec::Gated(mlp) => vec![&mlp.gate, &mlp.up, &mlp.down],
            MlpSpec::Moe(moe) => {
                let experts = moe.experts.iter().flat_map(|mlp| [&mlp.gate, &mlp.up, &mlp.down]);
                [&moe.router].into_iter().chain(experts).collect()
            }
        }
    }
}

impl BlockSpec {
    /// All linear layers; of a mixture every expert's.
    pub fn linears(&self) -> Vec<&LinearSpec> {
        let AttentionSpec { q, k, v, o, .. } = &self.attention;
        [q, k, v, o].into_iter().chain(self.mlp.linears()).collect()
    }

    /// All norms, those of q and k among them.
    pub fn norms(&self) -> impl Iterator<Item = &NormSpec> {
        let around = [&self.pre_norm, &self.post_norm, &self.pre_mlp_norm, &self.post_mlp_norm];
        around.into_iter().flatten().chain(self.attention.qk_norm.iter().flat_map(|norm| [&norm.q, &norm.k]))
    }

    /// Width of the feed-forward; of a mixture that of one expert.
    pub fn intermediate_size(&self) -> usize {
        match &self.mlp {
            MlpSpec::Gated(mlp) => mlp.gate.n_out,
            MlpSpec::Moe(moe) => moe.experts.first().map_or(0, |mlp| mlp.gate.n_out),
        }
    }
}

impl AttentionSpec {
    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl ArchSpec {
    /// The first block's attention; `heads`, `kv_heads` and `head_dim` are those of every block.
    pub fn attention(&self) -> &AttentionSpec {
        &self.blocks[0].attention
    }

    pub fn num_layers(&self) -> usize {
        self.blocks.len()
    }

    /// Width of the widest feed-forward.
    pub fn intermediate_size(&self) -> usize {
        self.blocks.iter().map(BlockSpec::intermediate_size).max().unwrap_or(0)
    }

    /// The window of each layer.
    pub fn windows(&self) -> impl Iterator<Item = Option<usize>> {
        self.blocks.iter().map(|block| block.attention.window)
    }

    /// All linear layers; of a mixture every expert's.
    pub fn linears(&self) -> impl Iterator<Item = &LinearSpec> {
        self.blocks.iter().flat_map(BlockSpec::linears).chain([&self.head])
    }

    /// All norms.
    pub fn norms(&self) -> impl Iterator<Item = &NormSpec> {
        self.blocks.iter().flat_map(BlockSpec::norms).chain([&self.final_norm])
    }

    /// Every tensor that is read, each once.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let embeddings = TensorSpec { name: self.embed.weight(), shape: vec![self.vocab_size, self.hidden_size] };
        let mut tensors = vec![embeddings, self.final_norm.tensor()];
        if !self.embed.tied {
            tensors.extend(self.head.tensors());
        }
        for block in &self.blocks {
            tensors.extend(block.linears().into_iter().flat_map(LinearSpec::tensors));
            tensors.extend(block.norms().map(NormSpec::tensor));
            let heads = block.attention.heads;
            tensors
                .extend(block.attention.sinks.iter().map(|name| TensorSpec { name: name.clone(), shape: vec![heads] }));
        }
        tensors
    }

    /// Weights of all linear layers, the head among them.
    pub fn linear_weights(&self) -> u64 {
        let weights = |linear: &LinearSpec| (linear.n_out * linear.k_in) as u64;
        self.blocks.iter().flat_map(BlockSpec::linears).map(weights).sum::<u64>() + self.head_weights()
    }

    /// Weights of the head.
    pub fn head_weights(&self) -> u64 {
        (self.vocab_size * self.hidden_size) as u64
    }

    /// Bytes of cached keys and values that a query at this position reads, if each number has `bytes`.
    pub fn kv_bytes_read(&self, position: usize, bytes: usize) -> u64 {
        let keys = |window: Option<usize>| window.map_or(position + 1, |window| window.min(position + 1));
        let keys: usize = self.windows().map(keys).sum();
        (keys * self.attention().kv_width() * 2 * bytes) as u64
    }
}
