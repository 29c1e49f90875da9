//! Stacked bars: one horizontal bar per group, cut into the shares of its categories.

mod draw;

use super::canvas::Canvas;
use tiltmeter_model::problem::Problem;

/// The data of the chart.
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
    /// Name beside the bar; wrapped, then shortened if it is too long.
    pub label: String,
    /// One count per category. A bar of zeros is drawn as an empty frame.
    pub counts: Vec<u64>,
}

impl StackedBars {
    /// More bars would make a picture longer than a page.
    pub const MAX_BARS: usize = 120;
}

impl super::Chart for StackedBars {
    /// Errors if there is no bar or no category, if there are more bars than a figure holds, or if a bar's counts are not one per
    /// category.
    fn draw(&self) -> Result<Canvas, Problem> {
        self.check()?;
        Ok(draw::draw(self))
    }
}

impl StackedBars {
    fn check(&self) -> Result<(), Problem> {
        if self.bars.is_empty() || self.categories.is_empty() {
            return Err(Problem::new("the figure has no bar to draw").hint("give at least one group and one category"));
        }
        if self.bars.len() > Self::MAX_BARS {
            return Err(Problem::new(format!("{} bars do not fit into one figure", self.bars.len()))
                .hint(format!("draw at most {} of them", Self::MAX_BARS)));
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
