//! Owns what is asked of a forward pass (`ProbePlan`) and what comes back (`Readout`): the projection
//! `p = mean over the span of h_t · a/‖a‖`, per token in f32, the mean over the tokens of the span (never a mean of chunk means).
//! Must not know: candle, experiments.

use serde::{Deserialize, Serialize};

use super::Site;

/// Which tokens of a turn are measured. Spans come from the token ids that were generated, never from re-tokenised text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Span {
    /// The sampled tokens without the stop token.
    #[default]
    #[serde(rename = "content")]
    Content,
    /// The sampled tokens and the stop token that ended them.
    #[serde(rename = "content+stop")]
    ContentAndStop,
    /// The first k sampled tokens.
    #[serde(rename = "first_k")]
    FirstK(usize),
    /// The tokens this turn adds to the prompt: all that stands between the previous reply and this one.
    #[serde(rename = "prompt")]
    Prompt,
    /// The text of this turn's user message.
    #[serde(rename = "user")]
    User,
}

/// One direction at one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Name of the axis.
    pub name: String,
    pub site: Site,
    /// Unit direction, `[hidden_size]`.
    pub unit: Vec<f32>,
}

/// What to read in the pass that generates: several axes at several sites at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbePlan {
    pub probes: Vec<Probe>,
    pub span: Span,
    /// Sites whose mean vector over the span is kept, so that a new axis needs no second run.
    pub vectors: Vec<Site>,
}

/// The projections of one turn on one probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReadout {
    pub name: String,
    pub site: Site,
    /// Mean over the span; NaN is impossible: an empty span has no readout.
    pub mean: f32,
    /// One projection per token of the span, in order.
    pub per_token: Vec<f32>,
}

/// The mean hidden state of a turn's span at a site, `[hidden_size]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteVector {
    pub site: Site,
    pub mean: Vec<f32>,
}

/// What one turn's span gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readout {
    /// Tokens in the span; 0 leaves `projections` and `vectors` empty.
    pub measured_tokens: usize,
    pub projections: Vec<ProbeReadout>,
    pub vectors: Vec<SiteVector>,
}
