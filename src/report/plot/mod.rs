//! Figures: line charts with bands, whiskers and traces, stacked bars of shares, heatmaps.
//!
//! Each chart is drawn once, as a list of primitives (`canvas`); `svg` writes that list as SVG, with text as text, and `raster` paints it
//! as PNG.

mod canvas;
mod color;
mod font;
mod heatmap;
mod layout;
mod legend;
mod line_chart;
mod raster;
mod scale;
mod stacked_bars;
mod svg;

pub use canvas::Canvas;
pub use heatmap::{Heatmap, Tile};
pub use line_chart::{Line, LineChart};
pub use stacked_bars::{Bar, StackedBars};

use tiltmeter_model::problem::Problem;

/// A figure of any type. PNG and SVG show the same primitives.
pub trait Chart {
    /// Checks the chart and draws it. Errors if there is nothing to draw, if a number is not finite, or if its parts do not fit
    /// together.
    fn draw(&self) -> Result<Canvas, Problem>;

    /// The chart as PNG, 1600 pixels wide. Errors as `draw`.
    fn png(&self) -> Result<Vec<u8>, Problem> {
        raster::png(&self.draw()?)
    }

    /// The chart as a self-contained SVG document. Errors as `draw`.
    fn svg(&self) -> Result<String, Problem> {
        Ok(svg::document(&self.draw()?))
    }
}
