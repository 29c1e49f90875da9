//! Opens the models of a scenario, each once, and the axes of actors that show their hidden states.

use std::collections::BTreeMap;

use super::{
    build::{Opened, open_axes},
    models::ModelOpener,
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
    let mut clients = BTreeMap::new();
    for name in spec.model_names() {
        let known = opener.problems.len();
        let client = opener.client("a part of the scenario", &spec.model(&name));
        if let Some(problem) = opener.problems.get_mut(known).filter(|_| !name.contains('/')) {
            // A single word is more often an alias missing from `models:` than a folder.
            let hint = problem.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
            problem.hint = Some(format!("{hint}or define `{name}` under `models:`"));
        }
        clients.extend(client.map(|client| (name, client)));
    }
    let judge = spec.judge.as_ref().and_then(|judge| opener.client("judge", judge));
    if !opener.problems.is_empty() {
        return Err(std::mem::take(&mut opener.problems));
    }
    let mut axes: BTreeMap<String, Vec<Axis>> = BTreeMap::new();
    for name in spec.actor_model_names() {
        let model = clients.get(&name).map(|client| client.model.clone());
        // A batch may mix models that show their hidden states with models that do not.
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
    Ok((Box::new(ScenarioBatch::new(spec, clients, judge, axes)?), distinct))
}
