//! Probes of an experiment's requests, made from its axes.

use std::sync::Arc;

use tiltmeter_model::probe::{Axis, Probe, ProbePlan, Span};
use tiltmeter_model::problem::Problem;

/// One probe an axis.
///
/// # Errors
/// Two axes have the same name at the same site, so that their projections could not be told apart; or an axis is unusable.
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

/// The probes of every request; `None` without an axis.
pub fn probe_plan(axes: &[Axis], span: Span) -> Result<Option<Arc<ProbePlan>>, Vec<Problem>> {
    let probes = probes(axes)?;
    Ok((!probes.is_empty()).then(|| Arc::new(ProbePlan { probes, span, vectors: Vec::new() })))
}
