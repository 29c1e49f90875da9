//! Reads an experiment file and opens everything that it names: models, axes, provider accounts, the dataset.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{ENV_FILE, build, collect, declare_source, models::ModelOpener, upload};
use crate::registry::{Device, EngineOptions};
use tiltmeter_dataset::Dataset;
use tiltmeter_experiments::config::{self, Conduct, Loaded};
use tiltmeter_experiments::{Experiment, Forecast};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::{Keys, read_env_file};
use tiltmeter_model::{ChatRequest, Message, Model, Role};
use tiltmeter_scheduler::{Lane, Plan, Run};
use tiltmeter_store::RunFolder;

/// How models are opened. No result depends on these options.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelOptions {
    pub device: Device,
    pub engine: EngineOptions,
    /// Number of processes that share the rate limits of the accounts; `None` is one.
    pub rate_share: Option<usize>,
    /// For a plan without a run: missing keys and accounts are warnings, not errors.
    pub for_plan: bool,
}

/// An experiment with its models and axes opened and checked.
pub struct PreparedRun {
    pub(super) experiment: Box<dyn Experiment>,
    pub(super) models: Vec<Arc<dyn Model>>,
    pub(super) lanes: Vec<Lane>,
    pub(super) conduct: Conduct,
    pub(super) keys: Keys,
    pub(super) dataset: Option<Dataset>,
    pub(super) axis_hashes: BTreeMap<String, String>,
    pub(super) output: Option<PathBuf>,
    /// Content of the experiment file.
    pub(super) text: String,
    /// Warnings to print before the run, excluding parse warnings.
    pub notes: Vec<Problem>,
    /// Checks of keys, addresses and accounts that passed, one line each.
    pub ready: Vec<String>,
}

/// Reads an experiment file. Environment variables and `.env` override the file, and `set` overrides both.
pub fn load(path: &Path, set: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    declare_source();
    let in_file = read_env_file(Path::new(ENV_FILE)).map_err(|problem| vec![problem])?;
    let in_environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let settings = in_file.into_iter().chain(in_environment).filter(|(_, value)| !value.trim().is_empty());
    let settings = settings.map(|(name, value)| (format!("{}{name}", config::FROM_ENVIRONMENT), value));
    config::load(path, &settings.chain(set.iter().cloned()).collect::<Vec<_>>())
}

/// Opens the models, axes and accounts of an experiment.
///
/// # Errors
/// All problems that do not depend on one another.
pub fn prepare(loaded: Loaded, options: &ModelOptions) -> Result<PreparedRun, Vec<Problem>> {
    let Loaded { spec, text, .. } = loaded;
    let mut notes = Vec::new();
    let keys = Keys::from_environment(Some(Path::new(ENV_FILE))).map_err(|problem| vec![problem])?;
    let (conduct, output) = (spec.conduct(), spec.output());
    let mut opener = ModelOpener::new(options, &keys, &conduct);
    let opened = build::open(spec, &mut opener, &mut notes);
    let dataset = match conduct.hf_repo_id.as_deref().map(|repo_id| upload::open(repo_id, &keys)) {
        Some(Err(problem)) if options.for_plan => {
            opener.warn(problem);
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
    let ModelOpener { models, mut problems, ready, unready, warnings, .. } = opener;
    let (experiment, axes) = match opened {
        Ok(opened) if problems.is_empty() => opened,
        opened => {
            problems.extend(opened.err().unwrap_or_default());
            if unready > 0 {
                let things = if unready == 1 { "1 prerequisite is" } else { &format!("{unready} prerequisites are") };
                let what = format!("Environment validation failed: {things} missing");
                problems.insert(0, Problem::new(what).hint("fix the problems below; nothing was sent or spent"));
            }
            return Err(problems);
        }
    };
    let axis_hashes = axes.iter().map(|axis| (format!("{}@{}", axis.name, axis.site), axis.sha256.clone())).collect();
    notes.extend(experiment.forecast().notes.iter().map(Problem::new));
    notes.extend(warnings);
    Ok(PreparedRun { experiment, models, lanes, conduct, keys, dataset, axis_hashes, output, text, notes, ready })
}

impl PreparedRun {
    pub fn name(&self) -> &str {
        self.experiment.name()
    }

    /// The experiment as `(key, value)` lines.
    pub fn describe(&self) -> Vec<(String, String)> {
        self.experiment.describe()
    }

    pub fn forecast(&self) -> &Forecast {
        self.experiment.forecast()
    }

    pub fn plan(&self) -> Plan {
        Plan::freeze(self.experiment.plan())
    }

    /// Writes the frozen plan and the files that depend on it alone into an unused folder; the experiment can then run there.
    pub fn write_plan(&self, folder: &RunFolder) -> Result<Vec<PathBuf>, Problem> {
        folder.require_unused()?;
        let plan = self.plan();
        plan.write(&folder.plan())?;
        let mut files = collect::write_plan_files(folder, &plan, self.conduct.local_backup_dir.as_deref())?;
        files.insert(0, folder.plan());
        Ok(files)
    }

    pub fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// Upper estimate of the time of all runs in seconds: every reply at its longest, at the speed of one short reply that this
    /// generates now; prefill excluded. `None` for models behind an API.
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

    /// Estimated time of all runs in seconds at this duration of a provider's call, from the number of parallel runs and the delay
    /// between their starts; rate limits excluded.
    pub fn seconds_at(&self, seconds_per_call: f64) -> f64 {
        let forecast = self.experiment.forecast();
        let runs: usize = forecast.cells.iter().map(|cell| cell.runs).sum();
        let parallel = self.conduct.parallel.unwrap_or(self.experiment.in_flight()).clamp(1, runs.max(1));
        let calls = forecast.paid_calls as f64 * seconds_per_call / parallel as f64;
        calls.max(runs as f64 * self.conduct.inter_run_delay)
    }

    /// The id of the run of this number.
    pub(super) fn numbered(&self, number: usize) -> Result<String, Problem> {
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

    /// Continues the numbering of the runs in `folder`.
    pub fn following(mut self, folder: &RunFolder) -> Self {
        if let Ok(plan) = Plan::read(&folder.plan()) {
            self.experiment.continue_numbering(&[], Some(plan.document()));
        }
        self
    }

    /// All runs, or those of these ids.
    pub(super) fn runs(&self, only: Option<&[String]>) -> Result<Vec<Arc<dyn Run>>, Problem> {
        let runs = self.experiment.runs();
        let Some(only) = only else { return Ok(runs) };
        if let Some(unknown) = only.iter().find(|id| !runs.iter().any(|run| run.key().id() == **id)) {
            let first = runs.first().map(|run| run.key().id()).unwrap_or_default();
            return Err(Problem::new(format!("the experiment has no run `{unknown}`"))
                .hint(format!("runs are named like {first}; `tiltmeter status DIR` lists those that failed")));
        }
        Ok(runs.into_iter().filter(|run| only.contains(&run.key().id())).collect())
    }
}
