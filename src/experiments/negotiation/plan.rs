//! The frozen plan of a negotiation experiment.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::game::Rules;
use super::matrix::{Matrix, Pair};
use crate::config::Bargaining;
use crate::plan::{AxisPlan, JudgePlan, ModelPlan, ResponsePlan};
use crate::read_plan;
use tiltmeter_model::Sampling;
use tiltmeter_model::probe::Span;
use tiltmeter_model::problem::Problem;

/// Everything that determines the results of a negotiation experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NegotiationPlan {
    pub kind: String,
    pub experiment: String,
    pub matrix: Matrix,
    /// Names of all cells.
    pub cells: Vec<String>,
    pub conditions: Vec<Pair>,
    pub responses: Vec<ResponsePlan>,
    pub weak: Vec<BargainerPlan>,
    pub strong: Vec<BargainerPlan>,
    pub judge: Option<JudgePlan>,
    pub num_items: usize,
    pub max_rounds: usize,
    pub gamma: f64,
    /// Texts of all prompts; a changed text is another experiment.
    pub prompts: Value,
    /// Base seed.
    pub seed: u64,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    /// Named `weak.<axis>` and `strong.<axis>`.
    pub axes: Vec<AxisPlan>,
    pub token_span: Span,
    pub publication: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A bargainer as the plan names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BargainerPlan {
    /// Name in results.
    pub label: String,
    #[serde(flatten)]
    pub player: PlayerPlan,
}

/// A programmed strategy or a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PlayerPlan {
    Programmed { name: String, strategy: Bargaining },
    Model(Box<ModelPlan>),
}

impl NegotiationPlan {
    /// # Errors
    /// A field is missing or has another type.
    pub fn read(plan: &Value) -> Result<Self, Problem> {
        read_plan(plan)
    }

    /// The rules of every game.
    pub fn rules(&self) -> Rules {
        Rules { agents: 2, items: self.num_items, max_rounds: self.max_rounds }
    }
}
