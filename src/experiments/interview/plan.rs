//! The frozen plan of an interview experiment.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::run::run_seed;
use crate::config::{RefusalRule, RunSeeding, Strategy, Variant};
use crate::plan::{AxisPlan, CategoryPlan, JudgePlan, ModelPlan};
use crate::{RunRecord, read_plan};
use tiltmeter_model::Sampling;
use tiltmeter_model::probe::Span;
use tiltmeter_model::problem::Problem;

/// Everything that determines the results of an interview experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterviewPlan {
    pub kind: String,
    pub experiment: String,
    pub experiment_version: String,
    pub steward: ModelPlan,
    pub judge: JudgePlan,
    /// `false`: one interview with a pause before every question.
    pub batch: bool,
    /// The steward's system message.
    pub briefing: String,
    pub conditions: Vec<VariantPlan>,
    /// The strategies that the judge chooses from.
    pub menu: Vec<Strategy>,
    pub categories: Vec<CategoryPlan>,
    pub runs_per_variant: usize,
    /// Number of the first repetition.
    pub first_run: usize,
    pub seed: u64,
    pub seeding: RunSeeding,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub stop_on_refusal: RefusalPlan,
    pub axes: Vec<AxisPlan>,
    pub token_span: Span,
    pub publication: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One framing of the dilemma.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantPlan {
    pub label: String,
    pub title: String,
    pub tone: Option<String>,
    pub system_prompt: String,
    pub prompts: Vec<String>,
}

impl VariantPlan {
    pub fn of(variant: &Variant, briefing: &str) -> Self {
        Self {
            label: variant.id.clone(),
            title: variant.name.clone(),
            tone: variant.tone.clone(),
            system_prompt: briefing.to_owned(),
            prompts: variant.prompts.clone(),
        }
    }
}

/// The rule that ends an interview after a refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RefusalPlan {
    /// Number of the question, from 1.
    pub after: usize,
    pub rule: RefusalRule,
    /// The rule's regular expression; `None` if no reply is a refusal.
    pub pattern: Option<String>,
}

impl InterviewPlan {
    /// # Errors
    /// A field is missing or has another type.
    pub fn read(plan: &Value) -> Result<Self, Problem> {
        read_plan(plan)
    }

    /// Names of the strategies.
    pub fn strategies(&self) -> Vec<String> {
        self.menu.iter().map(|strategy| strategy.name.clone()).collect()
    }

    /// The seed that the plan gives a run.
    pub fn seed_of(&self, run: &RunRecord) -> u64 {
        run_seed(self.seed, self.seeding, &run.key.id())
    }
}
