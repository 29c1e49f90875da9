//! `batch-summary.json`, `batch-state.json` and `batch-costs.json`.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Batch, total_tokens, usd};
use crate::scenario::ScenarioPlan;
use crate::{RunEnd, RunFile, RunRecord};
use tiltmeter_store::Session;

impl<'a> Batch<'a> {
    pub fn files(&self) -> Vec<RunFile> {
        vec![
            RunFile::json("batch-summary.json", &self.summary()),
            RunFile::json("batch-state.json", &self.state()),
            RunFile::json("batch-costs.json", &self.costs()),
        ]
    }

    fn done(&self) -> Vec<&'a RunRecord> {
        self.runs.iter().copied().filter(|run| run.end == RunEnd::Done).collect()
    }

    /// `run_id`, `error` and `status` of each failed run.
    fn failed(&self) -> Vec<Value> {
        let failed = self.runs.iter().filter_map(|run| match &run.end {
            RunEnd::Failed(problem) => Some(self.unfinished(run, problem.to_string())),
            _ => None,
        });
        failed.collect()
    }

    /// The same for each pending run that a limit stopped.
    fn halted(&self) -> Vec<Value> {
        let pending = self.runs.iter().filter(|run| run.end == RunEnd::Pending);
        let halted = pending.filter_map(|run| {
            let halt = self.account(run)?.halt.as_ref()?;
            Some(self.unfinished(run, halt.problem.to_string()))
        });
        halted.collect()
    }

    fn unfinished(&self, run: &RunRecord, error: String) -> Value {
        json!({"run_id": run.key.id(), "error": error, "status": self.status(run)})
    }

    fn spent(&self, runs: &[&RunRecord]) -> u64 {
        runs.iter().map(|run| self.settled_micro_usd(run)).sum()
    }

    fn average_cost(&self, runs: &[&RunRecord]) -> Option<f64> {
        (!runs.is_empty()).then(|| usd(self.spent(runs)) / runs.len() as f64)
    }

    fn spending(&self) -> Map<String, Value> {
        let spending = &self.ledger.spending;
        let remaining = spending.limit_micro_usd.map(|limit| usd(limit.saturating_sub(spending.held_micro_usd())));
        let entries = [
            ("total_spent", json!(usd(spending.settled_micro_usd))),
            ("uncertain", json!(usd(spending.uncertain_micro_usd))),
            ("budget_limit", json!(spending.limit_micro_usd.map(usd))),
            ("cost_per_run_limit", json!(spending.run_limit_micro_usd.map(usd))),
            ("remaining_budget", json!(remaining)),
        ];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn summary(&self) -> Value {
        let (plan, done, failed, halted) = (self.plan, self.done(), self.failed(), self.halted());
        let planned = plan.planned_runs();
        let mut cost = self.spending();
        cost.insert("avg_cost_per_run".to_owned(), json!(self.average_cost(&done)));
        let sessions = &self.ledger.sessions;
        json!({
            "experiment_name": plan.experiment_name,
            "description": plan.description,
            "base_scenario": plan.base_scenario,
            "total_variations": plan.conditions.len(),
            "runs_per_variation": plan.runs_per_variation,
            "total_runs_planned": planned,
            "runs_completed": done.len(),
            "runs_failed": failed.len(),
            "runs_halted": halted.len(),
            "runs_pending": planned.saturating_sub(done.len() + failed.len()),
            "start_time": sessions.first().map(|session| &session.started),
            "end_time": sessions.iter().filter_map(|session| session.ended.as_ref()).next_back(),
            "duration_seconds": sessions.iter().filter_map(duration_seconds).sum::<i64>(),
            "cost_summary": cost,
            "failed_runs": failed,
            "halted_runs": halted,
        })
    }

    fn state(&self) -> Value {
        let done: Vec<String> = self.done().iter().map(|run| run.key.id()).collect();
        let start = self.ledger.sessions.first().map(|session| &session.started);
        state(self.plan, &done, json!(self.failed()), json!(self.halted()), json!(start))
    }

    fn costs(&self) -> Value {
        let (done, halted) = (self.done(), self.halted());
        let mut summary = self.spending();
        for (key, value) in [
            ("runs_completed", json!(done.len())),
            ("runs_failed", json!(self.failed().len())),
            ("runs_budget_exceeded", json!(halted.iter().filter(|run| run["status"] == "cost_limit").count())),
            ("runs_halted", json!(halted.len())),
            ("avg_cost_per_run", json!(self.average_cost(&done))),
        ] {
            summary.insert(key.to_owned(), value);
        }
        let run_cost = |run: &&RunRecord| {
            json!({
                "run_id": run.key.id(),
                "variation_id": self.plan.variation(run).map(|variation| &variation.variation_id),
                "status": self.status(run),
                "cost_usd": usd(self.settled_micro_usd(run)),
                "uncertain_usd": usd(self.account(run).map_or(0, |account| account.uncertain_micro_usd)),
                "total_tokens": total_tokens(run.outcome.as_ref()) as u64,
            })
        };
        let mut by_variation = Map::new();
        for variation in &self.plan.conditions {
            let of_variation = |run: &&RunRecord| run.key.cell == variation.label;
            let own: Vec<&RunRecord> = self.runs.iter().copied().filter(of_variation).collect();
            let finished: Vec<&RunRecord> = done.iter().copied().filter(of_variation).collect();
            let statistics = json!({
                "description": variation.title,
                "runs_completed": finished.len(),
                "total_cost": usd(self.spent(&own)),
                "avg_cost_per_run": self.average_cost(&finished),
            });
            by_variation.insert(variation.variation_id.clone(), statistics);
        }
        let begun = self.runs.iter().filter(|run| run.outcome.is_some() || self.account(run).is_some());
        let run_costs: Vec<Value> = begun.map(run_cost).collect();
        json!({"summary": summary, "run_costs": run_costs, "variation_statistics": by_variation})
    }
}

/// `batch-state.json` while runs are under way: failures and halts are known at the end of the session and null until then.
pub fn standing(plan: &ScenarioPlan, done: &[String]) -> Value {
    state(plan, done, Value::Null, Value::Null, Value::Null)
}

fn state(plan: &ScenarioPlan, done: &[String], failed: Value, halted: Value, start: Value) -> Value {
    let variations = plan.conditions.iter().map(|variation| {
        json!({
            "variation_id": variation.variation_id, "description": variation.title, "modifications": variation.modifications,
        })
    });
    json!({
        "experiment_name": plan.experiment_name,
        "completed_runs": done,
        "failed_runs": failed,
        "halted_runs": halted,
        "variations": variations.collect::<Vec<_>>(),
        "start_time": start,
        "runs_per_variation": plan.runs_per_variation,
    })
}

/// Length of a session; `None` for one that was killed.
fn duration_seconds(session: &Session) -> Option<i64> {
    let unix = |moment: &str| Some(OffsetDateTime::parse(moment, &Rfc3339).ok()?.unix_timestamp());
    Some(unix(session.ended.as_ref()?)? - unix(&session.started)?)
}
