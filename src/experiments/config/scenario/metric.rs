//! `metrics.yaml`: the metrics extracted after every turn.
//!
//! ```yaml
//! metrics:
//!   cooperation_level:
//!     description: Level of cooperation between the actors
//!     extraction_method: regex
//!     pattern: "cooperation.*?(\\d+)"
//!     type: int
//! ```
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `description` | – | what it stands for; the world-state model is told to state it |
//! | `extraction_method` | `regex` | or `judge`: a model reads the turn and says |
//! | `pattern` | with `regex` | its last match counts, upper and lower case alike; the value is group 1, or the whole match |
//! | `type` | `string` | `int` or `integer`, `float`, `string`, `boolean` |
//! | `actor` | the world state | whose reply it is looked for in |
//! | `better` | `higher` | or `lower`: which end a comparison of variations puts first |

use serde::{Deserialize, Serialize};

use super::super::{
    describe,
    fields::{Fields, Reader},
    model_ref::pattern,
    tree::{Entry, Node, Value},
};

/// Something that is measured after every turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Safe as part of a file name.
    pub id: String,
    pub description: Option<String>,
    pub extraction_method: Extraction,
    /// With `Extraction::Regex`.
    pub pattern: Option<String>,
    #[serde(rename = "type")]
    pub kind: MetricKind,
    /// `None`: the world state.
    pub actor: Option<String>,
    pub better: Better,
}

/// How a value is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extraction {
    #[default]
    Regex,
    Judge,
}

/// What a value is. `int` in a file is `Integer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    Integer,
    Float,
    #[default]
    String,
    Boolean,
}

impl MetricKind {
    /// Whether it has a mean.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Float)
    }
}

/// Which end is the better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    #[default]
    Higher,
    Lower,
}

/// Reads `metrics:`.
pub fn read(fields: &mut Fields<'_>) -> Option<Vec<Metric>> {
    let reader = fields.reader;
    fields.required("metrics", "metrics: {trust: {pattern: \"trust.*?(\\\\d+)\", type: int}}", |n| metrics(reader, n))
}

fn metrics(reader: &Reader<'_>, node: &Node) -> Option<Vec<Metric>> {
    let Value::Map(entries) = &node.value else {
        let what = format!("`metrics` must be a mapping of ids to metrics, found {}", describe::found(node));
        reader.refuse(node, what, "write trust: {pattern: \"trust.*?(\\\\d+)\", type: int}");
        return None;
    };
    let all: Vec<Option<Metric>> = entries.iter().map(|entry| metric(reader, entry)).collect();
    all.into_iter().collect()
}

fn metric(reader: &Reader<'_>, entry: &Entry) -> Option<Metric> {
    let mut key = Node::new(Value::Text(entry.key.clone()), entry.key_origin.clone());
    key.path = entry.node.path.clone();
    let id = reader.file_name(&key);
    let mut fields = Fields::open(reader, &entry.node)?;
    let description = fields.maybe("description", |n| reader.filled_text(n));
    let method = fields.or("extraction_method", Extraction::default(), |n| {
        reader.choice(n, &[("regex", Extraction::Regex), ("judge", Extraction::Judge)])
    });
    let pattern_node = fields.get("pattern");
    let pattern = pattern_node.map_or(Some(None), |n| pattern(reader, n).map(Some));
    match (method, pattern_node) {
        (Some(Extraction::Regex), None) => fields.missing("pattern", "pattern: \"trust.*?(\\\\d+)\""),
        (Some(Extraction::Judge), Some(node)) => {
            reader.refuse(node, "a judge takes no pattern", "remove it, or write extraction_method: regex");
        }
        _ => {}
    }
    let kind = fields.or("type", MetricKind::default(), |n| {
        let kinds = [
            ("int", MetricKind::Integer),
            ("integer", MetricKind::Integer),
            ("float", MetricKind::Float),
            ("string", MetricKind::String),
            ("boolean", MetricKind::Boolean),
        ];
        reader.choice(n, &kinds)
    });
    let actor = fields.maybe("actor", |n| reader.filled_text(n));
    let better = fields
        .or("better", Better::default(), |n| reader.choice(n, &[("higher", Better::Higher), ("lower", Better::Lower)]));
    fields.finish();
    Some(Metric {
        id: id?,
        description: description?,
        extraction_method: method?,
        pattern: pattern?,
        kind: kind?,
        actor: actor?,
        better: better?,
    })
}
