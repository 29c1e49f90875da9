//! What the families' configurations have in common: sizes, per-layer windows, and the parts of a decoder named after their tensors.

use super::rope;
use serde_json::Value;

use crate::{
    checkpoint::config::{ConfigJson, damaged},
    spec::{
        Activation, ArchSpec, AttentionSpec, BlockSpec, EmbedSpec, GatedMlp, LinearSpec, MlpSpec, NormCast, NormSpec,
        NormWeight, QkNorm, QkNormSpec, RopeSpec,
    },
};
use tiltmeter_model::problem::Problem;

/// The sizes of a decoder of transformers' usual keys.
pub struct Sizes {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    vocab: usize,
    max_positions: usize,
    eps: f64,
    tied: bool,
    activation: Activation,
}

/// What a family's configuration class in transformers takes where config.json names nothing.
pub struct Defaults {
    /// `None`: hidden size / heads.
    pub head_dim: Option<usize>,
    /// `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    pub max_positions: usize,
    pub eps: f64,
}

/// The deepest published model has 126.
const MAX_LAYERS: usize = 4096;
/// Published models have 1e-5 or 1e-6.
const MAX_EPS: f64 = 0.1;

impl Sizes {
    /// `defaults`: what the family's configuration class in transformers takes where config.json names nothing.
    ///
    /// # Errors
    /// Missing or contradictory sizes, biases, and activations other than SiLU.
    pub fn read(json: &ConfigJson, defaults: Defaults) -> Result<Self, Problem> {
        for key in ["attention_bias", "mlp_bias"] {
            if json.flag(key)? {
                return Err(Problem::new(format!("`{key}` is true: linear layers with biases are not supported")));
            }
        }
        let activation = match json.text("hidden_act") {
            None | Some("silu" | "swish") => Activation::Silu,
            Some(other) => {
                return Err(Problem::new(format!("the activation `{other}` is not supported, only `silu` is")));
            }
        };
        let hidden = json.size("hidden_size")?;
        let heads = json.size("num_attention_heads")?;
        let kv_heads = json.optional_size("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(damaged(format!("{heads} heads cannot share {kv_heads} key-value heads evenly")));
        }
        let head_dim = match json.optional_size("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(damaged(format!("hidden_size {hidden} is not a multiple of {heads} heads"))),
        };
        if head_dim % 2 != 0 {
            return Err(damaged(format!("head_dim {head_dim} is odd, but rotary embeddings turn pairs")));
        }
        let layers = json.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(damaged(format!("`num_hidden_layers` is {layers}; at most {MAX_LAYERS} are supported")));
        }
        let eps = json.optional_positive("rms_norm_eps")?.unwrap_or(defaults.eps);
        if eps > MAX_EPS {
            return Err(damaged(format!("`rms_norm_eps` is {eps}, which would drown the activations")));
        }
        Ok(Self {
            hidden,
            intermediate: json.size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab: json.size("vocab_size")?,
            max_positions: rope::max_positions(json, defaults.max_positions)?,
            eps,
            tied: json.flag("tie_word_embeddings")?,
            activation,
        })
    }

    pub fn norm(&self, tensor: String, width: usize, cast: NormCast) -> NormSpec {
        NormSpec { tensor, width, eps: self.eps, weight: NormWeight::Plain, cast }
    }

    /// Attention without biases, norms and window, scaled by head_dim^-½.
    pub fn attention(&self, module: &str, rope: RopeSpec) -> AttentionSpec {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        AttentionSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            q: linear(format!("{module}.q_proj"), q, self.hidden),
            k: linear(format!("{module}.k_proj"), kv, self.hidden),
            v: linear(format!("{module}.v_proj"), kv, self.hidden),
            o: linear(format!("{module}.o_proj"), self.hidden, q),
            qk_norm: None,
            rope,
            window: None,
            softcap: None,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            sinks: None,
            clip_qkv: None,
        }
    }

    /// `{module}.q_norm` and `{module}.k_norm`.
    pub fn qk_norm(&self, module: &str, extent: QkNorm, cast: NormCast) -> Option<QkNormSpec> {
        let width = |heads: usize| match extent {
            QkNorm::Whole => heads * self.head_dim,
            QkNorm::PerHead => self.head_dim,
        };
        let norm = |which: &str, heads| self.norm(format!("{module}.{which}_norm"), width(heads), cast);
        Some(QkNormSpec { extent, q: norm("q", self.heads), k: norm("k", self.kv_heads) })
    }

    /// `{module}.gate_proj`, `up_proj` and `down_proj`.
    pub fn gated_mlp(&self, module: &str) -> MlpSpec {
        MlpSpec::Gated(GatedMlp {
            act: self.activation,
            gate: linear(format!("{module}.gate_proj"), self.intermediate, self.hidden),
            up: linear(format!("{module}.up_proj"), self.intermediate, self.hidden),
            down: linear(format!("{module}.down_proj"), self.hidden, self.intermediate),
        })
    }

    /// A whole model of these blocks, each named `model.layers.{index}`; the other tensors have transformers' usual names.
    pub fn model(&self, cast: NormCast, block: impl Fn(usize, &dyn Fn(&str) -> String) -> BlockSpec) -> ArchSpec {
        const EMBEDDINGS: &str = "model.embed_tokens";
        let head = if self.tied { EMBEDDINGS } else { "lm_head" };
        let blocks = (0..self.layers).map(|layer| block(layer, &|part| format!("model.layers.{layer}.{part}")));
        ArchSpec {
            hidden_size: self.hidden,
            vocab_size: self.vocab,
            max_positions: self.max_positions,
            embed: EmbedSpec { tensor: EMBEDDINGS.to_owned(), scale: None, tied: self.tied },
            blocks: blocks.collect(),
            final_norm: self.norm("model.norm".to_owned(), self.hidden, cast),
            head: linear(head.to_owned(), self.vocab, self.hidden),
            logit_softcap: None,
        }
    }
}

fn linear(tensor: String, n_out: usize, k_in: usize) -> LinearSpec {
    LinearSpec { tensor, n_out, k_in, bias: false }
}

/// `sliding_window`, by default `window`; null is none.
pub fn window(json: &ConfigJson, window: usize) -> Result<Option<usize>, Problem> {
    match json.optional_size("sliding_window")? {
        None if json.has("sliding_window") => Ok(None),
        given => Ok(Some(given.unwrap_or(window))),
    }
}

/// Whether each layer slides: by `layer_types`, else by `slides`.
pub fn sliding_layers(json: &ConfigJson, layers: usize, slides: impl Fn(usize) -> bool) -> Result<Vec<bool>, Problem> {
    let Some(types) = json.get("layer_types") else { return Ok((0..layers).map(slides).collect()) };
    let types = types.as_array().ok_or_else(|| damaged("`layer_types` is not a list".to_owned()))?;
    if types.len() != layers {
        return Err(damaged(format!("`layer_types` names {} layers of {layers}", types.len())));
    }
    let slides = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Problem::new(format!("the layer type {kind} is not supported"))),
    };
    types.iter().map(slides).collect()
}
