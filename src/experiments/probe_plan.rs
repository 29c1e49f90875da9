//! Owns what the axes of an experiment become: probes for its requests, and what its frozen plan says of them.
//! Must not know: engine, provider, run folders, terminal.

use std::sync::Arc;

use serde_json::{Value, json};

use tiltmeter_model::probe::{Axis, Probe, ProbePlan, Span};
use tiltmeter_model::problem::Problem;

/// A probe an axis. Two that would go by the same name are refused: what was read on one could be taken for the other's.
pub fn probes(axes: &[Axis]) -> Result<Vec<Probe>, Vec<Problem>> {
    let (mut probes, mut problems): (Vec<Probe>, Vec<Problem>) = (Vec::new(), Vec::new());
    for axis in axes {
        match axis.probe() {
            Ok(probe) if probes.iter().any(|known| (&known.name, known.site) == (&probe.name, probe.site)) => {
                problems.push(
                    Problem::new(format!("two axes are called `{}` at {}", probe.name, probe.site))
                        .at("axes")
                        .hint("give one of them another name: {file: …, name: …}"),
                );
            }
            Ok(probe) => probes.push(probe),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(probes) } else { Err(problems) }
}

/// What is read of every reply; `None` without an axis.
pub fn probe_plan(axes: &[Axis], span: Span) -> Result<Option<Arc<ProbePlan>>, Vec<Problem>> {
    let probes = probes(axes)?;
    Ok((!probes.is_empty()).then(|| Arc::new(ProbePlan { probes, span, vectors: Vec::new() })))
}

/// An axis as the plan has it, under the name that series carry, with what a step of theirs is if it is no turn.
pub fn planned(axis: &Axis, name: &str, step: Option<&str>) -> Value {
    let span = axis.mean_neg.zip(axis.mean_pos);
    json!({"name": name, "site": axis.site, "sha256": axis.sha256, "span": span, "step": step})
}
