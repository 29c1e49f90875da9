//! Owns the way from records to an analysis: a run folder's journal, or documents in the published schema, become comparisons.
//! Must not know: flags, terminal.

use std::path::PathBuf;

use serde_json::Value;

use crate::problem::Problem;
use crate::record::{Outcome, RunFolder, RunKey};
use crate::report::{Analysis, Comparison, GroupData, Options, SampleData, analyse, load_documents};
use crate::scheduler::{Plan, finished_runs};

/// The label under which a run counts as the trajectory to compare with, not as a condition.
const REFERENCE: &str = "reference";

/// What is to be reported on.
#[derive(Clone, Debug)]
pub enum ReportInput {
    Folder(PathBuf),
    Documents(Vec<PathBuf>),
}

/// Comparisons with their numbers, the main measure first.
#[derive(Clone, Debug)]
pub struct Reported {
    pub measures: Vec<(Comparison, Analysis)>,
}

/// Recomputes every statistic from the journal of a folder or from documents.
pub fn report(input: &ReportInput, options: &Options) -> Result<Reported, Vec<Problem>> {
    match input {
        ReportInput::Documents(paths) => {
            let comparison = load_documents(paths)?;
            let analysis = analyse(&comparison, options).map_err(|problem| vec![problem])?;
            Ok(Reported { measures: vec![(comparison, analysis)] })
        }
        ReportInput::Folder(dir) => {
            let folder = RunFolder::at(dir);
            let (plan, outcomes) = finished_runs(&folder).map_err(|problem| vec![problem])?;
            let outcomes: Vec<(RunKey, Outcome)> = outcomes.into_iter().filter_map(keyed).collect();
            let reported = analyse_outcomes(&plan, &outcomes, options, &[]).map_err(|problem| vec![problem])?;
            reported.ok_or_else(|| {
                vec![
                    Problem::new("no run of any condition is finished yet, so there is nothing to report")
                        .at(dir.display().to_string())
                        .hint("finish it: tiltmeter run FILE --resume"),
                ]
            })
        }
    }
}

/// The key of a run out of its id and labels: `<cell>-<sample>`.
fn keyed((id, outcome): (String, Outcome)) -> Option<(RunKey, Outcome)> {
    let (cell, sample) = id.rsplit_once('-')?;
    let key = RunKey { experiment: String::new(), cell: cell.to_owned(), sample: sample.parse().ok()? };
    Some((key, outcome))
}

/// One comparison per series that the outcomes hold; conditions in the order of the plan. `None` if no condition has a run.
pub fn analyse_outcomes(
    plan: &Plan,
    outcomes: &[(RunKey, Outcome)],
    options: &Options,
    notes: &[String],
) -> Result<Option<Reported>, Problem> {
    let document = plan.document();
    let conditions: Vec<&Value> =
        document["conditions"].as_array().map(|list| list.iter().collect()).unwrap_or_default();
    let names: Vec<&str> = match outcomes.iter().find(|(key, _)| key.cell != REFERENCE) {
        Some((_, outcome)) => outcome.series.iter().map(|series| series.name.as_str()).collect(),
        None => return Ok(None),
    };
    let mut measures = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let series = |outcome: &Outcome| {
            outcome.series.get(index).map(|s| SampleData { values: s.values.clone(), statuses: s.statuses.clone() })
        };
        let groups = conditions.iter().map(|condition| {
            let label = condition["label"].as_str().unwrap_or_default();
            let text = |key: &str| condition[key].as_str().map(str::to_owned);
            let samples = outcomes.iter().filter(|(key, _)| key.cell == label);
            GroupData {
                label: label.to_owned(),
                samples: samples.filter_map(|(_, outcome)| series(outcome)).collect(),
                system_prompt: text("system_prompt"),
                rendered_prompt: text("rendered_prompt"),
            }
        });
        let groups: Vec<GroupData> = groups.filter(|group| !group.samples.is_empty()).collect();
        let reference = outcomes.iter().find(|(key, _)| key.cell == REFERENCE);
        let span = document["axes"][index]["span"].as_array();
        let comparison = Comparison {
            title: document["experiment"].as_str().unwrap_or("experiment").to_owned(),
            unit: (*name).to_owned(),
            groups,
            reference: reference.and_then(|(_, outcome)| series(outcome)).map(|series| series.values),
            span: span.and_then(|ends| ends.first()?.as_f64().zip(ends.get(1)?.as_f64())),
            notes: notes.to_vec(),
        };
        let analysis = analyse(&comparison, options)?;
        measures.push((comparison, analysis));
    }
    Ok(Some(Reported { measures }))
}
