//! The part of a frozen plan that the report reads, and the comparisons, distributions and responses that it makes of finished runs.
//!
//! | key | each entry |
//! |---|---|
//! | `conditions` | `label`; `cells` with its runs, by default the cell of that label; a shorter `name` and a `title` for people |
//! | `measures` | `series` and its `title`; every series is shown, listed or not |
//! | `axes` | `name`, `site`; `span` of the two poles; `step`, the unit of a position other than a turn |
//! | `categories` | `label`, `title`, `menu` |
//! | `responses` | `metric`, `title`, `unit`, `centred`; `against`: `metric`, `title`, `levels`; `by`, `rows`, `columns`: `label`, `title`, `menu` |

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::plan::{CategoryPlan, ResponsePlan};
use tiltmeter_model::problem::Problem;
use tiltmeter_report::{Comparison, Distribution, DistributionGroup, GroupData, Response, ResponseRun, SampleData};
use tiltmeter_store::{Outcome, RunKey};

/// The cell of the trajectory that conditions are compared with.
const REFERENCE: &str = "reference";

/// Status of a turn that a run did not reach.
const MISSING: &str = "missing";

/// The fields of a plan that the report reads; every kind's plan has them or leaves them out.
#[derive(Clone, Debug, Deserialize)]
pub struct ReportPlan {
    #[serde(default = "unnamed")]
    pub experiment: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub conditions: Vec<ReportCondition>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub measures: Vec<MeasurePlan>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub axes: Vec<ReportAxis>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub categories: Vec<CategoryPlan>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub responses: Vec<ResponsePlan>,
}

fn unnamed() -> String {
    "experiment".to_owned()
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(field: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(field)?.unwrap_or_default())
}

/// A group of runs to compare.
#[derive(Clone, Debug, Deserialize)]
pub struct ReportCondition {
    pub label: String,
    pub cells: Option<Vec<String>>,
    pub name: Option<String>,
    pub title: Option<String>,
    pub system_prompt: Option<String>,
    pub rendered_prompt: Option<String>,
}

/// Words for a series.
#[derive(Clone, Debug, Deserialize)]
pub struct MeasurePlan {
    pub series: String,
    pub title: Option<String>,
}

/// The axis behind a series.
#[derive(Clone, Debug, Deserialize)]
pub struct ReportAxis {
    pub name: String,
    pub site: String,
    pub span: Option<(f64, f64)>,
    pub step: Option<String>,
}

/// Keys and outcomes of finished runs.
type Outcomes<'a> = &'a [(RunKey, Outcome)];

impl ReportCondition {
    /// The short name for people.
    fn name(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.label)
    }

    /// Whether runs of this cell belong to the condition.
    fn has_cell(&self, cell: &str) -> bool {
        self.cells.as_ref().map_or(self.label == cell, |cells| cells.iter().any(|own| own == cell))
    }
}

impl ReportPlan {
    /// # Errors
    /// A field has another type.
    pub fn read(plan: &Value) -> Result<Self, Problem> {
        crate::read_plan(plan)
    }

    /// Whether any run belongs to a condition.
    pub fn has_run(&self, outcomes: Outcomes) -> bool {
        outcomes.iter().any(|(key, _)| self.conditions.iter().any(|condition| condition.has_cell(&key.cell)))
    }

    /// One comparison per series of the conditions' runs, in the order in which the series first appear.
    pub fn comparisons(&self, outcomes: Outcomes) -> Vec<Comparison> {
        let names = series_names(outcomes);
        let titled = |name: &&str| {
            let mut comparison = self.comparison(outcomes, name);
            let title = self.measures.iter().find(|measure| measure.series == *name).and_then(|m| m.title.as_deref());
            // The only series needs no name in the heading, unless the plan has words for it.
            if let Some(words) = title.or((names.len() > 1).then_some(*name)) {
                comparison.title += &format!(": {words}");
            }
            comparison
        };
        names.iter().map(titled).collect()
    }

    /// The conditions that have a value of the series; what is missing is noted.
    fn comparison(&self, outcomes: Outcomes, name: &str) -> Comparison {
        let sample = |outcome: &Outcome| {
            let series = outcome.series.iter().find(|series| series.name == name)?;
            Some(SampleData { values: series.values.clone(), statuses: series.statuses.clone() })
        };
        let mut notes = Vec::new();
        let (mut groups, mut valueless) = (Vec::new(), Vec::new());
        for condition in &self.conditions {
            let label = condition.name();
            let runs: Vec<&Outcome> =
                outcomes.iter().filter(|(key, _)| condition.has_cell(&key.cell)).map(|(_, run)| run).collect();
            let mut samples: Vec<SampleData> = runs.iter().filter_map(|run| sample(run)).collect();
            if runs.is_empty() {
                continue;
            }
            if !samples.iter().any(|sample| sample.values.iter().any(Option::is_some)) {
                valueless.push(format!("`{label}`"));
                continue;
            }
            if samples.len() < runs.len() {
                let lacking = runs.len() - samples.len();
                notes.push(format!("{lacking} of {} runs of `{label}` have no `{name}` and are left out.", runs.len()));
            }
            if fill_up(&mut samples) {
                notes.push(format!(
                    "Runs of `{label}` differ in length: turns that a run did not come to are missing there."
                ));
            }
            groups.push(GroupData {
                label: label.to_owned(),
                title: condition.title.clone(),
                samples,
                system_prompt: condition.system_prompt.clone(),
                rendered_prompt: condition.rendered_prompt.clone(),
            });
        }
        match valueless.as_slice() {
            [] => {}
            [one] => notes.push(format!("No run of {one} has a value of `{name}`: the condition is left out.")),
            several => {
                let all = several.join(", ");
                notes.push(format!("No run of these has a value of `{name}`, and they are left out: {all}."));
            }
        }
        let reference = outcomes.iter().find(|(key, _)| key.cell == REFERENCE);
        let axis = self.axes.iter().find(|axis| format!("{}@{}", axis.name, axis.site) == name);
        Comparison {
            title: self.experiment.clone(),
            unit: name.to_owned(),
            step: axis.and_then(|axis| axis.step.clone()),
            groups,
            reference: reference.and_then(|(_, outcome)| sample(outcome)).map(|series| series.values),
            span: axis.and_then(|axis| axis.span),
            notes,
        }
    }

    /// Counts of a label in every condition, including those without a finished run.
    pub fn distribution(&self, outcomes: Outcomes, category: &CategoryPlan) -> Result<Distribution, Problem> {
        let CategoryPlan { label: name, title: heading, menu } = category.clone();
        let group = |condition: &ReportCondition| {
            let label = condition.name();
            let of_condition = outcomes.iter().filter(|(key, _)| condition.has_cell(&key.cell));
            let runs = of_condition.map(|(key, run)| (key.id(), run.labels.get(&name).map(String::as_str)));
            // A short name stands before the words, so that a bar is found again where the name alone is used.
            let words = condition.title.as_ref().map(|words| match &condition.name {
                Some(name) => format!("{name}: {words}"),
                None => words.clone(),
            });
            DistributionGroup::tally(label, words.as_deref(), &menu, runs)
                .map_err(|problem| Problem { what: format!("label `{name}`: {}", problem.what), ..problem })
        };
        let groups = self.conditions.iter().map(group).collect::<Result<_, _>>()?;
        let title = format!("{}: {}", self.experiment, heading.as_ref().unwrap_or(&name));
        Ok(Distribution { title, label: name, menu, groups, notes: Vec::new() })
    }

    /// A metric of every finished run with the factors it is shown against.
    pub fn response(&self, outcomes: Outcomes, planned: &ResponsePlan) -> Response {
        let ResponsePlan { metric, title, unit, centred, against, by, rows, columns, notes } = planned.clone();
        let run = |(key, outcome): &(RunKey, Outcome)| ResponseRun {
            name: key.id(),
            value: outcome.metrics.get(&metric).copied(),
            level: against.as_ref().and_then(|against| outcome.metrics.get(&against.metric).copied()),
            labels: outcome.labels.clone(),
        };
        let runs = outcomes.iter().map(run).collect();
        let title = format!("{}: {title}", self.experiment);
        Response { title, metric, unit, centred, against, by, rows, columns, runs, notes }
    }
}

/// The series of all conditions' runs, in the order in which they first appear: a run may lack one.
fn series_names(outcomes: &[(RunKey, Outcome)]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (_, outcome) in outcomes.iter().filter(|(key, _)| key.cell != REFERENCE) {
        for series in &outcome.series {
            if !names.contains(&series.name.as_str()) {
                names.push(&series.name);
            }
        }
    }
    names
}

/// Brings samples to the length of the longest; whether any was shorter.
fn fill_up(samples: &mut [SampleData]) -> bool {
    let turns = samples.iter().map(|sample| sample.values.len()).max().unwrap_or(0);
    let mut filled = false;
    for sample in samples.iter_mut().filter(|sample| sample.values.len() < turns) {
        if !sample.statuses.is_empty() {
            sample.statuses.resize(turns, MISSING.to_owned());
        }
        sample.values.resize(turns, None);
        filled = true;
    }
    filled
}
