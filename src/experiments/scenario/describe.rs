//! Owns how a scenario batch is put into words before it runs.
//! Must not know: engine, provider, run folders, terminal.

use std::collections::BTreeMap;

use super::{Setting, variation_id};
use crate::config::{Dimension, Varied};
use tiltmeter_model::probe::Axis;

/// One `(what, how)` a line.
pub fn describe(setting: &Setting, axes: &BTreeMap<String, Vec<Axis>>, numbers: &[usize]) -> Vec<(String, String)> {
    let Setting { spec, places, .. } = setting;
    let scenario = &spec.scenario;
    let mut rows = vec![
        ("title", spec.experiment_name.clone()),
        ("scenario", format!("{} ({})", scenario.name, spec.base_scenario.display())),
    ];
    let duration = scenario.turn_duration.as_ref().map(|d| format!(" of {}", d.trim())).unwrap_or_default();
    let window = match scenario.context_window_size {
        Some(window) => format!(", the last {window} told word for word and older ones in short"),
        None => ", all told word for word".to_owned(),
    };
    rows.push(("turns", format!("{}{duration}{window}", scenario.turns)));
    for actor in &scenario.actors {
        let varied = |d: &Dimension| matches!(&d.of, Varied::ActorModel { actor: name } if *name == actor.short_name);
        let model = if spec.variations.iter().any(varied) { "a model that varies" } else { &actor.llm_model };
        rows.push(("actor", format!("{} ({}), played by {model}", actor.name, actor.short_name)));
    }
    if let Some(rules) = scenario.communication {
        let whom = match (rules.bilateral, rules.coalition) {
            (true, true) => "to one or to several others",
            (_, true) => "to several others at once",
            _ => "to one other",
        };
        rows.push(("messages", format!("before every decision, {whom}, in {} rounds", rules.rounds)));
    }
    rows.push(("world state", scenario.world_state_model.clone()));
    for metric in &scenario.metrics {
        let of = metric.actor.as_deref().unwrap_or("the world state");
        let how = metric.pattern.as_ref().map_or("by a judge".to_owned(), |pattern| format!("by /{pattern}/"));
        rows.push(("metric", format!("{}, found in the text of {of} {how}", metric.id)));
    }
    rows.extend(spec.judge.iter().map(|judge| ("judge", format!("{}, temperature 0", judge.name))));
    let (variations, runs) = (places.len(), spec.runs_per_variation);
    rows.push(("runs", format!("{variations} variations x {runs} runs = {}", variations * runs)));
    const SHOWN: usize = 24;
    for (place, number) in places.iter().zip(numbers).take(SHOWN) {
        rows.push(("variation", format!("{}: {}", variation_id(*number), place.title)));
    }
    if variations > SHOWN {
        rows.push(("variation", format!("and {} more", variations - SHOWN)));
    }
    let s = &spec.sampling;
    let mut sampling = vec![format!("temperature {}", s.temperature)];
    sampling.extend(s.top_p.map(|p| format!("top_p {p}")));
    sampling.extend(s.top_k.map(|k| format!("top_k {k}")));
    sampling.extend(s.min_p.map(|p| format!("min_p {p}")));
    sampling
        .push(format!("at most {} tokens a reply and {} a world state", spec.max_new_tokens, spec.world_max_tokens));
    rows.push(("sampling", sampling.join(", ")));
    rows.push(("seed", format!("{}, from which every run gets its own", spec.seed)));
    for (model, axes) in axes {
        rows.extend(axes.iter().map(|axis| ("axis", format!("{} at {}, of what {model} says", axis.name, axis.site))));
    }
    if spec.publication {
        rows.push(("also", "for publication: the plan is kept to".to_owned()));
    }
    rows.into_iter().map(|(what, how)| (what.to_owned(), how)).collect()
}
