//! Line charts: mean lines with bands, whiskers and traces, over turns or over numbers.

mod draw;

use super::canvas::Canvas;
use tiltmeter_model::problem::Problem;

/// Lines over turns, counted from 1, or over numeric positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// Heading, in up to two lines; shortened if it is too long.
    pub title: String,
    /// Label of the horizontal axis.
    pub x_label: String,
    /// Label of the vertical axis, unit included.
    pub y_label: String,
    /// Position of each value on the horizontal axis, ascending, shared by all lines; empty for turns 1, 2, ...
    pub positions: Vec<f64>,
    /// The lines, in the legend's order. Lines with whiskers, and lines that would cover each other, are drawn a few pixels apart.
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
    /// Individual samples behind the line, thin and translucent.
    pub traces: Vec<Vec<Option<f64>>>,
    /// Whether the line is dashed and gray: for orientation only.
    pub dashed: bool,
}

impl super::Chart for LineChart {
    /// Errors if there is nothing to draw, if a number is not finite, or if the positions do not ascend, one for every value.
    fn draw(&self) -> Result<Canvas, Problem> {
        let extent = self.check()?;
        Ok(draw::draw(self, extent))
    }
}

impl LineChart {
    /// Number of positions on the horizontal axis.
    fn turns(&self) -> usize {
        let longest = |line: &Line| line.traces.iter().map(Vec::len).max().unwrap_or(0).max(line.mean.len());
        self.series.iter().map(longest).max().unwrap_or(0)
    }

    /// The lowest and the highest value that has to be inside the frame.
    fn extent(&self) -> Option<(f64, f64)> {
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

    /// The extent, if everything can be drawn.
    fn check(&self) -> Result<(f64, f64), Problem> {
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
            return Err(Problem::new("the positions on the horizontal axis do not go upwards, one for every value")
                .hint("give one position per value, in ascending order"));
        }
        match self.extent() {
            None => Err(Problem::new("the figure has no value to draw").hint("check that the runs have measurements")),
            Some((low, high)) if !(high - low).is_finite() || low.abs().max(high.abs()) > 1e300 => {
                Err(Problem::new(format!("values from {low:e} to {high:e} cannot be drawn")))
            }
            Some(extent) => Ok(extent),
        }
    }
}
