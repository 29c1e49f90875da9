//! Owns the data of a heatmap and its two outputs.
//!
//! Must not know: what is measured, how it is drawn.

use super::tiles;
use tiltmeter_model::problem::Problem;

/// A matrix of tiles, coloured by value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heatmap {
    /// Heading, in up to two lines; shortened if it is too long.
    pub title: String,
    /// What the columns are.
    pub x_label: String,
    /// What the rows are.
    pub y_label: String,
    /// What the values are; under the heading.
    pub value_label: String,
    /// Names of the rows, from top to bottom.
    pub rows: Vec<String>,
    /// Names of the columns, from left to right.
    pub columns: Vec<String>,
    /// `cells[row][column]`; `None` is hatched, so that it is not taken for a value.
    pub cells: Vec<Vec<Option<Tile>>>,
    /// Whether colours part at 0 even where all values are on one side of it.
    pub centred: bool,
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tile {
    pub value: f64,
    /// The value as it is printed.
    pub text: String,
    /// A second, smaller line, left out where there is no room.
    pub note: String,
}

impl Heatmap {
    /// More would make a picture that no page takes.
    pub const MOST_ROWS: usize = 60;
    pub const MOST_COLUMNS: usize = 40;

    /// The map as PNG, 1600 pixels wide and as high as it needs. Errors as `svg`.
    pub fn png(&self) -> Result<Vec<u8>, Problem> {
        tiles::draw(self, self.check()?).png()
    }

    /// The map as a self-contained SVG document that looks the same as the PNG. Errors if there is no value, if there are more rows or
    /// columns than a figure holds or not as many cells as they ask for, or if a value is not finite.
    pub fn svg(&self) -> Result<String, Problem> {
        Ok(tiles::draw(self, self.check()?).svg())
    }

    /// The lowest and the highest value.
    fn check(&self) -> Result<(f64, f64), Problem> {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        if rows > Self::MOST_ROWS || columns > Self::MOST_COLUMNS {
            return Err(Problem::new(format!("{rows} × {columns} cells do not fit into one figure")).hint(format!(
                "draw at most {} × {} of them",
                Self::MOST_ROWS,
                Self::MOST_COLUMNS
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
