//! The line format of `journal.jsonl`. Each line is one JSON object:
//!
//! ```text
//! {"checksum":"1f0c9a3b","n":7,"kind":"result","at":1764542400123,"run":"a-000","step":3,"name":"turn","hash":"…","value":…}
//! ```
//!
//! `checksum` comes first: 8 lower-case hex digits, the first 4 bytes of the BLAKE3 hash of all bytes of the line after the comma that
//! follows it, up to and including the closing brace and without the line break. The bytes before are fixed, so any changed byte of a
//! line is detected. `n` counts the lines of the file from 0, so a removed line is detected. `at` is Unix time in ms.
//!
//! | kind | members besides `at` | value |
//! |---|---|---|
//! | `session` | – | start of a session: format, plan hash, the plan if it changed, accepted drift, totals, limits, environment |
//! | `intent` | run, step, name, hash; of a call also attempt and reserved cost | null; durable before an action with side effects |
//! | `attempt` | run, step, name, hash, attempt, cost | a failed attempt at a call: class, status, uncertain cost, problem |
//! | `result` | run, step, name, hash, counts; of a call also attempt and cost | the result of the step |
//! | `done` | run, counts | the outcome |
//! | `failed` | run, counts | the problem |
//! | `halted` | run, counts | the limit that interrupted the run |
//! | `rerun` | run, pass | null; a finished run starts over, with its later entries marked by this `pass` (from 1) |
//! | `end` | – | end of a session: how it ended, work |

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::call::{Cost, HaltReason};
use tiltmeter_model::failure::Class;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, SessionEnd};

/// Version of the format; journals of other versions are refused.
pub const FORMAT: u32 = 1;

/// Amounts of work by unit.
pub type Counts = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    Session,
    Intent,
    Attempt,
    Result,
    Done,
    Failed,
    Halted,
    Rerun,
    End,
}

/// An entry to be written; `seal` adds the checksum and `n`.
#[derive(Serialize)]
pub struct Entry<'a, T> {
    pub kind: EntryKind,
    pub at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub pass: u32,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptCost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<&'a Counts>,
    pub value: &'a T,
}

fn is_zero(pass: &u32) -> bool {
    *pass == 0
}

impl<'a, T> Entry<'a, T> {
    /// An entry that belongs to no run.
    pub fn of_session(kind: EntryKind, at: u64, value: &'a T) -> Self {
        Self { kind, at, run: None, pass: 0, step: None, attempt: None, counts: None, value }
    }
}

/// Number of a step in its run, with the name and hash of its request.
#[derive(Clone, Copy, Serialize)]
pub struct StepId<'a> {
    pub step: u32,
    pub name: &'a str,
    pub hash: &'a str,
}

/// Number of an attempt at a call, with its cost: worst case in an intent, actual cost otherwise.
#[derive(Clone, Copy, Serialize)]
pub struct AttemptCost {
    pub attempt: u32,
    pub cost: Cost,
}

/// Value of an `attempt` entry.
#[derive(Serialize)]
pub struct AttemptEnd<'a> {
    pub class: Class,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub uncertain_micro_usd: u64,
    pub problem: &'a Problem,
}

/// The part of `AttemptEnd` that recovery reads.
#[derive(Deserialize)]
pub struct AttemptCharge {
    pub uncertain_micro_usd: u64,
}

/// All members of an entry except its value.
#[derive(Deserialize)]
pub struct EntryHead<'a> {
    pub n: u64,
    pub kind: EntryKind,
    pub at: u64,
    #[serde(borrow, default)]
    pub run: Option<Cow<'a, str>>,
    #[serde(default)]
    pub pass: u32,
    #[serde(default)]
    pub step: Option<u32>,
    #[serde(borrow, default)]
    pub name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub hash: Option<Cow<'a, str>>,
    #[serde(default)]
    pub attempt: Option<u32>,
    #[serde(default)]
    pub cost: Option<Cost>,
    #[serde(default)]
    pub counts: Counts,
}

/// Value of a `session` entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionStart {
    pub format: u32,
    pub plan_hash: String,
    /// The plan document, in the first session of a file and wherever it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_drift: Vec<Drift>,
    /// Number of runs in the plan.
    pub runs: usize,
    /// Expected work by unit, where it is known.
    pub totals: Counts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_micro_usd: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_limit_micro_usd: Option<u64>,
    /// See `Schedule::environment`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub environment: Value,
}

/// The part of a `session` entry that is read before anything else.
#[derive(Deserialize)]
pub struct SessionFormat {
    pub format: u32,
}

/// Value of an `end` entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionStop {
    pub how: SessionEnd,
    /// See `Schedule::work`.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub work: Counts,
}

/// Value of a `failed` entry.
#[derive(Deserialize)]
pub struct ProblemValue {
    what: String,
    place: Option<String>,
    hint: Option<String>,
}

/// Value of a `halted` entry.
#[derive(Deserialize)]
pub struct HaltValue {
    pub reason: HaltReason,
    pub problem: ProblemValue,
}

impl From<ProblemValue> for Problem {
    fn from(value: ProblemValue) -> Self {
        Self { what: value.what, place: value.place, hint: value.hint }
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub const PREFIX: &[u8] = br#"{"checksum":""#;
const SEPARATOR: &[u8] = br#"","#;
/// Hex digits of a checksum.
const DIGITS: usize = 8;

/// Appends the finished line to `out`. `body` is the JSON of an `Entry`, an object with at least one member.
pub fn seal(n: u64, body: &[u8], out: &mut Vec<u8>) {
    let digits_at = out.len() + PREFIX.len();
    out.extend_from_slice(PREFIX);
    out.extend_from_slice(&[b'0'; DIGITS]);
    out.extend_from_slice(SEPARATOR);
    let covered_at = out.len();
    out.extend_from_slice(format!("\"n\":{n},").as_bytes());
    out.extend_from_slice(&body[1..]);
    let sum = checksum(&out[covered_at..]);
    out[digits_at..digits_at + DIGITS].copy_from_slice(&sum);
    out.push(b'\n');
}

/// Checks the checksum of a line without its line break.
pub fn verify(line: &[u8]) -> Result<(), &'static str> {
    let digits_and_covered = line.strip_prefix(PREFIX).and_then(|rest| rest.split_at_checked(DIGITS));
    let split = digits_and_covered.and_then(|(digits, rest)| Some((digits, rest.strip_prefix(SEPARATOR)?)));
    let (digits, covered) = split.ok_or("it does not begin with a checksum")?;
    if checksum(covered) == digits { Ok(()) } else { Err("its checksum does not match") }
}

/// The `value` of a line.
pub fn value_of<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    #[derive(Deserialize)]
    struct Payload<T> {
        value: T,
    }
    Ok(serde_json::from_slice::<Payload<T>>(json)?.value)
}

fn checksum(covered: &[u8]) -> [u8; DIGITS] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let hash = blake3::hash(covered);
    let mut text = [0; DIGITS];
    for (index, byte) in hash.as_bytes()[..DIGITS / 2].iter().enumerate() {
        text[2 * index] = HEX[usize::from(byte >> 4)];
        text[2 * index + 1] = HEX[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_round_trips_and_every_flipped_bit_and_truncation_is_detected() {
        let step = StepId { step: 3, name: "turn", hash: "ab" };
        let counts = Counts::from([("turns".to_owned(), 3)]);
        let entry = Entry {
            kind: EntryKind::Result,
            at: 7,
            run: Some("a-000"),
            pass: 2,
            step: Some(step),
            attempt: None,
            counts: Some(&counts),
            value: &"\n\"ü",
        };
        let mut sealed = Vec::new();
        seal(12, &serde_json::to_vec(&entry).unwrap(), &mut sealed);
        assert_eq!(sealed.pop(), Some(b'\n'));
        assert!(!sealed.contains(&b'\n'));
        verify(&sealed).unwrap();
        let object: Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(object["checksum"].as_str().map(str::len), Some(8), "the whole line is one JSON object");
        let back: EntryHead = serde_json::from_slice(&sealed).unwrap();
        assert_eq!((back.n, back.kind, back.at, back.pass, back.step), (12, EntryKind::Result, 7, 2, Some(3)));
        assert_eq!(
            (back.run.as_deref(), back.name.as_deref(), back.hash.as_deref()),
            (Some("a-000"), Some("turn"), Some("ab"))
        );
        assert_eq!(back.counts, counts);
        assert_eq!(value_of::<String>(&sealed).unwrap(), "\n\"ü");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(verify(&sealed[..length]).is_err(), "cut to {length} bytes");
        }
    }
}
