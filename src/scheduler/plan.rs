//! `Plan`: everything that determines what an experiment measures, as canonical JSON with its BLAKE3 hash. Also the differences of two
//! plans (drift) and seeds of runs.
//!
//! Canonical: keys sorted by their bytes, whole numbers without a fraction, -0 as 0.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, write_json_atomic};

/// A frozen plan: an immutable canonical document and its hash.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    hash: String,
    document: Value,
}

impl Plan {
    /// Canonicalises and hashes the document.
    pub fn freeze(document: Value) -> Self {
        let document = canonical(document);
        Self { hash: hash_of(&document), document }
    }

    /// BLAKE3 hash of the canonical document, 64 hex digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The canonical document.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// All fields that differ, ordered by path; empty if and only if the hashes are equal.
    pub fn drift(old: &Self, new: &Self) -> Vec<Drift> {
        let mut found = Vec::new();
        compare("", Some(&old.document), Some(&new.document), &mut found);
        found
    }

    /// Writes `{"hash", "document"}` atomically.
    pub fn write(&self, path: &Path) -> Result<(), Problem> {
        write_json_atomic(path, self)
    }

    /// Reads a file written by `write` and verifies its hash.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let place = || path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| Problem::new(format!("cannot read: {error}")).at(place()))?;
        let read: Written = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::new(format!("not a frozen plan: {error}")).at(place()))?;
        let plan = Self::freeze(read.document);
        if plan.hash != read.hash {
            return Err(Problem::new("the frozen plan was changed by hand: its hash does not match its document")
                .at(place())
                .hint("delete the file: tiltmeter writes it again from the journal"));
        }
        Ok(plan)
    }
}

/// A plan file before its hash is verified.
#[derive(Deserialize)]
struct Written {
    hash: String,
    document: Value,
}

/// The canonical form of a JSON value.
pub fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(entries.into_iter().map(|(key, value)| (key, canonical(value))).collect::<Map<_, _>>())
        }
        Value::Array(entries) => Value::Array(entries.into_iter().map(canonical).collect()),
        Value::Number(number) => Value::Number(whole(&number).unwrap_or(number)),
        other => other,
    }
}

/// Converts floats with a whole value to integers, so that `1.0` equals `1`. Above 2^53 floats do not identify one integer and are kept.
fn whole(number: &Number) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = number.as_f64().filter(|_| number.is_f64())?;
    (float.fract() == 0.0 && float.abs() < EXACT).then(|| Number::from(float as i64))
}

/// Hash of a canonical value.
fn hash_of(canonical: &Value) -> String {
    blake3::hash(canonical.to_string().as_bytes()).to_hex().to_string()
}

/// Hash that identifies the request of a step, 32 hex digits.
pub(super) fn request_hash<T: Serialize + ?Sized>(request: &T) -> serde_json::Result<String> {
    let mut hash = hash_of(&canonical(serde_json::to_value(request)?));
    hash.truncate(32);
    Ok(hash)
}

/// Seed of one run: the first 8 bytes (little-endian) of BLAKE3 in key-derivation mode over the base seed's 8 bytes
/// (little-endian) and the run id.
pub fn seed_for(base: u64, run_id: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("tiltmeter base seed of a run");
    hasher.update(&base.to_le_bytes()).update(run_id.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

fn compare(path: &str, was: Option<&Value>, is: Option<&Value>, found: &mut Vec<Drift>) {
    match (was, is) {
        _ if was == is => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                compare(&member(path, key), old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(&format!("{path}[{index}]"), old.get(index), new.get(index), found);
            }
        }
        _ => {
            let path = if path.is_empty() { "the whole plan".to_owned() } else { path.to_owned() };
            found.push(Drift { path, was: was.cloned(), is: is.cloned() });
        }
    }
}

fn member(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_depends_on_values_and_not_on_notation() {
        let one =
            Plan::freeze(serde_json::from_str(r#"{"b": 1.0, "a": [1e3, -0.0, 0.7], "c": {"y": 1, "x": 2}}"#).unwrap());
        let two = Plan::freeze(serde_json::from_str(r#"{"c":{"x":2,"y":1.0},"a":[1000,0,7e-1],"b":1}"#).unwrap());
        assert_eq!(one, two);
        assert_eq!(one.document().to_string(), r#"{"a":[1000,0,0.7],"b":1,"c":{"x":2,"y":1}}"#);
        assert_ne!(one.hash(), Plan::freeze(json!({"b": 2})).hash());
        assert_eq!(one.hash().len(), 64);
        let huge = Plan::freeze(json!([u64::MAX, i64::MIN, 1e300]));
        assert_eq!(huge.document().to_string(), format!("[{},{},1e+300]", u64::MAX, i64::MIN));
    }

    #[test]
    fn drift_names_every_field() {
        let old = Plan::freeze(json!({"t": 0.7, "c": [{"s": "a"}, {"s": "b"}], "gone": 1, "x.y": 1}));
        let new = Plan::freeze(json!({"t": 1, "c": [{"s": "a"}, {"s": "B"}, {"s": "c"}], "x.y": 2}));
        let lines: Vec<String> = Plan::drift(&old, &new).iter().map(Drift::to_string).collect();
        assert_eq!(
            lines,
            [
                r#"c[1].s: was "b", is "B""#,
                r#"c[2]: was not there, is {"s":"c"}"#,
                "gone: was 1, is not there",
                "t: was 0.7, is 1",
                r#"["x.y"]: was 1, is 2"#,
            ]
        );
        assert!(Plan::drift(&old, &old.clone()).is_empty());
        assert_eq!(Plan::drift(&Plan::freeze(json!(1)), &Plan::freeze(json!(2)))[0].path, "the whole plan");
    }

    #[test]
    fn a_plan_file_round_trips_unless_it_was_edited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        let plan = Plan::freeze(json!({"temperature": 0.1 + 0.2, "seed": u64::MAX}));
        plan.write(&path).unwrap();
        assert_eq!(Plan::read(&path).unwrap(), plan);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("0.3", "0.4")).unwrap();
        assert!(Plan::read(&path).unwrap_err().what.contains("by hand"));
    }

    #[test]
    fn seeds_depend_on_both_parts() {
        let seeds = [seed_for(1, "a-000"), seed_for(1, "a-001"), seed_for(2, "a-000")];
        assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2]);
        assert_eq!(seed_for(1, "a-000"), seeds[0]);
    }
}
