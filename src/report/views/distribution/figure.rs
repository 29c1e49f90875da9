//! The figure of a distribution.

use super::{Distribution, DistributionGroup};
use crate::plot::{Bar, StackedBars};

/// One bar per group, its segments the categories in the order of the menu. More groups than a figure
/// holds are left out of it, which its title says.
pub fn bar_chart(distribution: &Distribution) -> StackedBars {
    let bar = |group: &DistributionGroup| Bar { label: group.name().to_owned(), counts: group.counts.clone() };
    let (all, most) = (distribution.groups.len(), StackedBars::MAX_BARS);
    let title = &distribution.title;
    StackedBars {
        title: if all > most { format!("{title} (the first {most} of {all} groups)") } else { title.clone() },
        x_label: "share of runs (numbers in the bars: runs)".to_owned(),
        categories: distribution.menu.clone(),
        bars: distribution.groups.iter().take(most).map(bar).collect(),
    }
}
