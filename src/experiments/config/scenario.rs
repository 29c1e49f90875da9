//! Keys, defaults and model-independent checks of `kind: scenario`. A file with `base_scenario` and no `kind` is of this kind.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `experiment_name` | required | for people; the run folder is named after it |
//! | `description` | – | for people |
//! | `base_scenario` | required | folder with `scenario.yaml`, `actors/<short_name>.yaml` and, if anything is measured, `metrics.yaml` |
//! | `runs_per_variation` | 1 | repetitions |
//! | `max_parallel` | 1 | runs in flight |
//! | `timeout_per_run` | 1800 | seconds |
//! | `budget_limit` | none | US dollars for the whole folder |
//! | `cost_per_run_limit` | none | US dollars for one run |
//! | `variations` | the base alone | list of `{type: actor_model, actor, values}` and `{type: scenario_parameter, parameter, values}` |
//! | `output_dir` | under `data/runs` | folder for the results |
//! | `save_individual_runs` | true | a folder for every run, under `runs/` |
//! | `aggregate_metrics` | true | the files under `analysis/` |
//! | `models.<alias>` | – | what a model's name in the scenario or in a variation stands for (see `model_ref`): address, price, script |
//! | `judge` | – | the model for metrics with `extraction_method: judge`; asked at temperature 0 |
//! | `judge_max_tokens` | 800 | longest reply of the judge |
//! | `seed` | 42 | every run gets a seed of its own from it |
//! | `sampling.temperature` | 0.7 | of actors and of the world-state model |
//! | `sampling.top_p`, `top_k`, `min_p` | off | |
//! | `sampling.max_new_tokens` | 1000 | longest reply of an actor |
//! | `world_max_tokens` | 1500 | longest world state |
//! | `axis` or `axes`, `site`, `layer`, `layer_convention`, `span`, `accept_axis_of_other_model` | – | projections of what actors on this machine say, as in `kind: projection` |
//! | `publication` | false | the plan is kept to |
//!
//! Besides, the keys of `conduct`, where `parallel` is called `max_parallel` here.

mod actor;
mod folder;
mod metric;
mod variation;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    conduct::{self, Conduct},
    describe,
    fields::{Fields, Reader},
    model_ref::{self, ModelRef, SCRIPTED},
    readouts::{self, Readouts},
    sampling::{self, SamplingKeys},
    tree::{Node, Value},
};
use tiltmeter_model::Sampling;

pub use actor::Actor;
pub use folder::{Communication, Scenario};
pub use metric::{Better, Extraction, Metric, MetricKind};
pub use variation::{Cell, Dimension, Varied};

/// A scenario in every combination of its variations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioSpec {
    /// Name of the run folder and of files, made of `experiment_name`; safe as a file name.
    pub experiment: String,
    /// As it was written.
    pub experiment_name: String,
    pub description: Option<String>,
    /// The folder; it exists.
    pub base_scenario: PathBuf,
    /// What stands in it.
    pub scenario: Scenario,
    /// Repetitions of every cell.
    pub runs_per_variation: usize,
    /// What is varied; may be empty.
    pub variations: Vec<Dimension>,
    /// Files of single runs are written.
    pub save_individual_runs: bool,
    /// Files of the analysis are written.
    pub aggregate_metrics: bool,
    /// What names in scenario and variations stand for, where they are more than a name.
    pub models: Vec<(String, ModelRef)>,
    /// For metrics that a model finds.
    pub judge: Option<ModelRef>,
    /// Longest reply of the judge.
    pub judge_max_tokens: usize,
    /// Base seed.
    pub seed: u64,
    /// How tokens of actors and of the world state are drawn.
    pub sampling: Sampling,
    /// Longest reply of an actor.
    pub max_new_tokens: usize,
    /// Longest world state.
    pub world_max_tokens: usize,
    /// What replies of actors on this machine are projected on; may be empty.
    #[serde(flatten)]
    pub readouts: Readouts,
    /// The plan is kept to.
    pub publication: bool,
    /// Folder for the results.
    pub output: Option<PathBuf>,
    /// How it is carried out.
    pub conduct: Conduct,
}

impl ScenarioSpec {
    /// Every combination of the variations, in order.
    pub fn cells(&self) -> Vec<Cell> {
        variation::product(&self.variations)
    }

    /// What a name in the scenario or in a variation stands for.
    pub fn model(&self, name: &str) -> ModelRef {
        let alias = self.models.iter().find(|(alias, _)| alias == name);
        alias.map_or_else(|| ModelRef::named(name), |(_, model)| model.clone())
    }

    /// Names of all models that play an actor somewhere, each once, in the order in which they are met.
    pub fn actor_model_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for cell in self.cells() {
            for actor in cell.of(&self.scenario).actors {
                if !names.contains(&actor.llm_model) {
                    names.push(actor.llm_model);
                }
            }
        }
        names
    }

    /// Names of all models that play a part somewhere, each once: actors first.
    pub fn model_names(&self) -> Vec<String> {
        let mut names = self.actor_model_names();
        for cell in self.cells() {
            let world = cell.of(&self.scenario).world_state_model;
            if !names.contains(&world) {
                names.push(world);
            }
        }
        names
    }
}

const MAX_RUNS: u64 = 1_000_000;

/// Reads every key of the kind; `None` after at least one problem was reported.
pub(super) fn read(fields: &mut Fields<'_>) -> Option<ScenarioSpec> {
    let reader = fields.reader;
    let name = fields.required("experiment_name", "experiment_name: \"Model Comparison Study\"", |n| named(reader, n));
    let description = fields.maybe("description", |n| reader.filled_text(n));
    let base = fields.required("base_scenario", "base_scenario: scenarios/test-regulation-negotiation", |n| {
        let folder = folder::existing(reader, n)?;
        folder::load(reader, &folder).map(|scenario| (folder, scenario))
    });
    let scenario = base.as_ref().map(|(_, scenario)| scenario);
    let runs_node = fields.get("runs_per_variation");
    let runs = runs_node.map_or(Some(1), |n| reader.size(n, 1..=MAX_RUNS));
    let variations = fields.or("variations", Vec::new(), |n| variation::read(reader, n, scenario));
    let cells =
        variations.as_deref().map_or(0, |v| v.iter().fold(1, |all: u64, d| all.saturating_mul(d.values.len() as u64)));
    if let Some(runs) = runs
        && cells.saturating_mul(runs as u64) > MAX_RUNS
        && let Some(node) = fields.get("variations").or(runs_node)
    {
        let what = format!("{cells} variations of {runs} runs each are more than {MAX_RUNS} runs");
        reader.refuse(node, what, "vary less, or split the batch");
    }
    let save = fields.or("save_individual_runs", true, |n| reader.boolean(n));
    let aggregate = fields.or("aggregate_metrics", true, |n| reader.boolean(n));

    let models = fields.or("models", Vec::new(), |n| models(reader, n));
    let judge_node = fields.get("judge");
    let judge = judge_node.map_or(Some(None), |n| model_ref::read(reader, n).map(Some));
    let judge_max_tokens = fields.or("judge_max_tokens", 800, |n| reader.size(n, 1..=MAX_RUNS));
    let seed = fields.or("seed", 42, |n| reader.whole(n, 0..=u64::MAX));
    fields.belongs("max_tokens", "under `sampling:`, as `max_new_tokens`");
    for key in ["turns", "world_state_model", "initial_world_state", "actors", "context_window_size"] {
        fields.belongs(key, "in scenario.yaml of the folder that `base_scenario` names");
    }
    fields.belongs("metrics", "in metrics.yaml of the folder that `base_scenario` names");
    fields.belongs("parallel", "here as `max_parallel`");
    fields.belongs("output", "here as `output_dir`");
    fields.belongs("experiment", "here as `experiment_name`");
    fields.belongs("runs_per_variant", "here as `runs_per_variation`");
    let default = SamplingKeys { sampling: Sampling { temperature: 0.7, ..Sampling::default() }, max_new_tokens: 1000 };
    let sampling = sampling::read(fields, default);
    let world_max_tokens = fields.or("world_max_tokens", 1500, |n| reader.size(n, 1..=MAX_RUNS));

    let readouts = readouts::read(fields, false);
    let publication = fields.or("publication", false, |n| reader.boolean(n));
    let output = fields.maybe("output_dir", |n| reader.filled_text(n).map(PathBuf::from));
    let conduct = conduct::read_as(fields, "max_parallel");

    let greedy = "temperature 0 is greedy: the repetitions of a variation will differ little or not at all";
    sampling::note_greedy(fields, sampling, runs, greedy, "use runs_per_variation: 1, or a temperature above 0");
    if let (Some(scenario), Some(judge)) = (scenario, &judge) {
        let judged = scenario.metrics.iter().find(|metric| metric.extraction_method == Extraction::Judge);
        match (judged, judge_node, judge) {
            (Some(metric), None, _) => {
                let what = format!("the metric `{}` is found by a judge, and there is none", metric.id);
                reader.refuse(fields.node(), what, "add one, as in `judge: openai/gpt-4o-mini`");
            }
            (None, Some(node), Some(_)) => {
                reader.note(node, "no metric is found by a judge, so it will not be asked", "remove it");
            }
            _ => {}
        }
    }
    let (experiment, experiment_name) = name?;
    let (base_scenario, scenario) = base?;
    let SamplingKeys { sampling, max_new_tokens } = sampling?;
    let mut conduct = conduct?;
    conduct.parallel.get_or_insert(1);
    conduct.timeout_per_run.get_or_insert(DEFAULT_TIMEOUT_S);
    let spec = ScenarioSpec {
        experiment,
        experiment_name,
        description: description?,
        base_scenario,
        scenario,
        runs_per_variation: runs?,
        variations: variations?,
        save_individual_runs: save?,
        aggregate_metrics: aggregate?,
        models: models?,
        judge: judge?,
        judge_max_tokens: judge_max_tokens?,
        seed: seed?,
        sampling,
        max_new_tokens,
        world_max_tokens: world_max_tokens?,
        readouts: readouts?,
        publication: publication?,
        output: output?,
        conduct,
    };
    scripts_are_given(fields, &spec).then_some(spec)
}

/// Seconds that a run may take where nobody says.
const DEFAULT_TIMEOUT_S: f64 = 1800.0;

/// A name for people, and what is safe as a file name of it.
fn named(reader: &Reader<'_>, node: &Node) -> Option<(String, String)> {
    const LONGEST: usize = 60;
    let name = reader.filled_text(node)?.trim().to_owned();
    let mut safe = String::new();
    for c in name.chars() {
        match c {
            _ if safe.len() >= LONGEST => break,
            c if c.is_ascii_alphanumeric() || "._".contains(c) => safe.push(c.to_ascii_lowercase()),
            _ if safe.is_empty() || safe.ends_with('-') => {}
            _ => safe.push('-'),
        }
    }
    let safe = safe.trim_matches(['-', '.']).to_owned();
    if safe.is_empty() {
        let what = format!("`experiment_name` `{}` leaves no file name", describe::short(&name));
        reader.refuse(node, what, "use some of A-Z a-z 0-9 in it");
        return None;
    }
    Some((safe, name))
}

/// What aliases stand for.
fn models(reader: &Reader<'_>, node: &Node) -> Option<Vec<(String, ModelRef)>> {
    let Value::Map(entries) = &node.value else {
        let what = format!("`models` must be a mapping of names to models, found {}", describe::found(node));
        reader.refuse(node, what, "write models: {mine: {name: openai-compatible/…, base_url: …}}");
        return None;
    };
    let all: Vec<Option<(String, ModelRef)>> =
        entries.iter().map(|e| model_ref::read(reader, &e.node).map(|model| (e.key.clone(), model))).collect();
    all.into_iter().collect()
}

/// A scripted model needs its script, and a name alone has none.
fn scripts_are_given(fields: &Fields<'_>, spec: &ScenarioSpec) -> bool {
    let bare = spec.model_names().iter().any(|name| name == SCRIPTED && spec.model(name).script.is_empty());
    if bare {
        fields.reader.refuse(
            fields.node(),
            "a part is played by `scripted`, and there is no script",
            "name it, as in models: {clerk: {name: scripted, script: [{reply: \"…\"}]}}, and write `clerk` for the model",
        );
    }
    !bare
}
