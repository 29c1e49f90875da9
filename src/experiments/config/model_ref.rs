//! Reference to a model: `model: openai/gpt-4o`, or a mapping with the model's settings.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `name` | required | a folder, a hub id, `provider/model`, or `scripted` |
//! | `base_url` | the provider's | where an OpenAI-compatible server answers |
//! | `price` | the table's | `{input, output, date}`: US dollars per million tokens, and the day they were read |
//! | `attempt_timeout` | 120 | seconds one attempt at a call may take |
//! | `max_attempts` | 6 | attempts in all where they fail for passing reasons |
//! | `script` | – | with `scripted`: a list of `{when, reply}`; the first whose `when` (a regular expression over the last message) matches answers |

use serde::{Deserialize, Serialize};

use super::{
    fields::{Fields, Reader, name_of},
    tree::{Node, Value},
};

/// A model as an experiment names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRef {
    /// A folder, a hub id, `provider/model`, or `scripted`.
    pub name: String,
    pub base_url: Option<String>,
    /// `None`: the table's.
    pub price: Option<PriceSpec>,
    /// Seconds.
    pub attempt_timeout: f64,
    pub max_attempts: u32,
    /// Of the model `scripted`.
    pub script: Vec<ScriptRule>,
}

/// US dollars per million tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PriceSpec {
    pub input: f64,
    pub output: f64,
    /// When somebody read them, `YYYY-MM-DD`.
    pub date: Option<String>,
}

/// What a scripted model says when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScriptRule {
    /// Regular expression over the last message; `None` always matches.
    pub when: Option<String>,
    pub reply: String,
}

impl ModelRef {
    /// A model by its name alone.
    pub fn named(name: impl Into<String>) -> Self {
        let (attempt_timeout, max_attempts) = (ATTEMPT_TIMEOUT_S, MAX_ATTEMPTS);
        Self { name: name.into(), base_url: None, price: None, attempt_timeout, max_attempts, script: Vec::new() }
    }
}

/// The name of the model that answers by rules of the file.
pub const SCRIPTED: &str = "scripted";

const ATTEMPT_TIMEOUT_S: f64 = 120.0;
const MAX_ATTEMPTS: u32 = 6;
const DAY_S: f64 = 86_400.0;

pub(super) fn read(reader: &Reader<'_>, node: &Node) -> Option<ModelRef> {
    if matches!(node.value, Value::Text(_)) {
        return check(reader, node, ModelRef::named(reader.filled_text(node)?));
    }
    let mut fields = Fields::open(reader, node)?;
    let name = fields.required("name", "name: openai/gpt-4o", |n| reader.filled_text(n));
    let base_url = fields.maybe("base_url", |n| reader.filled_text(n));
    let price = fields.maybe("price", |n| price(reader, n));
    let attempt_timeout = fields.or("attempt_timeout", ATTEMPT_TIMEOUT_S, |n| {
        reader.number(n, "more than 0 and at most a day, in seconds", |s| s > 0.0 && s <= DAY_S)
    });
    let max_attempts = fields.or("max_attempts", MAX_ATTEMPTS, |n| reader.whole(n, 1..=100).map(|n| n as u32));
    let script = fields.or("script", Vec::new(), |n| reader.list(n, |rule| script_rule(reader, rule)));
    fields.finish();
    let (attempt_timeout, max_attempts) = (attempt_timeout?, max_attempts?);
    let model =
        ModelRef { name: name?, base_url: base_url?, price: price?, attempt_timeout, max_attempts, script: script? };
    check(reader, node, model)
}

fn check(reader: &Reader<'_>, node: &Node, model: ModelRef) -> Option<ModelRef> {
    match (model.name == SCRIPTED, model.script.is_empty()) {
        (true, true) => {
            reader.refuse(
                node,
                format!("{} is a scripted model without a script", name_of(node)),
                "write {name: scripted, script: [{when: \"yes\", reply: \"…\"}, {reply: \"…\"}]}",
            );
            None
        }
        (false, false) => {
            reader.refuse(node, format!("`{}` takes no script", model.name), "remove it, or write name: scripted");
            None
        }
        _ => Some(model),
    }
}

fn price(reader: &Reader<'_>, node: &Node) -> Option<PriceSpec> {
    let mut fields = Fields::open(reader, node)?;
    let bounds = "US dollars per million tokens, from 0 to 1000000";
    let usd = |n: &Node| reader.number(n, bounds, |usd| (0.0..=1e6).contains(&usd));
    let input = fields.required("input", "input: 2.50", usd);
    let output = fields.required("output", "output: 10.00", usd);
    let date = fields.maybe("date", |n| reader.filled_text(n));
    fields.finish();
    Some(PriceSpec { input: input?, output: output?, date: date? })
}

fn script_rule(reader: &Reader<'_>, node: &Node) -> Option<ScriptRule> {
    let mut fields = Fields::open(reader, node)?;
    let when = fields.maybe("when", |n| pattern(reader, n));
    let reply = fields.required("reply", "reply: \"I would rather not say.\"", |n| reader.text(n));
    fields.finish();
    Some(ScriptRule { when: when?, reply: reply? })
}

/// A regular expression that can be used.
pub(super) fn pattern(reader: &Reader<'_>, node: &Node) -> Option<String> {
    let text = reader.filled_text(node)?;
    match regex::Regex::new(&text) {
        Ok(_) => Some(text),
        Err(error) => {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
            reader.refuse(node, format!("{} is not a regular expression: {why}", name_of(node)), "escape it with \\");
            None
        }
    }
}
