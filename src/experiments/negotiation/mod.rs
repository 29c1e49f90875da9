//! The negotiation experiment: every weak bargainer plays every strong one for the same items at every level of competition, which
//! measures how far the stronger exploits the weaker. Replies of local models can be projected on axes while they are generated.

mod describe;
mod dialogue;
mod export;
mod forecast;
mod game;
mod judge;
mod matrix;
mod outcome;
mod plan;
mod programmed;
mod prompts;
mod replies;
mod run;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::config::{BargainerKind, BargainerRef, Bargaining, NegotiationSpec, PROGRAMMED};
use crate::judge::Judge;
use crate::plan::{AxisPlan, ResponsePlan};
use crate::{Experiment, Forecast, ModelClient, probe_plan};
use game::Rules;
use matrix::Matrix;
use outcome::Side;
use plan::{BargainerPlan, PlayerPlan};
use tiltmeter_model::probe::{Axis, ProbePlan, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, Message, Model, SeedKey};
use tiltmeter_report::{Against, Factor};
use tiltmeter_scheduler::Run;
use tiltmeter_store::RunKey;

pub use plan::NegotiationPlan;

/// A bargainer, opened.
pub enum Bargainer {
    Model(Box<ModelBargainer>),
    Programmed(Bargaining),
}

/// A model and the axes of its replies; none for a model that does not expose hidden states.
pub struct ModelBargainer {
    client: ModelClient,
    axes: Vec<Axis>,
    probes: Option<Arc<ProbePlan>>,
}

impl Bargainer {
    pub fn model(client: ModelClient) -> Self {
        Self::Model(Box::new(ModelBargainer { client, axes: Vec::new(), probes: None }))
    }

    fn as_model(&self) -> Option<&ModelBargainer> {
        match self {
            Self::Model(bargainer) => Some(bargainer),
            Self::Programmed(_) => None,
        }
    }

    /// The model, if it exposes hidden states; a model behind an API does not.
    pub fn readable(&self) -> Option<Arc<dyn Model>> {
        let model = &self.as_model()?.client.model;
        model.card().hidden_size.map(|_| model.clone())
    }

    /// Projects every reply of the model on these axes.
    ///
    /// # Errors
    /// An axis is unusable, or two share a name and a site.
    pub fn read(&mut self, axes: Vec<Axis>, span: Span) -> Result<(), Vec<Problem>> {
        let Self::Model(bargainer) = self else { return Ok(()) };
        bargainer.probes = probe_plan::probe_plan(&axes, span)?;
        bargainer.axes = axes;
        Ok(())
    }
}

/// The spec and the opened models; shared by all runs.
struct Resources {
    spec: NegotiationSpec,
    matrix: Matrix,
    weak: Vec<Bargainer>,
    strong: Vec<Bargainer>,
    judge: Option<Judge>,
}

impl Resources {
    fn rules(&self) -> Rules {
        Rules { agents: 2, items: self.spec.num_items, max_rounds: self.spec.max_rounds }
    }

    /// The request for a bargainer's next turn.
    fn request(&self, messages: Vec<Message>, seed: SeedKey) -> ChatRequest {
        ChatRequest {
            sampling: self.spec.sampling,
            max_new_tokens: Some(self.spec.max_new_tokens),
            seed,
            ..ChatRequest::new(messages)
        }
    }

    /// Every model among the bargainers, the weak ones first.
    fn models(&self) -> impl Iterator<Item = &ModelBargainer> {
        self.weak.iter().chain(&self.strong).filter_map(Bargainer::as_model)
    }
}

/// The axes of these bargainers; all models that expose hidden states share the same axes.
fn axes_of(bargainers: &[Bargainer]) -> &[Axis] {
    let mut axes = bargainers.iter().filter_map(Bargainer::as_model).map(|bargainer| bargainer.axes.as_slice());
    axes.find(|axes| !axes.is_empty()).unwrap_or_default()
}

/// A negotiation experiment with everything opened and checked.
pub struct Negotiation {
    resources: Arc<Resources>,
    forecast: Forecast,
}

impl Negotiation {
    /// Checks everything that needs no paid call. `weak` and `strong` are in the order of the spec.
    ///
    /// # Errors
    /// Axes without a model to read, a model that refuses a request, or a game that cannot fit the context.
    pub fn new(
        spec: NegotiationSpec,
        weak: Vec<Bargainer>,
        strong: Vec<Bargainer>,
        judge: Option<ModelClient>,
    ) -> Result<Self, Vec<Problem>> {
        if !spec.readouts.axes.is_empty() && weak.iter().chain(&strong).all(|bargainer| bargainer.readable().is_none())
        {
            return Err(vec![
                Problem::new("no bargainer exposes its hidden states, so there is nothing to project")
                    .at("axes")
                    .hint("remove the axes, or use a local bargainer: a folder or a hub id"),
            ]);
        }
        let labels = |list: &[BargainerRef]| list.iter().map(|entry| entry.label.clone()).collect();
        let matrix = Matrix {
            weak: labels(&spec.weak_models),
            strong: labels(&spec.strong_models),
            levels: spec.competition_levels.clone(),
            orders: spec.orders.clone(),
            repetitions: spec.repetitions,
            seed: spec.seed,
        };
        let judge =
            judge.map(|client| Judge::new(client, judge::instructions(), judge::schema(), spec.judge_max_tokens));
        let resources = Resources { spec, matrix, weak, strong, judge };
        let forecast = forecast::forecast(&resources)?;
        Ok(Self { resources: Arc::new(resources), forecast })
    }
}

fn bargainer_plan(reference: &BargainerRef, bargainer: &Bargainer) -> BargainerPlan {
    let base_url = match &reference.who {
        BargainerKind::Model(model) => model.base_url.as_deref(),
        BargainerKind::Programmed(_) => None,
    };
    let player = match bargainer {
        Bargainer::Model(bargainer) => PlayerPlan::Model(Box::new(bargainer.client.plan(base_url))),
        Bargainer::Programmed(strategy) => PlayerPlan::Programmed { name: PROGRAMMED.to_owned(), strategy: *strategy },
    };
    BargainerPlan { label: reference.label.clone(), player }
}

/// The utility gap against the level of competition and by pair.
fn utility_gap(matrix: &Matrix) -> ResponsePlan {
    let factor = |label: &str, title: &str, menu: &[String]| Factor {
        label: label.to_owned(),
        title: title.to_owned(),
        menu: menu.to_vec(),
    };
    let weak = factor("weak_model", "weak bargainer", &matrix.weak);
    ResponsePlan {
        metric: "utility_gap".to_owned(),
        title: "Utility gap".to_owned(),
        unit: "utility gap (strong − weak)".to_owned(),
        centred: true,
        against: Some(Against {
            metric: "competition_level".to_owned(),
            title: "competition level (cosine similarity of values)".to_owned(),
            levels: matrix.levels.clone(),
        }),
        by: Some(weak.clone()),
        rows: Some(weak),
        columns: Some(factor("strong_model", "strong bargainer", &matrix.strong)),
        notes: vec![
            "Both utilities are discounted. A game without a deal gives nobody anything, so its gap is 0; a game that failed is not \
             counted."
                .to_owned(),
        ],
    }
}

impl Experiment for Negotiation {
    fn name(&self) -> &str {
        &self.resources.spec.experiment
    }

    fn plan(&self) -> Value {
        let Resources { spec, matrix, weak, strong, judge } = self.resources.as_ref();
        let side = |list: &[BargainerRef], bargainers: &[Bargainer]| -> Vec<BargainerPlan> {
            list.iter().zip(bargainers).map(|(reference, bargainer)| bargainer_plan(reference, bargainer)).collect()
        };
        // One entry a side that a local model plays: each side has its own series.
        let axes = |side: Side, bargainers: &[Bargainer]| -> Vec<AxisPlan> {
            let plan = |axis: &Axis| AxisPlan::named(axis, format!("{}.{}", side.name(), axis.name), Some("reply"));
            axes_of(bargainers).iter().map(plan).collect()
        };
        json!(NegotiationPlan {
            kind: "negotiation".to_owned(),
            experiment: spec.experiment.clone(),
            matrix: matrix.clone(),
            cells: matrix.cells().into_iter().map(|cell| matrix.name(cell)).collect(),
            conditions: matrix.pairs(),
            responses: vec![utility_gap(matrix)],
            weak: side(&spec.weak_models, weak),
            strong: side(&spec.strong_models, strong),
            judge: judge.as_ref().zip(spec.judge.as_ref()).map(|(judge, spec)| judge.plan(spec.base_url.as_deref())),
            num_items: spec.num_items,
            max_rounds: spec.max_rounds,
            gamma: spec.gamma,
            prompts: prompts::all(self.resources.rules(), spec.gamma),
            seed: spec.seed,
            sampling: spec.sampling,
            max_new_tokens: spec.max_new_tokens,
            axes: [axes(Side::Weak, weak), axes(Side::Strong, strong)].concat(),
            token_span: spec.readouts.span,
            publication: spec.publication,
            other: Map::new(),
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        describe::describe(&self.resources)
    }

    fn runs(&self) -> Vec<Arc<dyn Run>> {
        let matrix = &self.resources.matrix;
        let cells = matrix.cells().into_iter().flat_map(|cell| (0..matrix.repetitions).map(move |r| (cell, r)));
        cells.map(|(cell, r)| Arc::new(run::NegotiationRun::new(&self.resources, cell, r)) as Arc<dyn Run>).collect()
    }

    fn numbered(&self, number: usize) -> Option<RunKey> {
        let (cell, sample) = self.resources.matrix.run(number)?;
        let experiment = self.resources.spec.experiment.clone();
        Some(RunKey { experiment, cell: self.resources.matrix.name(cell), sample })
    }

    fn in_flight(&self) -> usize {
        // `parallel` of the file has a default of its own and takes precedence.
        4.min(self.resources.matrix.total_runs()).max(1)
    }

    /// Empty: the number of turns of a game is not known in advance.
    fn totals(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}
