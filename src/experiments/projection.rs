//! The multi-turn projection experiment: for each condition and sample the transcript's user turns are replayed, the model answers, and
//! the hidden states of each answer are projected on the axes in the pass that generates them.
//!
//! Seeds (003b): token i of sample s at turn t uses Philox key `seed + 1000 t + g` with `g` the first sample of its micro-batch,
//! stream `s - g`, counter i. `per_sample`: key `seed`, stream `(t << 32) + s`, so micro_batch does not matter.

mod collect;
mod describe;
mod forecast;
mod methods;
mod plan;
mod rollout;

use std::sync::Arc;

use serde_json::{Value, json};

use super::{CellForecast, Experiment, Forecast, probe_plan};
use crate::config::{Condition, ProjectionSpec, Transcript};
use crate::plan::{AxisPlan, ModelPlan};
use tiltmeter_model::Model;
use tiltmeter_model::probe::{Axis, ProbePlan};
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::Run;

pub use plan::{ConditionPlan, ProjectionPlan, TranscriptPlan};
pub use rollout::TurnRecord;

/// The cell name of the reference trajectory.
const REFERENCE: &str = "reference";

/// A projection experiment with everything it needs opened and checked.
pub struct Projection {
    spec: Arc<ProjectionSpec>,
    transcript: Arc<Transcript>,
    model: Arc<dyn Model>,
    axes: Vec<Axis>,
    probes: Arc<ProbePlan>,
    forecast: Forecast,
}

impl Projection {
    /// Checks axes, labels, and whether the conversations fit the context.
    pub fn new(
        spec: ProjectionSpec,
        transcript: Transcript,
        model: Arc<dyn Model>,
        axes: Vec<Axis>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let probes = probe_plan::probes(&axes).unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        if spec.conditions.iter().any(|condition| condition.label == REFERENCE) {
            problems.push(
                Problem::new("a condition cannot be called `reference`: that is the transcript's own trajectory")
                    .hint("choose another label"),
            );
        }
        if spec.reference && transcript.turns.iter().all(|turn| turn.reply.is_none()) {
            problems.push(
                Problem::new("`reference: true` needs a transcript with replies, and this one has none")
                    .hint("set reference: false, or use a transcript with assistant messages"),
            );
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let forecast = forecast::forecast(&spec, &transcript, model.as_ref())?;
        let mut vectors = Vec::new();
        if spec.vectors {
            vectors.extend(probes.iter().map(|probe| probe.site));
            vectors.sort_unstable();
            vectors.dedup();
        }
        let probes = Arc::new(ProbePlan { probes, span: spec.readouts.span, vectors });
        Ok(Self { spec: Arc::new(spec), transcript: Arc::new(transcript), model, axes, probes, forecast })
    }
}

impl Experiment for Projection {
    fn name(&self) -> &str {
        &self.spec.experiment
    }

    fn plan(&self) -> Value {
        let spec = &self.spec;
        let condition = |(condition, cell): (&Condition, &CellForecast)| ConditionPlan {
            label: condition.label.clone(),
            system_prompt: condition.system_prompt.clone(),
            placement: condition.placement,
            rendered_prompt: cell.first_prompt.clone(),
        };
        let turns = &self.transcript.turns;
        json!(ProjectionPlan {
            kind: "projection".to_owned(),
            experiment: spec.experiment.clone(),
            model: ModelPlan::of(self.model.card()),
            axes: self.axes.iter().map(AxisPlan::of).collect(),
            token_span: spec.readouts.span,
            transcript: TranscriptPlan {
                source: self.transcript.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                users: turns.iter().map(|turn| turn.user.clone()).collect(),
                replies: spec.reference.then(|| turns.iter().map(|turn| turn.reply.clone()).collect()),
            },
            conditions: spec.conditions.iter().zip(&self.forecast.cells).map(condition).collect(),
            samples: spec.samples,
            micro_batch: spec.micro_batch,
            seed: spec.seed,
            seeding: spec.seeding,
            sampling: spec.sampling,
            max_new_tokens: spec.max_new_tokens,
            max_seq_len: spec.max_seq_len,
            on_context_overflow: spec.on_context_overflow,
            vectors: spec.vectors,
            reference: spec.reference,
            other: serde_json::Map::new(),
        })
    }

    fn describe(&self) -> Vec<(String, String)> {
        describe::describe(&self.spec, &self.transcript)
    }

    fn runs(&self) -> Vec<Arc<dyn Run>> {
        let rollout = |index: usize, condition: &Condition, sample| {
            Arc::new(rollout::Rollout::new(self, index, condition.clone(), sample)) as Arc<dyn Run>
        };
        let conditions = self.spec.conditions.iter().enumerate();
        let reference = self.spec.reference.then(|| Arc::new(rollout::ReferenceRun::new(self)) as Arc<dyn Run>);
        conditions
            .flat_map(|(index, condition)| (0..self.spec.samples).map(move |sample| (index, condition, sample)))
            .map(|(index, condition, sample)| rollout(index, condition, sample))
            .chain(reference)
            .collect()
    }

    fn in_flight(&self) -> usize {
        // Every condition's micro-batch, and the reference: more could not run at once anyway.
        self.spec.conditions.len() * self.spec.micro_batch + 1
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        let rollouts = self.spec.conditions.len() * self.spec.samples;
        vec![("turns", (rollouts * self.transcript.turns.len()) as u64)]
    }

    fn forecast(&self) -> &Forecast {
        &self.forecast
    }
}
