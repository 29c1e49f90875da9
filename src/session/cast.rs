//! Owns how the cast of a scenario is opened: every model that plays a part in some variation, once, and the axes for those that show
//! their hidden states.
//! Must not know: flags, terminal.

use std::collections::BTreeMap;

use super::{
    kinds::{Opened, open_axes},
    opening::ModelOpener,
};
use tiltmeter_experiments::config::ScenarioSpec;
use tiltmeter_experiments::scenario::ScenarioBatch;
use tiltmeter_model::probe::Axis;
use tiltmeter_model::problem::Problem;

pub fn open(
    spec: ScenarioSpec,
    opener: &mut ModelOpener<'_>,
    notes: &mut Vec<Problem>,
) -> Result<Opened, Vec<Problem>> {
    let mut speakers = BTreeMap::new();
    for name in spec.model_names() {
        let known = opener.problems.len();
        let speaker = opener.speaker("a part of the scenario", &spec.model(&name));
        if let Some(problem) = opener.problems.get_mut(known).filter(|_| !name.contains('/')) {
            // A word alone is more often a name that the batch was to explain than a folder.
            let hint = problem.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
            problem.hint = Some(format!("{hint}or say under `models:` what `{name}` stands for"));
        }
        speakers.extend(speaker.map(|speaker| (name, speaker)));
    }
    let judge = spec.judge.as_ref().and_then(|judge| opener.speaker("judge", judge));
    if !opener.problems.is_empty() {
        return Err(std::mem::take(&mut opener.problems));
    }
    let mut axes: BTreeMap<String, Vec<Axis>> = BTreeMap::new();
    for name in spec.actor_model_names() {
        let model = speakers.get(&name).map(|speaker| speaker.model.clone());
        // What shows no hidden states is not asked for them: a batch may have actors of both sorts.
        let Some(model) = model.filter(|model| model.card().hidden_size.is_some()) else { continue };
        let opened = open_axes(&spec.readouts, model.as_ref(), notes)?;
        if !opened.is_empty() {
            axes.insert(name, opened);
        }
    }
    let mut distinct: Vec<Axis> = Vec::new();
    for axis in axes.values().flatten() {
        if !distinct.iter().any(|known| (&known.name, known.site) == (&axis.name, axis.site)) {
            distinct.push(axis.clone());
        }
    }
    Ok((Box::new(ScenarioBatch::new(spec, speakers, judge, axes)?), distinct))
}
