//! The section of a distribution in the report.

use super::Distribution;
use super::analysis::{DistributionAnalysis, FisherMethod};
use super::tables;
use crate::block::Block;
use crate::table::Table;

/// The blocks of the section.
pub(crate) fn blocks(distribution: &Distribution, analysis: &DistributionAnalysis) -> Vec<Block> {
    let mut blocks = vec![
        Block::Heading(1, distribution.title.clone()),
        Block::Text(format!("Counted: runs by {}.", distribution.label)),
        Block::Table(tables::shares(analysis)),
    ];
    if distribution.groups.iter().any(|group| group.title.is_some()) {
        let mut table = Table::new(&["group", "in words"]).of_words();
        // Where the words begin with the label it has just been said.
        let row = |group: &super::DistributionGroup| {
            let (label, words) = (&group.label, group.name());
            vec![label.clone(), words.strip_prefix(&format!("{label}: ")).unwrap_or(words).to_owned()]
        };
        table.rows = distribution.groups.iter().map(row).collect();
        blocks.extend([Block::Heading(2, "Groups".to_owned()), Block::Table(table)]);
    }
    let caption =
        "Share of each category per group; numbers in the bars: runs. Runs without a category are not part of n.";
    blocks.push(Block::Figure(caption.to_owned()));
    blocks.push(Block::Heading(2, "95 % intervals of the shares".to_owned()));
    blocks.push(Block::Table(tables::intervals(analysis)));
    let tests = tables::tests(analysis);
    if !tests.rows.is_empty() {
        blocks.push(Block::Heading(2, "Tests".to_owned()));
        blocks.push(Block::Table(tests));
        blocks.extend(tables::reading(analysis).map(Block::Text));
    }
    let notes: Vec<String> = distribution.notes.iter().chain(&analysis.notes).cloned().collect();
    if !notes.is_empty() {
        blocks.push(Block::Heading(2, "Notes".to_owned()));
        blocks.push(Block::List(notes));
    }
    blocks.push(Block::Heading(2, "How the numbers were made".to_owned()));
    blocks.push(Block::Text(method(analysis)));
    blocks
}

fn method(analysis: &DistributionAnalysis) -> String {
    let mut text = "The unit is the run. Intervals: Wilson's score interval, each for its own share and not corrected for their \
                    number. Tests of whether the shares differ between groups: Pearson's χ² without continuity correction, and \
                    Fisher's exact test after Freeman and Halton; Fisher's is read where an expected count is below 5. Holm \
                    corrects the p that is read over the pairs. Cramér's V goes from 0 (no association) to 1."
        .to_owned();
    let all = analysis.overall.iter().chain(analysis.pairs.iter().filter_map(|pair| pair.test.as_ref()));
    if all.clone().any(|test| test.fisher_method == FisherMethod::MonteCarlo) {
        text += &format!(
            " \"Drawn\": there were too many tables to count them all, so {} random ones with the same margins stand in, seed {}.",
            analysis.draws, analysis.seed
        );
    }
    if all.clone().any(|test| test.fisher_method == FisherMethod::None) {
        text += " Where Fisher's p is missing there were too many tables to count or to draw.";
    }
    text
}
