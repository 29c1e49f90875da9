//! Owns figures: lines with bands and traces over turns, stacked bars of shares; as PNG and as SVG, from one drawing.
//!
//! Must not know: statistics, runs.

/// What a line chart shows.
pub mod chart;

/// What stacked bars show.
pub mod stacked;

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

/// The drawing of stacked bars.
mod bars;

pub use chart::{Line, LineChart};
pub use stacked::{Bar, StackedBars};
