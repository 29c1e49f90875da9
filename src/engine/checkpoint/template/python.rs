//! Two Python functions that chat templates call: `json.dumps` (as the filter `tojson`) and `strftime`.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};
use time::Date;

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => match (indent.as_usize(), indent.as_str()) {
            (Some(width), _) => Some(" ".repeat(width.min(64))),
            (None, Some(text)) => Some(text.to_owned()),
            (None, None) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is no count")),
        },
    };
    let (item, key) = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    kwargs.assert_all_used()?;
    let mut writer = Writer { out: String::new(), ensure_ascii, sort_keys, indent, item, key };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            // Numbers are written alike by Jinja and by JSON.
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.before_item(i, depth);
                    self.value(item, depth + 1)?;
                }
                self.close(']', depth, items.is_empty());
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.before_item(i, depth);
                    self.text(&key.to_string());
                    self.out.push_str(&self.key);
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.close('}', depth, keys.is_empty());
            }
            other => {
                let message = format!("tojson: {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn before_item(&mut self, i: usize, depth: usize) {
        if i > 0 {
            self.out.push_str(&self.item);
        }
        self.new_line(depth + 1);
    }

    fn close(&mut self, bracket: char, depth: usize, empty: bool) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&mut self, text: &str) {
        // serde_json escapes what Python's json escapes, save that it knows no ensure_ascii.
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            return self.out.push_str(&quoted);
        }
        for c in quoted.chars() {
            if c.is_ascii() && c != '\x7f' {
                self.out.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// `date.strftime(format)` for the directives of a date; the time of day is midnight.
pub(super) fn strftime(date: Date, format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        // `%-d` leaves the padding away.
        let (directive, padded) = if directive == Some('-') { (chars.next(), false) } else { (directive, true) };
        let number = |value: u16, width: usize| {
            if padded { format!("{value:0width$}") } else { value.to_string() }
        };
        let (month, weekday) = (date.month(), date.weekday());
        out += &match directive {
            Some('d') => number(date.day().into(), 2),
            Some('m') => number(u8::from(month).into(), 2),
            Some('j') => number(date.ordinal(), 3),
            Some('Y') => format!("{:04}", date.year()),
            Some('y') => format!("{:02}", date.year().rem_euclid(100)),
            Some('B') => month.to_string(),
            Some('b' | 'h') => month.to_string()[..3].to_owned(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday.to_string()[..3].to_owned(),
            Some('e') => format!("{:2}", date.day()),
            Some('F') => strftime(date, "%Y-%m-%d")?,
            Some('H' | 'M' | 'S') => number(0, 2),
            Some('I') => number(12, 2),
            Some('p') => "AM".to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now: the directive `%{directive}` is not known");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
    }
    Ok(out)
}
