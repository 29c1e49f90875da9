//! The section of a response in the report.

use super::analysis::ResponseAnalysis;
use super::figure::{heatmap, response_chart};
use super::{Response, tables};
use crate::block::Block;
use crate::numbers::plus_minus;

/// The blocks of the section. It has a place for each figure that there is, in the order of `response_figures`.
pub(crate) fn blocks(response: &Response, analysis: &ResponseAnalysis) -> Vec<Block> {
    let overall = &analysis.overall;
    let all = match overall.mean {
        Some(mean) => format!(" Over all {} runs: mean {}.", overall.n, plus_minus(mean, overall.sem)),
        None => " No run has it.".to_owned(),
    };
    let mut blocks = vec![
        Block::Heading(1, response.title.clone()),
        Block::Text(format!("One number per run: {}, `{}`.{all}", response.unit, response.metric).replace('`', "")),
    ];
    if let Some(against) = &response.against {
        if response_chart(response, analysis).is_some() {
            let split = match (&response.by, analysis.lines.len()) {
                (Some(by), 2..) => format!(" Lines with whiskers: by {}, likewise.", by.title),
                _ => String::new(),
            };
            blocks.push(Block::Figure(format!(
                "Mean of the runs at each level; band: 95 % t interval of all runs.{split} A single run has no interval."
            )));
        }
        blocks.push(Block::Heading(2, format!("By {}", against.title)));
        blocks.push(Block::Table(tables::levels(response, analysis)));
        let split = tables::split(response, analysis);
        if let (Some(by), false) = (&response.by, split.rows.is_empty()) {
            blocks.push(Block::Heading(2, format!("By {} and {}", by.title, against.title)));
            blocks.push(Block::Table(split));
        }
    }
    if let (Some(rows), Some(columns)) = (&response.rows, &response.columns) {
        blocks.push(Block::Heading(2, format!("{} × {}", rows.title, columns.title)));
        if heatmap(response, analysis).is_some() {
            blocks.push(Block::Figure("Mean of the runs in each cell; hatched: no run has the number.".to_owned()));
        }
        blocks.push(Block::Text("Mean ± SEM (runs):".to_owned()));
        blocks.push(Block::Table(tables::table(response, analysis)));
    }
    let notes: Vec<String> = response.notes.iter().chain(&analysis.notes).cloned().collect();
    if !notes.is_empty() {
        blocks.push(Block::Heading(2, "Notes".to_owned()));
        blocks.push(Block::List(notes));
    }
    blocks.push(Block::Heading(2, "How the numbers were made".to_owned()));
    blocks.push(Block::Text(format!(
        "The unit is the run: one number each. SEM uses ddof {}; intervals are Student's t over runs, each for its own mean and not \
         corrected for their number. Runs that stand together are taken as one sample: an interval tells how well the mean of such runs \
         is known, not what conditions that were not run would give.",
        analysis.ddof
    )));
    blocks
}
