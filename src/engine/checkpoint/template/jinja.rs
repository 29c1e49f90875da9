//! Where minijinja differs from Jinja2: filters, tests and Python methods that chat templates rely on, as Jinja2 3.1 defines them.

use std::cmp::Ordering;

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind, from_args},
};
use minijinja_contrib::pycompat;

/// Replaces what differs and adds what is missing.
pub(super) fn extend(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("float", float);
    environment.add_filter("int", int);
    environment.add_filter("replace", replace);
    environment.add_filter("sort", sort);
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

/// `default(value, default_value='', boolean=false)`.
fn default(value: Value, other: Option<Value>, boolean: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get::<Option<Value>>("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(kwargs.get::<Option<bool>>("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value })
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let length = value.as_str().map(|text| text.chars().count()).or_else(|| value.len());
    length.ok_or_else(|| invalid(format!("a value of type {} has no length", value.kind())))
}

/// `float(value, default=0.0)`: the default for what is no number.
fn float(value: &Value, other: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get::<Option<Value>>("default")?).unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    let number = match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse::<f64>().ok(),
        None => as_number(value),
    };
    Ok(number.map_or(other, Value::from))
}

/// `int(value, default=0, base=10)`: the default for what is no number.
fn int(value: &Value, other: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get::<Option<Value>>("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(kwargs.get::<Option<u32>>("base")?).unwrap_or(10);
    kwargs.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(invalid("int: the base is not between 2 and 36"));
    }
    let whole = |number: f64| (number.is_finite() && number.abs() < 9.0e18).then_some(number.trunc() as i64);
    let number = match value.as_str() {
        Some(text) => {
            let text = text.trim().replace('_', "");
            let digits = match base {
                16 => text.trim_start_matches("0x"),
                8 => text.trim_start_matches("0o"),
                2 => text.trim_start_matches("0b"),
                _ => &text,
            };
            i64::from_str_radix(digits, base).ok().or_else(|| text.parse::<f64>().ok().and_then(whole))
        }
        None => value.as_i64().or_else(|| as_number(value).and_then(whole)),
    };
    Ok(number.map_or(other, Value::from))
}

fn as_number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// `replace(s, old, new, count=None)`.
fn replace(text: Value, old: Value, new: Value, count: Option<i64>) -> String {
    let (text, old, new) = (text.to_string(), old.to_string(), new.to_string());
    match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => text.replacen(&old, &new, count),
        None => text.replace(&old, &new),
    }
}

/// `sort(value, reverse=False, case_sensitive=False, attribute=None)`; the order is Python's, so that true is 1.
fn sort(
    value: &Value,
    reverse: Option<bool>,
    case_sensitive: Option<bool>,
    attribute: Option<String>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let reverse = reverse.or(kwargs.get::<Option<bool>>("reverse")?).unwrap_or(false);
    let case_sensitive = case_sensitive.or(kwargs.get::<Option<bool>>("case_sensitive")?).unwrap_or(false);
    let attribute = attribute.or(kwargs.get::<Option<String>>("attribute")?);
    kwargs.assert_all_used()?;
    let part = |item: &Value, path: &str| -> Result<Value, Error> {
        path.split('.').try_fold(item.clone(), |value, step| match step.parse::<usize>() {
            Ok(index) => value.get_item_by_index(index),
            Err(_) => value.get_attr(step),
        })
    };
    let fold = |value: Value| match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    };
    let mut keyed = Vec::new();
    for item in value.try_iter()? {
        let key: Vec<Value> = match &attribute {
            Some(paths) => {
                paths.split(',').map(|path| Ok(fold(part(&item, path.trim())?))).collect::<Result<_, Error>>()?
            }
            None => vec![fold(item.clone())],
        };
        keyed.push((key, item));
    }
    let mut wrong = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let order = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| *order != Some(Ordering::Equal));
        let order = match order {
            None => Ordering::Equal,
            Some(Some(order)) => order,
            Some(None) => {
                wrong = Some(());
                Ordering::Equal
            }
        };
        if reverse { order.reverse() } else { order }
    });
    match wrong {
        Some(()) => Err(invalid("sort: values of different types have no order")),
        None => Ok(Value::from_iter(keyed.into_iter().map(|(_, item)| item))),
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (as_number(a), as_number(b)) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        (None, None) if a.kind() == b.kind() && !matches!(a.kind(), ValueKind::None | ValueKind::Map) => Some(a.cmp(b)),
        _ => None,
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
