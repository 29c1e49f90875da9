//! Owns the data of stacked bars and their two outputs.
//!
//! Must not know: what is counted, how it is drawn.

use super::bars;
use tiltmeter_model::problem::Problem;

/// One horizontal bar a group, cut into the shares of its categories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackedBars {
    /// Heading, in up to two lines; shortened if it is too long.
    pub title: String,
    /// Label of the horizontal axis, which goes from 0 to 100 %.
    pub x_label: String,
    /// Names of the categories, in the order of the segments and of the legend.
    pub categories: Vec<String>,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// Its name, beside the bar; wrapped, then shortened if it is too long.
    pub label: String,
    /// One count per category. A bar of nothing but zeros is drawn as an empty frame.
    pub counts: Vec<u64>,
}

impl StackedBars {
    /// More would make a picture that no page takes.
    pub const MOST_BARS: usize = 120;

    /// The bars as PNG, 1600 pixels wide and as high as they need. Errors as `svg`.
    pub fn png(&self) -> Result<Vec<u8>, Problem> {
        self.check()?;
        bars::draw(self).png()
    }

    /// The bars as a self-contained SVG document that looks the same as the PNG. Errors if there is no bar or no category,
    /// if there are more bars than a figure holds, or if a bar's counts are not one per category.
    pub fn svg(&self) -> Result<String, Problem> {
        self.check()?;
        Ok(bars::draw(self).svg())
    }

    fn check(&self) -> Result<(), Problem> {
        if self.bars.is_empty() || self.categories.is_empty() {
            return Err(Problem::new("the figure has no bar to draw").hint("give at least one group and one category"));
        }
        if self.bars.len() > Self::MOST_BARS {
            return Err(Problem::new(format!("{} bars do not fit into one figure", self.bars.len()))
                .hint(format!("draw at most {} of them", Self::MOST_BARS)));
        }
        for bar in &self.bars {
            if bar.counts.len() != self.categories.len() {
                return Err(Problem::new(format!(
                    "bar `{}` has {} counts for {} categories",
                    bar.label,
                    bar.counts.len(),
                    self.categories.len()
                ))
                .hint("give one count per category"));
            }
        }
        Ok(())
    }
}
