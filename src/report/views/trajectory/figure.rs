//! The figure of a trajectory.

use super::Comparison;
use super::analysis::Analysis;
use crate::plot::{Line, LineChart};

/// Mean with SEM band over turns for each condition, samples as traces, the reference dashed.
pub fn line_chart(comparison: &Comparison, analysis: &Analysis) -> LineChart {
    let mut series: Vec<Line> = Vec::new();
    for (group, (label, condition)) in comparison.groups.iter().zip(analysis.conditions.iter()) {
        series.push(Line {
            label: label.to_owned(),
            mean: condition.per_turn.mean.clone(),
            band: condition.per_turn.sem.clone(),
            traces: group.samples.iter().map(|sample| sample.values.clone()).collect(),
            ..Line::default()
        });
    }
    if let Some(reference) = &comparison.reference {
        series.push(Line { label: "reference".to_owned(), mean: reference.clone(), dashed: true, ..Line::default() });
    }
    LineChart {
        title: comparison.title.clone(),
        x_label: comparison.step().to_owned(),
        y_label: format!("{} (mean ± SEM)", comparison.unit),
        series,
        ..LineChart::default()
    }
}
