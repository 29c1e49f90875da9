//! Owns the figures: which numbers of a comparison become lines, bands and traces, which of a distribution become bars.
//!
//! Must not know: pixels, file formats.

use super::analysis::Analysis;
use super::comparison::Comparison;
use super::distribution::{Distribution, DistributionGroup};
use crate::plot::{Bar, Line, LineChart, StackedBars};

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

/// One bar per group, its segments the categories in the order of the menu. More groups than a figure
/// holds are left out of it, which its title says.
pub fn bar_chart(distribution: &Distribution) -> StackedBars {
    let bar = |group: &DistributionGroup| Bar { label: group.name().to_owned(), counts: group.counts.clone() };
    let (all, most) = (distribution.groups.len(), StackedBars::MOST_BARS);
    let title = &distribution.title;
    StackedBars {
        title: if all > most { format!("{title} (the first {most} of {all} groups)") } else { title.clone() },
        x_label: "share of runs (numbers in the bars: runs)".to_owned(),
        categories: distribution.menu.clone(),
        bars: distribution.groups.iter().take(most).map(bar).collect(),
    }
}
