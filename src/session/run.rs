//! Runs a prepared experiment and writes its files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::artifact_writer::{self, ArtifactWriter, Pause};
use super::manifest::{Environment, work_units};
use super::prepare::PreparedRun;
use super::report::Reported;
use super::session_log::SessionLog;
use super::upload::{self, Uploaded};
use super::workers::{Worker, WorkerAssignment};
use super::{Invocation, collect, retry};
use tiltmeter_experiments::config::{OnRunCostLimit, RunOrder};
use tiltmeter_experiments::{Kind, RunFile, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{EngineStats, Model};
use tiltmeter_scheduler::{Budget, Order, Plan, Progress, Schedule, StopSignal, Summary};
use tiltmeter_store::{Host, RunFolder, SourceVersion, Tool};

/// How a prepared experiment is run.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// The run folder; `None` is a new folder below `data/runs/<experiment>/`.
    pub out: Option<PathBuf>,
    /// Continue the folder's runs instead of refusing a used folder.
    pub resume: bool,
    /// Continue under a changed plan.
    pub accept_drift: bool,
    /// Waits for the user where the experiment pauses.
    pub pause: Option<Pause>,
    /// Ids of the runs to execute; `None` is all.
    pub only: Option<Vec<String>>,
    /// Makes this process one of several workers of the folder, with its own journal and without exports.
    pub worker: Option<Worker>,
    /// Overrides the experiment's number of parallel runs.
    pub parallel: Option<usize>,
    /// Recorded in the folder, so that `retry` needs only the folder's name.
    pub invocation: Option<Invocation>,
}

/// Result of a session.
pub struct RunReport {
    pub folder: RunFolder,
    pub summary: Summary,
    pub work: EngineStats,
    /// The analysis; `None` if no condition has a finished run, and for workers.
    pub reported: Option<Reported>,
    /// The kind's summary for the terminal.
    pub closing: Option<String>,
    /// Result of the upload; `None` without a dataset.
    pub uploaded: Option<Uploaded>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

impl PreparedRun {
    /// Executes the unfinished runs, then writes every file that the journal determines.
    pub async fn run(
        mut self,
        running: &RunOptions,
        progress: Arc<Progress>,
        stop: StopSignal,
    ) -> Result<RunReport, Problem> {
        if let Some(dataset) = &self.dataset {
            dataset.check().await.map_err(|problem| Problem {
                what: format!("Environment validation failed: {}", problem.what),
                ..problem
            })?;
            progress.say(format!("✓ the dataset {} exists, and HF_TOKEN may write to it", dataset.repo_id()));
        }
        let mut folder = self.folder(running)?;
        let plan = self.plan();
        let kind: Arc<dyn Kind> = kind_of(plan.document())?.into();
        let mut only = running.only.clone();
        let assign =
            |worker| WorkerAssignment::new(worker, &folder, &plan, &self.conduct, |number| self.numbered(number));
        let assignment = running.worker.as_ref().map(assign).transpose()?;
        if let Some(assignment) = &assignment {
            only = assignment.runs.clone();
            folder = assignment.folder.clone();
        }
        if running.accept_drift && plan.document()["publication"] == true {
            return Err(Problem::new("--accept-drift is refused for an experiment with `publication: true`")
                .hint("undo the change, or begin again in another folder"));
        }
        for (unit, total) in self.experiment.totals() {
            progress.expect(unit, total);
        }
        let rerun = match assignment {
            Some(_) => Vec::new(),
            None => retry::requested_reruns(&folder, kind.as_ref(), self.conduct.local_backup_dir.as_deref()),
        };
        for id in &rerun {
            progress.say(format!("{id} runs again: its flag was removed"));
        }
        let environment = self.environment(running)?;
        let mut first_files = if assignment.is_none() { kind.plan_files() } else { Vec::new() };
        first_files.extend(environment.files.iter().cloned());
        let writer = Arc::new(ArtifactWriter::new(
            folder.clone(),
            kind,
            environment.local_backup_dir.clone(),
            running.pause.clone(),
            first_files,
            progress.clone(),
        ));
        let models = self.models.clone();
        let mut schedule = self
            .schedule(&plan, &folder, running, assignment.as_ref())
            .rerun(rerun)
            .stop(stop)
            .progress(progress.clone())
            .hooks(writer.clone())
            .environment(json!(environment))
            .work(move || work_units(stats(&models)));
        if let Some(claims) = assignment.as_ref().and_then(|assignment| assignment.claims.clone()) {
            schedule = schedule.claims(claims);
        }
        self.experiment.banner().into_iter().for_each(|line| progress.say(line));
        let mut log = SessionLog::new(folder.clone(), progress.clone(), self.keys.scrubber());
        let mut summary = tokio::select! {
            summary = schedule.run(self.runs(only.as_deref())?) => summary?,
            () = log.write_periodically() => return Err(Problem::new("the session log ended before the runs")),
            () = artifact_writer::forward_notes(&self.models, &progress) => {
                return Err(Problem::new("the forwarding of notes ended before the runs"));
            }
        };
        artifact_writer::forward_notes_now(&self.models, &progress);
        log.finish();
        let work = stats(&self.models);
        if let Some(assignment) = assignment {
            assignment.explain_halt(&mut summary);
            // Runs that are done or saved a checkpoint have their files already.
            for run in summary.runs.iter().filter(|run| run.failure().is_some()) {
                writer.write(run);
            }
            let (closing, files) = (assignment.closing, Vec::new());
            return Ok(RunReport { folder, summary, work, reported: None, closing, uploaded: None, files });
        }
        let collect::Collected { reported, closing, mut files } = collect::write(&folder)?;
        files.extend(collect::publish(&folder, &files)?);
        let uploaded = match &self.dataset {
            Some(dataset) => Some(upload::upload(dataset, &folder).await),
            None => None,
        };
        Ok(RunReport { folder, summary, work, reported, closing, uploaded, files })
    }

    fn schedule(
        &self,
        plan: &Plan,
        folder: &RunFolder,
        running: &RunOptions,
        assignment: Option<&WorkerAssignment>,
    ) -> Schedule {
        let conduct = &self.conduct;
        let budget = Budget::limited(conduct.budget_limit, conduct.cost_per_run_limit);
        let budget = assignment.map_or(budget.clone(), |assignment| assignment.share_budget(budget));
        if conduct.on_run_cost_limit == OnRunCostLimit::HaltBatch {
            budget.run_limit_ends_batch();
        }
        let schedule = Schedule::new(plan.clone(), folder.clone())
            .parallel(running.parallel.or(conduct.parallel).unwrap_or(self.experiment.in_flight()))
            .order(match conduct.order {
                RunOrder::Interleaved => Order::Interleaved,
                RunOrder::Sequential => Order::Sequential,
            })
            .lanes(self.lanes.clone())
            .budget(budget)
            .inter_run_delay(Duration::from_secs_f64(conduct.inter_run_delay))
            .resume(running.resume)
            .accept_drift(running.accept_drift)
            .planned(self.experiment.runs().len());
        match conduct.timeout_per_run {
            Some(seconds) => schedule.run_time_limit(Duration::from_secs_f64(seconds)),
            None => schedule,
        }
    }

    /// Everything that `collect` needs besides the plan and the outcomes.
    fn environment(&self, running: &RunOptions) -> Result<Environment, Problem> {
        let config =
            self.experiment.kept_config().map(|name| RunFile { path: name.to_owned(), text: self.text.clone() });
        let backups = self.conduct.local_backup_dir.as_deref().map(absolute).transpose()?;
        Ok(Environment {
            tool: Tool {
                name: "tiltmeter".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                source: SourceVersion::of_program().cloned(),
            },
            host: Host::this(),
            models: self.models.iter().map(|model| model.card().clone()).collect(),
            axis_hashes: self.axis_hashes.clone(),
            hf_repo_id: self.conduct.hf_repo_id.clone(),
            local_backup_dir: backups,
            files: config.into_iter().chain(running.invocation.as_ref().map(Invocation::file)).collect(),
        })
    }

    /// The run folder. Continues the experiment's numbering after earlier runs.
    pub(super) fn folder(&mut self, running: &RunOptions) -> Result<RunFolder, Problem> {
        let document = |folder: &RunFolder| Plan::read(&folder.plan()).ok().map(|plan| plan.document().clone());
        if let Some(dir) = running.out.as_ref().or(self.output.as_ref()) {
            let folder = RunFolder::at(dir);
            match running.resume {
                true => self.experiment.continue_numbering(&[], document(&folder).as_ref()),
                false => folder.require_unused()?,
            }
            return Ok(folder);
        }
        let base = PathBuf::from(".");
        let name = self.experiment.name().to_owned();
        let begun = RunFolder::begun(&base, &name)?;
        let earlier: Vec<Value> = begun.iter().filter_map(document).collect();
        if running.resume {
            // The newest folder of this plan, or else of any plan, so that a changed plan is reported as drift.
            for folder in begun.iter().rev() {
                let Some(plan) = document(folder) else { continue };
                self.experiment.continue_numbering(&earlier, Some(&plan));
                if Plan::freeze(plan).hash() == self.plan().hash() {
                    return Ok(folder.clone());
                }
            }
            if let Some(newest) = begun.last() {
                self.experiment.continue_numbering(&earlier, document(newest).as_ref());
                return Ok(newest.clone());
            }
        }
        self.experiment.continue_numbering(&earlier, None);
        RunFolder::create(&base, &name, self.plan().hash())
    }
}

/// `collect` may start in another folder.
fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path)
        .map_err(|error| Problem::new(format!("no absolute path: {error}")).at(path.display().to_string()))
}

/// Sum of the counters of all models.
fn stats(models: &[Arc<dyn Model>]) -> EngineStats {
    let mut seen: Vec<&Arc<dyn Model>> = Vec::new();
    let mut sum = EngineStats::default();
    for model in models {
        if seen.iter().any(|other| Arc::ptr_eq(other, model)) {
            continue;
        }
        seen.push(model);
        let work = model.stats();
        sum.forward_tokens += work.forward_tokens;
        sum.unique_tokens += work.unique_tokens;
        sum.generated_tokens += work.generated_tokens;
        sum.steps += work.steps;
        sum.draft_tokens += work.draft_tokens;
        sum.accepted_draft_tokens += work.accepted_draft_tokens;
        sum.weight_bytes += work.weight_bytes;
        sum.kv_bytes += work.kv_bytes;
    }
    sum
}
