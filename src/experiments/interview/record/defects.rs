//! Defects of a finished interview: deviations from the plan, and findings that a reader should check.

use super::{InterviewPlan, ParsedOutcome};
use crate::interview::{LEVELS, OUTCOMES, run::status};
use crate::{RunEnd, RunRecord};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::Outcome;

pub fn of(plan: &InterviewPlan, run: &RunRecord) -> Vec<Problem> {
    let (RunEnd::Done, Some(outcome)) = (&run.end, &run.outcome) else { return Vec::new() };
    let name = outcome.labels.get("run_id").cloned().unwrap_or_else(|| run.key.id());
    let parsed = ParsedOutcome::of(outcome);
    let mut found = fields(outcome);
    found.extend(questions(plan, run, &parsed));
    found.extend(seeds(plan, run, &parsed));
    found.extend(verdict(plan, &parsed));
    found.into_iter().map(|(what, hint)| Problem::new(what).at(name.clone()).hint(hint)).collect()
}

/// What is wrong, and what to do.
type Defect = (String, &'static str);

const BROKEN: &str = "the journal is damaged or was made by another version: run this repetition again in a new folder";

fn fields(outcome: &Outcome) -> Vec<Defect> {
    let needed = ["run_id", "timestamp", "variant", "runner_version", "status"];
    let missing = needed.iter().filter(|label| outcome.labels.get(**label).is_none_or(String::is_empty));
    missing.map(|label| (format!("the record lacks `{label}`"), BROKEN)).collect()
}

fn questions(plan: &InterviewPlan, run: &RunRecord, parsed: &ParsedOutcome) -> Vec<Defect> {
    let mut found = Vec::new();
    let Some(variant) = plan.conditions.iter().find(|variant| variant.label == run.key.cell) else {
        return vec![(format!("the plan has no variant `{}`", run.key.cell), BROKEN)];
    };
    if !parsed.turns.iter().map(|turn| &turn.question).eq(&variant.prompts) {
        found.push(("the questions are not those of the plan".to_owned(), BROKEN));
    }
    for turn in &parsed.turns {
        let n = turn.turn;
        match turn.reply_record.status.as_str() {
            status::EMPTY => found.push((format!("reply {n} is empty"), "look at the steward, or leave the run out")),
            status::CONTENT_FILTER => {
                found.push((
                    format!("the provider withheld reply {n}"),
                    "report it: such runs are not missing at random",
                ));
            }
            status::LENGTH_CAPPED => {
                found.push((format!("reply {n} was cut at its longest length"), "raise sampling.max_new_tokens"));
            }
            _ => {}
        }
        if turn.reply_record.status != status::NOT_ASKED && turn.reply.is_none() {
            found.push((format!("question {n} has no reply"), BROKEN));
        }
    }
    if parsed.versions().len() > 1 {
        let versions = parsed.versions().join(", ");
        found.push((
            format!("the steward changed its version during the interview: {versions}"),
            "leave the run out, or report both versions",
        ));
    }
    found
}

/// A seed that is not the run's own may be another run's, and then the two are no independent repetitions.
fn seeds(plan: &InterviewPlan, run: &RunRecord, parsed: &ParsedOutcome) -> Vec<Defect> {
    let own = plan.seed_of(run);
    let strange = parsed
        .turns
        .iter()
        .filter(|turn| turn.reply_record.status != status::NOT_ASKED && turn.reply_record.seed_key != own);
    let hint = "it may repeat another run's: leave it out, or run this repetition again in a new folder";
    strange
        .take(1)
        .map(|turn| {
            (
                format!("question {} has the seed {}, and the run's is {own}", turn.turn, turn.reply_record.seed_key),
                hint,
            )
        })
        .collect()
}

fn verdict(plan: &InterviewPlan, parsed: &ParsedOutcome) -> Vec<Defect> {
    let Some(judged) = &parsed.judgement else {
        return vec![("the run counts as finished and has no verdict".to_owned(), BROKEN)];
    };
    let verdict = &judged.verdict;
    let off = |what: &str, said: &str, menu: &[&str]| {
        (!menu.contains(&said)).then(|| (format!("the verdict's {what} `{said}` is not on the menu"), BROKEN))
    };
    let menu = plan.strategies();
    let menu: Vec<&str> = menu.iter().map(String::as_str).collect();
    let mut found: Vec<Defect> = [
        off("strategy", &verdict.strategy, &menu),
        off("outcome", &verdict.outcome, &OUTCOMES),
        off("deception_level", &verdict.deception_level, &LEVELS),
    ]
    .into_iter()
    .flatten()
    .collect();
    if verdict.reasoning.is_empty() {
        found.push(("the verdict gives no reason".to_owned(), "read the transcript before you rely on it"));
    }
    found
}
