//! Owns the way from a plan's `responses` and the metrics and labels of finished runs to what the report shows of them.
//! Must not know: flags, terminal, statistics.

use serde::Deserialize;
use serde_json::Value;

use super::report::title;
use tiltmeter_experiments::ResponsePlan;
use tiltmeter_model::problem::Problem;
use tiltmeter_report::{Response, ResponseRun};
use tiltmeter_scheduler::Plan;
use tiltmeter_store::{Outcome, RunKey};

/// What the plan wants shown, with the finished runs. Errors if the plan's list cannot be read.
pub fn responses(plan: &Plan, outcomes: &[(RunKey, Outcome)]) -> Result<Vec<Response>, Problem> {
    let planned = match plan.document().get("responses") {
        None | Some(Value::Null) => Vec::new(),
        Some(written) => Vec::<ResponsePlan>::deserialize(written).map_err(|error| {
            Problem::new(format!("`responses` of the plan cannot be read: {error}"))
                .hint("it is a list of objects with a metric, a title, a unit and what the metric is shown against")
        })?,
    };
    Ok(planned.into_iter().map(|planned| response(plan, outcomes, planned)).collect())
}

fn response(plan: &Plan, outcomes: &[(RunKey, Outcome)], planned: ResponsePlan) -> Response {
    let ResponsePlan { metric, title: heading, unit, centred, against, by, rows, columns, notes } = planned;
    let run = |(key, outcome): &(RunKey, Outcome)| ResponseRun {
        name: key.id(),
        value: outcome.metrics.get(&metric).copied(),
        level: against.as_ref().and_then(|against| outcome.metrics.get(&against.metric).copied()),
        labels: outcome.labels.clone(),
    };
    let runs = outcomes.iter().map(run).collect();
    let title = format!("{}: {heading}", title(plan));
    Response { title, metric, unit, centred, against, by, rows, columns, runs, notes }
}
