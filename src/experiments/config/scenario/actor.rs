//! The file of an actor, `actors/<short_name>.yaml`:
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `name` | required | for people |
//! | `short_name` | required | as the file is called |
//! | `llm_model` | required | the model that plays it, unless a variation names another |
//! | `system_prompt` | required | who it is |
//! | `goals`, `constraints`, `expertise`, `decision_style` | – | what it wants, may not do, knows, how it decides: a text, a list of texts, or a mapping |
//! | `private_information` | – | what nobody else is told |

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::{
    describe,
    fields::{Fields, Reader},
    tree::{Node, Value},
};
use super::folder;

/// Somebody who decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub name: String,
    /// Part of file names.
    pub short_name: String,
    /// A model as the experiment names models.
    pub llm_model: String,
    pub system_prompt: String,
    pub goals: Vec<String>,
    pub constraints: Vec<String>,
    pub expertise: Vec<String>,
    pub decision_style: Vec<String>,
    /// Nobody else is told.
    pub private_information: Vec<String>,
}

/// Names that files of a run have besides those of the actors.
const TAKEN: &[&str] = &["world-state", "scenario-state", "metrics", "costs", "judge"];

/// Reads the file of an actor that `node` names.
pub fn load(outer: &Reader<'_>, reader: &Reader<'_>, node: &Node, scenario: &Path, name: &str) -> Option<Actor> {
    if TAKEN.contains(&name.to_lowercase().as_str()) {
        reader.refuse(node, format!("the name `{name}` is taken: a run has files of that name"), "choose another");
        return None;
    }
    let actors = scenario.join("actors");
    let path = actors.join(format!("{name}.yaml"));
    if !path.is_file() {
        let hint = match super::super::nearest::nearest_file(&path) {
            Some(near) => format!("write {}, or did you mean {near}?", path.display()),
            None => format!("write {}", path.display()),
        };
        reader.refuse(node, format!("the actor `{name}` has no file"), hint);
        return None;
    }
    folder::file(outer, &path, |fields| actor(fields, name))
}

fn actor(fields: &mut Fields<'_>, expected: &str) -> Option<Actor> {
    let reader = fields.reader;
    let name = fields.required("name", "name: Federal Regulator", |n| reader.filled_text(n));
    let short_name = fields.required("short_name", "short_name: regulator", |n| {
        let found = reader.filled_text(n)?;
        if found != expected {
            let what =
                format!("the short_name is `{}` and the file is called {expected}.yaml", describe::short(&found));
            reader.refuse(
                n,
                what,
                format!("write short_name: {expected}, or rename the file and its entry in `actors`"),
            );
            return None;
        }
        Some(found)
    });
    let llm_model = fields.required("llm_model", "llm_model: openai/gpt-4o-mini", |n| reader.filled_text(n));
    let system_prompt = fields.required("system_prompt", "system_prompt: You lead …", |n| reader.filled_text(n));
    let mut lines = |key: &'static str| fields.or(key, Vec::new(), |n| lines(reader, n));
    let (goals, constraints, expertise) = (lines("goals"), lines("constraints"), lines("expertise"));
    let (decision_style, private_information) = (lines("decision_style"), lines("private_information"));
    Some(Actor {
        name: name?,
        short_name: short_name?,
        llm_model: llm_model?,
        system_prompt: system_prompt?,
        goals: goals?,
        constraints: constraints?,
        expertise: expertise?,
        decision_style: decision_style?,
        private_information: private_information?,
    })
}

/// A text, a list of texts, or a mapping, whose entries become `key: value`.
fn lines(reader: &Reader<'_>, node: &Node) -> Option<Vec<String>> {
    match &node.value {
        Value::Text(_) => reader.filled_text(node).map(|text| vec![text]),
        Value::List(_) => reader.list(node, |n| reader.filled_text(n)),
        Value::Map(entries) => {
            let entry = |key: &str, node: &Node| match &node.value {
                Value::Number { raw, .. } => Some(format!("{key}: {raw}")),
                Value::Bool(value) => Some(format!("{key}: {value}")),
                _ => reader.filled_text(node).map(|text| format!("{key}: {}", text.trim())),
            };
            let all: Vec<Option<String>> = entries.iter().map(|e| entry(&e.key, &e.node)).collect();
            all.into_iter().collect()
        }
        _ => {
            let what = format!("this must be a text, a list of texts or a mapping, found {}", describe::found(node));
            reader.refuse(node, what, "write one line of text, or `- …` lines");
            None
        }
    }
}
