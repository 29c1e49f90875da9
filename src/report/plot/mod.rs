//! Owns figures: lines with bands, whiskers and traces over turns or numbers, stacked bars of shares, heatmaps; as PNG and as SVG,
//! from one drawing.
//!
//! Must not know: statistics, runs.

/// What a line chart shows.
pub mod chart;

/// What stacked bars show.
pub mod stacked;

/// What a heatmap shows.
pub mod heatmap;

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

/// The drawing of a heatmap.
mod tiles;

pub use chart::{Line, LineChart};
pub use heatmap::{Heatmap, Tile};
pub use stacked::{Bar, StackedBars};
