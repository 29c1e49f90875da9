//! Responses: one number per run, against a numeric factor and in a table over two labels.
//!
//! A run without the number is counted as missing, never as 0. A level or label that was not planned is an error; a planned one without
//! runs stays visible.

pub mod analysis;
pub mod figure;
pub(crate) mod section;
pub mod tables;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use tiltmeter_model::problem::Problem;

/// Numbers of runs, and what they are shown against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// Heading of figures and section.
    pub title: String,
    /// Name of the metric.
    pub metric: String,
    /// What the number is, with its unit: label of the figures' axis.
    pub unit: String,
    /// Whether 0 is a value to compare with, as of a difference: then colours part there.
    pub centred: bool,
    /// The numeric factor.
    pub against: Option<Against>,
    /// A label that splits the line.
    pub by: Option<Factor>,
    /// Labels down the table and across it; neither stands without the other.
    pub rows: Option<Factor>,
    pub columns: Option<Factor>,
    pub runs: Vec<ResponseRun>,
    /// What the reader has to know of the data.
    pub notes: Vec<String>,
}

/// A metric that the experiment set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Against {
    pub metric: String,
    /// Label of the horizontal axis.
    pub title: String,
    /// All planned levels.
    pub levels: Vec<f64>,
}

/// A label of the runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    pub label: String,
    /// What people call it.
    pub title: String,
    /// All planned values, in the order in which they are shown.
    pub menu: Vec<String>,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseRun {
    pub name: String,
    /// Its number; `None` if it has none.
    pub value: Option<f64>,
    /// Of the numeric factor.
    pub level: Option<f64>,
    pub labels: BTreeMap<String, String>,
}

impl ResponseRun {
    /// What the run is of a factor.
    pub fn of(&self, factor: &Factor) -> Option<&str> {
        self.labels.get(&factor.label).map(String::as_str)
    }
}

impl Response {
    /// Whether the parts fit together: there is something to show it against, menus and levels name everything once and name
    /// everything that a run has, numbers are finite.
    pub fn check(&self) -> Result<(), Problem> {
        let here = || format!("response `{}`", self.metric);
        if self.rows.is_some() != self.columns.is_some() {
            return Err(Problem::new("a table needs rows and columns").at(here()).hint("name both, or neither"));
        }
        if self.against.is_none() && self.rows.is_none() {
            return Err(Problem::new("there is nothing to show the number against")
                .at(here())
                .hint("name a metric, or a table's rows and columns"));
        }
        if let Some(Against { metric, levels, .. }) = &self.against {
            if levels.is_empty() || levels.iter().any(|level| !level.is_finite()) {
                return Err(Problem::new(format!("`{metric}` has no finite levels")).at(here()).hint("list them all"));
            }
            if let Some(twice) = repeated(levels.iter()) {
                return Err(Problem::new(format!("level {twice} is listed twice")).at(here()).hint("list it once"));
            }
        }
        for Factor { label, menu, .. } in self.factors() {
            if menu.is_empty() {
                return Err(Problem::new(format!("the menu of `{label}` is empty")).at(here()).hint("list its values"));
            }
            if let Some(twice) = repeated(menu.iter()) {
                return Err(Problem::new(format!("`{twice}` is on the menu of `{label}` twice"))
                    .at(here())
                    .hint("name it once"));
            }
        }
        self.runs.iter().try_for_each(|run| self.check_run(run))
    }

    fn check_run(&self, run: &ResponseRun) -> Result<(), Problem> {
        let here = || format!("response `{}`, run {}", self.metric, run.name);
        if run.value.iter().chain(&run.level).any(|number| !number.is_finite()) {
            return Err(Problem::new("a number is not finite").at(here()).hint("leave it out"));
        }
        if let (Some(Against { metric, levels, .. }), Some(level)) = (&self.against, run.level)
            && !levels.contains(&level)
        {
            return Err(Problem::new(format!("{level} is no planned level of `{metric}`"))
                .at(here())
                .hint("list it among the levels"));
        }
        for factor in self.factors() {
            if let Some(value) = run.of(factor)
                && !factor.menu.iter().any(|known| known == value)
            {
                return Err(Problem::new(format!("`{value}` is not on the menu of `{}`", factor.label))
                    .at(here())
                    .hint(format!("the menu is: {}; put it there", factor.menu.join(", "))));
            }
        }
        Ok(())
    }

    fn factors(&self) -> impl Iterator<Item = &Factor> {
        self.by.iter().chain(&self.rows).chain(&self.columns)
    }
}

/// The first item that was there before.
fn repeated<'a, T: PartialEq>(items: impl Iterator<Item = &'a T>) -> Option<&'a T> {
    let mut seen: Vec<&T> = Vec::new();
    for item in items {
        if seen.contains(&item) {
            return Some(item);
        }
        seen.push(item);
    }
    None
}
