//! Names of values and places in problems: `file:line:column (key)`, "the text `abc`".

use std::borrow::Cow;

use super::tree::{Node, Origin, Value};

/// `file:line:column (path)`, or the `--set` the value came from.
pub(super) fn place(file: &str, origin: &Origin, path: &str) -> String {
    let place = match origin {
        Origin::File { line, column } => format!("{file}:{line}:{column}"),
        Origin::Set(argument) => return format!("--set {}", short(argument)),
    };
    if path.is_empty() { place } else { format!("{place} ({})", short(path)) }
}

/// What was found, for "expected …, found …".
pub(super) fn found(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number { raw, .. } => format!("the number {}", short(raw)),
        Value::Text(text) => format!("the text `{}`", short(text)),
        Value::List(items) => format!("a list of {}", count(items.len(), "entry", "entries")),
        Value::Map(entries) => match entries.first() {
            Some(first) => format!("a mapping that begins with `{}:`", short(&first.key)),
            None => "an empty mapping".into(),
        },
    }
}

/// `1 entry`, `3 entries`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A text that fits in a message: one line, at most 60 characters.
pub(super) fn short(text: &str) -> Cow<'_, str> {
    if text.chars().count() <= 60 && !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
    Cow::Owned(if text.chars().count() > 60 { format!("{line}…") } else { line })
}
