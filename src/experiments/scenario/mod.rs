//! The scenario experiment: actors played by models decide turn by turn and simultaneously, a world-state model updates the world, and
//! metrics are extracted from it; every combination of the variations is repeated. Replies of local actors can be projected on axes
//! while they are generated.

mod describe;
mod export;
mod forecast;
mod history;
mod messages;
mod metrics;
mod plan;
mod prompts;
mod reply;
mod run;
mod turn;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use crate::config::{Cell, MetricKind, Scenario, ScenarioSpec};
use crate::judge::Judge;
use crate::plan::{AxisPlan, CategoryPlan};
use crate::{Experiment, Forecast, ModelClient, probe_plan};
use metrics::MetricExtractor;
use plan::{ActorModelPlan, MeasurePlan, Modifications, VariationPlan};
use tiltmeter_model::probe::{Axis, ProbePlan};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, Message, SeedKey};
use tiltmeter_scheduler::Run;
use tiltmeter_store::RunKey;

pub use plan::ScenarioPlan;

/// Copy of the experiment file in the run folder.
const CONFIG: &str = "batch-config.yaml";

/// A cell of the matrix and its scenario.
struct Variation {
    cell: Cell,
    /// The values that distinguish it.
    title: String,
    scenario: Scenario,
}

/// The spec and the opened models; shared by all runs.
struct Resources {
    spec: ScenarioSpec,
    variations: Vec<Variation>,
    /// By the name that scenario and variations use.
    models: BTreeMap<String, ModelClient>,
    judge: Option<Judge>,
    /// Probes of local models, by the same names.
    probes: BTreeMap<String, Arc<ProbePlan>>,
    extractors: Vec<MetricExtractor>,
}

impl Resources {
    fn model(&self, name: &str) -> Result<&ModelClient, Problem> {
        let model = self.models.get(name);
        model.ok_or_else(|| Problem::new(format!("the model `{name}` was not opened")).at("models"))
    }

    /// The judge, if a metric of the scenario needs one.
    fn judge(&self) -> Option<&Judge> {
        self.judge.as_ref().filter(|_| prompts::is_judged(&self.spec.scenario))
    }

    fn actor_request(&self, model: &str, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            probes: self.probes.get(model).cloned(),
            ..self.request(messages, self.spec.max_new_tokens, seed)
        }
    }

    fn world_request(&self, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        self.request(messages, self.spec.world_max_tokens, seed)
    }

    fn request(&self, messages: Vec<Message>, max_new_tokens: usize, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(max_new_tokens),
            seed,
            ..ChatRequest::new(messages)
        }
    }
}

/// A scenario batch with everything opened and checked.
pub struct ScenarioBatch {
    resources: Arc<Resources>,
    /// Of every model that has any, by the name that scenario and variations use.
    axes: BTreeMap<String, Vec<Axis>>,
    forecast: Forecast,
    /// Number of each variation, from 1: its position in the matrix, or its number in the plan that is resumed.
    numbers: Vec<usize>,
}

/// `var-001`
pub fn variation_id(number: usize) -> String {
    format!("var-{number:03}")
}

/// The cell of a variation; a run's id is then `var-001-run-003`.
fn cell_id(number: usize) -> String {
    format!("{}-run", variation_id(number))
}

impl ScenarioBatch {
    /// Checks everything that needs no paid call. `models` holds all of `spec.model_names()`, `axes` those of models that expose hidden
    /// states.
    ///
    /// # Errors
    /// Axes without a model to read, an unusable pattern, a model that refuses a request, or a turn that cannot fit the context.
    pub fn new(
        spec: ScenarioSpec,
        models: BTreeMap<String, ModelClient>,
        judge: Option<ModelClient>,
        axes: BTreeMap<String, Vec<Axis>>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if !spec.readouts.axes.is_empty() && axes.is_empty() {
            problems.push(
                Problem::new("no actor's model exposes its hidden states, so there is nothing to project")
                    .at("axes")
                    .hint("remove the axes, or use a local model for an actor: a folder or a hub id"),
            );
        }
        let mut probes = BTreeMap::new();
        for (model, axes) in &axes {
            match probe_plan::probe_plan(axes, spec.readouts.span) {
                Ok(plan) => probes.extend(plan.map(|plan| (model.clone(), plan))),
                Err(found) => problems.extend(found),
            }
        }
        let extractors: Result<Vec<MetricExtractor>, Problem> =
            spec.scenario.metrics.iter().map(MetricExtractor::new).collect();
        let extractors = extractors.map_err(|problem| vec![problem])?;
        let variation =
            |cell: Cell| Variation { scenario: cell.of(&spec.scenario), title: cell.title(&spec.variations), cell };
        let variations: Vec<Variation> = spec.cells().into_iter().map(variation).collect();
        let numbers: Vec<usize> = (1..=variations.len()).collect();
        let judge = judge.map(|client| {
            let (instructions, schema) =
                (prompts::judge_instructions(&spec.scenario), prompts::judge_schema(&spec.scenario));
            let judge = Judge::new(client, instructions, schema, spec.judge_max_tokens);
            let schema = judge.schema.clone().filter(|_| prompts::is_judged(&spec.scenario));
            Judge { schema, ..judge }
        });
        let resources = Resources { spec, variations, models, judge, probes, extractors };
        let ids: Vec<String> = numbers.iter().map(|number| variation_id(*number)).collect();
        let forecast = forecast::forecast(&resources, &ids).map_err(|found| problems.extend(found));
        match forecast {
            Ok(forecast) if problems.is_empty() => Ok(Self { resources: Arc::new(resources), axes, forecast, numbers }),
            _ => Err(problems),
        }
    }

    fn total_runs(&self) -> usize {
        self.resources.variations.len() * self.resources.spec.runs_per_variation
    }

    /// One entry an actor and axis, over all variations; and one for its private messages, where the scenario has them.
    fn axis_plans(&self) -> Vec<AxisPlan> {
        let mut plans: Vec<AxisPlan> = Vec::new();
        for scenario in self.resources.variations.iter().map(|variation| &variation.scenario) {
            for actor in &scenario.actors {
                for axis in self.axes.get(&actor.llm_model).into_iter().flatten() {
                    let prefix = run::message_series_prefix(actor);
                    let messages = scenario
                        .communication
                        .map(|_| AxisPlan::named(axis, format!("{prefix}{}", axis.name), Some("message")));
                    let decisions = AxisPlan::named(axis, format!("{}.{}", actor.short_name, axis.name), None);
                    for plan in messages.into_iter().chain([decisions]) {
                        if !plans.contains(&plan) {
                            plans.push(plan);
                        }
                    }
                }
            }
        }
        plans
    }
}

impl Experiment for ScenarioBatch {
    fn name(&self) -> &str {
        &self.resources.spec.experiment
    }

    fn plan(&self) -> Value {
        let Resources { spec, variations, models, judge, probes, .. } = self.resources.as_ref();
        let variation = |(variation, number): (&Variation, &usize)| VariationPlan {
            label: cell_id(*number),
            name: variation_id(*number),
            variation_id: variation_id(*number),
            title: variation.title.clone(),
            modifications: Modifications::of(&variation.cell),
            cell: variation.cell.clone(),
        };
        let model = |(name, client): (&String, &ModelClient)| ActorModelPlan {
            model: client.plan(spec.model(name).base_url.as_deref()),
            alias: name.clone(),
            local: client.local,
        };
        let of_kind =
            |wanted: fn(MetricKind) -> bool| spec.scenario.metrics.iter().filter(move |metric| wanted(metric.kind));
        let measures = of_kind(MetricKind::is_number)
            .filter_map(|metric| Some(MeasurePlan { series: metric.id.clone(), title: metric.description.clone()? }));
        let categories = of_kind(|kind| kind == MetricKind::Boolean).map(|metric| CategoryPlan {
            label: metric.id.clone(),
            title: metric.description.clone(),
            menu: vec!["true".to_owned(), "false".to_owned()],
        });
        let mut projections: Vec<String> = Vec::new();
        for probe in probes.values().flat_map(|plan| &plan.probes) {
            let name = format!("{}@{}", probe.name, probe.site);
            if !projections.contains(&name) {
                projections.push(name);
            }
        }
        json!(ScenarioPlan {
            kind: "scenario".to_owned(),
            experiment: spec.experiment.clone(),
            experiment_name: spec.experiment_name.clone(),
            description: spec.description.clone(),
            base_scenario: spec.base_scenario.clone(),
            scenario: spec.scenario.clone(),
            variations: spec.variations.clone(),
            conditions: variations.iter().zip(&self.numbers).map(variation).collect(),
            measures: measures.collect(),
            categories: categories.collect(),
            runs_per_variation: spec.runs_per_variation,
            models: models.iter().map(model).collect(),
            judge: judge.as_ref().zip(spec.judge.as_ref()).map(|(judge, spec)| judge.plan(spec.base_url.as_deref())),
            seed: spec.seed,
            sampling: spec.sampling,
            max_new_tokens: spec.max_new_tokens,
            world_max_tokens: spec.world_max_tokens,
            axes: self.axis_plans(),
            projections,
            token_span: spec.readouts.span,
            save_individual_runs: spec.save_individual_runs,
            aggregate_metrics: spec.aggregate_metrics,
            publication: spec.publication,
            other: Map::new(),
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        describe::describe(&self.resources, &self.axes, &self.numbers)
    }

    fn banner(&self) -> Vec<String> {
        let spec = &self.resources.spec;
        let (variations, runs) = (self.resources.variations.len(), spec.runs_per_variation);
        vec![format!("{}: {variations} variations x {runs} runs = {} runs", spec.experiment_name, self.total_runs())]
    }

    fn kept_config(&self) -> Option<&'static str> {
        Some(CONFIG)
    }

    fn continue_numbering(&mut self, _earlier: &[Value], resumed: Option<&Value>) {
        let variations = &self.resources.variations;
        let resumed = resumed.filter(|plan| plan["kind"] == "scenario").and_then(|plan| ScenarioPlan::read(plan).ok());
        self.numbers = match resumed {
            Some(plan) => continued_numbers(&plan, variations),
            None => (1..=variations.len()).collect(),
        };
    }

    fn runs(&self) -> Vec<Arc<dyn Run>> {
        let Resources { spec, variations, .. } = self.resources.as_ref();
        let actors = variations.iter().map(|variation| variation.scenario.actors.len()).max().unwrap_or(1) as u64;
        let mut runs: Vec<Arc<dyn Run>> = Vec::new();
        for (variation, number) in self.numbers.iter().enumerate() {
            // From 1, as in the names of run folders.
            for sample in 1..=spec.runs_per_variation {
                let key = RunKey { experiment: spec.experiment.clone(), cell: cell_id(*number), sample };
                let conversation = runs.len() as u64 * actors;
                let id = variation_id(*number);
                runs.push(Arc::new(run::ScenarioRun::new(&self.resources, key, id, variation, conversation)));
            }
        }
        runs
    }

    fn in_flight(&self) -> usize {
        1
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let turns: usize = self.resources.variations.iter().map(|variation| variation.scenario.turns).sum();
        vec![("turns", (turns * self.resources.spec.runs_per_variation) as u64)]
    }

    fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}

/// Numbers of the variations when an earlier plan is extended: known variations keep their numbers, so that their runs stay theirs; new
/// ones follow the greatest number.
fn continued_numbers(plan: &ScenarioPlan, variations: &[Variation]) -> Vec<usize> {
    let number = |variation: &VariationPlan| variation.variation_id.strip_prefix("var-")?.parse().ok();
    let known: Vec<(usize, &Cell)> =
        plan.conditions.iter().filter_map(|variation| Some((number(variation)?, &variation.cell))).collect();
    let mut next = known.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let number = |variation: &Variation| match known.iter().find(|(_, cell)| **cell == variation.cell) {
        Some((number, _)) => *number,
        None => {
            next += 1;
            next
        }
    };
    variations.iter().map(number).collect()
}
