//! Measurements of hidden states: sites, axes, spans and projections.

mod site;
mod readout;
mod axis;

pub use axis::{Axis, AxisFile, AxisOrigin, AxisStats, SiteAxis};
pub use readout::{Probe, ProbePlan, ProbeReadout, Readout, SiteVector, Span};
pub use site::{LayerConvention, Site};
