//! Heatmaps: a matrix of tiles colored by value.

mod draw;

use super::canvas::Canvas;
use tiltmeter_model::problem::Problem;

/// The data of the chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heatmap {
    /// Heading, in up to two lines; shortened if it is too long.
    pub title: String,
    /// Name of the column factor.
    pub x_label: String,
    /// Name of the row factor.
    pub y_label: String,
    /// Name and unit of the values, under the heading.
    pub value_label: String,
    /// Names of the rows, from top to bottom.
    pub rows: Vec<String>,
    /// Names of the columns, from left to right.
    pub columns: Vec<String>,
    /// `cells[row][column]`; `None` is hatched, to tell it from a value.
    pub cells: Vec<Vec<Option<Tile>>>,
    /// Whether colors diverge from 0 even if all values are on one side of it.
    pub centred: bool,
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tile {
    pub value: f64,
    /// The value as printed.
    pub text: String,
    /// A second, smaller line, left out where there is no room.
    pub note: String,
}

impl Heatmap {
    /// More tiles would make a picture larger than a page.
    pub const MAX_ROWS: usize = 60;
    pub const MAX_COLUMNS: usize = 40;
}

impl super::Chart for Heatmap {
    /// Errors if there is no value, if there are more rows or columns than a figure holds or not as many cells as they ask for, or if a
    /// value is not finite.
    fn draw(&self) -> Result<Canvas, Problem> {
        let extent = self.check()?;
        Ok(draw::draw(self, extent))
    }
}

impl Heatmap {
    /// The lowest and the highest value.
    fn check(&self) -> Result<(f64, f64), Problem> {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        if rows > Self::MAX_ROWS || columns > Self::MAX_COLUMNS {
            return Err(Problem::new(format!("{rows} × {columns} cells do not fit into one figure")).hint(format!(
                "draw at most {} × {} of them",
                Self::MAX_ROWS,
                Self::MAX_COLUMNS
            )));
        }
        if self.cells.len() != rows || self.cells.iter().any(|row| row.len() != columns) {
            return Err(
                Problem::new(format!("the cells are not {rows} × {columns}")).hint("give one cell per row and column")
            );
        }
        let values = || self.cells.iter().flatten().flatten().map(|tile| tile.value);
        if values().any(|value| !value.is_finite() || value.abs() > 1e300) {
            return Err(Problem::new("a value of the figure is not finite, or too large").hint("leave the cell empty"));
        }
        let (low, high) = (values().reduce(f64::min), values().reduce(f64::max));
        let none = || Problem::new("the figure has no value to draw").hint("check that a run has a value");
        low.zip(high).ok_or_else(none)
    }
}
