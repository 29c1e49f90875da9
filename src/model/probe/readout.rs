//! What to measure in a forward pass ([`ProbePlan`]) and the result ([`Readout`]): the projection `p = mean_t(h_t · a/‖a‖)` over the tokens
//! `t` of a span, per token in f32. The mean is taken over all tokens at once, never over chunk means.

use serde::{Deserialize, Serialize};

use super::site::Site;

/// The tokens of a turn to measure, identified by the generated token ids and never by re-tokenised text.
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
    /// The tokens this turn adds to the prompt: everything between the previous reply and this one.
    #[serde(rename = "prompt")]
    Prompt,
    /// The content of this turn's user message.
    #[serde(rename = "user")]
    User,
}

/// One direction at one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Name of the axis.
    pub name: String,
    /// Where it is measured.
    pub site: Site,
    /// Unit direction, `[hidden_size]`.
    pub unit: Vec<f32>,
}

/// What to measure while generating: any number of axes and sites.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbePlan {
    /// Directions to project on.
    pub probes: Vec<Probe>,
    /// Tokens to measure.
    pub span: Span,
    /// Sites whose mean vector over the span is recorded, so that a later axis needs no new run.
    pub vectors: Vec<Site>,
}

/// The projections of one turn on one probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReadout {
    /// Name of the axis.
    pub name: String,
    /// Where it was measured.
    pub site: Site,
    /// Mean over the span. Never NaN: an empty span has no projections.
    pub mean: f32,
    /// One projection per token of the span, in order.
    pub per_token: Vec<f32>,
}

/// The mean hidden state of a turn's span at a site, `[hidden_size]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteVector {
    /// Where it was measured.
    pub site: Site,
    /// Mean over the tokens of the span, f32.
    pub mean: Vec<f32>,
}

/// The measurements of one turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readout {
    /// Tokens in the span; if 0, `projections` and `vectors` are empty.
    pub measured_tokens: usize,
    /// One entry per probe, in the order of the plan.
    pub projections: Vec<ProbeReadout>,
    /// One entry per site of `ProbePlan::vectors`.
    pub vectors: Vec<SiteVector>,
}
