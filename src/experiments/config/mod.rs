//! Reads an experiment file: YAML, or JSON by the ending `.json`, into a typed `Spec`. Reports every problem at once, each with line,
//! column and a hint.
//!
//! ```yaml
//! kind: projection
//! experiment: reminder
//! model: allenai/Olmo-3-7B-Instruct
//! axis: data/axes/assistant.safetensors
//! layer: 21
//! layer_convention: hidden_states
//! transcript: data/transcripts/conversation.json
//! conditions:
//!   - label: baseline
//!   - label: reminder
//!     system_prompt: "Reminder: You are a helpful assistant."
//! ```
//!
//! The keys of `kind: interview`, `kind: negotiation` and `kind: scenario` are in their files below; a file with `base_scenario` needs
//! no `kind`. Keys of `kind: projection` (a key with nothing after it counts as absent):
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `kind` | required | `projection` |
//! | `experiment` | required | name of the run folder and of every file; safe as a file name |
//! | `model` | required | a name on the Hugging Face hub, or a folder |
//! | `axis` or `axes` | required | a file, or `{file, name, site}` / `{file, name, layer, layer_convention}`; `axes` is a list of those |
//! | `site` | the axis' own | `embed`, `block.{i}.out`, `final_norm`; one or a list |
//! | `layer`, `layer_convention` | –, `block` | instead of `site`: a number or a list, and what it counts (`block` or `hidden_states`) |
//! | `transcript` | required | JSON file with the user turns |
//! | `conditions` | required | list of `{label, system_prompt, placement}` |
//! | `conditions[].system_prompt` | none | absent means no system message; `""` is an empty one |
//! | `conditions[].placement` | `start` | or `after_each_user` |
//! | `samples` | 16 | rollouts per condition |
//! | `micro_batch` | `samples` | rollouts generated together; with `seeding: per_batch` part of the seed |
//! | `seed` | 42 | |
//! | `seeding` | `per_batch` | or `per_sample`, which is independent of `micro_batch` |
//! | `sampling.temperature` | 1.0 | 0 is greedy; 1 is the model's own distribution |
//! | `sampling.top_p`, `top_k`, `min_p` | off | a checkpoint's own defaults are recorded, never applied |
//! | `sampling.max_new_tokens` | 512 | |
//! | `max_seq_len` | the model's | longest prompt + reply in tokens |
//! | `on_context_overflow` | `error` | or `stop_conversation`, `drop_oldest_turns` |
//! | `span` | `content` | or `content+stop`, `first_k(8)` (also `{first_k: 8}`), `prompt`, `user` |
//! | `reference` | false | also read the transcript's own replies |
//! | `vectors` | true | keep the mean vector of every turn at every site |
//! | `accept_axis_of_other_model` | false | |
//! | `output` | – | folder for the results |
//!
//! A relative path in the file is looked for from the current folder first and from the folder of the file second, so that the
//! shipped experiments (whose paths start at the repository root) and a folder moved as a whole both work.
//!
//! A later kind is one file here, one variant of [`Spec`] and one row of `KINDS`.

mod conduct;
mod describe;
mod fields;
mod interview;
mod json;
mod model_ref;
mod nearest;
mod negotiation;
mod overrides;
mod projection;
mod readouts;
mod sampling;
mod scenario;
pub mod transcript;
mod tree;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use fields::{Fields, Reader};
use tree::{Node, Repeated};

use tiltmeter_model::input;
use tiltmeter_model::problem::Problem;

pub use conduct::{Conduct, LaneSpec, OnRunCostLimit, RunOrder};
pub use interview::{InterviewSpec, RefusalRule, RunSeeding, StopOnRefusal, Strategy, Variant};
pub use model_ref::{ModelRef, PriceSpec, SCRIPTED, ScriptRule};
pub use negotiation::{BargainerKind, BargainerRef, Bargaining, NegotiationSpec, PROGRAMMED, SpeakingOrder};
pub use projection::{Condition, OverflowPolicy, Placement, ProjectionSpec, Seeding};
pub use readouts::{AxisRef, Readouts, SiteRef};
pub use scenario::{
    Actor, Better, Cell, Communication, Dimension, Extraction, Metric, MetricKind, Scenario, ScenarioSpec, Varied,
};
pub use transcript::{Transcript, Turn};

/// An experiment, checked as far as it can be without a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Spec {
    /// Replay a transcript's user turns and project the replies on axes.
    Projection(Box<ProjectionSpec>),
    /// Put questions to a model and let another judge the transcript.
    Interview(Box<InterviewSpec>),
    /// Let weak models bargain with strong ones.
    Negotiation(Box<NegotiationSpec>),
    /// Have models play a scenario, in every combination of its variations.
    Scenario(Box<ScenarioSpec>),
}

/// An experiment and the file it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the file says, overrides included.
    pub spec: Spec,
    /// The file.
    pub path: PathBuf,
    /// The file's text, without the overrides.
    pub text: String,
    /// Worth saying before a run, but not wrong.
    pub notes: Vec<Problem>,
}

/// Reads the keys of one kind.
type ReadKind = fn(&mut Fields<'_>) -> Option<Spec>;

/// A kind of experiment.
struct Kind {
    name: &'static str,
    /// A key that only this kind has and that says enough.
    says_it: Option<&'static str>,
    read: ReadKind,
    /// Environment variables that stand for keys.
    environment: &'static [(&'static str, &'static str)],
}

const KINDS: &[Kind] = &[
    Kind {
        name: "projection",
        says_it: None,
        read: |fields| projection::read(fields).map(|spec| Spec::Projection(Box::new(spec))),
        environment: &[],
    },
    Kind {
        name: "interview",
        says_it: None,
        read: |fields| interview::read(fields).map(|spec| Spec::Interview(Box::new(spec))),
        environment: &[
            ("BATCH_MODE", "batch"),
            ("BATCH_SIZE", "runs_per_variant"),
            ("INTER_RUN_DELAY", "inter_run_delay"),
            ("HF_REPO_ID", "hf_repo_id"),
            ("LOCAL_BACKUP_DIR", "local_backup_dir"),
            ("MODEL_SEED", "seed"),
            ("MODEL_TEMPERATURE", "sampling.temperature"),
            ("MODEL_TOP_P", "sampling.top_p"),
            ("MODEL_MAX_TOKENS", "sampling.max_new_tokens"),
        ],
    },
    Kind {
        name: "negotiation",
        says_it: None,
        read: |fields| negotiation::read(fields).map(|spec| Spec::Negotiation(Box::new(spec))),
        environment: &[],
    },
    Kind {
        name: "scenario",
        says_it: Some("base_scenario"),
        read: |fields| scenario::read(fields).map(|spec| Spec::Scenario(Box::new(spec))),
        environment: &[],
    },
];

/// Before the name of an environment variable among the overrides: a kind that knows the variable takes it for its key, every other
/// leaves it.
pub const FROM_ENVIRONMENT: &str = "$";

impl Spec {
    /// How it is carried out.
    pub fn conduct(&self) -> Conduct {
        match self {
            Self::Projection(_) => Conduct::default(),
            Self::Interview(spec) => spec.conduct.clone(),
            Self::Negotiation(spec) => spec.conduct.clone(),
            Self::Scenario(spec) => spec.conduct.clone(),
        }
    }

    /// Folder for the results.
    pub fn output(&self) -> Option<PathBuf> {
        match self {
            Self::Projection(spec) => spec.output.clone(),
            Self::Interview(spec) => spec.output.clone(),
            Self::Negotiation(spec) => spec.output.clone(),
            Self::Scenario(spec) => spec.output.clone(),
        }
    }
}

/// Reads an experiment file. `overrides` are the pairs of `--set key=value`; they win over the file, the later over the earlier.
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    read(&text, path, overrides)
}

/// Reads an experiment from text; `path` names it in problems and anchors its relative paths.
pub fn read(text: &str, path: &Path, overrides: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    let file = path.display().to_string();
    let (mut root, found) = parse(text, path)?;
    let (overrides, said) = settings(&root, overrides);
    let mut refused = overrides::apply(&mut root, &overrides);
    root.name_paths(String::new());

    let reader = Reader::new(&file, path.parent().unwrap_or(Path::new("")));
    reader.absorb(found);
    let spec = Fields::open(&reader, &root).and_then(read_spec);
    let (mut problems, mut notes) = reader.finish();
    problems.append(&mut refused);
    notes.extend(said);
    match spec {
        Some(spec) if problems.is_empty() => {
            Ok(Loaded { spec, path: path.to_path_buf(), text: text.to_string(), notes })
        }
        // Cannot be: whoever returns `None` has reported why. A person still gets an answer.
        _ if problems.is_empty() => Err(vec![Problem::new("the experiment could not be read").at(file)]),
        _ => Err(problems),
    }
}

/// The overrides with environment variables as the keys they stand for, and what is to be said of those.
fn settings(root: &Node, overrides: &[(String, String)]) -> (Vec<(String, String)>, Vec<Problem>) {
    let kind = match &root.value {
        tree::Value::Map(entries) => entries.iter().find(|entry| entry.key == "kind").map(|entry| &entry.node.value),
        _ => None,
    };
    let kind = KINDS.iter().find(|known| matches!(kind, Some(tree::Value::Text(name)) if name == known.name));
    let (mut meant, mut said) = (Vec::new(), Vec::new());
    for (key, value) in overrides {
        let Some(variable) = key.strip_prefix(FROM_ENVIRONMENT) else {
            meant.push((key.clone(), value.clone()));
            continue;
        };
        let row = kind.and_then(|kind| kind.environment.iter().find(|(name, _)| name == &variable));
        if let Some((_, key)) = row {
            said.push(
                Problem::new(format!("`{key}` is {} because {variable} is set", describe::short(value)))
                    .at("environment or .env"),
            );
            meant.push(((*key).to_owned(), value.clone()));
        }
    }
    (meant, said)
}

fn read_spec(mut fields: Fields<'_>) -> Option<Spec> {
    let reader = fields.reader;
    let words: Vec<(&str, ReadKind)> = KINDS.iter().map(|kind| (kind.name, kind.read)).collect();
    if fields.get("kind").is_none()
        && let Some(kind) = KINDS.iter().find(|kind| kind.says_it.is_some_and(|key| fields.get(key).is_some()))
    {
        let spec = (kind.read)(&mut fields);
        fields.finish();
        return spec;
    }
    // Without a usable kind the keys are still checked, as those of the first kind there is, so that all problems come at once.
    let kind = fields.required("kind", "kind: projection", |node: &Node| reader.choice(node, &words));
    let spec = kind.unwrap_or(KINDS[0].read)(&mut fields);
    fields.finish();
    kind.and(spec)
}

/// The tree of a file, by its ending: `.json` is JSON, everything else YAML.
fn parse(text: &str, path: &Path) -> Result<(Node, Vec<Repeated>), Vec<Problem>> {
    let file = path.display().to_string();
    // Windows editors put a byte order mark before the first line; it is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        true => json::from_json(text, &file),
        false => tree::from_yaml(text, &file),
    }
}

/// Text of a file that a person named.
fn read_text(path: &Path) -> Result<String, Problem> {
    let place = path.display().to_string();
    if path.is_dir() {
        return Err(Problem::new("this is a folder, not a file").at(place).hint("name a file in it"));
    }
    let bytes = input::read_bytes(path, input::MAX_TEXT).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let what = if missing { "the file does not exist".into() } else { format!("the file cannot be read: {error}") };
        let hint = match nearest::nearest_file(path).filter(|_| missing) {
            Some(near) => format!("did you mean {near}?"),
            None if missing => "check the path; it is relative to the current folder".to_string(),
            None => "check the file's permissions".to_string(),
        };
        Problem::new(what).at(place.clone()).hint(hint)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        Problem::new("the file is not UTF-8 text").at(format!("{place}:{line}")).hint("save it as UTF-8")
    })
}
