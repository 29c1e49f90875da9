//! Owns what is read from hidden states: sites, axes, spans, projections.
//! Must not know: candle, experiments.

mod readout;
mod site;

pub use readout::{Probe, ProbePlan, ProbeReadout, Readout, SiteVector, Span};
pub use site::{LayerConvention, Site};
