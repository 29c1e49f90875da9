//! Where minijinja differs from Jinja2: filters, tests and Python methods that chat templates rely on, as Jinja2 3.1 defines them.

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{ValueKind, from_args},
};
use minijinja_contrib::pycompat;

/// Replaces what differs and adds what is missing.
pub(super) fn extend(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("replace", replace);
    environment.add_filter("striptags", |text: String| strip_tags(&text));
    // `iter(none)` fails in Python; minijinja iterates over it.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| {
        value.as_object().is_some() && !matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable)
    });
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let length = value.as_str().map(|text| text.chars().count()).or_else(|| value.len());
    length.ok_or_else(|| invalid(format!("a value of type {} has no length", value.kind())))
}

/// `replace(s, old, new, count=None)`.
fn replace(text: Value, old: Value, new: Value, count: Option<i64>) -> String {
    let (text, old, new) = (text.to_string(), old.to_string(), new.to_string());
    match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => text.replacen(&old, &new, count),
        None => text.replace(&old, &new),
    }
}

/// Tags and comments taken out, white space as single blanks, entities left as they are.
fn strip_tags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out += &rest[..at];
        let end = if rest[at..].starts_with("<!--") { rest[at..].find("-->").map(|end| end + 3) } else { None };
        match end.or_else(|| rest[at..].find('>').map(|end| end + 1)) {
            Some(end) => rest = &rest[at + end..],
            None => {
                out += &rest[at..];
                rest = "";
            }
        }
    }
    out += rest;
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Python's methods: those here, then minijinja's.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(result) = text_method(text, name, args)? {
            return Ok(result);
        }
    } else if name == "index" && matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        let (wanted,): (Value,) = from_args(args)?;
        let at = value.try_iter()?.position(|item| item == wanted);
        return at.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in the list")));
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let chars_before = |at: usize| text[..at].chars().count();
    Ok(Some(match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(wanted) } else { text.rfind(wanted) };
            Value::from(at.map(chars_before).ok_or_else(|| invalid("substring not found"))?)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let last = name == "rpartition";
            let split = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match split {
                Some((before, after)) => [before, separator, after],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from_iter(parts)
        }
        "rsplit" => {
            let (separator, count): (Option<&str>, Option<i64>) = from_args(args)?;
            let count = count.and_then(|count| usize::try_from(count).ok());
            let mut parts: Vec<&str> = match (separator, count) {
                (Some(""), _) => return Err(invalid("empty separator")),
                (Some(separator), Some(count)) => text.rsplitn(count + 1, separator).collect(),
                (Some(separator), None) => text.rsplit(separator).collect(),
                (None, None) => text.split_whitespace().rev().collect(),
                (None, Some(count)) => last_words(text, count),
            };
            parts.reverse();
            Value::from_iter(parts)
        }
        "swapcase" => {
            let swapped = text.chars().flat_map(|c| -> Vec<char> {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            });
            Value::from(swapped.collect::<String>())
        }
        _ => return Ok(None),
    }))
}

/// The last `count` words, last first, then what is before them.
fn last_words(text: &str, count: usize) -> Vec<&str> {
    let mut rest = text.trim_end();
    let mut parts = Vec::new();
    while parts.len() < count && !rest.is_empty() {
        let at =
            rest.rfind(char::is_whitespace).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
        parts.push(&rest[at..]);
        rest = rest[..at].trim_end();
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}
