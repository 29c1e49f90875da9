//! Model families: one file each turns a config.json into an [`ArchSpec`] and names its tensors. A new family is a file and a row of
//! [`FAMILIES`].

mod decoder;
mod llama;
mod olmo2;
mod olmo3;
mod qwen3;
mod rope;

use serde_json::Value;

use crate::{checkpoint::config::ConfigJson, spec::ArchSpec};
use tiltmeter_model::problem::Problem;

type Family = (&'static str, fn(&ConfigJson) -> Result<ArchSpec, Problem>);

/// The `model_type` of config.json and what reads it.
const FAMILIES: &[Family] =
    &[("olmo3", olmo3::spec), ("olmo2", olmo2::spec), ("llama", llama::spec), ("qwen3", qwen3::spec)];

/// What a checkpoint's config.json and generation_config.json say.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The `model_type` of config.json.
    pub family: &'static str,
    pub arch: ArchSpec,
    /// End-of-sequence ids of config.json and generation_config.json together, ascending.
    pub eos_ids: Vec<u32>,
    /// generation_config.json without its token ids; recorded, never applied.
    pub sampler_defaults: Option<Value>,
}

impl ModelConfig {
    /// Reads the texts of config.json and generation_config.json.
    ///
    /// # Errors
    /// Malformed JSON, missing or contradictory sizes, and everything that no family computes.
    pub fn parse(config: &str, generation: Option<&str>) -> Result<Self, Problem> {
        const GENERATION: &str = "generation_config.json";
        let json = ConfigJson::parse(config, "config.json")?;
        let generation = generation.map(|text| ConfigJson::parse(text, GENERATION)).transpose()?;
        let at = |problem: Problem| if problem.place.is_some() { problem } else { problem.at("config.json") };
        let (family, arch) = architecture(&json).map_err(at).map_err(name_the_families)?;
        let mut eos_ids = json.eos_ids().map_err(at)?;
        if let Some(generation) = &generation {
            eos_ids.extend(generation.eos_ids().map_err(|problem| problem.at(GENERATION))?);
        }
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let sampler_defaults = generation.and_then(|generation| generation.sampling_parameters());
        Ok(Self { family, arch, eos_ids, sampler_defaults })
    }

    /// Ids that end a reply: the eos ids and the template's turn ends (`spans::turn_ends`), ascending.
    pub fn stop_ids(&self, turn_ends: &[u32]) -> Vec<u32> {
        let mut ids: Vec<u32> = self.eos_ids.iter().chain(turn_ends).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn architecture(json: &ConfigJson) -> Result<(&'static str, ArchSpec), Problem> {
    let model_type = json.text("model_type").unwrap_or_default();
    if model_type.is_empty() {
        return Err(Problem::new("config.json names no `model_type`"));
    }
    let Some((name, spec)) = FAMILIES.iter().find(|(name, _)| *name == model_type) else {
        return Err(Problem::new(format!("the model family `{model_type}` is not supported")));
    };
    // Another head than the language model's gives no logits to sample from.
    let architectures = json.get("architectures").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let classes: Vec<&str> = architectures.iter().filter_map(Value::as_str).collect();
    if !classes.is_empty() && !classes.iter().any(|class| class.ends_with("ForCausalLM")) {
        return Err(Problem::new(format!("`{}` is not a causal language model", classes.join(", "))));
    }
    if json.get("quantization_config").is_some() {
        return Err(Problem::new("the weights are quantised (`quantization_config`)"));
    }
    Ok((*name, spec(json)?))
}

/// The default hint of a refusal.
fn name_the_families(problem: Problem) -> Problem {
    if problem.hint.is_some() {
        return problem;
    }
    let families: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
    problem.hint(format!("supported are unquantised checkpoints of the families {}", families.join(", ")))
}
