//! Owns figures: lines with bands and traces over turns, as PNG and as SVG, from one drawing.
//!
//! Must not know: statistics, runs.

/// What a line chart shows.
pub mod chart;

/// Ranges and ticks.
mod scale;

/// Colours and markers that stay apart without colour vision.
mod palette;

/// The bundled typeface.
mod font;

/// The surface that a figure is drawn on, once for PNG and once for SVG.
mod canvas;

/// The drawing of a line chart.
mod lines;

pub use chart::{Line, LineChart};
