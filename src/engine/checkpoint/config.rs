//! Owns `ModelConfig`: what a checkpoint's config.json and generation_config.json say about the architecture, read once and
//! checked, so that the forward pass meets no surprise. What this engine cannot compute faithfully is refused here, never ignored.
//! Must not know: weights, devices, tokens, conversations.

mod rope;

pub use rope::{RopeScaling, RopeSpec};

use serde_json::{Map, Value};

use tiltmeter_model::problem::Problem;

type Json = Map<String, Value>;

/// The architectures this engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Olmo3,
    Olmo2,
    Llama,
}

impl Family {
    const ALL: [Family; 3] = [Family::Olmo3, Family::Olmo2, Family::Llama];

    /// The `model_type` of config.json.
    pub fn name(self) -> &'static str {
        match self {
            Family::Olmo3 => "olmo3",
            Family::Olmo2 => "olmo2",
            Family::Llama => "llama",
        }
    }

    /// The theta transformers takes where a config.json names none.
    fn default_theta(self) -> f64 {
        match self {
            Family::Olmo3 => 500_000.0,
            Family::Olmo2 | Family::Llama => 10_000.0,
        }
    }
}

/// The architecture of one checkpoint. Sizes count elements; positions count tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    pub max_positions: usize,
    pub tie_embeddings: bool,
    /// Per layer: how many keys a query sees, itself included; `None` is all of them.
    pub layer_windows: Vec<Option<usize>>,
    /// Per layer.
    pub rope: Vec<RopeSpec>,
    /// End-of-sequence ids of config.json and generation_config.json together, ascending.
    pub eos_ids: Vec<u32>,
    /// generation_config.json without its token ids: for the record, never applied.
    pub sampler_defaults: Option<Value>,
}

impl ModelConfig {
    /// Reads the texts of config.json and generation_config.json.
    ///
    /// # Errors
    /// Malformed JSON, missing or contradictory sizes, and whatever the engine does not compute (other families, biases,
    /// other activations, unknown RoPE kinds, quantised weights).
    pub fn parse(config: &str, generation: Option<&str>) -> Result<Self, Problem> {
        let json = parse_object(config, "config.json")?;
        let generation = generation.map(|text| parse_object(text, "generation_config.json")).transpose()?;
        let at = |problem: Problem| if problem.place.is_some() { problem } else { problem.at("config.json") };
        Self::from_json(&json, generation.as_ref()).map_err(at)
    }

    /// Weights of all linear layers, the head among them.
    pub fn linear_weights(&self) -> u64 {
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let block = self.hidden_size * (2 * q + 2 * kv + 3 * self.intermediate_size);
        (self.num_layers * block) as u64 + self.head_weights()
    }

    /// Weights of the head.
    pub fn head_weights(&self) -> u64 {
        (self.vocab_size * self.hidden_size) as u64
    }

    /// Bytes of cached keys and values that a query at this position reads, if each number has `bytes`.
    pub fn kv_bytes_read(&self, position: usize, bytes: usize) -> u64 {
        let keys = |window: &Option<usize>| window.map_or(position + 1, |window| window.min(position + 1));
        let keys: usize = self.layer_windows.iter().map(keys).sum();
        (keys * self.num_kv_heads * self.head_dim * 2 * bytes) as u64
    }

    /// Ids that end a reply: the eos ids and the template's turn ends (`spans::turn_ends`), ascending.
    pub fn stop_ids(&self, turn_ends: &[u32]) -> Vec<u32> {
        let mut ids: Vec<u32> = self.eos_ids.iter().chain(turn_ends).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn from_json(json: &Json, generation: Option<&Json>) -> Result<Self, Problem> {
        let family = family(json)?;
        refuse_what_is_not_computed(json)?;
        let hidden_size = size(json, "hidden_size")?;
        let num_layers = size(json, "num_hidden_layers")?;
        let num_heads = size(json, "num_attention_heads")?;
        let num_kv_heads = optional_size(json, "num_key_value_heads")?.unwrap_or(num_heads);
        if num_heads % num_kv_heads != 0 {
            return Err(damaged(format!("{num_heads} heads cannot share {num_kv_heads} key-value heads evenly")));
        }
        let head_dim = match optional_size(json, "head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => return Err(damaged(format!("hidden_size {hidden_size} is not a multiple of {num_heads} heads"))),
        };
        if head_dim % 2 != 0 {
            return Err(damaged(format!("head_dim {head_dim} is odd, but rotary embeddings turn pairs")));
        }
        let max_positions = size(json, "max_position_embeddings")?;
        let sliding = sliding_layers(json, family, num_layers)?;
        let window = match json.get("sliding_window") {
            Some(Value::Null) => None,
            _ => Some(optional_size(json, "sliding_window")?.unwrap_or(4096)),
        };
        let [full_rope, sliding_rope] = rope::parse(json, family, max_positions)?;
        Ok(Self {
            family,
            hidden_size,
            intermediate_size: size(json, "intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size: size(json, "vocab_size")?,
            rms_norm_eps: positive(json, "rms_norm_eps")?
                .ok_or_else(|| damaged("`rms_norm_eps` is missing".to_owned()))?,
            max_positions,
            tie_embeddings: flag(json, "tie_word_embeddings")?,
            layer_windows: sliding.iter().map(|&slides| if slides { window } else { None }).collect(),
            rope: sliding.iter().map(|&slides| if slides { sliding_rope } else { full_rope }).collect(),
            eos_ids: eos_ids(json, generation)?,
            sampler_defaults: generation.and_then(sampler_defaults),
        })
    }
}

/// A problem of a config.json that contradicts itself or lacks something.
fn damaged(what: String) -> Problem {
    Problem::new(what).hint("the checkpoint is damaged or incomplete: fetch its config.json again")
}

fn unsupported(what: String) -> Problem {
    let families = Family::ALL.map(Family::name).join(", ");
    Problem::new(what).hint(format!("supported are unquantised checkpoints without biases of the families {families}"))
}

fn parse_object(text: &str, file: &str) -> Result<Json, Problem> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(json)) => Ok(json),
        Ok(_) => Err(damaged(format!("{file} holds no JSON object")).at(file)),
        Err(error) => Err(damaged(format!("{file} is not valid JSON: {error}")).at(file)),
    }
}

fn family(json: &Json) -> Result<Family, Problem> {
    let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if model_type.is_empty() {
        return Err(unsupported("config.json names no `model_type`".to_owned()));
    }
    let family = Family::ALL.into_iter().find(|family| family.name() == model_type);
    let family = family.ok_or_else(|| unsupported(format!("the model family `{model_type}` is not supported")))?;
    // A head other than the language model's has no logits to sample from.
    let architectures = json.get("architectures").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = architectures.iter().filter_map(Value::as_str).collect();
    if !names.is_empty() && !names.iter().any(|name| name.ends_with("ForCausalLM")) {
        return Err(unsupported(format!("`{}` is not a causal language model", names.join(", "))));
    }
    Ok(family)
}

fn refuse_what_is_not_computed(json: &Json) -> Result<(), Problem> {
    for key in ["attention_bias", "mlp_bias"] {
        if flag(json, key)? {
            return Err(unsupported(format!("`{key}` is true: linear layers with biases are not supported")));
        }
    }
    match json.get("hidden_act").and_then(Value::as_str) {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(unsupported(format!("the activation `{other}` is not supported, only `silu` is"))),
    }
    if json.get("quantization_config").is_some_and(|config| !config.is_null()) {
        return Err(unsupported("the weights are quantised (`quantization_config`)".to_owned()));
    }
    Ok(())
}

/// Per layer whether it slides. Only Olmo-3 has sliding layers: by `layer_types`, or all but every fourth.
fn sliding_layers(json: &Json, family: Family, num_layers: usize) -> Result<Vec<bool>, Problem> {
    if family != Family::Olmo3 {
        return Ok(vec![false; num_layers]);
    }
    let Some(types) = json.get("layer_types").filter(|types| !types.is_null()) else {
        return Ok((0..num_layers).map(|i| (i + 1) % 4 != 0).collect());
    };
    let types = types.as_array().ok_or_else(|| damaged("`layer_types` is not a list".to_owned()))?;
    if types.len() != num_layers {
        return Err(damaged(format!("`layer_types` names {} layers of {num_layers}", types.len())));
    }
    let slides = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(unsupported(format!("the layer type {kind} is not supported"))),
    };
    types.iter().map(slides).collect()
}

fn eos_ids(json: &Json, generation: Option<&Json>) -> Result<Vec<u32>, Problem> {
    let mut ids = Vec::new();
    for (json, file) in [(Some(json), "config.json"), (generation, "generation_config.json")] {
        let one = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| damaged(format!("`eos_token_id` holds {value}, which is no token id")).at(file))
        };
        match json.and_then(|json| json.get("eos_token_id")) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => ids.extend(list.iter().map(one).collect::<Result<Vec<_>, _>>()?),
            Some(value) => ids.push(one(value)?),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// generation_config.json without what is not about drawing tokens; `None` if nothing is left.
fn sampler_defaults(generation: &Json) -> Option<Value> {
    let foreign = |key: &str| {
        key.starts_with('_') || key.ends_with("_token_id") || ["transformers_version", "use_cache"].contains(&key)
    };
    let kept: Json = generation.iter().filter(|(key, _)| !foreign(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    (!kept.is_empty()).then_some(Value::Object(kept))
}

fn optional_size(json: &Json, key: &str) -> Result<Option<usize>, Problem> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        // No dimension of a model comes near 2³¹; a larger one would only overflow a product later.
        Some(value) => match value.as_u64().filter(|&n| (1..1 << 31).contains(&n)) {
            Some(n) => Ok(Some(n as usize)),
            None => Err(damaged(format!("`{key}` is {value}, not a positive count"))),
        },
    }
}

fn size(json: &Json, key: &str) -> Result<usize, Problem> {
    optional_size(json, key)?.ok_or_else(|| damaged(format!("`{key}` is missing")))
}

fn positive(json: &Json, key: &str) -> Result<Option<f64>, Problem> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|x| x.is_finite() && *x > 0.0) {
            Some(x) => Ok(Some(x)),
            None => Err(damaged(format!("`{key}` is {value}, not a positive number"))),
        },
    }
}

fn flag(json: &Json, key: &str) -> Result<bool, Problem> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(value) => Err(damaged(format!("`{key}` is {value}, neither true nor false"))),
    }
}
