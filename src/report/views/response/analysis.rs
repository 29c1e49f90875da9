//! The analysis of a response: mean, standard error and 95 % t interval of the runs at each level, of the runs of each label
//! there, and of the runs in each cell of the table.
//!
//! The unit is the run: one number each, so that none is counted twice. One run has no standard error and no interval. Values are put
//! in order of size before they are added up, so that no digit depends on which run was finished first.

use serde::Serialize;

use super::{Factor, Response, ResponseRun};
use crate::stats;
use crate::views::trajectory::analysis::Options;
use tiltmeter_model::problem::Problem;

/// A figure with more lines cannot be read: then all runs share one.
pub const MOST_LINES: usize = 6;

/// All numbers of a response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseAnalysis {
    /// Of all runs together.
    pub overall: RunsMean,
    /// Runs without the number, part of no n.
    pub missing: usize,
    /// Of all runs first, then of the runs of each label; empty if there is no numeric factor.
    pub lines: Vec<ResponseLine>,
    pub table: Option<ResponseTable>,
    /// Of the standard errors; intervals always have 1.
    pub ddof: u8,
    /// What the reader has to know of the numbers.
    pub notes: Vec<String>,
}

/// What runs say of their mean. Of no run there is no number at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunsMean {
    pub n: usize,
    pub mean: Option<f64>,
    /// `None` for one run.
    pub sem: Option<f64>,
    /// 95 % t interval of the mean; `None` for one run.
    pub ci95: Option<[f64; 2]>,
}

/// One line of the figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseLine {
    /// Value of the label; `None`: all runs.
    pub label: Option<String>,
    /// By level, upwards.
    pub levels: Vec<AtLevel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AtLevel {
    pub level: f64,
    #[serde(flatten)]
    pub runs: RunsMean,
}

/// Means by two labels, in the order of their menus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseTable {
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// `cells[row][column]`.
    pub cells: Vec<Vec<RunsMean>>,
}

/// All numbers of `response`; of the options ddof is used. Errors if its parts do not fit together.
pub fn analyse_response(response: &Response, options: &Options) -> Result<ResponseAnalysis, Problem> {
    response.check()?;
    let of = |which: &dyn Fn(&ResponseRun) -> bool| mean_of(response, options.ddof, which);
    let mut lines = Vec::new();
    if let Some(against) = &response.against {
        let mut levels = against.levels.clone();
        levels.sort_by(f64::total_cmp);
        let mut push = |label: Option<&str>, which: &dyn Fn(&ResponseRun) -> bool| -> Result<(), Problem> {
            let at = |&level: &f64| {
                let runs = of(&|run: &ResponseRun| run.level == Some(level) && which(run))?;
                Ok(AtLevel { level, runs })
            };
            let levels = levels.iter().map(at).collect::<Result<_, Problem>>()?;
            lines.push(ResponseLine { label: label.map(str::to_owned), levels });
            Ok(())
        };
        push(None, &|_| true)?;
        if let Some(by) = response.by.as_ref().filter(|by| (2..=MOST_LINES).contains(&by.menu.len())) {
            for value in &by.menu {
                push(Some(value), &|run| run.of(by) == Some(value))?;
            }
        }
    }
    let table = match (&response.rows, &response.columns) {
        (Some(rows), Some(columns)) => Some(table(response, options.ddof, rows, columns)?),
        _ => None,
    };
    let missing = response.runs.iter().filter(|run| run.value.is_none()).count();
    let mut analysis =
        ResponseAnalysis { overall: of(&|_| true)?, missing, lines, table, ddof: options.ddof, notes: Vec::new() };
    analysis.notes = notes(response, &analysis);
    Ok(analysis)
}

fn table(response: &Response, ddof: u8, rows: &Factor, columns: &Factor) -> Result<ResponseTable, Problem> {
    let row = |row: &String| {
        let cell = |column: &String| {
            mean_of(response, ddof, &|run| run.of(rows) == Some(row) && run.of(columns) == Some(column))
        };
        columns.menu.iter().map(cell).collect()
    };
    let cells = rows.menu.iter().map(row).collect::<Result<_, _>>()?;
    Ok(ResponseTable { rows: rows.menu.clone(), columns: columns.menu.clone(), cells })
}

/// The mean of the runs that have the number.
fn mean_of(response: &Response, ddof: u8, which: &dyn Fn(&ResponseRun) -> bool) -> Result<RunsMean, Problem> {
    let mut values: Vec<f64> = response.runs.iter().filter(|run| which(run)).filter_map(|run| run.value).collect();
    if values.is_empty() {
        return Ok(RunsMean::default());
    }
    values.sort_by(f64::total_cmp);
    let found = stats::summarise(&values, ddof)?;
    Ok(RunsMean { n: found.n, mean: Some(found.mean), sem: found.sem, ci95: found.ci95 })
}

fn notes(response: &Response, analysis: &ResponseAnalysis) -> Vec<String> {
    let mut notes = Vec::new();
    let (all, missing) = (response.runs.len(), analysis.missing);
    if missing > 0 {
        notes.push(format!(
            "{missing} of {all} finished runs have no `{}` and are part of no n: they are not counted as 0.",
            response.metric
        ));
    }
    let with_value = || response.runs.iter().filter(|run| run.value.is_some());
    let nowhere = with_value().filter(|run| response.against.is_some() && run.level.is_none()).count();
    if let (Some(against), 1..) = (&response.against, nowhere) {
        notes.push(format!("{nowhere} runs have no `{}` and are not in the lines.", against.metric));
    }
    let factors: [(&Option<Factor>, &str); 3] =
        [(&response.by, "lines"), (&response.rows, "table"), (&response.columns, "table")];
    for (factor, place) in factors.into_iter().filter_map(|(factor, place)| Some((factor.as_ref()?, place))) {
        let without = with_value().filter(|run| run.of(factor).is_none()).count();
        if without > 0 {
            notes.push(format!("{without} runs have no `{}` and are not in the {place} by it.", factor.label));
        }
    }
    if let Some(by) = response.by.as_ref().filter(|by| by.menu.len() > MOST_LINES && response.against.is_some()) {
        notes.push(format!(
            "There are {} values of `{}`, more than {MOST_LINES}: one line stands for all of them.",
            by.menu.len(),
            by.label
        ));
    }
    let cells = || {
        let of_lines = analysis.lines.iter().flat_map(|line| line.levels.iter().map(|at| &at.runs));
        of_lines.chain(analysis.table.iter().flat_map(|table| table.cells.iter().flatten()))
    };
    match (cells().filter(|cell| cell.n == 0).count(), cells().filter(|cell| cell.n == 1).count()) {
        (0, 0) => {}
        (none, 0) => notes.push(format!("Without a run, and so without a mean: {none} of the entries.")),
        (none, one) => {
            let none = if none > 0 {
                format!("Without a run, and so without a mean: {none} of the entries. ")
            } else {
                String::new()
            };
            notes.push(format!(
                "{none}Of a single run, which has no standard error and no interval: {one} of the entries."
            ));
        }
    }
    notes
}
