//! Files of interviews: the record of a run in the schema of the published study, its backup, the summary of the batch and on the
//! terminal, and defects for `validate`.

mod defects;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{InterviewPlan, VariantPlan};
use super::{
    LEVELS, OUTCOMES, collect, judge, methods, rule,
    run::{Judgement, Row, Turn},
    tally::{Tally, distribution},
};
use crate::plan::ModelPlan;
use crate::{BACKUPS, DatasetRecord, Exports, Kind, Ledger, RunEnd, RunFile, RunRecord};
use tiltmeter_model::Role;
use tiltmeter_model::Sampling;
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::canonical;
use tiltmeter_store::{Outcome, RunKey};

/// No Python takes part.
const NO_PYTHON: &str = "n/a";

/// A run's questions and verdict, read back.
pub struct ParsedOutcome {
    pub turns: Vec<Turn>,
    pub judgement: Option<Judgement>,
}

impl ParsedOutcome {
    /// Rows that do not read back would be a defect of the program; `defects` counts what is missing.
    pub fn of(outcome: &Outcome) -> Self {
        let mut parsed = Self { turns: Vec::new(), judgement: None };
        for row in &outcome.turns {
            match serde_json::from_value(row.clone()) {
                Ok(Row::Steward(turn)) => parsed.turns.push(turn),
                Ok(Row::Judge(judgement)) => parsed.judgement = Some(judgement),
                Err(_) => {}
            }
        }
        parsed
    }

    /// The names under which the steward answered, each once.
    pub fn versions(&self) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for version in self.turns.iter().filter_map(|turn| turn.reply_record.version.as_deref()) {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        versions
    }
}

/// `completed`; `judge_failure`: the interview is whole and has no verdict; `incomplete`: anything else.
fn status(end: &RunEnd) -> &'static str {
    match end {
        RunEnd::Done => "completed",
        RunEnd::Failed(problem) if problem.what.starts_with(judge::FAILURE) => "judge_failure",
        RunEnd::Failed(_) | RunEnd::Pending => "incomplete",
    }
}

/// What a model was, as exactly as it is known: the name it answered under, the hash of its weights, or its name.
fn version<'a>(model: &'a ModelPlan, answered: &'a str) -> &'a str {
    match &model.fingerprint {
        _ if !answered.is_empty() => answered,
        Some(fingerprint) => fingerprint,
        None => &model.name,
    }
}

impl InterviewPlan {
    fn value(&self, run: &RunRecord, outcome: &Outcome) -> Value {
        let parsed = ParsedOutcome::of(outcome);
        let judged_as = parsed.judgement.as_ref().and_then(|judged| judged.version.clone()).unwrap_or_default();
        let label = |name: &str| outcome.labels.get(name);
        // Whole numbers without a fraction, as in the plan.
        let mut config = canonical(json!({"temperature": stated(&self.sampling), "top_p": self.sampling.top_p}));
        config["seed"] = json!(self.seed_of(run));
        config["max_tokens"] = json!(self.max_new_tokens);
        config["steward_version"] = json!(version(&self.steward, &parsed.versions().join(", ")));
        config["judge_version"] = json!(version(&self.judge.model, &judged_as));
        if let Some(top_k) = self.sampling.top_k {
            config["top_k"] = json!(top_k);
        }
        if let Some(min_p) = self.sampling.min_p {
            config["min_p"] = canonical(json!(min_p));
        }
        let error = match &run.end {
            RunEnd::Failed(problem) => Some(problem.to_string()),
            RunEnd::Done | RunEnd::Pending => None,
        };
        let tokens = |name: &str| outcome.metrics.get(name).map(|tokens| *tokens as u64);
        json!({
            "run_id": label("run_id"),
            "timestamp": label("timestamp"),
            "experiment_version": self.experiment_version,
            "code_commit": label("code_commit"),
            "steward_model": self.steward.name,
            "prompt_variant": run.key.cell,
            "model_config": config,
            "python_version": NO_PYTHON,
            "runner_version": label("runner_version"),
            "evaluation": parsed.judgement.as_ref().map(|judged| &judged.verdict),
            "conversation_log": log(outcome, &parsed),
            "status": status(&run.end),
            "error": error,
            "base_seed": self.seed,
            "seed_support": self.steward.seed_support,
            "usage": {"prompt_tokens": tokens("prompt_tokens"), "completion_tokens": tokens("completion_tokens")},
            "cost_usd": outcome.metrics.get("cost_usd"),
        })
    }
}

/// What was said, the briefing left out.
fn log(outcome: &Outcome, parsed: &ParsedOutcome) -> Vec<Value> {
    let mut replies = parsed.turns.iter().filter(|turn| turn.reply.is_some());
    let said = outcome.transcript.iter().filter(|message| message.role != Role::System);
    said.map(|message| {
        let (role, turn) = match message.role {
            Role::Assistant => ("model", replies.next()),
            Role::User | Role::System => ("user", None),
        };
        json!({"role": role, "parts": [{"text": message.content}], "activations": turn.and_then(activations)})
    })
    .collect()
}

/// The projections of a reply, one entry an axis.
fn activations(turn: &Turn) -> Option<Value> {
    let readout = turn.reply_record.readout.as_ref()?;
    let entry = |p: &tiltmeter_model::probe::ProbeReadout| json!({"axis": p.name, "site": p.site, "mean": p.mean, "per_token": p.per_token});
    Some(readout.projections.iter().map(entry).collect())
}

/// JSON for people, with a line feed at its end.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

impl Kind for InterviewPlan {
    fn name(&self) -> &'static str {
        "interview"
    }

    fn run_keys(&self) -> Vec<RunKey> {
        let numbers = self.first_run..self.first_run + self.runs_per_variant;
        let key = |variant: &VariantPlan, sample| RunKey {
            experiment: self.experiment.clone(),
            cell: variant.label.clone(),
            sample,
        };
        self.conditions.iter().flat_map(|variant| numbers.clone().map(move |sample| key(variant, sample))).collect()
    }

    fn exports(&self, runs: &[RunRecord], _ledger: &Ledger) -> Exports {
        collect::exports(self, runs)
    }

    fn run_files(&self, run: &RunRecord) -> Vec<RunFile> {
        let Some(outcome) = &run.outcome else { return Vec::new() };
        let label = |name: &str| outcome.labels.get(name).map(String::as_str).unwrap_or_default();
        let day: String = label("timestamp").chars().take(10).filter(char::is_ascii_digit).collect();
        let path = format!("{BACKUPS}/{day}/{}.json", label("run_id"));
        vec![RunFile { path, text: pretty(&self.value(run, outcome)) }]
    }

    fn record(&self, run: &RunRecord) -> Option<DatasetRecord> {
        let outcome = run.outcome.as_ref()?;
        let id = outcome.labels.get("run_id")?.clone();
        Some(DatasetRecord { id, value: self.value(run, outcome) })
    }

    fn batch_files(&self, runs: &[RunRecord]) -> Vec<RunFile> {
        let menu = self.strategies();
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (outcomes, levels) = (words(&OUTCOMES), words(&LEVELS));
        let found = |runs: &[&RunRecord]| {
            let mut counts = Tally::of(runs.iter().copied()).json();
            let labels = [("strategy", &menu), ("outcome", &outcomes), ("deception_level", &levels)];
            for (label, menu) in labels {
                let counted: BTreeMap<_, _> = distribution(runs.iter().copied(), label, menu).into_iter().collect();
                // In the order of the menu, zeros included, so that variants can be laid beside each other.
                let all: serde_json::Map<String, Value> =
                    menu.iter().map(|name| (name.clone(), json!(counted.get(name).copied().unwrap_or(0)))).collect();
                counts.insert(format!("{label}_distribution"), Value::Object(all));
            }
            counts
        };
        let all: Vec<&RunRecord> = runs.iter().collect();
        let of_variant = |id: &String| runs.iter().filter(|run| run.key.cell == *id).collect::<Vec<_>>();
        let ids = self.conditions.iter().map(|variant| &variant.label);
        let by_variant: serde_json::Map<String, Value> =
            ids.map(|id| (id.clone(), Value::Object(found(&of_variant(id))))).collect();
        let sum =
            |metric: &str| -> f64 { runs.iter().filter_map(|run| run.outcome.as_ref()?.metrics.get(metric)).sum() };
        let failed: Vec<Value> = runs
            .iter()
            .filter_map(|run| {
                let RunEnd::Failed(problem) = &run.end else { return None };
                let run_id = run.outcome.as_ref().and_then(|outcome| outcome.labels.get("run_id"));
                Some(json!({
                    "run": run.key.id(), "run_id": run_id, "status": status(&run.end), "error": problem.to_string(),
                }))
            })
            .collect();
        let mut summary = json!({
            "experiment": self.experiment,
            "experiment_version": self.experiment_version,
            "steward_model": self.steward.name,
            "judge_model": self.judge.model.name,
        });
        if let Value::Object(summary) = &mut summary {
            summary.extend(found(&all));
            summary.insert("by_variant".to_owned(), Value::Object(by_variant));
            let usage = json!({
                "prompt_tokens": sum("prompt_tokens") as u64, "completion_tokens": sum("completion_tokens") as u64,
            });
            summary.insert("usage".to_owned(), usage);
            summary.insert("cost_usd".to_owned(), json!(sum("cost_usd")));
            summary.insert("failed_runs".to_owned(), Value::Array(failed));
        }
        vec![RunFile { path: "batch_summary.json".to_owned(), text: pretty(&summary) }]
    }

    fn closing(&self, runs: &[RunRecord]) -> Option<String> {
        let tally = Tally::of(runs);
        if let (false, [run]) = (self.batch, runs) {
            return Some(single(run));
        }
        let state = if tally.pending > 0 { "INCOMPLETE" } else { "COMPLETE" };
        let mut lines = vec![rule(), format!("BATCH EXPERIMENT {state} - SUMMARY"), rule()];
        lines.push(format!("Total runs: {}", tally.total));
        lines.push(format!("Successful: {}", tally.successful));
        lines.push(format!("Failed: {}", tally.failed));
        if tally.pending > 0 {
            lines.push(format!("Pending: {}", tally.pending));
        }
        lines.extend([String::new(), "Strategy distribution:".to_owned()]);
        let counts = distribution(runs, "strategy", &self.strategies());
        lines.extend(counts.into_iter().map(|(strategy, count)| format!("  {strategy}: {count}")));
        lines.push(rule());
        Some(lines.join("\n"))
    }

    fn defects(&self, run: &RunRecord) -> Vec<Problem> {
        defects::of(self, run)
    }

    fn methods(&self) -> Vec<String> {
        methods::methods(self)
    }
}

/// What the judge said of the one run that a person sat through.
fn single(run: &RunRecord) -> String {
    let judged = run.outcome.as_ref().and_then(|outcome| ParsedOutcome::of(outcome).judgement);
    let mut lines = vec![rule(), "INTERVIEW - EVALUATION".to_owned(), rule()];
    match (judged, &run.end) {
        (Some(Judgement { verdict, .. }), _) => lines.extend([
            format!("Strategy: {}", verdict.strategy),
            format!("Outcome: {}", verdict.outcome),
            format!("Deception level: {}", verdict.deception_level),
            format!("Reasoning: {}", verdict.reasoning),
        ]),
        (None, RunEnd::Failed(problem)) => lines.push(format!("Failed: {}", problem.what)),
        (None, _) => lines.push("Not finished".to_owned()),
    }
    lines.push(rule());
    lines.join("\n")
}

/// The temperature that was asked for; `None` where the model's own was left.
pub(super) fn stated(sampling: &Sampling) -> Option<f64> {
    (!sampling.default_temperature).then_some(sampling.temperature)
}
