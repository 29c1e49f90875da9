//! Description of a scenario batch before it runs.

use std::collections::BTreeMap;

use super::{Resources, variation_id};
use crate::config::{Dimension, Varied};
use crate::plan::describe_sampling;
use tiltmeter_model::probe::Axis;

/// Variations listed by name.
const MAX_LISTED: usize = 24;

/// Rows `(what, how)`.
pub fn describe(resources: &Resources, axes: &BTreeMap<String, Vec<Axis>>, numbers: &[usize]) -> Vec<(String, String)> {
    let Resources { spec, variations, .. } = resources;
    let scenario = &spec.scenario;
    let mut rows = vec![
        ("title", spec.experiment_name.clone()),
        ("scenario", format!("{} ({})", scenario.name, spec.base_scenario.display())),
    ];
    let duration = scenario.turn_duration.as_ref().map(|d| format!(" of {}", d.trim())).unwrap_or_default();
    let window = match scenario.context_window_size {
        Some(window) => format!(", the last {window} in full and older ones as a digest"),
        None => ", all in full".to_owned(),
    };
    rows.push(("turns", format!("{}{duration}{window}", scenario.turns)));
    for actor in &scenario.actors {
        let varied = |d: &Dimension| matches!(&d.of, Varied::ActorModel { actor: name } if *name == actor.short_name);
        let model = if spec.variations.iter().any(varied) { "a varied model" } else { &actor.llm_model };
        rows.push(("actor", format!("{} ({}), played by {model}", actor.name, actor.short_name)));
    }
    if let Some(rules) = scenario.communication {
        let recipients = match (rules.bilateral, rules.coalition) {
            (true, true) => "to one or several actors",
            (_, true) => "to several actors at once",
            _ => "to one actor",
        };
        rows.push(("messages", format!("before every decision, {recipients}, in {} rounds", rules.rounds)));
    }
    rows.push(("world state", scenario.world_state_model.clone()));
    for metric in &scenario.metrics {
        let of = metric.actor.as_deref().unwrap_or("the world state");
        let how = metric.pattern.as_ref().map_or("by a judge".to_owned(), |pattern| format!("by /{pattern}/"));
        rows.push(("metric", format!("{}, extracted from the text of {of} {how}", metric.id)));
    }
    rows.extend(spec.judge.iter().map(|judge| ("judge", judge.name.clone())));
    let (count, runs) = (variations.len(), spec.runs_per_variation);
    rows.push(("runs", format!("{count} variations x {runs} runs = {}", count * runs)));
    for (variation, number) in variations.iter().zip(numbers).take(MAX_LISTED) {
        rows.push(("variation", format!("{}: {}", variation_id(*number), variation.title)));
    }
    if count > MAX_LISTED {
        rows.push(("variation", format!("and {} more", count - MAX_LISTED)));
    }
    let mut sampling = describe_sampling(&spec.sampling);
    sampling
        .push(format!("at most {} tokens a reply and {} a world state", spec.max_new_tokens, spec.world_max_tokens));
    rows.push(("sampling", sampling.join(", ")));
    rows.push(("seed", format!("{}, from which the seed of each run is derived", spec.seed)));
    for (model, axes) in axes {
        rows.extend(axes.iter().map(|axis| ("axis", format!("{} at {}, replies of {model}", axis.name, axis.site))));
    }
    if spec.publication {
        rows.push(("also", "for publication: the plan must be followed".to_owned()));
    }
    rows.into_iter().map(|(what, how)| (what.to_owned(), how)).collect()
}
