//! Statistics of finished runs: of a run folder's journal, or of documents in the published schema.

use std::path::PathBuf;

use serde_json::{Value, json};

use tiltmeter_experiments::ReportPlan;
use tiltmeter_model::problem::Problem;
use tiltmeter_report::{
    Analysis, Comparison, Distribution, DistributionAnalysis, Options, Response, ResponseAnalysis, analyse,
    analyse_distribution, analyse_response, distribution_json, load_documents, response_json, terminal_key,
};
use tiltmeter_scheduler::{Plan, finished_runs};
use tiltmeter_store::{Outcome, RunFolder, RunKey};

/// Input of a report.
#[derive(Clone, Debug)]
pub enum ReportInput {
    Folder(PathBuf),
    Documents(Vec<PathBuf>),
}

/// Comparisons, distributions and responses with their statistics; at least one.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// The main measure first.
    pub measures: Vec<(Comparison, Analysis)>,
    /// In the order of the plan.
    pub distributions: Vec<(Distribution, DistributionAnalysis)>,
    pub responses: Vec<(Response, ResponseAnalysis)>,
}

impl Reported {
    /// A key to the names of conditions; `None` if the names are plain. Taken from the measure with the most conditions, because a
    /// measure leaves out conditions without a value.
    pub fn key(&self) -> Option<String> {
        let comparisons = self.measures.iter().map(|(comparison, _)| comparison);
        let most = comparisons.rev().max_by_key(|comparison| comparison.groups.len())?;
        Some(terminal_key(most)).filter(|key| !key.is_empty())
    }

    /// The statistics as JSON: the main measure at the top level, with `distributions` and `responses` if there are any.
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
                let nothing = if ReportPlan::read(plan.document()).is_ok_and(|report| report.has_run(&outcomes)) {
                    Problem::new(
                        "the finished runs have no measured series and no categories, and the plan no responses, so there is \
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

/// The plan and the finished runs.
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

/// Name of the experiment.
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
    let report = ReportPlan::read(plan.document())?;
    if !report.has_run(outcomes) {
        return Ok(None);
    }
    let mut reported = Reported::default();
    let mut left_out: Vec<Problem> = Vec::new();
    for mut comparison in report.comparisons(outcomes) {
        let name = comparison.unit.clone();
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
    for category in &report.categories {
        let mut distribution = report.distribution(outcomes, category)?;
        // Beside a measure they are said there.
        if reported.measures.is_empty() {
            distribution.notes.extend_from_slice(notes);
        }
        let analysis = analyse_distribution(&distribution, options)?;
        reported.distributions.push((distribution, analysis));
    }
    for planned in &report.responses {
        let mut response = report.response(outcomes, planned);
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
