//! Owns `RopeSpec`: the three ways a config.json writes rotary embeddings down, and the inverse frequencies they mean.
//!
//! Plain:   f_i = θ^(-2i/d), i in 0..d/2.
//! Linear:  f_i / s.
//! Llama 3: f_i where the wavelength 2π/f_i is short, f_i / s where it is long, a linear blend in between (Dubey et al. 2024).
//! YaRN:    blend of f_i / s and f_i by a ramp between the dimensions that turn β_slow and β_fast times within the original
//!          context; cos and sin are multiplied by the attention factor, 0.1 ln s + 1 by default (Peng et al. 2023).
//!
//! The arithmetic is f32 in the order of transformers' `modeling_rope_utils`, so that angles agree at late positions too.
//! Must not know: weights, devices, tokens.

use serde_json::Value;

use crate::checkpoint::config::{Family, Json, damaged, flag, optional_size, positive, unsupported};
use tiltmeter_model::problem::Problem;

/// Rotary embedding of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// How the frequencies are stretched beyond the context a model was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position: usize,
    },
    Yarn {
        factor: f64,
        original_max_position: usize,
        /// Multiplies cos and sin; the default is already resolved.
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

impl RopeSpec {
    /// Inverse frequencies `[head_dim / 2]` in radians per token, and the factor on cos and sin.
    pub fn frequencies(&self, head_dim: usize) -> (Vec<f32>, f32) {
        let dim = head_dim as f32;
        let theta = self.theta as f32;
        let periods = (0..head_dim / 2).map(|i| theta.powf((2 * i) as f32 / dim));
        match self.scaling {
            RopeScaling::None => (periods.map(|period| 1.0 / period).collect(), 1.0),
            RopeScaling::Linear { factor } => (periods.map(|period| 1.0 / period / factor as f32).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let context = original_max_position as f64;
                let longest = (context / low_freq_factor) as f32;
                let shortest = (context / high_freq_factor) as f32;
                let stretch = |frequency: f32| {
                    let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                    if wavelength > longest {
                        frequency / factor as f32
                    } else if wavelength < shortest {
                        frequency
                    } else {
                        let smooth = (context as f32 / wavelength - low_freq_factor as f32)
                            / (high_freq_factor - low_freq_factor) as f32;
                        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                    }
                };
                (periods.map(|period| stretch(1.0 / period)).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, original_max_position, attention_factor, beta_fast, beta_slow, truncate } => {
                let (low, high) =
                    self.correction_range(head_dim, original_max_position, [beta_fast, beta_slow], truncate);
                let blend = |(i, period): (usize, f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    1.0 / (factor as f32 * period) * (1.0 - kept) + 1.0 / period * kept
                };
                (periods.enumerate().map(blend).collect(), attention_factor as f32)
            }
        }
    }

    /// The dimensions between which YaRN's ramp rises.
    fn correction_range(&self, head_dim: usize, context: usize, betas: [f64; 2], truncate: bool) -> (f64, f64) {
        let dim = head_dim as f64;
        let dimension_turning = |rotations: f64| {
            dim * (context as f64 / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln())
        };
        let [mut low, mut high] = betas.map(dimension_turning);
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // A ramp of no width would divide by zero.
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

/// The rotary embeddings of full-attention and of sliding layers, `[full, sliding]`.
///
/// Three forms are read: `rope_theta` + `rope_scaling`; a flat `rope_parameters`; a `rope_parameters` nested per layer type.
/// Where one form says it for all layers, Olmo-3's sliding layers keep plain frequencies of the same theta.
pub(super) fn parse(json: &Json, family: Family, max_positions: usize) -> Result<[RopeSpec; 2], Problem> {
    let parameters = object(json, "rope_parameters")?;
    let scaling = object(json, "rope_scaling")?;
    let legacy_theta = positive(json, "rope_theta")?;
    let empty = Json::new();
    let is_nested =
        |parameters: &Json| ["full_attention", "sliding_attention"].iter().any(|k| parameters.contains_key(*k));
    let (full, sliding) = match parameters.filter(|parameters| is_nested(parameters)) {
        Some(nested) => (object(nested, "full_attention")?, object(nested, "sliding_attention")?),
        None => (parameters, None),
    };
    // As in transformers, an old `rope_scaling` beside `rope_parameters` has the last word on the full layers.
    let full_kind = scaling.or(full).unwrap_or(&empty);
    let theta_of = |source: &Json| positive(source, "rope_theta");
    let full_theta = match (theta_of(full_kind)?, theta_of(full.unwrap_or(&empty))?) {
        (Some(theta), _) | (None, Some(theta)) => theta,
        (None, None) => legacy_theta.unwrap_or(family.default_theta()),
    };
    if full_theta <= 1.0 {
        return Err(damaged(format!("`rope_theta` is {full_theta}, but only a theta above 1 turns")));
    }
    let context = Context { json, max_positions };
    let full_spec = RopeSpec { theta: full_theta, scaling: context.scaling(full_kind)? };
    let sliding_spec = match sliding {
        Some(own) => {
            RopeSpec { theta: theta_of(own)?.or(legacy_theta).unwrap_or(full_theta), scaling: context.scaling(own)? }
        }
        None if family == Family::Olmo3 => RopeSpec { theta: full_theta, scaling: RopeScaling::None },
        None => full_spec,
    };
    Ok([full_spec, sliding_spec])
}

fn object<'a>(json: &'a Json, key: &str) -> Result<Option<&'a Json>, Problem> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(damaged(format!("`{key}` is not an object"))),
    }
}

/// What of the whole config.json a scaling falls back to.
struct Context<'a> {
    json: &'a Json,
    max_positions: usize,
}

impl Context<'_> {
    fn scaling(&self, json: &Json) -> Result<RopeScaling, Problem> {
        for source in [self.json, json] {
            if positive(source, "partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
                return Err(unsupported("rotary embeddings on a part of each head are not supported".to_owned()));
            }
        }
        let kind = json.get("rope_type").or_else(|| json.get("type")).and_then(Value::as_str).unwrap_or("default");
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
            other => Err(unsupported(format!(
                "the RoPE type `{other}` is not supported, only default, linear, llama3 and yarn are"
            ))),
        }
    }

    fn yarn(&self, json: &Json) -> Result<RopeScaling, Problem> {
        let original_max_position = self.original_max_position(json)?;
        let factor = positive(json, "factor")?.unwrap_or(self.max_positions as f64 / original_max_position as f64);
        let mscale_of = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let attention_factor = match (positive(json, "attention_factor")?, weight(json, "mscale")?) {
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
            beta_fast: positive(json, "beta_fast")?.unwrap_or(32.0),
            beta_slow: positive(json, "beta_slow")?.unwrap_or(1.0),
            truncate: if json.contains_key("truncate") { flag(json, "truncate")? } else { true },
        })
    }

    fn original_max_position(&self, json: &Json) -> Result<usize, Problem> {
        let key = "original_max_position_embeddings";
        let named = optional_size(json, key)?.or(optional_size(self.json, key)?);
        Ok(named.unwrap_or(self.max_positions))
    }
}

/// A weight whose 0 means "not given".
fn weight(json: &Json, key: &str) -> Result<Option<f64>, Problem> {
    if json.get(key).and_then(Value::as_f64) == Some(0.0) { Ok(None) } else { positive(json, key) }
}

fn need(json: &Json, kind: &str, key: &str) -> Result<f64, Problem> {
    positive(json, key)?.ok_or_else(|| damaged(format!("the RoPE type `{kind}` needs `{key}`")))
}
