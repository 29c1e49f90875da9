//! The frozen plan of a projection experiment.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{REFERENCE, collect, methods};
use crate::config::{OverflowPolicy, Placement, Seeding};
use crate::plan::{AxisPlan, ModelPlan};
use crate::{Exports, Kind, Ledger, RunRecord, read_plan};
use tiltmeter_model::Sampling;
use tiltmeter_model::probe::Span;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::RunKey;

/// Everything that determines the results of a projection experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionPlan {
    pub kind: String,
    pub experiment: String,
    pub model: ModelPlan,
    pub axes: Vec<AxisPlan>,
    pub token_span: Span,
    pub transcript: TranscriptPlan,
    pub conditions: Vec<ConditionPlan>,
    pub samples: usize,
    pub micro_batch: usize,
    pub seed: u64,
    pub seeding: Seeding,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub max_seq_len: Option<usize>,
    pub on_context_overflow: OverflowPolicy,
    /// Whether `vectors.safetensors` is written.
    pub vectors: bool,
    /// Whether the transcript's own replies are measured too.
    pub reference: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The transcript that is replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranscriptPlan {
    /// File name without its folder.
    pub source: String,
    pub users: Vec<String>,
    /// The transcript's replies; `None` if they are not measured.
    pub replies: Option<Vec<Option<String>>>,
}

/// One system prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConditionPlan {
    pub label: String,
    pub system_prompt: Option<String>,
    pub placement: Placement,
    /// The first prompt after the chat template.
    pub rendered_prompt: String,
}

impl ProjectionPlan {
    /// # Errors
    /// A field is missing or has another type.
    pub fn read(plan: &Value) -> Result<Self, Problem> {
        read_plan(plan)
    }
}

impl Kind for ProjectionPlan {
    fn name(&self) -> &'static str {
        "projection"
    }

    fn run_keys(&self) -> Vec<RunKey> {
        let key = |cell: &str, sample| RunKey { experiment: self.experiment.clone(), cell: cell.to_owned(), sample };
        let conditions = self.conditions.iter().map(|condition| condition.label.as_str());
        let rollouts = conditions.flat_map(|label| (0..self.samples).map(move |sample| key(label, sample)));
        rollouts.chain(self.reference.then(|| key(REFERENCE, 0))).collect()
    }

    fn exports(&self, runs: &[RunRecord], _ledger: &Ledger) -> Exports {
        collect::exports(self, runs)
    }

    fn methods(&self) -> Vec<String> {
        methods::methods(self)
    }
}
