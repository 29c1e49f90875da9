//! Owns one sitting with an experiment: what the file says becomes opened models and axes, these a frozen plan, the plan a schedule,
//! and its outcomes the files that stay.
//! Must not know: flags, terminal.

mod exports;
mod report;
mod talk;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use serde_json::{Value, json};
use time::OffsetDateTime;

pub use crate::registry::{Device, EngineOptions, ModelFacts, WeightType, model_facts};
pub use report::{ReportInput, Reported, report};
pub use talk::{CaptureRequest, Captured, Talk, capture};

pub use crate::experiment::Forecast;
use crate::experiment::{Experiment, projection::Projection};
use crate::model::{ChatRequest, Message, Model, Role, Work};
use crate::probe::{Axis, AxisFile, Site};
use crate::problem::Problem;
use crate::record::{Host, Manifest, Outcome, RunFolder, RunKey, SessionEnd, SourceVersion, Tool, timestamp};
use crate::registry::open_local;
use crate::scheduler::{Plan, Progress, RunState, Schedule, StopSignal, Summary};
use crate::spec::{self, Loaded, ProjectionSpec, SiteRef, Spec};

/// How models are opened. Results depend on none of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    pub device: Device,
    pub engine: EngineOptions,
}

/// An experiment with everything it needs, checked; nothing has run yet.
pub struct Prepared {
    experiment: Box<dyn Experiment>,
    model: Arc<dyn Model>,
    axis_hashes: BTreeMap<String, String>,
    output: Option<PathBuf>,
    /// What is worth saying before the start.
    pub notes: Vec<Problem>,
}

/// Opens what the file names. All problems at once, where one does not hide the next.
pub fn prepare(loaded: Loaded, opening: &Opening) -> Result<Prepared, Vec<Problem>> {
    let Loaded { spec, mut notes, .. } = loaded;
    let Spec::Projection(spec) = spec;
    let transcript = spec::transcript::load(&spec.transcript)?;
    notes.extend(transcript.notes.iter().cloned());
    let model = open_local(&spec.model, opening.device, &opening.engine).map_err(|problem| vec![problem])?;
    let axes = open_axes(&spec, model.as_ref(), &mut notes)?;
    let axis_hashes = axes.iter().map(|axis| (format!("{}@{}", axis.name, axis.site), axis.sha256.clone())).collect();
    let output = spec.output.clone();
    let model: Arc<dyn Model> = model;
    let experiment = Projection::new(spec, transcript, model.clone(), axes)?;
    notes.extend(experiment.forecast().notes.iter().map(Problem::new));
    Ok(Prepared { experiment: Box::new(experiment), model, axis_hashes, output, notes })
}

/// Every axis at every site asked for, checked against the model.
fn open_axes(spec: &ProjectionSpec, model: &dyn Model, notes: &mut Vec<Problem>) -> Result<Vec<Axis>, Vec<Problem>> {
    let layers = model.card().num_layers.unwrap_or(0);
    let mut axes = Vec::new();
    let mut problems = Vec::new();
    for wanted in &spec.axes {
        let sites: Vec<Option<SiteRef>> = match (wanted.site, spec.sites.as_slice()) {
            (Some(site), _) => vec![Some(site)],
            (None, []) => vec![None],
            (None, sites) => sites.iter().copied().map(Some).collect(),
        };
        for site in sites {
            let opened = AxisFile::open(&wanted.file).and_then(|file| {
                let mut axis = file.axis(site.map(|site| resolve(site, layers)).transpose()?)?;
                axis.site.check(layers)?;
                notes.extend(axis.check(model.card(), spec.accept_axis_of_other_model)?.map(Problem::new));
                axis.name = wanted.name.clone().unwrap_or(axis.name);
                Ok(axis)
            });
            match opened {
                Ok(axis) => axes.push(axis),
                Err(problem) if problem.place.is_some() => problems.push(problem),
                Err(problem) => problems.push(problem.at(wanted.file.display().to_string())),
            }
        }
    }
    if problems.is_empty() { Ok(axes) } else { Err(problems) }
}

fn resolve(site: SiteRef, layers: usize) -> Result<Site, Problem> {
    match site {
        SiteRef::Site(site) => Ok(site),
        SiteRef::Layer { layer, convention } => Site::from_layer(layer, convention, layers),
    }
}

/// How a prepared experiment is to be run.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// The run folder; `None` is a new one under `data/runs/<experiment>/`.
    pub out: Option<PathBuf>,
    pub resume: bool,
    pub accept_drift: bool,
}

/// A sitting that came to its end, be it the experiment's or not.
pub struct Sitting {
    pub folder: RunFolder,
    pub summary: Summary,
    pub work: Work,
    /// The analysis; `None` if no condition has a finished run.
    pub reported: Option<Reported>,
    /// What was written.
    pub files: Vec<PathBuf>,
}

impl Prepared {
    pub fn forecast(&self) -> &Forecast {
        self.experiment.forecast()
    }

    pub fn plan(&self) -> Plan {
        Plan::freeze(self.experiment.plan())
    }

    /// How long all runs may take if every reply is as long as allowed, from a first reply of a few tokens. Prompts are not in it.
    pub async fn estimate_seconds(&self) -> Result<f64, Problem> {
        const TOKENS: usize = 8;
        let forecast = self.experiment.forecast();
        let mut request = ChatRequest::new(vec![Message::new(Role::User, "How long does it take?")]);
        request.max_new_tokens = Some(TOKENS);
        let started = Instant::now();
        let reply = self.model.chat(&request).await.map_err(|error| error.problem())?;
        let per_token = started.elapsed().as_secs_f64() / (reply.usage.completion_tokens.max(1)) as f64;
        let tokens: usize = forecast.cells.iter().map(|cell| cell.runs * cell.turns * forecast.max_new_tokens).sum();
        Ok(per_token * tokens as f64)
    }

    /// Where the results go.
    fn folder(&self, plan: &Plan, running: &Running) -> Result<RunFolder, Problem> {
        let base = PathBuf::from(".");
        match running.out.as_ref().or(self.output.as_ref()) {
            Some(dir) => {
                let folder = RunFolder::at(dir);
                if !running.resume {
                    folder.require_unused()?;
                }
                Ok(folder)
            }
            None if running.resume => {
                let name = self.experiment.name();
                // The newest of this plan; failing that the newest of any, so that a changed file is told apart from a new one.
                let same = RunFolder::latest(&base, name, Some(plan.hash()))?;
                let found = same.map_or_else(|| RunFolder::latest(&base, name, None), |folder| Ok(Some(folder)))?;
                found.map_or_else(|| RunFolder::create(&base, name, plan.hash()), Ok)
            }
            None => RunFolder::create(&base, self.experiment.name(), plan.hash()),
        }
    }

    /// Runs what is not finished yet and writes everything that can be written.
    pub async fn run(self, running: &Running, progress: Arc<Progress>, stop: StopSignal) -> Result<Sitting, Problem> {
        let plan = self.plan();
        let folder = self.folder(&plan, running)?;
        let runs = self.experiment.runs();
        for (unit, total) in self.experiment.totals() {
            progress.expect(unit, total);
        }
        let summary = Schedule::new(plan.clone(), folder.clone())
            .parallel(self.experiment.in_flight())
            .stop(stop)
            .progress(progress)
            .resume(running.resume)
            .accept_drift(running.accept_drift)
            .run(runs)
            .await?;
        let outcomes: Vec<(RunKey, Outcome)> = summary
            .outcomes
            .iter()
            .filter_map(|(key, state)| match state {
                RunState::Done(outcome) => Some((key.clone(), outcome.clone())),
                _ => None,
            })
            .collect();
        let mut manifest = self.manifest(&plan, &summary);
        let work = self.model.work();
        let (reported, files) =
            exports::write(self.experiment.as_ref(), &plan, &folder, &outcomes, work, &mut manifest)?;
        Ok(Sitting { folder, summary, work, reported, files })
    }

    fn manifest(&self, plan: &Plan, summary: &Summary) -> Manifest {
        let card = self.model.card();
        let source = option_env!("TILTMETER_COMMIT").map(|commit| SourceVersion {
            commit: commit.to_owned(),
            dirty: option_env!("TILTMETER_DIRTY") == Some("true"),
        });
        let all_done = summary.pending == 0 && !summary.interrupted;
        Manifest {
            tool: Tool { name: "tiltmeter".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), source },
            started: summary.sessions.first().map(|session| session.started.clone()),
            finished: all_done.then(|| timestamp(OffsetDateTime::now_utc())),
            plan_hash: plan.hash().to_owned(),
            accepted_drifts: summary.accepted_drifts.clone(),
            sessions: summary.sessions.clone(),
            models: vec![json!(card)],
            axis_hashes: self.axis_hashes.clone(),
            device: card.device.clone(),
            dtype: card.dtype.clone(),
            host: Host::this(),
            files: Vec::new(),
            work: summary.work.clone(),
            notes: BTreeMap::from([
                ("sampling".to_owned(), plan.document().get("sampling").cloned().unwrap_or(Value::Null)),
                ("interruptions".to_owned(), json!(interruptions(summary))),
            ]),
        }
    }
}

/// A run folder; the folder of an experiment stands for the newest run in it.
pub fn find_folder(path: &Path) -> Result<RunFolder, Problem> {
    let folder = RunFolder::at(path);
    if folder.holds_journal()? {
        return Ok(folder);
    }
    let runs = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| RunFolder::at(entry.path()));
    // Names begin with the time, so the greatest is the newest.
    let newest = runs.filter(|run| run.holds_journal().unwrap_or(false)).max_by_key(|run| run.dir().to_owned());
    newest.ok_or_else(|| {
        Problem::new("no run is recorded in this folder")
            .at(path.display().to_string())
            .hint("give a run folder, as `tiltmeter run` names it at its end")
    })
}

/// How often a sitting ended before its work.
fn interruptions(summary: &Summary) -> usize {
    summary.sessions.iter().filter(|session| session.how != SessionEnd::Finished).count()
}
