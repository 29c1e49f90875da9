//! The folder of a scenario: `scenario.yaml`, `actors/<short_name>.yaml`, `metrics.yaml`. Every problem is reported with the
//! place in its own file.
//!
//! | key of `scenario.yaml` | default | meaning |
//! |---|---|---|
//! | `name` | required | for people |
//! | `description` | – | for people |
//! | `system_prompt` | required | what everybody in the scenario is told |
//! | `initial_world_state` | required | the world before turn 1 |
//! | `turns` | required | how many |
//! | `turn_duration` | – | how much time passes in one, in words |
//! | `world_state_model` | required | the model that says what the world becomes |
//! | `actors` | required | short names, in the order in which they are asked |
//! | `context_window_size` | all turns | how many turns are told word for word; older ones are summarised |
//! | `communication` | none | `{bilateral: true, coalition: true, rounds: 1}`: private messages before every decision |

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::{
    describe,
    fields::{Fields, Reader, name_of},
    nearest::nearest,
    parse, read_text,
    tree::Node,
};
use super::{
    actor::{self, Actor},
    metric::{self, Metric},
};
use tiltmeter_model::problem::Problem;

/// A scenario with its actors and metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    pub name: String,
    pub description: Option<String>,
    /// What everybody in the scenario is told.
    pub system_prompt: String,
    /// The world before turn 1.
    pub initial_world_state: String,
    pub turns: usize,
    /// How much time passes in a turn, in words.
    pub turn_duration: Option<String>,
    /// The model that says what the world becomes.
    pub world_state_model: String,
    /// Turns that are told word for word; `None`: all.
    pub context_window_size: Option<usize>,
    pub communication: Option<Communication>,
    /// At least one; short names differ whatever their case.
    pub actors: Vec<Actor>,
    pub metrics: Vec<Metric>,
}

/// Private messages before the decisions of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Communication {
    /// From one actor to one other.
    pub bilateral: bool,
    /// From one actor to several others, each of whom sees who else got it.
    pub coalition: bool,
    /// How often everybody may write before deciding.
    pub rounds: usize,
}

const SCENARIO: &str = "scenario.yaml";
const METRICS: &str = "metrics.yaml";
const MAX_TURNS: u64 = 10_000;

/// The folder that a value names: looked for from the current folder first, then from the folder of the file that names it.
pub fn existing(reader: &Reader<'_>, node: &Node) -> Option<PathBuf> {
    let given = PathBuf::from(reader.filled_text(node)?);
    let beside = reader.folder.join(&given);
    if let Some(found) = [&given, &beside].into_iter().find(|path| path.is_dir()) {
        return Some(found.clone());
    }
    let (name, shown) = (name_of(node), describe::short(&given.to_string_lossy()).into_owned());
    if given.is_file() || beside.is_file() {
        reader.refuse(node, format!("{name} `{shown}` is a file"), format!("name the folder that holds {SCENARIO}"));
        return None;
    }
    let near = near_folder(&given).or_else(|| near_folder(&beside));
    let hint = match near {
        Some(near) => format!("did you mean {near}?"),
        None if given.is_absolute() || reader.folder.as_os_str().is_empty() => "check the path".to_owned(),
        None => format!("looked from the current folder and from {}", reader.folder.display()),
    };
    reader.refuse(node, format!("{name} `{shown}` does not exist"), hint);
    None
}

fn near_folder(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folders = std::fs::read_dir(parent).ok()?.flatten().take(10_000).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let near = nearest(wanted, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near).display().to_string())
}

/// Reads a file of the folder; its problems are reported with the places in it.
pub(super) fn file<T>(outer: &Reader<'_>, path: &Path, read: impl FnOnce(&mut Fields<'_>) -> Option<T>) -> Option<T> {
    let name = path.display().to_string();
    let filled = |text: String| match text.lines().all(|line| line.trim().is_empty() || line.starts_with('#')) {
        true => Err(Problem::new("the file is empty").at(name.clone()).hint("fill it in, or put back what it held")),
        false => Ok(text),
    };
    let text = read_text(path).and_then(filled).map_err(|problem| vec![problem]);
    let parsed = text.and_then(|text| parse(&text, path));
    let (mut root, repeated) = match parsed {
        Ok(parsed) => parsed,
        Err(problems) => {
            outer.absorb_file(problems, Vec::new());
            return None;
        }
    };
    root.name_paths(String::new());
    let reader = Reader::new(&name, path.parent().unwrap_or(Path::new(""))).of("the file");
    reader.absorb(repeated);
    let found = Fields::open(&reader, &root).and_then(|mut fields| {
        let found = read(&mut fields);
        fields.finish();
        found
    });
    let (problems, notes) = reader.finish();
    let found = found.filter(|_| problems.is_empty());
    outer.absorb_file(problems, notes);
    found
}

/// Reads the folder.
pub fn load(outer: &Reader<'_>, folder: &Path) -> Option<Scenario> {
    let scenario = file(outer, &folder.join(SCENARIO), |fields| scenario(outer, folder, fields));
    let metrics = match folder.join(METRICS) {
        path if path.exists() => file(outer, &path, metric::read),
        _ => Some(Vec::new()),
    };
    let (mut scenario, metrics) = (scenario?, metrics?);
    // Of whom a metric is can only be checked against the actors, which another file names.
    for metric in &metrics {
        let known = || scenario.actors.iter().map(|actor| actor.short_name.as_str());
        if let Some(actor) = metric.actor.as_deref().filter(|actor| !known().any(|name| name == *actor)) {
            let problem =
                Problem::new(format!("the metric `{}` is of `{actor}`, and no actor has that short_name", metric.id))
                    .at(folder.join(METRICS).display().to_string())
                    .hint(actor_hint(actor, known()));
            outer.absorb_file(vec![problem], Vec::new());
            return None;
        }
    }
    scenario.metrics = metrics;
    Some(scenario)
}

/// What to do about a name that no actor has.
pub(super) fn actor_hint<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let all = known.clone().collect::<Vec<_>>().join(", ");
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`? There are {all}"),
        None => format!("there are {all}"),
    }
}

/// The keys of `scenario.yaml`. Problems of the actors' files go to `outer`, beside those of this file.
fn scenario(outer: &Reader<'_>, folder: &Path, fields: &mut Fields<'_>) -> Option<Scenario> {
    let reader = fields.reader;
    let name = fields.required("name", "name: Test Regulation Negotiation", |n| reader.filled_text(n));
    let description = fields.maybe("description", |n| reader.filled_text(n));
    let system_prompt =
        fields.required("system_prompt", "system_prompt: You take part in …", |n| reader.filled_text(n));
    let world =
        fields.required("initial_world_state", "initial_world_state: It is spring. …", |n| reader.filled_text(n));
    let turns = fields.required("turns", "turns: 5", |n| reader.size(n, 1..=MAX_TURNS));
    let turn_duration = fields.maybe("turn_duration", |n| reader.filled_text(n));
    let model =
        fields.required("world_state_model", "world_state_model: openai/gpt-4o-mini", |n| reader.filled_text(n));
    let window = fields.maybe("context_window_size", |n| reader.size(n, 1..=MAX_TURNS));
    let communication = fields.maybe("communication", |n| communication(reader, n));
    let actors = fields.required("actors", "actors: [regulator, tech-company]", |n| {
        let listed = reader.list(n, |entry| reader.file_name(entry).map(|name| (entry.clone(), name)))?;
        let mut good = true;
        for (i, (node, name)) in listed.iter().enumerate() {
            if listed[..i].iter().any(|(_, earlier)| earlier.eq_ignore_ascii_case(name)) {
                reader.refuse(node, format!("the actor `{name}` is listed twice"), "list every actor once");
                good = false;
            }
        }
        let actors: Vec<Option<Actor>> =
            listed.iter().map(|(node, name)| actor::load(outer, reader, node, folder, name)).collect();
        actors.into_iter().collect::<Option<Vec<_>>>().filter(|_| good)
    });
    for key in ["goals", "constraints", "llm_model", "short_name"] {
        fields.belongs(key, "in the actor's own file, actors/<short_name>.yaml");
    }
    fields.belongs("metrics", "in metrics.yaml");
    Some(Scenario {
        name: name?,
        description: description?,
        system_prompt: system_prompt?,
        initial_world_state: world?,
        turns: turns?,
        turn_duration: turn_duration?,
        world_state_model: model?,
        context_window_size: window?,
        communication: communication?.flatten(),
        actors: actors?,
        metrics: Vec::new(),
    })
}

/// `None` inside if nobody may write to anybody.
fn communication(reader: &Reader<'_>, node: &Node) -> Option<Option<Communication>> {
    let mut fields = Fields::open(reader, node)?;
    let bilateral = fields.or("bilateral", false, |n| reader.boolean(n));
    let coalition = fields.or("coalition", false, |n| reader.boolean(n));
    let rounds = fields.or("rounds", 1, |n| reader.size(n, 1..=100));
    fields.finish();
    let (bilateral, coalition, rounds) = (bilateral?, coalition?, rounds?);
    Some((bilateral || coalition).then_some(Communication { bilateral, coalition, rounds }))
}
