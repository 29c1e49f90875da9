//! Owns the data of a line chart and its two outputs.
//!
//! Must not know: what the lines mean, how they are drawn.

use super::lines;
use tiltmeter_model::problem::Problem;

/// Lines over whole-numbered positions (turns), counted from 1, or over numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// Heading, in up to two lines; shortened if it is too long.
    pub title: String,
    /// Label of the horizontal axis.
    pub x_label: String,
    /// Label of the vertical axis, unit included.
    pub y_label: String,
    /// Numbers on the horizontal axis, upwards, to which the values of every line belong; empty for turns 1, 2, ...
    pub positions: Vec<f64>,
    /// The lines, in the legend's order. Those with whiskers, and those that would cover each other, are drawn a little apart.
    pub series: Vec<Line>,
}

/// One line with its band, whiskers and traces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Name in the legend; shortened in the middle if it is too long.
    pub label: String,
    /// The line, per turn; it is broken where there is no value.
    pub mean: Vec<Option<f64>>,
    /// Half-width of the band (a standard error), per turn; may be empty.
    pub band: Vec<Option<f64>>,
    /// Half-length of a whisker, per turn; may be empty.
    pub whiskers: Vec<Option<f64>>,
    /// Single courses behind the line, thin and translucent.
    pub traces: Vec<Vec<Option<f64>>>,
    /// A dashed grey line, for what is shown for orientation only.
    pub dashed: bool,
}

impl LineChart {
    /// The chart as PNG, 1600 x 1000 pixels. Errors as `svg`.
    pub fn png(&self) -> Result<Vec<u8>, Problem> {
        self.check()?;
        lines::draw(self)?.png()
    }

    /// The chart as a self-contained SVG document that looks the same as the PNG. Errors if there is nothing to draw or
    /// a number is not finite.
    pub fn svg(&self) -> Result<String, Problem> {
        self.check()?;
        Ok(lines::draw(self)?.svg())
    }

    /// Number of positions on the horizontal axis.
    pub(super) fn turns(&self) -> usize {
        let longest = |line: &Line| line.traces.iter().map(Vec::len).max().unwrap_or(0).max(line.mean.len());
        self.series.iter().map(longest).max().unwrap_or(0)
    }

    /// Every value that has to be inside the frame.
    pub(super) fn extent(&self) -> Option<(f64, f64)> {
        let mut extent: Option<(f64, f64)> = None;
        let mut include = |y: f64| extent = Some(extent.map_or((y, y), |(low, high)| (low.min(y), high.max(y))));
        for line in &self.series {
            for (turn, mean) in line.mean.iter().enumerate() {
                let half = |of: &[Option<f64>]| of.get(turn).copied().flatten().unwrap_or(0.0);
                let half = half(&line.band).max(half(&line.whiskers));
                if let Some(mean) = mean {
                    include(mean - half);
                    include(mean + half);
                }
            }
            line.traces.iter().flatten().flatten().for_each(|&y| include(y));
        }
        extent
    }

    fn check(&self) -> Result<(), Problem> {
        for line in &self.series {
            let numbers = line.mean.iter().chain(&line.band).chain(&line.whiskers).chain(line.traces.iter().flatten());
            let numbers = numbers.flatten();
            if numbers.into_iter().any(|y: &f64| !y.is_finite()) {
                return Err(Problem::new(format!("line `{}` holds a number that is not finite", line.label))
                    .hint("leave a gap where there is no value"));
            }
        }
        let apart = |pair: &[f64]| pair[0] < pair[1] && (pair[1] - pair[0]).is_finite();
        let numbers = self.positions.iter().all(|x| x.is_finite()) && self.positions.windows(2).all(apart);
        if !numbers || (!self.positions.is_empty() && self.turns() > self.positions.len()) {
            return Err(Problem::new("the numbers on the horizontal axis do not go upwards, one for every value")
                .hint("give each value of a line its own number, the smallest first"));
        }
        match self.extent() {
            None => Err(Problem::new("the figure has no value to draw").hint("check that the runs have measurements")),
            Some((low, high)) if !(high - low).is_finite() || low.abs().max(high.abs()) > 1e300 => {
                Err(Problem::new(format!("values from {low:e} to {high:e} cannot be drawn")))
            }
            Some(_) => Ok(()),
        }
    }
}
