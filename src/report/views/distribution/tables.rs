//! The tables of a distribution, and their order in the terminal.

use super::Distribution;
use super::analysis::{DistributionAnalysis, FisherMethod, GroupShares, Independence, Share, TestRead};
use crate::numbers::{NONE, fixed, p_value};
use crate::table::Table;

/// Everything for the terminal, without colours: shares, intervals, tests, notes.
pub fn distribution_terminal(distribution: &Distribution, analysis: &DistributionAnalysis) -> String {
    let mut out = format!("{}\nruns by `{}`\n\n{}", distribution.title, distribution.label, shares(analysis).text());
    for (heading, table) in [("95 % intervals of the shares", intervals(analysis)), ("Tests", tests(analysis))] {
        if !table.rows.is_empty() {
            out += &format!("\n{heading}\n\n{}", table.text());
        }
    }
    if let Some(sentence) = reading(analysis) {
        out += &format!("\n{sentence}\n");
    }
    for note in distribution.notes.iter().chain(&analysis.notes) {
        out += &format!("\nnote: {note}");
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Counts with shares per group and category, n, and the runs without a category.
pub fn shares(analysis: &DistributionAnalysis) -> Table {
    let cell = |share: &Share| match share.share {
        Some(part) => format!("{} ({})", share.count, percent(part)),
        None => share.count.to_string(),
    };
    let further = |group: &GroupShares| vec![group.n.to_string(), group.missing.to_string()];
    by_group(analysis, &["n", "no category"], cell, further)
}

/// Wilson's interval per group and category, in per cent.
pub fn intervals(analysis: &DistributionAnalysis) -> Table {
    let cell = |share: &Share| match share.ci95 {
        Some([low, high]) => format!("[{:.1}, {:.1}] %", 100.0 * low, 100.0 * high),
        None => NONE.to_owned(),
    };
    by_group(analysis, &[], cell, |_| Vec::new())
}

/// One row for all groups together, one per pair.
pub fn tests(analysis: &DistributionAnalysis) -> Table {
    let mut table = Table::new(&["", "χ² (df)", "χ² p", "Fisher p", "read", "Holm p", "Cramér's V"]);
    let mut push = |name: String, test: Option<&Independence>, holm_p: Option<f64>| {
        let mut row = vec![name];
        match test {
            Some(test) => row.extend(cells(test)),
            None => row.extend((0..4).map(|_| NONE.to_owned())),
        }
        row.push(p_value(holm_p));
        row.push(fixed(test.map(|test| test.cramers_v), 2));
        table.rows.push(row);
    };
    let Some(overall) = &analysis.overall else { return Table::default() };
    // Of two groups the pair is the whole.
    if analysis.groups.0.len() > 2 {
        push("all groups".to_owned(), Some(overall), None);
    }
    for pair in &analysis.pairs {
        push(format!("{} – {}", pair.a, pair.b), pair.test.as_ref(), pair.holm_p);
    }
    table
}

/// Which test is to be read of all groups, and why.
pub fn reading(analysis: &DistributionAnalysis) -> Option<String> {
    let overall = analysis.overall.as_ref()?;
    let expected = fixed(Some(overall.smallest_expected), 1);
    let p = match overall.p {
        Some(p) if p < 0.001 => format!("p {}", p_value(Some(p))),
        p => format!("p = {}", p_value(p)),
    };
    Some(match overall.read {
        TestRead::Fisher => format!(
            "Of all groups Fisher's test is to be read, {p}: the smallest expected count is {expected}, below 5."
        ),
        TestRead::ChiSquare => {
            format!(
                "Of all groups the χ² test is to be read, {p}: the smallest expected count is {expected}, 5 or more."
            )
        }
    })
}

/// A table of groups and categories; the side with more entries goes down the page, as names are longer than figures.
fn by_group(
    analysis: &DistributionAnalysis,
    further: &[&str],
    cell: impl Fn(&Share) -> String,
    further_cells: impl Fn(&GroupShares) -> Vec<String>,
) -> Table {
    let groups = &analysis.groups.0;
    let menu = groups.first().map_or(&[][..], |(_, group)| &group.categories.0);
    let corner = String::new();
    let names = menu.iter().map(|(name, _)| name.clone()).chain(further.iter().map(|&name| name.to_owned()));
    let mut grid = vec![std::iter::once(corner).chain(names).collect::<Vec<String>>()];
    for (label, group) in groups {
        let mut row = vec![label.clone()];
        row.extend(group.categories.iter().map(|(_, share)| cell(share)));
        row.extend(further_cells(group));
        grid.push(row);
    }
    if groups.len() <= menu.len() {
        grid = (0..grid[0].len()).map(|column| grid.iter().map(|row| row[column].clone()).collect()).collect();
    }
    let header = grid.remove(0);
    Table { header, rows: grid, words: false }
}

fn cells(test: &Independence) -> Vec<String> {
    let fisher = match test.fisher_method {
        FisherMethod::MonteCarlo => format!("{} (drawn)", p_value(test.fisher_p)),
        FisherMethod::Exact | FisherMethod::None => p_value(test.fisher_p),
    };
    let read = match test.read {
        TestRead::Fisher => "Fisher",
        TestRead::ChiSquare => "χ²",
    };
    vec![format!("{:.2} ({})", test.statistic, test.df), p_value(Some(test.chi_square_p)), fisher, read.to_owned()]
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
