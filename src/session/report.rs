//! Owns the way from records to an analysis: a run folder's journal, or documents in the published schema, become comparisons of
//! measured series, distributions of labels and responses of numbers.
//!
//! A kind says in its frozen plan what is shown of its runs; it is not known here which kind that is:
//!
//! | key | each entry |
//! |---|---|
//! | `conditions` | `label`; `cells` whose runs are its own, or else the one called like it; a shorter `name` for people; a `title` in words |
//! | `measures` | `series` and a `title` for it; every series of the runs is shown, whether it has one or not |
//! | `axes` | `name`, `site`; `span` of the two poles; `step`, what one position is, where that is no turn |
//! | `categories` | `label`, `title`, `menu` |
//! | `responses` | `metric`, `title`, `unit`, `centred`; `against`: `metric`, `title`, `levels`; `by`, `rows`, `columns`: `label`, `title`, `menu` |
//!
//! Must not know: flags, terminal.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::responses::responses;
use tiltmeter_model::problem::Problem;
use tiltmeter_report::{
    Analysis, Comparison, Distribution, DistributionAnalysis, DistributionGroup, GroupData, Options, Response,
    ResponseAnalysis, SampleData, analyse, analyse_distribution, analyse_response, distribution_json, load_documents,
    response_json, terminal_key,
};
use tiltmeter_scheduler::{Plan, finished_runs};
use tiltmeter_store::{Outcome, RunFolder, RunKey};

/// The label under which a run counts as the trajectory to compare with, not as a condition.
const REFERENCE: &str = "reference";

/// The status of a turn that a run did not come to.
const MISSING: &str = "missing";

/// What is to be reported on.
#[derive(Clone, Debug)]
pub enum ReportInput {
    Folder(PathBuf),
    Documents(Vec<PathBuf>),
}

/// What was measured, what was judged and what depends on what, with its numbers. Not all of the lists are empty.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// The main measure first.
    pub measures: Vec<(Comparison, Analysis)>,
    /// In the order of the plan.
    pub distributions: Vec<(Distribution, DistributionAnalysis)>,
    pub responses: Vec<(Response, ResponseAnalysis)>,
}

impl Reported {
    /// What the conditions of the measures are, in words; `None` where their names say it. The measure with the most conditions tells
    /// all there are: the others leave out those without a value.
    pub fn key(&self) -> Option<String> {
        let comparisons = self.measures.iter().map(|(comparison, _)| comparison);
        let most = comparisons.rev().max_by_key(|comparison| comparison.groups.len())?;
        Some(terminal_key(most)).filter(|key| !key.is_empty())
    }

    /// The numbers as JSON: the main measure's, with `distributions` and `responses` beside them where there are any.
    pub fn json(&self) -> Value {
        let mut main = self.measures.first().map_or_else(|| json!({}), |(_, analysis)| json!(analysis));
        if !self.distributions.is_empty() {
            main["distributions"] =
                self.distributions.iter().map(|(d, numbers)| distribution_json(d, numbers)).collect();
        }
        if !self.responses.is_empty() {
            main["responses"] = self.responses.iter().map(|(r, numbers)| response_json(r, numbers)).collect();
        }
        main
    }
}

/// Recomputes every statistic from the journal of a folder or from documents.
pub fn report(input: &ReportInput, options: &Options) -> Result<Reported, Vec<Problem>> {
    match input {
        ReportInput::Documents(paths) => {
            let comparison = load_documents(paths)?;
            let analysis = analyse(&comparison, options).map_err(|problem| vec![problem])?;
            Ok(Reported { measures: vec![(comparison, analysis)], ..Reported::default() })
        }
        ReportInput::Folder(dir) => {
            let (plan, outcomes) = read(&RunFolder::at(dir)).map_err(|problem| vec![problem])?;
            let reported = analyse_outcomes(&plan, &outcomes, options, &[]).map_err(|problem| vec![problem])?;
            reported.ok_or_else(|| {
                let nothing = if has_run(&conditions(&plan), &outcomes) {
                    Problem::new(
                        "the finished runs hold no measured series and no categories, and the plan no responses, so there is \
                         nothing to report",
                    )
                    .hint("look at their transcripts in the folder")
                } else {
                    Problem::new("no run of any condition is finished yet, so there is nothing to report")
                        .hint("finish it: tiltmeter run FILE --resume")
                };
                vec![nothing.at(dir.display().to_string())]
            })
        }
    }
}

/// The plan and what is finished of it.
fn read(folder: &RunFolder) -> Result<(Plan, Vec<(RunKey, Outcome)>), Problem> {
    let (plan, outcomes) = finished_runs(folder)?;
    Ok((plan, outcomes.into_iter().filter_map(keyed).collect()))
}

/// The key of a run out of its id and labels: `<cell>-<sample>`.
fn keyed((id, outcome): (String, Outcome)) -> Option<(RunKey, Outcome)> {
    let (cell, sample) = id.rsplit_once('-')?;
    let key = RunKey { experiment: String::new(), cell: cell.to_owned(), sample: sample.parse().ok()? };
    Some((key, outcome))
}

fn conditions(plan: &Plan) -> Vec<&Value> {
    plan.document()["conditions"].as_array().map(|list| list.iter().collect()).unwrap_or_default()
}

fn label(condition: &Value) -> &str {
    condition["label"].as_str().unwrap_or_default()
}

/// What people read: the condition's `name`, or else its label.
fn name(condition: &Value) -> &str {
    condition["name"].as_str().unwrap_or_else(|| label(condition))
}

/// Whether a run of this cell is one of the condition's: of those it lists as `cells`, or else of the one that is called like it.
fn holds(condition: &Value, cell: &str) -> bool {
    match condition["cells"].as_array() {
        Some(cells) => cells.iter().any(|own| own == cell),
        None => label(condition) == cell,
    }
}

fn has_run(conditions: &[&Value], outcomes: &[(RunKey, Outcome)]) -> bool {
    outcomes.iter().any(|(key, _)| conditions.iter().any(|condition| holds(condition, &key.cell)))
}

pub(super) fn title(plan: &Plan) -> &str {
    plan.document()["experiment"].as_str().unwrap_or("experiment")
}

/// One comparison per series that the outcomes hold, one distribution per label that the plan has categories for, one response per
/// metric that the plan has one for; conditions in the order of the plan. `None` if no condition has a run, or there is none of these.
pub fn analyse_outcomes(
    plan: &Plan,
    outcomes: &[(RunKey, Outcome)],
    options: &Options,
    notes: &[String],
) -> Result<Option<Reported>, Problem> {
    if !has_run(&conditions(plan), outcomes) {
        return Ok(None);
    }
    let mut reported = Reported::default();
    let mut left_out: Vec<Problem> = Vec::new();
    let names = series_names(outcomes);
    for name in names.iter().copied() {
        let mut comparison = comparison(plan, outcomes, name);
        // What alone is measured needs no name in the heading, unless the plan has words for it.
        match measured(plan, name) {
            Some(words) => comparison.title += &format!(": {words}"),
            None if names.len() > 1 => comparison.title += &format!(": {name}"),
            None => {}
        }
        comparison.notes.splice(..0, notes.iter().cloned());
        let analysis = match comparison.groups.as_slice() {
            [] => Err(Problem::new("no run has a value of it").hint("look at the statuses of its turns")),
            _ => analyse(&comparison, options),
        };
        match analysis {
            Ok(analysis) => reported.measures.push((comparison, analysis)),
            Err(problem) => {
                left_out.push(Problem { what: format!("`{name}` cannot be reported: {}", problem.what), ..problem });
            }
        }
    }
    for category in categories(plan)? {
        let mut distribution = distribution(plan, outcomes, category)?;
        // Beside a measure they are said there.
        if reported.measures.is_empty() {
            distribution.notes.extend_from_slice(notes);
        }
        let analysis = analyse_distribution(&distribution, options)?;
        reported.distributions.push((distribution, analysis));
    }
    for mut response in responses(plan, outcomes)? {
        if reported.measures.is_empty() && reported.distributions.is_empty() {
            response.notes.extend_from_slice(notes);
        }
        let analysis = analyse_response(&response, options)?;
        reported.responses.push((response, analysis));
    }
    // One measure that says nothing does not take the others along.
    let of_measures = reported.measures.iter_mut().map(|(comparison, _)| &mut comparison.notes);
    let of_distributions = reported.distributions.iter_mut().map(|(distribution, _)| &mut distribution.notes);
    let of_responses = reported.responses.iter_mut().map(|(response, _)| &mut response.notes);
    let Some(notes) = of_measures.chain(of_distributions).chain(of_responses).next() else {
        return left_out.into_iter().next().map_or(Ok(None), Err);
    };
    notes.extend(left_out.iter().map(|problem| format!("{}.", problem.what)));
    Ok(Some(reported))
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

/// What a series is, in the words of the plan.
fn measured<'a>(plan: &'a Plan, series: &str) -> Option<&'a str> {
    let measures = plan.document()["measures"].as_array()?;
    measures.iter().find(|measure| measure["series"] == series)?["title"].as_str()
}

/// The conditions that have a value of the series; what is missing is noted.
fn comparison(plan: &Plan, outcomes: &[(RunKey, Outcome)], name: &str) -> Comparison {
    let document = plan.document();
    let sample = |outcome: &Outcome| {
        let series = outcome.series.iter().find(|series| series.name == name)?;
        Some(SampleData { values: series.values.clone(), statuses: series.statuses.clone() })
    };
    let mut notes = Vec::new();
    let (mut groups, mut valueless) = (Vec::new(), Vec::new());
    for condition in conditions(plan) {
        let label = self::name(condition);
        let text = |key: &str| condition[key].as_str().map(str::to_owned);
        let runs: Vec<&Outcome> =
            outcomes.iter().filter(|(key, _)| holds(condition, &key.cell)).map(|(_, run)| run).collect();
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
        let (system_prompt, rendered_prompt) = (text("system_prompt"), text("rendered_prompt"));
        groups.push(GroupData {
            label: label.to_owned(),
            title: text("title"),
            samples,
            system_prompt,
            rendered_prompt,
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
    let axes = document["axes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let part = |axis: &Value, key: &str| axis[key].as_str().unwrap_or_default().to_owned();
    let axis = axes.iter().find(|axis| format!("{}@{}", part(axis, "name"), part(axis, "site")) == name);
    let span = axis.and_then(|axis| axis["span"].as_array());
    Comparison {
        title: title(plan).to_owned(),
        unit: name.to_owned(),
        step: axis.and_then(|axis| axis["step"].as_str()).map(str::to_owned),
        groups,
        reference: reference.and_then(|(_, outcome)| sample(outcome)).map(|series| series.values),
        span: span.and_then(|ends| ends.first()?.as_f64().zip(ends.get(1)?.as_f64())),
        notes,
    }
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

/// A label that the plan has a menu for.
#[derive(Deserialize)]
struct Category {
    label: String,
    title: Option<String>,
    menu: Vec<String>,
}

fn categories(plan: &Plan) -> Result<Vec<Category>, Problem> {
    match plan.document().get("categories") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(written) => Vec::deserialize(written).map_err(|error| {
            Problem::new(format!("`categories` of the plan cannot be read: {error}"))
                .hint("it is a list of objects with a label, a menu of words and, if wanted, a title")
        }),
    }
}

/// Every condition, those without a finished run too.
fn distribution(plan: &Plan, outcomes: &[(RunKey, Outcome)], category: Category) -> Result<Distribution, Problem> {
    let Category { label: name, title: heading, menu } = category;
    let group = |condition: &&Value| {
        let label = self::name(condition);
        let of_condition = outcomes.iter().filter(|(key, _)| holds(condition, &key.cell));
        let runs = of_condition.map(|(key, run)| (key.id(), run.labels.get(&name).map(String::as_str)));
        // A short name stands before the words, so that a bar is found again where the name alone is used.
        let words = condition["title"].as_str().map(|words| match condition["name"].as_str() {
            Some(name) => format!("{name}: {words}"),
            None => words.to_owned(),
        });
        DistributionGroup::tally(label, words.as_deref(), &menu, runs)
            .map_err(|problem| Problem { what: format!("label `{name}`: {}", problem.what), ..problem })
    };
    let groups = conditions(plan).iter().map(group).collect::<Result<_, _>>()?;
    let title = format!("{}: {}", title(plan), heading.as_ref().unwrap_or(&name));
    Ok(Distribution { title, label: name, menu, groups, notes: Vec::new() })
}
