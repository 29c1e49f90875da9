//! Rotary position embeddings (Su et al. 2021) and their scalings, as inverse frequencies per pair of dimensions.
//!
//! - Plain: f_i = θ^(-2i/d), i in 0..d/2.
//! - Linear: f_i / s.
//! - Llama 3: f_i where the wavelength 2π/f_i is short, f_i / s where it is long, a linear blend in between (Dubey et al. 2024).
//! - YaRN: a blend of f_i / s and f_i by a ramp between the dimensions that turn β_slow and β_fast times within the original context;
//!   cos and sin are multiplied by the attention factor, 0.1 ln s + 1 by default (Peng et al. 2023).
//!
//! The arithmetic is f32 in the order of transformers' `modeling_rope_utils`, so that angles agree at late positions too.

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
