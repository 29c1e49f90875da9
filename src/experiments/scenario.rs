//! Owns the scenario experiment: actors that are models decide turn by turn at the same time, a world-state model says what becomes of
//! the world, metrics are read from it; every combination of the variations is repeated. What actors on this machine say can be projected
//! on axes in the pass that generates it.
//! Must not know: engine, provider, run folders, terminal.

mod analysis;
mod collect;
mod decision;
mod describe;
mod forecast;
mod history;
mod measure;
mod methods;
mod play;
mod prompt;
mod record;
mod turn;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{Experiment, Forecast, ModelClient, probe_plan};
use crate::config::{Cell, MetricKind, Scenario, ScenarioSpec, Varied};
use tiltmeter_model::SeedKey;
use tiltmeter_model::probe::{Axis, ProbePlan};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::Run;
use tiltmeter_store::RunKey;

use measure::Measure;

pub use decision::Sections;
pub use measure::Found;
pub use play::{JUDGE_FAILURE, run_seed};
pub use record::Records;
pub use turn::{Decision, Sent, Taken, Turn, Written};

/// Name under which the batch's file is kept in its folder.
const CONFIG: &str = "batch-config.yaml";

/// A cell of the matrix and the scenario as it is there.
struct Place {
    cell: Cell,
    /// What tells it from the others.
    title: String,
    scenario: Scenario,
}

/// What all runs share.
struct Setting {
    spec: ScenarioSpec,
    places: Vec<Place>,
    /// By the name that scenario and variations use.
    speakers: BTreeMap<String, ModelClient>,
    judge: Option<ModelClient>,
    /// Of models on this machine, by the same names.
    probes: BTreeMap<String, Arc<ProbePlan>>,
    measures: Vec<Measure>,
    /// `None` if there is no judge, or it can be held to no form.
    schema: Option<Value>,
}

impl Setting {
    fn speaker(&self, model: &str) -> Result<&ModelClient, Problem> {
        let speaker = self.speakers.get(model);
        speaker.ok_or_else(|| Problem::new(format!("the model `{model}` was not opened")).at("models"))
    }
}

/// A scenario batch with everything it needs opened and checked.
pub struct ScenarioBatch {
    setting: Arc<Setting>,
    /// Of every model that has any, by the name that scenario and variations use.
    axes: BTreeMap<String, Vec<Axis>>,
    forecast: Forecast,
    /// Number of every place's variation, from 1: the position in the matrix, unless a plan that is gone on with has given it another.
    numbers: Vec<usize>,
}

/// `var-001`
pub fn variation_id(number: usize) -> String {
    format!("var-{number:03}")
}

/// The cell of a variation: with it a run's id is `var-001-run-003`.
fn cell_id(number: usize) -> String {
    format!("{}-run", variation_id(number))
}

impl ScenarioBatch {
    /// Checks everything that can be checked before anything is spent. `speakers` are all of `spec.model_names()`, `axes` those of the
    /// models among them that show their hidden states.
    pub fn new(
        spec: ScenarioSpec,
        speakers: BTreeMap<String, ModelClient>,
        judge: Option<ModelClient>,
        axes: BTreeMap<String, Vec<Axis>>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if !spec.readouts.axes.is_empty() && axes.is_empty() {
            problems.push(
                Problem::new("no actor's model shows its hidden states, so nothing can be projected")
                    .at("axes")
                    .hint("remove the axes, or have an actor played by a model on this machine: a folder or a hub id"),
            );
        }
        let mut probes = BTreeMap::new();
        for (model, axes) in &axes {
            match probe_plan::probe_plan(axes, spec.readouts.span) {
                Ok(plan) => probes.extend(plan.map(|plan| (model.clone(), plan))),
                Err(found) => problems.extend(found),
            }
        }
        let measures: Result<Vec<Measure>, Problem> = spec.scenario.metrics.iter().map(Measure::new).collect();
        let measures = measures.map_err(|problem| vec![problem])?;
        let place = |cell: Cell| Place { scenario: cell.of(&spec.scenario), title: cell.title(&spec.variations), cell };
        let places: Vec<Place> = spec.cells().into_iter().map(place).collect();
        let numbers: Vec<usize> = (1..=places.len()).collect();
        let judged = prompt::is_judged(&spec.scenario);
        let schema = judged.then(|| prompt::judge_schema(&spec.scenario));
        let mut setting = Setting { spec, places, speakers, judge, probes, measures, schema };
        if let Some(judge) = &setting.judge {
            let request =
                setting.of_judge(prompt::judge_messages(&setting.spec.scenario, 1, &[], ""), SeedKey::default());
            if judge.model.check(&request).is_err() {
                // Then it is asked for JSON in words alone.
                setting.schema = None;
            }
        }
        let ids: Vec<String> = numbers.iter().map(|number| variation_id(*number)).collect();
        let forecast = forecast::forecast(&setting, &ids).map_err(|found| problems.extend(found));
        match forecast {
            Ok(forecast) if problems.is_empty() => Ok(Self { setting: Arc::new(setting), axes, forecast, numbers }),
            _ => Err(problems),
        }
    }

    fn total_runs(&self) -> usize {
        self.setting.places.len() * self.setting.spec.runs_per_variation
    }
}

/// A model in its part, under the name that scenario and variations use.
fn part(alias: &str, speaker: &ModelClient, base_url: Option<&str>) -> Value {
    let mut part = speaker.part(base_url);
    part["alias"] = json!(alias);
    part["local"] = json!(speaker.local);
    part
}

/// What a cell changes, as the guide's files name it.
fn modifications(cell: &Cell) -> Value {
    let (mut models, mut overrides) = (serde_json::Map::new(), serde_json::Map::new());
    for (of, value) in &cell.values {
        match of {
            Varied::ActorModel { actor } => models.insert(actor.clone(), value.clone()),
            Varied::ScenarioParameter { parameter } => overrides.insert(parameter.clone(), value.clone()),
        };
    }
    json!({"actor_models": models, "scenario_overrides": overrides})
}

impl Experiment for ScenarioBatch {
    fn name(&self) -> &str {
        &self.setting.spec.experiment
    }

    fn plan(&self) -> Value {
        let Setting { spec, places, speakers, judge, schema, .. } = self.setting.as_ref();
        let variation = |(place, number): (&Place, &usize)| {
            json!({
                "label": cell_id(*number), "name": variation_id(*number), "title": place.title,
                "variation_id": variation_id(*number),
                "modifications": modifications(&place.cell), "cell": place.cell,
            })
        };
        let conditions: Vec<Value> = places.iter().zip(&self.numbers).map(variation).collect();
        let models: Vec<Value> =
            speakers.iter().map(|(name, speaker)| part(name, speaker, spec.model(name).base_url.as_deref())).collect();
        // One entry an actor that some variation has played on this machine.
        let mut axes: Vec<Value> = Vec::new();
        for (place, actor) in
            places.iter().flat_map(|place| place.scenario.actors.iter().map(move |actor| (place, actor)))
        {
            for axis in self.axes.get(&actor.llm_model).into_iter().flatten() {
                let name = |of: &str| format!("{}.{of}{}", actor.short_name, axis.name);
                let letters = format!("{}.", play::LETTERS);
                let letters =
                    place.scenario.communication.map(|_| probe_plan::planned(axis, &name(&letters), Some("message")));
                for entry in letters.into_iter().chain([probe_plan::planned(axis, &name(""), None)]) {
                    if !axes.contains(&entry) {
                        axes.push(entry);
                    }
                }
            }
        }
        let described = spec.scenario.metrics.iter().filter(|metric| metric.kind.is_number());
        let measures: Vec<Value> = described
            .filter_map(|metric| Some(json!({"series": metric.id, "title": metric.description.as_ref()?})))
            .collect();
        let truths = spec.scenario.metrics.iter().filter(|metric| metric.kind == MetricKind::Boolean);
        let categories: Vec<Value> = truths
            .map(|metric| json!({"label": metric.id, "title": metric.description, "menu": ["true", "false"]}))
            .collect();
        let judge = judge.as_ref().map(|speaker| {
            let base_url = spec.judge.as_ref().and_then(|judge| judge.base_url.as_deref());
            speaker.judging(base_url, &prompt::judge_brief(&spec.scenario), schema.as_ref(), spec.judge_max_tokens)
        });
        // Columns of projections, each name once.
        let mut projections: Vec<String> = Vec::new();
        for probe in self.setting.probes.values().flat_map(|plan| &plan.probes) {
            let name = format!("{}@{}", probe.name, probe.site);
            if !projections.contains(&name) {
                projections.push(name);
            }
        }
        json!({
            "kind": "scenario",
            "experiment": spec.experiment,
            "experiment_name": spec.experiment_name,
            "description": spec.description,
            "base_scenario": spec.base_scenario,
            "scenario": spec.scenario,
            "variations": spec.variations,
            "conditions": conditions,
            "measures": measures,
            "categories": categories,
            "runs_per_variation": spec.runs_per_variation,
            "models": models,
            "judge": judge,
            "seed": spec.seed,
            "sampling": spec.sampling,
            "max_new_tokens": spec.max_new_tokens,
            "world_max_tokens": spec.world_max_tokens,
            "axes": axes,
            "projections": projections,
            "token_span": spec.readouts.span,
            "save_individual_runs": spec.save_individual_runs,
            "aggregate_metrics": spec.aggregate_metrics,
            "publication": spec.publication,
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        describe::describe(&self.setting, &self.axes, &self.numbers)
    }

    fn banner(&self) -> Vec<String> {
        let spec = &self.setting.spec;
        let (variations, runs) = (self.setting.places.len(), spec.runs_per_variation);
        vec![format!("{}: {variations} variations x {runs} runs = {} runs", spec.experiment_name, self.total_runs())]
    }

    fn kept_config(&self) -> Option<&'static str> {
        Some(CONFIG)
    }

    fn continue_numbering(&mut self, _earlier: &[Value], resumed: Option<&Value>) {
        self.numbers = match resumed {
            Some(plan) if plan["kind"] == "scenario" => numbers_after(plan, &self.setting.places),
            _ => (1..=self.setting.places.len()).collect(),
        };
    }

    fn runs(&self) -> Vec<Arc<dyn Run>> {
        let Setting { spec, places, .. } = self.setting.as_ref();
        let actors = places.iter().map(|place| place.scenario.actors.len()).max().unwrap_or(1) as u64;
        let mut runs: Vec<Arc<dyn Run>> = Vec::new();
        for (place, number) in self.numbers.iter().enumerate() {
            // Counted from 1, as the folders of runs are.
            for sample in 1..=spec.runs_per_variation {
                let key = RunKey { experiment: spec.experiment.clone(), cell: cell_id(*number), sample };
                let conversation = runs.len() as u64 * actors;
                runs.push(Arc::new(play::Play::new(&self.setting, key, variation_id(*number), place, conversation)));
            }
        }
        runs
    }

    fn in_flight(&self) -> usize {
        1
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let turns: usize = self.setting.places.iter().map(|place| place.scenario.turns).sum();
        vec![("turns", (turns * self.setting.spec.runs_per_variation) as u64)]
    }

    fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}

/// Numbers for a matrix that goes on with an earlier one: a variation that was there keeps its number, so that its runs are not taken
/// for another's; new ones come after all that were given.
fn numbers_after(plan: &Value, places: &[Place]) -> Vec<usize> {
    let known: Vec<(usize, Cell)> = plan["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|condition| {
            let number = condition["variation_id"].as_str()?.strip_prefix("var-")?.parse().ok()?;
            Some((number, serde_json::from_value(condition["cell"].clone()).ok()?))
        })
        .collect();
    let mut next = known.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let number = |place: &Place| match known.iter().find(|(_, cell)| *cell == place.cell) {
        Some((number, _)) => *number,
        None => {
            next += 1;
            next
        }
    };
    places.iter().map(number).collect()
}
