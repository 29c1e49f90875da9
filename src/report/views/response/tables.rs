//! The tables of a response, and their order in the terminal.

use super::Response;
use super::analysis::{ResponseAnalysis, RunsMean};
use crate::numbers::{NONE, interval, plus_minus};
use crate::table::Table;

/// The short form for the terminal, without colours: all runs by level, means by row and column, notes.
pub fn response_terminal(response: &Response, analysis: &ResponseAnalysis) -> String {
    let mut out = format!("{}\n{}\n", response.title, response.unit);
    for table in [levels(response, analysis), self::table(response, analysis)] {
        if !table.rows.is_empty() {
            out += &format!("\n{}", table.text());
        }
    }
    for note in response.notes.iter().chain(&analysis.notes) {
        out += &format!("\nnote: {note}");
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// One row per level, of all runs.
pub fn levels(response: &Response, analysis: &ResponseAnalysis) -> Table {
    let Some((against, all)) = response.against.as_ref().zip(analysis.lines.first()) else { return Table::default() };
    let mut table = Table::new(&[&against.title, "n", "mean ± SEM", "95 % interval"]);
    for at in &all.levels {
        table.rows.push([vec![at.level.to_string()], columns(&at.runs)].concat());
    }
    table
}

/// One row per label and level; empty if the runs are not split.
pub fn split(response: &Response, analysis: &ResponseAnalysis) -> Table {
    let (Some(against), Some(by)) = (&response.against, &response.by) else { return Table::default() };
    let mut table = Table::new(&[&by.title, &against.title, "n", "mean ± SEM", "95 % interval"]);
    for line in &analysis.lines {
        for (label, at) in line.label.iter().flat_map(|label| line.levels.iter().map(move |at| (label, at))) {
            table.rows.push([vec![label.clone(), at.level.to_string()], columns(&at.runs)].concat());
        }
    }
    table
}

/// Mean ± SEM and n by row and column; the side with more entries goes down the page, as names are longer than figures.
pub fn table(response: &Response, analysis: &ResponseAnalysis) -> Table {
    let (Some(rows), Some(columns), Some(found)) = (&response.rows, &response.columns, &analysis.table) else {
        return Table::default();
    };
    let turned = found.columns.len() > found.rows.len();
    let (down, across) = if turned { (&found.columns, &found.rows) } else { (&found.rows, &found.columns) };
    let corner = if turned { [&columns.title, &rows.title] } else { [&rows.title, &columns.title] };
    let mut table = Table::new(&[&format!("{} \\ {}", corner[0], corner[1])]);
    table.header.extend(across.iter().cloned());
    for (i, name) in down.iter().enumerate() {
        let cell = |j: usize| cell(if turned { &found.cells[j][i] } else { &found.cells[i][j] });
        table.rows.push(std::iter::once(name.clone()).chain((0..across.len()).map(cell)).collect());
    }
    table
}

fn columns(runs: &RunsMean) -> Vec<String> {
    let mean = runs.mean.map_or_else(|| NONE.to_owned(), |mean| plus_minus(mean, runs.sem));
    vec![runs.n.to_string(), mean, interval(runs.ci95)]
}

fn cell(runs: &RunsMean) -> String {
    runs.mean.map_or_else(|| NONE.to_owned(), |mean| format!("{} ({})", plus_minus(mean, runs.sem), runs.n))
}
