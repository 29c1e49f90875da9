//! Owns the file an experiment is written in: YAML (or JSON, by the ending `.json`) in, a typed `Spec` out, and every problem in
//! the file at once, each with its line, its column and what to do.
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
//! Keys of `kind: projection` (a key with nothing after it counts as absent):
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
//! Must not know: how a model is opened.

mod describe;
mod fields;
mod json;
mod nearest;
mod overrides;
mod projection;
pub mod transcript;
mod tree;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use fields::{Fields, Reader};
use tree::{Node, Repeated};

use crate::problem::Problem;

pub use projection::{AxisRef, Condition, OverflowPolicy, Placement, ProjectionSpec, Seeding, SiteRef};
pub use transcript::{Transcript, Turn};

/// An experiment, checked as far as it can be without a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Spec {
    /// Replay a transcript's user turns and project the replies on axes.
    Projection(ProjectionSpec),
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

const KINDS: &[(&str, ReadKind)] = &[("projection", |fields| projection::read(fields).map(Spec::Projection))];

/// Reads an experiment file. `overrides` are the pairs of `--set key=value`; they win over the file.
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    let text = read_text(path).map_err(|problem| vec![problem])?;
    read(&text, path, overrides)
}

/// Reads an experiment from text; `path` names it in problems and anchors its relative paths.
pub fn read(text: &str, path: &Path, overrides: &[(String, String)]) -> Result<Loaded, Vec<Problem>> {
    let file = path.display().to_string();
    let (mut root, found) = parse(text, path)?;
    let mut refused = overrides::apply(&mut root, overrides);
    root.name_paths(String::new());

    let reader = Reader::new(&file, path.parent().unwrap_or(Path::new("")));
    reader.absorb(found);
    let spec = Fields::open(&reader, &root).and_then(read_spec);
    let (mut problems, notes) = reader.finish();
    problems.append(&mut refused);
    match spec {
        Some(spec) if problems.is_empty() => {
            Ok(Loaded { spec, path: path.to_path_buf(), text: text.to_string(), notes })
        }
        // Cannot be: whoever returns `None` has reported why. A person still gets an answer.
        _ if problems.is_empty() => Err(vec![Problem::new("the experiment could not be read").at(file)]),
        _ => Err(problems),
    }
}

fn read_spec(mut fields: Fields<'_>) -> Option<Spec> {
    let reader = fields.reader;
    let words: Vec<(&str, ReadKind)> = KINDS.to_vec();
    // Without a usable kind the keys are still checked, as those of the only kind there is, so that all problems come at once.
    let kind = fields.required("kind", "kind: projection", |node: &Node| reader.choice(node, &words));
    let spec = kind.unwrap_or(KINDS[0].1)(&mut fields);
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
    let bytes = std::fs::read(path).map_err(|error| {
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
