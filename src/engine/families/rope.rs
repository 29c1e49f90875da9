//! Reads the rotary embeddings of a config.json.

use crate::{
    checkpoint::config::{ConfigJson, damaged},
    spec::{RopeScaling, RopeSpec},
};
use tiltmeter_model::problem::Problem;

/// The rotary embeddings of full-attention layers, and those of sliding layers where these have parameters of their own.
///
/// Three forms are read: `rope_theta` + `rope_scaling`; a flat `rope_parameters`; a `rope_parameters` nested per layer type.
pub fn parse(
    json: &ConfigJson,
    default_theta: f64,
    default_positions: usize,
) -> Result<(RopeSpec, Option<RopeSpec>), Problem> {
    let parameters = json.object("rope_parameters")?;
    let legacy_scaling = json.object("rope_scaling")?;
    let legacy_theta = json.optional_positive("rope_theta")?;
    let is_nested = |parameters: &ConfigJson| parameters.has("full_attention") || parameters.has("sliding_attention");
    let (full, sliding) = match parameters {
        Some(nested) if is_nested(&nested) => (nested.object("full_attention")?, nested.object("sliding_attention")?),
        flat => (flat, None),
    };
    let full = full.unwrap_or_default();
    // As in transformers, an old `rope_scaling` beside `rope_parameters` has the last word on the full layers.
    let source = legacy_scaling.unwrap_or_else(|| full.clone());
    let theta_of = |source: &ConfigJson| source.optional_positive("rope_theta");
    let theta = theta_of(&source)?.or(theta_of(&full)?).or(legacy_theta).unwrap_or(default_theta);
    if !(theta > 1.0 && theta <= MAX_THETA) {
        return Err(damaged(format!("`rope_theta` is {theta}; models have one between 1 and {MAX_THETA:e}")));
    }
    let context = Context { json, max_positions: unscaled_positions(json, default_positions)? };
    let full = RopeSpec { theta, scaling: context.scaling(&source)? };
    let sliding = match sliding {
        Some(own) => {
            let theta = theta_of(&own)?.or(legacy_theta).unwrap_or(theta);
            Some(RopeSpec { theta, scaling: context.scaling(&own)? })
        }
        None => None,
    };
    Ok((full, sliding))
}

/// The context length: where a linear or YaRN scaling names its factor, the factor times the length before scaling, as in vLLM.
pub fn max_positions(json: &ConfigJson, default: usize) -> Result<usize, Problem> {
    let unscaled = unscaled_positions(json, default)?;
    let parameters = json.object("rope_parameters")?.unwrap_or_default();
    let full = parameters.object("full_attention")?.unwrap_or(parameters);
    let source = json.object("rope_scaling")?.unwrap_or(full);
    let original = source.optional_size("original_max_position_embeddings")?;
    let base = match source.text("rope_type").or_else(|| source.text("type")) {
        Some("linear") => original.unwrap_or(unscaled),
        Some("yarn") => match original {
            Some(original) => original,
            None => return Ok(unscaled),
        },
        _ => return Ok(unscaled),
    };
    match source.optional_positive("factor")? {
        Some(factor) if (1.0..=MAX_FACTOR).contains(&factor) => Ok((base as f64 * factor) as usize),
        Some(factor) => Err(damaged(format!("the RoPE `factor` is {factor}; it lies between 1 and {MAX_FACTOR}"))),
        None => Ok(unscaled),
    }
}

/// `max_sequence_length` is the name of older configurations.
fn unscaled_positions(json: &ConfigJson, default: usize) -> Result<usize, Problem> {
    let named = json.optional_size("max_position_embeddings")?.or(json.optional_size("max_sequence_length")?);
    Ok(named.unwrap_or(default))
}

/// The largest of a published model is 5e8.
const MAX_THETA: f64 = 1e12;
const MAX_FACTOR: f64 = 4096.0;

/// The whole configuration, which a scaling falls back to.
struct Context<'a> {
    json: &'a ConfigJson,
    max_positions: usize,
}

impl Context<'_> {
    fn scaling(&self, json: &ConfigJson) -> Result<RopeScaling, Problem> {
        for source in [self.json, json] {
            if source.optional_positive("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
                return Err(Problem::new("rotary embeddings on a part of each head are not supported"));
            }
        }
        let kind = json.text("rope_type").or_else(|| json.text("type")).unwrap_or("default");
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: need(json, kind, "factor")? }),
            "llama3" => {
                let low_freq_factor = need(json, kind, "low_freq_factor")?;
                let high_freq_factor = need(json, kind, "high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    return Err(damaged(format!(
                        "`high_freq_factor` {high_freq_factor} must be above `low_freq_factor` {low_freq_factor}"
                    )));
                }
                let factor = need(json, kind, "factor")?;
                let original_max_position = self.original_max_position(json)?;
                Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position })
            }
            "yarn" => self.yarn(json),
            other => Err(Problem::new(format!(
                "the RoPE type `{other}` is not supported, only default, linear, llama3 and yarn are"
            ))),
        }
    }

    fn yarn(&self, json: &ConfigJson) -> Result<RopeScaling, Problem> {
        let original_max_position = self.original_max_position(json)?;
        let factor =
            json.optional_positive("factor")?.unwrap_or(self.max_positions as f64 / original_max_position as f64);
        let mscale_of = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let attention_factor = match (json.optional_positive("attention_factor")?, weight(json, "mscale")?) {
            (Some(given), _) => given,
            (None, Some(mscale)) => match weight(json, "mscale_all_dim")? {
                Some(all_dim) => mscale_of(mscale) / mscale_of(all_dim),
                None => mscale_of(1.0),
            },
            (None, None) => mscale_of(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position,
            attention_factor,
            beta_fast: json.optional_positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: json.optional_positive("beta_slow")?.unwrap_or(1.0),
            truncate: if json.has("truncate") { json.flag("truncate")? } else { true },
        })
    }

    fn original_max_position(&self, json: &ConfigJson) -> Result<usize, Problem> {
        let key = "original_max_position_embeddings";
        let named = json.optional_size(key)?.or(self.json.optional_size(key)?);
        Ok(named.unwrap_or(self.max_positions))
    }
}

/// A weight whose 0 means "not given".
fn weight(json: &ConfigJson, key: &str) -> Result<Option<f64>, Problem> {
    if json.get(key).and_then(serde_json::Value::as_f64) == Some(0.0) { Ok(None) } else { json.optional_positive(key) }
}

fn need(json: &ConfigJson, kind: &str, key: &str) -> Result<f64, Problem> {
    json.optional_positive(key)?.ok_or_else(|| damaged(format!("the RoPE type `{kind}` needs `{key}`")))
}
