//! Everything that a scenario batch leaves, from its frozen plan and the journal: files of each run, files of the batch, the analysis,
//! tables, the summary on the terminal, defects.

mod analysis;
mod batch;
mod defects;
mod methods;
mod run_files;
mod tables;

use std::collections::BTreeMap;

use super::ScenarioPlan;
use super::turn::Turn;
use crate::reply_record::parse_rows;
use crate::{BatchAnalysis, Exports, Kind, Ledger, RunEnd, RunFile, RunRecord, judge};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Account, HaltReason, TOO_LONG};
use tiltmeter_store::{Outcome, RunKey};

/// Variations listed in the summary on the terminal.
const MAX_LISTED: usize = 24;

fn turns_of(outcome: &Outcome) -> Vec<Turn> {
    parse_rows(outcome)
}

/// Status of a run.
fn status(run: &RunRecord, account: Option<&Account>) -> &'static str {
    match (&run.end, account.and_then(|account| account.halt.as_ref())) {
        (RunEnd::Done, _) => "completed",
        (RunEnd::Failed(problem), _) if problem.what.starts_with(judge::FAILURE) => "judge_failure",
        (RunEnd::Failed(problem), _) if problem.what.starts_with(TOO_LONG) => "timeout",
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

/// Micro-dollars as dollars.
fn usd(micro_usd: u64) -> f64 {
    micro_usd as f64 / 1e6
}

/// Prompt and completion tokens of a run.
fn total_tokens(outcome: Option<&Outcome>) -> f64 {
    let tokens = |name: &str| outcome.and_then(|outcome| outcome.metrics.get(name)).copied().unwrap_or(0.0);
    tokens("prompt_tokens") + tokens("completion_tokens")
}

/// The records of a batch.
struct Batch<'a> {
    plan: &'a ScenarioPlan,
    /// Runs of variations that the plan has; an extended plan may have dropped others.
    runs: Vec<&'a RunRecord>,
    ledger: &'a Ledger,
}

impl<'a> Batch<'a> {
    fn new(plan: &'a ScenarioPlan, runs: &'a [RunRecord], ledger: &'a Ledger) -> Self {
        Self { plan, runs: plan.own(runs), ledger }
    }

    fn account(&self, run: &RunRecord) -> Option<&'a Account> {
        self.ledger.runs.get(&run.key.id())
    }

    fn status(&self, run: &RunRecord) -> &'static str {
        status(run, self.account(run))
    }

    fn settled_micro_usd(&self, run: &RunRecord) -> u64 {
        self.account(run).map_or(0, |account| account.settled_micro_usd)
    }
}

impl ScenarioPlan {
    fn own<'a>(&self, runs: &'a [RunRecord]) -> Vec<&'a RunRecord> {
        runs.iter().filter(|run| self.variation(run).is_some()).collect()
    }
}

impl Kind for ScenarioPlan {
    fn name(&self) -> &'static str {
        "scenario"
    }

    fn run_keys(&self) -> Vec<RunKey> {
        let key = |label: &str, sample| RunKey { experiment: self.experiment.clone(), cell: label.to_owned(), sample };
        let samples = 1..=self.runs_per_variation;
        let variations = self.conditions.iter();
        variations.flat_map(|one| samples.clone().map(move |sample| key(&one.label, sample))).collect()
    }

    fn exports(&self, runs: &[RunRecord], _ledger: &Ledger) -> Exports {
        tables::exports(self, runs)
    }

    fn run_files(&self, run: &RunRecord) -> Vec<RunFile> {
        run_files::RunFiles::of(self, run).map_or_else(Vec::new, |files| {
            let mut all = files.turn_files();
            all.extend([files.state(None), files.log(None)]);
            all
        })
    }

    fn standing(&self, done: &[String]) -> Vec<RunFile> {
        vec![RunFile::json("batch-state.json", &batch::standing(self, done))]
    }

    fn accounts(&self, runs: &[RunRecord], ledger: &Ledger) -> Vec<RunFile> {
        let batch = Batch::new(self, runs, ledger);
        let mut files = Vec::new();
        for run in &batch.runs {
            if let Some(of_run) = run_files::RunFiles::of(self, run) {
                let account = Some(batch.account(run));
                files.extend([of_run.state(account), of_run.log(account)]);
            }
        }
        files.extend(batch.files());
        if self.aggregate_metrics {
            let analysis = analysis::analyse(&batch);
            files.extend(analysis.files());
            files.push(analysis.page);
        }
        files
    }

    fn analysis(&self, runs: &[RunRecord], ledger: &Ledger) -> Option<BatchAnalysis> {
        Some(analysis::analyse(&Batch::new(self, runs, ledger)))
    }

    fn closing(&self, runs: &[RunRecord]) -> Option<String> {
        let own = self.own(runs);
        let count = |end: fn(&RunEnd) -> bool| own.iter().filter(|run| end(&run.end)).count();
        let (done, failed) = (count(|end| *end == RunEnd::Done), count(|end| matches!(end, RunEnd::Failed(_))));
        let left = self.planned_runs().saturating_sub(done + failed);
        let state = if left > 0 { "INCOMPLETE" } else { "COMPLETE" };
        let rule = "=".repeat(60);
        let cost: f64 = own.iter().filter_map(|run| run.outcome.as_ref()?.metrics.get("cost_usd")).sum();
        let mut lines = vec![rule.clone(), format!("SCENARIO BATCH {state} - SUMMARY"), rule.clone()];
        lines.push(format!("Planned runs: {}", self.planned_runs()));
        lines.push(format!("Completed: {done}"));
        lines.push(format!("Failed: {failed}"));
        if left > 0 {
            lines.push(format!("Left: {left} (continue with --resume)"));
        }
        lines.push(format!("Cost of replies: ${cost:.4}"));
        let mut by_cell: BTreeMap<&str, usize> = BTreeMap::new();
        for run in own.iter().filter(|run| run.end == RunEnd::Done) {
            *by_cell.entry(run.key.cell.as_str()).or_default() += 1;
        }
        for variation in self.conditions.iter().take(MAX_LISTED) {
            let done = by_cell.get(variation.label.as_str()).copied().unwrap_or(0);
            let (id, planned, title) = (&variation.variation_id, self.runs_per_variation, &variation.title);
            lines.push(format!("  {id}: {done}/{planned} {title}"));
        }
        lines.push(rule);
        Some(lines.join("\n"))
    }

    fn defects(&self, run: &RunRecord) -> Vec<Problem> {
        defects::defects(self, run)
    }

    fn methods(&self) -> Vec<String> {
        methods::methods(self)
    }
}
