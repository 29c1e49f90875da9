//! Owns what is made of a scenario batch from its frozen plan and the journal alone: the files of every run, the files of the batch, the
//! closing words, and what `validate` finds wrong.
//! Must not know: engine, provider, run folders, terminal.

mod batch;
mod defects;
mod files;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{analysis, collect, methods, play::JUDGE_FAILURE, turn::Turn};
use crate::config::{Cell, Scenario};
use crate::{BatchAnalysis, Exports, Kind, Ledger, RunEnd, RunFile, RunRecord};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Account, HaltReason};
use tiltmeter_store::{Outcome, RunKey};

/// One variation of the plan.
pub struct Variation {
    /// `var-001`
    pub id: String,
    /// `var-001-run`: with a repetition it is a run's id.
    pub cell: String,
    pub description: String,
    /// As the plan has it.
    pub modifications: Value,
    /// As the scenario is here.
    pub scenario: Option<Scenario>,
}

/// The files of one frozen plan.
pub struct Records {
    pub plan: Value,
    pub base: Option<Scenario>,
    pub variations: Vec<Variation>,
}

/// The turns of a run, read back. Rows that do not read back would be a defect of the program; `defects` counts what is missing.
pub fn turns_of(outcome: &Outcome) -> Vec<Turn> {
    outcome.turns.iter().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect()
}

/// How a run stands, in one word.
pub fn status(run: &RunRecord, account: Option<&Account>) -> &'static str {
    match (&run.end, account.and_then(|account| account.halt.as_ref())) {
        (RunEnd::Done, _) => "completed",
        (RunEnd::Failed(problem), _) if problem.what.starts_with(JUDGE_FAILURE) => "judge_failure",
        (RunEnd::Failed(problem), _) if problem.what.starts_with("the run took longer than") => "timeout",
        (RunEnd::Failed(_), _) => "failed",
        (RunEnd::Pending, Some(halt)) => match halt.reason {
            HaltReason::RunBudget => "cost_limit",
            HaltReason::Budget => "budget_limit",
            HaltReason::Quota => "quota",
            HaltReason::RateLimit => "rate_limit",
        },
        (RunEnd::Pending, None) if run.outcome.is_some() => "incomplete",
        (RunEnd::Pending, None) => "pending",
    }
}

/// JSON for people, with a line feed at its end.
fn pretty(path: impl Into<String>, value: &Value) -> RunFile {
    RunFile { path: path.into(), text: format!("{value:#}\n") }
}

/// Micro-dollars as dollars.
fn usd(micro_usd: u64) -> f64 {
    micro_usd as f64 / 1e6
}

impl Records {
    pub fn of(plan: &Value) -> Self {
        let base: Option<Scenario> = serde_json::from_value(plan["scenario"].clone()).ok();
        let variation = |condition: &Value| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            let cell: Option<Cell> = serde_json::from_value(condition["cell"].clone()).ok();
            Variation {
                id: text("variation_id"),
                cell: text("label"),
                description: text("title"),
                modifications: condition["modifications"].clone(),
                scenario: base.as_ref().zip(cell).map(|(base, cell)| cell.of(base)),
            }
        };
        let variations = plan["conditions"].as_array().into_iter().flatten().map(variation).collect();
        Self { plan: plan.clone(), base, variations }
    }

    fn variation(&self, run: &RunRecord) -> Option<&Variation> {
        self.variations.iter().find(|variation| variation.cell == run.key.cell)
    }

    fn planned(&self) -> usize {
        self.variations.len() * self.runs_per_variation()
    }

    pub fn runs_per_variation(&self) -> usize {
        self.plan["runs_per_variation"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// Runs of variations that this plan has; a plan that was amended may have left some behind.
    fn own<'a>(&self, runs: &'a [RunRecord]) -> Vec<&'a RunRecord> {
        runs.iter().filter(|run| self.variation(run).is_some()).collect()
    }
}

impl Kind for Records {
    fn name(&self) -> &'static str {
        "scenario"
    }

    fn run_keys(&self) -> Vec<RunKey> {
        let experiment = self.plan["experiment"].as_str().unwrap_or_default();
        let key = |variation: &Variation, sample| RunKey {
            experiment: experiment.to_owned(),
            cell: variation.cell.clone(),
            sample,
        };
        let samples = 1..=self.runs_per_variation();
        self.variations.iter().flat_map(|one| samples.clone().map(move |sample| key(one, sample))).collect()
    }

    fn exports(&self, runs: &[RunRecord], _ledger: &Ledger) -> Exports {
        collect::collect(self, runs)
    }

    fn run_files(&self, run: &RunRecord) -> Vec<RunFile> {
        let (Some(outcome), Some(variation)) = (&run.outcome, self.variation(run)) else { return Vec::new() };
        if self.plan["save_individual_runs"] == false {
            return Vec::new();
        }
        variation.scenario.as_ref().map_or_else(Vec::new, |scenario| {
            let mut files = files::of(scenario, run, outcome);
            files.push(files::state(variation, scenario, run, outcome, None));
            files.push(files::log(scenario, run, outcome, None));
            files
        })
    }

    fn standing(&self, done: &[String]) -> Vec<RunFile> {
        vec![pretty("batch-state.json", &batch::standing(self, done))]
    }

    fn accounts(&self, runs: &[RunRecord], books: &Ledger) -> Vec<RunFile> {
        let mut files = Vec::new();
        let own = self.own(runs);
        for run in own.iter().filter(|_| self.plan["save_individual_runs"] != false) {
            let (account, variation) = (books.runs.get(&run.key.id()), self.variation(run));
            let scenario = variation.and_then(|variation| Some((variation, variation.scenario.as_ref()?)));
            if let (Some((variation, scenario)), Some(outcome)) = (scenario, &run.outcome) {
                files.push(files::state(variation, scenario, run, outcome, Some(account)));
                files.push(files::log(scenario, run, outcome, Some(account)));
            }
        }
        files.extend(batch::files(self, &own, books));
        if self.plan["aggregate_metrics"] != false
            && let Some(analysis) = self.analysis(runs, books)
        {
            files.extend(analysis.files());
            files.push(analysis.page);
        }
        files
    }

    fn analysis(&self, runs: &[RunRecord], books: &Ledger) -> Option<BatchAnalysis> {
        Some(analysis::analyse(&analysis::Seen {
            title: self.plan["experiment_name"].as_str().unwrap_or("experiment"),
            base: self.base.as_ref()?,
            variations: &self.variations,
            runs_per_variation: self.runs_per_variation(),
            runs: &self.own(runs),
            books,
        }))
    }

    fn closing(&self, runs: &[RunRecord]) -> Option<String> {
        let own = self.own(runs);
        let count = |end: fn(&RunEnd) -> bool| own.iter().filter(|run| end(&run.end)).count();
        let (done, failed) = (count(|end| *end == RunEnd::Done), count(|end| matches!(end, RunEnd::Failed(_))));
        let planned = self.planned();
        let left = planned.saturating_sub(done + failed);
        let state = if left > 0 { "INCOMPLETE" } else { "COMPLETE" };
        let rule = "=".repeat(60);
        let cost: f64 = own.iter().filter_map(|run| run.outcome.as_ref()?.metrics.get("cost_usd")).sum();
        let mut lines = vec![rule.clone(), format!("SCENARIO BATCH {state} - SUMMARY"), rule.clone()];
        lines.push(format!("Planned runs: {planned}"));
        lines.push(format!("Completed: {done}"));
        lines.push(format!("Failed: {failed}"));
        if left > 0 {
            lines.push(format!("Left: {left} (go on with --resume)"));
        }
        lines.push(format!("Cost of replies: ${cost:.4}"));
        let mut by_variation: BTreeMap<&str, usize> = BTreeMap::new();
        for run in own.iter().filter(|run| run.end == RunEnd::Done) {
            *by_variation.entry(run.key.cell.as_str()).or_default() += 1;
        }
        for variation in self.variations.iter().take(24) {
            let done = by_variation.get(variation.cell.as_str()).copied().unwrap_or(0);
            lines.push(format!("  {}: {done}/{} {}", variation.id, self.runs_per_variation(), variation.description));
        }
        lines.push(rule);
        Some(lines.join("\n"))
    }

    fn defects(&self, run: &RunRecord) -> Vec<Problem> {
        defects::of(self, run)
    }

    fn methods(&self) -> Vec<String> {
        methods::methods(&self.plan)
    }
}

/// Variations as `batch-state.json` lists them.
fn listed(variations: &[Variation]) -> Value {
    let entry = |variation: &Variation| {
        json!({
            "variation_id": variation.id, "description": variation.description, "modifications": variation.modifications,
        })
    };
    variations.iter().map(entry).collect()
}
