//! The frozen plan of a scenario batch.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Cell, Dimension, Scenario, Varied};
use crate::plan::{AxisPlan, CategoryPlan, JudgePlan, ModelPlan};
use crate::{RunRecord, read_plan};
use tiltmeter_model::Sampling;
use tiltmeter_model::probe::Span;
use tiltmeter_model::problem::Problem;

/// Everything that determines the results of a scenario batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioPlan {
    pub kind: String,
    pub experiment: String,
    pub experiment_name: String,
    pub description: Option<String>,
    pub base_scenario: PathBuf,
    pub scenario: Scenario,
    pub variations: Vec<Dimension>,
    pub conditions: Vec<VariationPlan>,
    /// Metrics with numbers and a description.
    pub measures: Vec<MeasurePlan>,
    /// Boolean metrics.
    pub categories: Vec<CategoryPlan>,
    pub runs_per_variation: usize,
    pub models: Vec<ActorModelPlan>,
    pub judge: Option<JudgePlan>,
    pub seed: u64,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub world_max_tokens: usize,
    pub axes: Vec<AxisPlan>,
    /// Columns of projections, `<axis>@<site>`.
    pub projections: Vec<String>,
    pub token_span: Span,
    pub save_individual_runs: bool,
    pub aggregate_metrics: bool,
    pub publication: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One variation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariationPlan {
    /// Cell of its runs: `var-001-run`.
    pub label: String,
    pub name: String,
    /// `var-001`
    pub variation_id: String,
    /// The values that distinguish it.
    pub title: String,
    pub modifications: Modifications,
    pub cell: Cell,
}

/// The values of a variation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Modifications {
    /// By actor.
    pub actor_models: Map<String, Value>,
    /// By parameter.
    pub scenario_overrides: Map<String, Value>,
}

impl Modifications {
    pub fn of(cell: &Cell) -> Self {
        let mut modifications = Self::default();
        for (of, value) in &cell.values {
            match of {
                Varied::ActorModel { actor } => modifications.actor_models.insert(actor.clone(), value.clone()),
                Varied::ScenarioParameter { parameter } => {
                    modifications.scenario_overrides.insert(parameter.clone(), value.clone())
                }
            };
        }
        modifications
    }
}

/// A series with a title of its own in the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasurePlan {
    pub series: String,
    pub title: String,
}

/// A model under the name that scenario and variations use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActorModelPlan {
    #[serde(flatten)]
    pub model: ModelPlan,
    pub alias: String,
    pub local: bool,
}

impl ScenarioPlan {
    /// # Errors
    /// A field is missing or has another type.
    pub fn read(plan: &Value) -> Result<Self, Problem> {
        read_plan(plan)
    }

    /// The variation of a run; `None` for a run of a variation that the plan no longer has.
    pub fn variation(&self, run: &RunRecord) -> Option<&VariationPlan> {
        self.conditions.iter().find(|variation| variation.label == run.key.cell)
    }

    /// The scenario with the values of a variation.
    pub fn scenario_of(&self, variation: &VariationPlan) -> Scenario {
        variation.cell.of(&self.scenario)
    }

    pub fn planned_runs(&self) -> usize {
        self.conditions.len() * self.runs_per_variation
    }
}
