//! Owns one sitting with an experiment: what the file says becomes opened models and axes, these a frozen plan, the plan a schedule,
//! and its outcomes the files that stay.
//! Must not know: flags, terminal.

mod afterwards;
mod cast;
mod exports;
mod keeping;
mod kinds;
mod opening;
mod pages;
mod report;
mod responses;
mod retry;
mod slurm;
mod talk;
mod upload;
mod workers;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use time::OffsetDateTime;

pub use crate::cluster::Resources;
pub use crate::registry::{
    Bench, BenchRequest, Device, EngineOptions, GpuBench, GpuBenchRequest, KvType, Measured, ModelFacts, Rollouts,
    WeightType, bench_local, measure_gpu, model_facts,
};
pub use afterwards::{Analysed, Validation, analyse, collect, find_folder, live, validate};
pub use keeping::Pause;
pub use report::{ReportInput, Reported, report};
pub use retry::{Invocation, Retry, retry};
pub use slurm::{SlurmRequest, Submitted, slurm_collect, slurm_queue, slurm_retry, slurm_submit};
pub use talk::{CaptureRequest, Captured, Talk, capture};
pub use upload::{Uploaded, upload_pending};
pub use workers::Worker;

use keeping::{ArtifactWriter, SessionLog};
use opening::ModelOpener;
use tiltmeter_dataset::Dataset;
pub use tiltmeter_experiments::Forecast;
use tiltmeter_experiments::config::{self, Conduct, Loaded, OnRunCostLimit, RunOrder};
use tiltmeter_experiments::{Experiment, RunFile, RunRecord};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::{Keys, read_env_file};
use tiltmeter_model::{ChatRequest, EngineStats, Message, Model, Role};
use tiltmeter_scheduler::{Budget, Lane, Order, Plan, Progress, Run, Schedule, StopSignal, Summary, recorded};
use tiltmeter_store::{Host, Manifest, RunFolder, SessionEnd, SourceVersion, Tool, timestamp};
use workers::WorkerAssignment;

/// How models are opened. Results depend on none of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelOptions {
    pub device: Device,
    pub engine: EngineOptions,
    /// Processes that share the accounts' limits; `None`: this one has them for itself.
    pub rate_share: Option<usize>,
    /// Nothing will run: keys and accounts that are missing are noted, not refused.
    pub for_plan: bool,
}

/// An experiment with everything it needs, checked; nothing has run yet.
pub struct PreparedRun {
    experiment: Box<dyn Experiment>,
    models: Vec<Arc<dyn Model>>,
    lanes: Vec<Lane>,
    conduct: Conduct,
    keys: Keys,
    dataset: Option<Dataset>,
    axis_hashes: BTreeMap<String, String>,
    output: Option<PathBuf>,
    /// The file that the experiment is written in.
    text: String,
    /// What is worth saying before the start, beside what the file itself gave cause for.
    pub notes: Vec<Problem>,
    /// What the experiment needs from outside and was found in order, one line each.
    pub ready: Vec<String>,
}

/// Where keys and settings stand that are not in the environment.
const ENV_FILE: &str = ".env";

/// Tells the libraries which source this program was built from.
fn declare_source() {
    if let Some(commit) = option_env!("TILTMETER_COMMIT") {
        SourceVersion { commit: commit.to_owned(), dirty: option_env!("TILTMETER_DIRTY") == Some("true") }.declare();
    }
}

/// Reads an experiment file. Settings that its kind takes from the environment or `.env` win over the file, `set` wins over both.
pub fn load(path: &Path, set: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    declare_source();
    let in_file = read_env_file(Path::new(ENV_FILE)).map_err(|problem| vec![problem])?;
    let in_environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let settings = in_file.into_iter().chain(in_environment).filter(|(_, value)| !value.trim().is_empty());
    let settings = settings.map(|(name, value)| (format!("{}{name}", config::FROM_ENVIRONMENT), value));
    config::load(path, &settings.chain(set.iter().cloned()).collect::<Vec<_>>())
}

/// Opens what the file names. All problems at once, where one does not hide the next.
pub fn prepare(loaded: Loaded, opening: &ModelOptions) -> Result<PreparedRun, Vec<Problem>> {
    let Loaded { spec, text, .. } = loaded;
    let mut notes = Vec::new();
    let keys = Keys::from_environment(Some(Path::new(ENV_FILE))).map_err(|problem| vec![problem])?;
    let (conduct, output) = (spec.conduct(), spec.output());
    let mut opener = ModelOpener::new(opening, &keys, &conduct);
    let opened = kinds::open(spec, &mut opener, &mut notes);
    let dataset = match conduct.hf_repo_id.as_deref().map(|repo_id| upload::open(repo_id, &keys)) {
        Some(Err(problem)) if opening.for_plan => {
            opener.wanting(problem);
            None
        }
        Some(Err(problem)) => {
            opener.unready += 1;
            opener.problems.push(problem);
            None
        }
        other => other.and_then(Result::ok),
    };
    let lanes = opener.lanes();
    let ModelOpener { models, mut problems, ready, unready, wanting, .. } = opener;
    let (experiment, axes) = match opened {
        Ok(opened) if problems.is_empty() => opened,
        opened => {
            problems.extend(opened.err().unwrap_or_default());
            if unready > 0 {
                let things = if unready == 1 { "one thing" } else { &format!("{unready} things") };
                let what = format!("Environment validation failed: this experiment needs {things} that it has not got");
                problems.insert(0, Problem::new(what).hint("see to each of what follows; nothing was sent or spent"));
            }
            return Err(problems);
        }
    };
    let axis_hashes = axes.iter().map(|axis| (format!("{}@{}", axis.name, axis.site), axis.sha256.clone())).collect();
    notes.extend(experiment.forecast().notes.iter().map(Problem::new));
    notes.extend(wanting);
    Ok(PreparedRun { experiment, models, lanes, conduct, keys, dataset, axis_hashes, output, text, notes, ready })
}

/// How a prepared experiment is to be run.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// The run folder; `None` is a new one under `data/runs/<experiment>/`.
    pub out: Option<PathBuf>,
    pub resume: bool,
    pub accept_drift: bool,
    /// Asks a person, where the experiment waits for one.
    pub pause: Option<Pause>,
    /// Carry out only the runs of these ids.
    pub only: Option<Vec<String>>,
    /// Makes this process one of several workers of the folder, with a journal of its own and no exports.
    pub worker: Option<Worker>,
    /// Most runs at the same time, whatever the experiment says.
    pub parallel: Option<usize>,
    /// What is noted in the folder, so that it can be gone on with by its name alone.
    pub invocation: Option<Invocation>,
}

/// A sitting that came to its end, be it the experiment's or not.
pub struct RunReport {
    pub folder: RunFolder,
    pub summary: Summary,
    pub work: EngineStats,
    /// The analysis; `None` if no condition has a finished run.
    pub reported: Option<Reported>,
    /// The kind's own last words.
    pub closing: Option<String>,
    /// What was sent to the dataset, where there is one.
    pub uploaded: Option<Uploaded>,
    /// What was written.
    pub files: Vec<PathBuf>,
}

impl PreparedRun {
    pub fn name(&self) -> &str {
        self.experiment.name()
    }

    /// The experiment as it was understood.
    pub fn describe(&self) -> Vec<(String, String)> {
        self.experiment.describe()
    }

    pub fn forecast(&self) -> &Forecast {
        self.experiment.forecast()
    }

    pub fn plan(&self) -> Plan {
        Plan::freeze(self.experiment.plan())
    }

    /// Writes the frozen plan and what the kind makes of it into an unused folder, in which it can then be run.
    pub fn write_plan(&self, folder: &RunFolder) -> Result<Vec<PathBuf>, Problem> {
        folder.require_unused()?;
        let plan = self.plan();
        plan.write(&folder.plan())?;
        let kind = tiltmeter_experiments::kind_of(plan.document())?;
        let mut files = exports::plan_files(folder, kind.as_ref(), self.conduct.local_backup_dir.as_deref())?;
        files.insert(0, folder.plan());
        Ok(files)
    }

    pub fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// How long all runs may take if every reply is as long as allowed, from a first reply of a few tokens. Prompts are not in it.
    /// `None` where a reply would cost money or says nothing of the time.
    pub async fn estimate_seconds(&self) -> Result<Option<f64>, Problem> {
        const TOKENS: usize = 8;
        let forecast = self.experiment.forecast();
        let Some(model) = self.models.first().filter(|model| model.card().hidden_size.is_some()) else {
            return Ok(None);
        };
        let mut request = ChatRequest::new(vec![Message::new(Role::User, "How long does it take?")]);
        request.max_new_tokens = Some(TOKENS);
        let started = Instant::now();
        let reply = model.chat(&request).await.map_err(|error| error.problem())?;
        let per_token = started.elapsed().as_secs_f64() / (reply.usage.completion_tokens.max(1)) as f64;
        let tokens: usize = forecast.cells.iter().map(|cell| cell.runs * cell.turns * forecast.max_new_tokens).sum();
        Ok(Some(per_token * tokens as f64))
    }

    /// How long all runs may take if a call to a provider takes this long, from what runs beside each other and what is waited for
    /// between their starts. Limits per minute may make it longer.
    pub fn seconds_at(&self, seconds_per_call: f64) -> f64 {
        let forecast = self.experiment.forecast();
        let runs: usize = forecast.cells.iter().map(|cell| cell.runs).sum();
        let parallel = self.conduct.parallel.unwrap_or(self.experiment.in_flight()).clamp(1, runs.max(1));
        let calls = forecast.paid_calls as f64 * seconds_per_call / parallel as f64;
        calls.max(runs as f64 * self.conduct.inter_run_delay)
    }

    /// Where the results go; the experiment learns what was begun before.
    fn folder(&mut self, running: &RunOptions) -> Result<RunFolder, Problem> {
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
            // The newest of this plan; failing that the newest of any, so that a changed file is told apart from a new one.
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

    /// Runs what is not finished yet and writes everything that can be written.
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
            progress.say(format!("✓ the dataset {} is there, and HF_TOKEN may write", dataset.repo_id()));
        }
        let mut folder = self.folder(running)?;
        let plan = self.plan();
        let mut only = running.only.clone();
        let assign =
            |worker| WorkerAssignment::new(worker, &folder, &plan, &self.conduct, |number| self.numbered(number));
        let assignment = running.worker.as_ref().map(assign).transpose()?;
        if let Some(assignment) = &assignment {
            only = assignment.runs.clone();
            folder = assignment.folder.clone();
        }
        if running.accept_drift && plan.document()["publication"] == true {
            return Err(Problem::new(
                "an experiment with `publication: true` keeps to its plan: --accept-drift is refused",
            )
            .hint("undo the change, or begin again in another folder"));
        }
        let conduct = &self.conduct;
        for (unit, total) in self.experiment.totals() {
            progress.expect(unit, total);
        }
        let kind = tiltmeter_experiments::kind_of(plan.document())?;
        let backups = conduct.local_backup_dir.clone();
        let rerun = match assignment {
            Some(_) => Vec::new(),
            None => retry::requested_reruns(&folder, kind.as_ref(), backups.as_deref()),
        };
        for id in &rerun {
            progress.say(format!("{id} runs again: its flag was removed"));
        }
        let mut opening = if assignment.is_none() { kind.plan_files() } else { Vec::new() };
        let config = self.experiment.kept_config().map(|name| (name.to_owned(), self.text.clone()));
        opening.extend(config.map(|(path, text)| RunFile { path, text }));
        opening.extend(running.invocation.as_ref().map(Invocation::file));
        let pause = running.pause.clone();
        let keeper = ArtifactWriter::new(folder.clone(), kind, backups, pause, opening, progress.clone());
        let keeper = Arc::new(keeper);
        let order = match conduct.order {
            RunOrder::Interleaved => Order::Interleaved,
            RunOrder::Sequential => Order::Sequential,
        };
        let budget = Budget::limited(conduct.budget_limit, conduct.cost_per_run_limit);
        let budget = assignment.as_ref().map_or(budget.clone(), |assignment| assignment.share_budget(budget));
        if conduct.on_run_cost_limit == OnRunCostLimit::HaltBatch {
            budget.run_limit_ends_batch();
        }
        let parallel = running.parallel.or(conduct.parallel).unwrap_or(self.experiment.in_flight());
        let mut schedule = Schedule::new(plan.clone(), folder.clone())
            .parallel(parallel)
            .rerun(rerun)
            .order(order)
            .lanes(self.lanes.clone())
            .budget(budget)
            .inter_run_delay(Duration::from_secs_f64(conduct.inter_run_delay))
            .stop(stop)
            .progress(progress.clone())
            .resume(running.resume)
            .accept_drift(running.accept_drift)
            .hooks(keeper.clone())
            .planned(self.experiment.runs().len());
        if let Some(seconds) = conduct.timeout_per_run {
            schedule = schedule.run_time_limit(Duration::from_secs_f64(seconds));
        }
        if let Some(claims) = assignment.as_ref().and_then(|assignment| assignment.claims.clone()) {
            schedule = schedule.claims(claims);
        }
        self.experiment.banner().into_iter().for_each(|line| progress.say(line));
        let mut diary = SessionLog::new(folder.clone(), progress.clone(), self.keys.scrubber());
        let mut summary = tokio::select! {
            summary = schedule.run(self.runs(only.as_deref())?) => summary?,
            () = diary.keep() => return Err(Problem::new("the diary came to an end before the runs")),
            () = keeping::pass_on(&self.models, &progress) => return Err(Problem::new("nobody passes on notes")),
        };
        keeping::pass_on_now(&self.models, &progress);
        diary.last_word();
        if let Some(assignment) = assignment {
            assignment.explain_halt(&mut summary);
            // Those that are done or kept something have theirs already.
            for run in summary.runs.iter().filter(|run| run.failure().is_some()) {
                keeper.write(run);
            }
            let (work, files) = (self.work(), Vec::new());
            let closing = assignment.closing;
            return Ok(RunReport { folder, summary, work, reported: None, closing, uploaded: None, files });
        }
        let ran: Vec<RunRecord> = match &only {
            None => summary.runs.clone(),
            // What is exported is of all runs, whoever carried them out.
            Some(_) => afterwards::runs(&recorded(&folder)?),
        };
        let mut manifest = self.manifest(&plan, &summary);
        let written = exports::write(&plan, &folder, &ran, &summary.ledger, &keeper, self.work(), &mut manifest)?;
        let closing = keeper.kind().closing(&ran);
        let exports::Written { reported, files } = written;
        let uploaded = match &self.dataset {
            Some(dataset) => Some(upload::upload(dataset, &folder).await),
            None => None,
        };
        Ok(RunReport { folder, summary, work: self.work(), reported, closing, uploaded, files })
    }

    /// The id of the run of this number.
    fn numbered(&self, number: usize) -> Result<String, Problem> {
        let runs = self.experiment.runs().len();
        self.experiment.numbered(number).map(|key| key.id()).ok_or_else(|| {
            Problem::new(format!("there is no run number {number}"))
                .hint(format!("runs are numbered from 0 to {}", runs - 1))
        })
    }

    /// Ids of all runs, cell by cell.
    pub fn run_ids(&self) -> Vec<String> {
        self.experiment.runs().iter().map(|run| run.key().id()).collect()
    }

    /// The experiment as it goes on with what this folder was begun with.
    pub fn following(mut self, folder: &RunFolder) -> Self {
        if let Ok(plan) = Plan::read(&folder.plan()) {
            self.experiment.continue_numbering(&[], Some(plan.document()));
        }
        self
    }

    /// All runs, or those of these ids.
    fn runs(&self, only: Option<&[String]>) -> Result<Vec<Arc<dyn Run>>, Problem> {
        let runs = self.experiment.runs();
        let Some(only) = only else { return Ok(runs) };
        if let Some(unknown) = only.iter().find(|id| !runs.iter().any(|run| run.key().id() == **id)) {
            let first = runs.first().map(|run| run.key().id()).unwrap_or_default();
            return Err(Problem::new(format!("the experiment has no run `{unknown}`"))
                .hint(format!("runs are named like {first}; `tiltmeter status DIR` lists those that failed")));
        }
        Ok(runs.into_iter().filter(|run| only.contains(&run.key().id())).collect())
    }

    /// Of all models on this machine together.
    fn work(&self) -> EngineStats {
        let mut seen: Vec<&Arc<dyn Model>> = Vec::new();
        let mut sum = EngineStats::default();
        for model in &self.models {
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

    fn manifest(&self, plan: &Plan, summary: &Summary) -> Manifest {
        let cards: Vec<_> = self.models.iter().map(|model| model.card()).collect();
        let own = cards.iter().find(|card| card.device.is_some());
        let source = SourceVersion::of_program().cloned();
        let all_done = summary.pending == 0 && !summary.interrupted;
        Manifest {
            tool: Tool { name: "tiltmeter".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), source },
            started: summary.ledger.sessions.first().map(|session| session.started.clone()),
            finished: all_done.then(|| timestamp(OffsetDateTime::now_utc())),
            plan_hash: plan.hash().to_owned(),
            accepted_drifts: summary.accepted_drifts.clone(),
            sessions: summary.ledger.sessions.clone(),
            models: cards.iter().map(|card| json!(card)).collect(),
            axis_hashes: self.axis_hashes.clone(),
            device: own.and_then(|card| card.device.clone()),
            dtype: own.and_then(|card| card.dtype.clone()),
            kv_dtype: own.and_then(|card| card.kv_dtype.clone()),
            host: Host::this(),
            files: Vec::new(),
            work: summary.work.clone(),
            notes: BTreeMap::from([
                ("sampling".to_owned(), plan.document().get("sampling").cloned().unwrap_or(Value::Null)),
                ("interruptions".to_owned(), json!(interruptions(summary))),
                (upload::NOTE.to_owned(), json!(self.conduct.hf_repo_id)),
            ]),
        }
    }
}

/// How often a sitting ended before its work.
fn interruptions(summary: &Summary) -> usize {
    summary.ledger.sessions.iter().filter(|session| session.how != SessionEnd::Finished).count()
}
