//! The figures of a response: lines against the numeric factor, a heatmap over two labels.

use super::Response;
use super::analysis::{ResponseAnalysis, ResponseLine, RunsMean};
use crate::numbers::fixed;
use crate::plot::{Chart, Heatmap, Line, LineChart, Tile};
use tiltmeter_model::problem::Problem;

/// A figure, whichever it is.
pub enum ResponseFigure {
    Lines(LineChart),
    Tiles(Heatmap),
}

impl ResponseFigure {
    /// As PNG. Errors as those of what it holds.
    pub fn png(&self) -> Result<Vec<u8>, Problem> {
        match self {
            Self::Lines(chart) => chart.png(),
            Self::Tiles(map) => map.png(),
        }
    }

    /// As SVG. Errors as those of what it holds.
    pub fn svg(&self) -> Result<String, Problem> {
        match self {
            Self::Lines(chart) => chart.svg(),
            Self::Tiles(map) => map.svg(),
        }
    }
}

/// The figures that there are, in the order of the section, each with a name for its file.
pub fn response_figures(response: &Response, analysis: &ResponseAnalysis) -> Vec<(String, ResponseFigure)> {
    let lines = response_chart(response, analysis).map(|chart| (response.metric.clone(), ResponseFigure::Lines(chart)));
    let tiles =
        heatmap(response, analysis).map(|map| (format!("{}_heatmap", response.metric), ResponseFigure::Tiles(map)));
    lines.into_iter().chain(tiles).collect()
}

/// The mean of all runs with its interval as a band, and of the runs of each label with whiskers. `None` if there is no mean.
pub fn response_chart(response: &Response, analysis: &ResponseAnalysis) -> Option<LineChart> {
    let against = response.against.as_ref()?;
    let all = analysis.lines.first()?;
    all.levels.iter().find(|at| at.runs.n > 0)?;
    let half = |runs: &RunsMean| runs.ci95.map(|[low, high]| (high - low) / 2.0);
    let line = |line: &ResponseLine| {
        let halves = line.levels.iter().map(|at| half(&at.runs)).collect();
        let runs: usize = line.levels.iter().map(|at| at.runs.n).sum();
        let (label, band, whiskers) = match &line.label {
            None => ("all runs", halves, Vec::new()),
            Some(label) => (label.as_str(), Vec::new(), halves),
        };
        Line {
            label: format!("{label} (n = {runs})"),
            mean: line.levels.iter().map(|at| at.runs.mean).collect(),
            band,
            whiskers,
            ..Line::default()
        }
    };
    Some(LineChart {
        title: response.title.clone(),
        x_label: against.title.clone(),
        y_label: format!("{} (mean, 95 % interval)", response.unit),
        positions: all.levels.iter().map(|at| at.level).collect(),
        series: analysis.lines.iter().map(line).collect(),
    })
}

/// Means as tiles. More than a figure holds are left out of it, which its title says. `None` if there is no mean.
pub fn heatmap(response: &Response, analysis: &ResponseAnalysis) -> Option<Heatmap> {
    let (rows, columns, table) = (response.rows.as_ref()?, response.columns.as_ref()?, analysis.table.as_ref()?);
    let (down, across) = (table.rows.len(), table.columns.len());
    let (most_down, most_across) = (down.min(Heatmap::MAX_ROWS), across.min(Heatmap::MAX_COLUMNS));
    let shown = || table.cells.iter().take(most_down).map(|row| &row[..most_across]);
    let means = || shown().flatten().filter_map(|runs| runs.mean);
    let largest = means().map(f64::abs).reduce(f64::max)?;
    let digits = if largest > 0.0 { (2.0 - largest.log10().floor()).clamp(0.0, 6.0) as usize } else { 1 };
    let tile = |runs: &RunsMean| {
        let value = runs.mean?;
        // A mean that rounds to nothing has no sign.
        let text = fixed(Some(value), digits);
        let nothing = text.chars().all(|c| "−0.".contains(c));
        let text = if nothing { text.replace('−', "") } else { text };
        Some(Tile { value, text, note: format!("n = {}", runs.n) })
    };
    let title = &response.title;
    Some(Heatmap {
        title: match (most_down, most_across) == (down, across) {
            true => title.clone(),
            false => format!("{title} (the first {most_down} × {most_across} of {down} × {across})"),
        },
        x_label: columns.title.clone(),
        y_label: rows.title.clone(),
        value_label: format!("{} (mean)", response.unit),
        rows: table.rows[..most_down].to_vec(),
        columns: table.columns[..most_across].to_vec(),
        cells: shown().map(|row| row.iter().map(tile).collect()).collect(),
        centred: response.centred,
    })
}
