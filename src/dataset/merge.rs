//! [`Record`], and the dataset file as bytes: records are recognised by their `run_id`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use tiltmeter_model::problem::Problem;

/// One finished record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Value of its `run_id`.
    pub id: String,
    /// One JSON object, without a line break.
    pub line: String,
}

impl Record {
    /// Parses a line.
    ///
    /// # Errors
    /// Not a JSON object, more than one line, or no `run_id`.
    pub fn from_line(line: &str) -> Result<Self, Problem> {
        let wrong = |what: &str| Problem::new(what).hint("a record is one JSON object on one line, with a `run_id`");
        let value: Value = serde_json::from_str(line).map_err(|error| wrong(&format!("not a record: {error}")))?;
        if line.contains(['\n', '\r']) {
            return Err(wrong("a record has more than one line"));
        }
        match value.as_object().map(|object| object.get("run_id").and_then(id_text)) {
            None => Err(wrong("not a record: not a JSON object")),
            Some(None) => Err(wrong("a record without a `run_id`")),
            Some(Some(id)) => Ok(Self { id, line: line.trim().to_string() }),
        }
    }
}

/// Rejects records that would corrupt the file, before anything is sent.
pub(super) fn check(records: &[Record]) -> Result<(), Problem> {
    let mut lines: BTreeMap<&str, &str> = BTreeMap::new();
    for record in records {
        let read = Record::from_line(&record.line).map_err(|problem| problem.at(format!("record {:?}", record.id)))?;
        if read.id != record.id {
            return Err(Problem::new(format!("the record {:?} has the run_id {:?}", record.id, read.id)));
        }
        if lines.insert(&record.id, &record.line).is_some_and(|line| line != record.line) {
            return Err(Problem::new(format!("two different records have the run_id {:?}", record.id))
                .hint("give each record its own run_id"));
        }
    }
    Ok(())
}

pub(super) struct Merged {
    pub bytes: Vec<u8>,
    pub added: usize,
}

/// The old bytes, followed by the records whose `run_id` is not among them.
pub(super) fn merge(old: Vec<u8>, records: &[Record]) -> Merged {
    let mut known: BTreeSet<String> = old.split(|byte| *byte == b'\n').filter_map(id_of).collect();
    let (mut bytes, mut added) = (old, 0);
    for record in records {
        if !known.insert(record.id.clone()) {
            continue;
        }
        // The last line may lack its line break.
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(record.line.as_bytes());
        bytes.push(b'\n');
        added += 1;
    }
    Merged { bytes, added }
}

/// The `run_id` of a line; `None` for a line that is something else.
fn id_of(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        run_id: Value,
    }
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    id_text(&serde_json::from_slice::<Line>(line).ok()?.run_id)
}

fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record { id: id.into(), line: format!(r#"{{"run_id":"{id}","score":1.5}}"#) }
    }

    fn merged(old: &[u8], ids: &[&str]) -> (String, usize) {
        let merged = merge(old.to_vec(), &ids.iter().map(|id| record(id)).collect::<Vec<_>>());
        (String::from_utf8_lossy(&merged.bytes).into_owned(), merged.added)
    }

    #[test]
    fn existing_bytes_stay_and_new_records_follow() {
        let a = record("a").line;
        assert_eq!(merged(b"", &["a"]), (format!("{a}\n"), 1));
        assert_eq!(merged(format!("{a}\n").as_bytes(), &["a"]), (format!("{a}\n"), 0));
        let foreign = "no json\n\n{\"run_id\": 7}\r\n[1]\n{\"run_id\":null}\n{\"other\":\"b\"}\n";
        let (text, added) = merged(foreign.as_bytes(), &["b", "7", "b"]);
        assert_eq!((text, added), (format!("{foreign}{}\n", record("b").line), 1));
        let first = format!("\u{feff}{a}\n");
        assert_eq!(merged(first.as_bytes(), &["a"]).1, 0, "a byte-order mark hides no record");
    }

    #[test]
    fn a_missing_final_line_break_is_added() {
        let (a, b) = (record("a").line, record("b").line);
        assert_eq!(merged(a.as_bytes(), &["a", "b"]), (format!("{a}\n{b}\n"), 1));
        assert_eq!(merged(a.as_bytes(), &["a"]), (a.clone(), 0), "nothing to add changes nothing");
        let not_text = [0xff, 0xfe, 0x00];
        let bytes = merge(not_text.to_vec(), &[record("b")]).bytes;
        assert_eq!(bytes, [&not_text[..], b"\n", b.as_bytes(), b"\n"].concat());
    }

    #[test]
    fn malformed_records_are_refused() {
        for (line, expected) in [
            ("", "not a record"),
            ("{", "not a record"),
            ("[1]", "not a JSON object"),
            ("{\"run_id\":\"a\"} {}", "not a record"),
            ("{\"run_id\":\n\"a\"}", "more than one line"),
            ("{\"run\":\"a\"}", "without a `run_id`"),
            ("{\"run_id\":\"\"}", "without a `run_id`"),
            ("{\"run_id\":[1]}", "without a `run_id`"),
        ] {
            let problem = Record::from_line(line).unwrap_err();
            assert!(problem.what.contains(expected) && problem.hint.is_some(), "{line}: {problem}");
            assert!(check(&[Record { id: "a".into(), line: line.into() }]).is_err());
        }
        assert_eq!(Record::from_line("{\"run_id\":12}").unwrap().id, "12");
        let other = Record { id: "a".into(), line: "{\"run_id\":\"a\",\"score\":2}".into() };
        check(&[record("a"), record("a"), record("b")]).unwrap();
        assert!(check(&[record("a"), other]).unwrap_err().what.contains("two different records"));
        assert!(check(&[Record { id: "b".into(), ..record("a") }]).is_err());
    }
}
