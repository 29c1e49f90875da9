//! Owns the form of one journal line: `<8 hex> <JSON>\n`, the hex being the first 4 bytes of the BLAKE3 of the JSON. The JSON is
//! one object: `n` (number of the line in its file, from 0, so that a line that was taken out is noticed), `kind`, `at` (Unix
//! time in ms), then as the kind needs `run`, `pass` (of a run that is carried out anew, from 1), `step`, `name`, `hash`, `attempt`, `cost`, `counts`, and last `value`.
//!
//! | kind | run, step, … | value |
//! |---|---|---|
//! | `session` | – | a start of the program: format, plan hash, the plan where it is new, accepted drift, totals, limits |
//! | `intent` | run, step, name, hash | null; durable before an act that costs something; of a call with attempt and reserved cost |
//! | `attempt` | run, step, name, hash, attempt, cost | an attempt at a call that failed: class, status, uncertain cost, problem |
//! | `result` | run, step, name, hash, counts | what the step gave; of a call with attempt and cost |
//! | `done` | run, counts | the outcome |
//! | `failed` | run, counts | the problem |
//! | `halted` | run, counts | why the run was left although nobody asked: a limit, an account |
//! | `again` | run, pass | null; a finished run is carried out anew, from here on as this pass |
//! | `end` | – | how the session ended |
//!
//! Must not know: what a result or an outcome means.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::call::{Cost, HaltReason};
use tiltmeter_model::failure::Class;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Drift, SessionEnd};

/// Raised when an older program could no longer read the journal. 2: `attempt` lines. 3: `halted` lines. 4: `again` lines, and what a
/// run keeps on its way holds its new turns. Every older format is read.
pub(super) const FORMAT: u32 = 4;

/// Counted work by unit.
pub(super) type Counts = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Session,
    Intent,
    Attempt,
    Result,
    Done,
    Failed,
    Halted,
    Again,
    End,
}

/// A line on its way out; the writer adds `n` and the checksum.
#[derive(Serialize)]
pub(super) struct Line<'a, T> {
    pub kind: Kind,
    pub at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<&'a str>,
    #[serde(skip_serializing_if = "is_first")]
    pub pass: u32,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepPart<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<&'a Counts>,
    pub value: &'a T,
}

fn is_first(pass: &u32) -> bool {
    *pass == 0
}

/// Which step, and by what its request is recognised.
#[derive(Clone, Copy, Serialize)]
pub(super) struct StepPart<'a> {
    pub step: u32,
    pub name: &'a str,
    pub hash: &'a str,
}

/// Which attempt at a call, and what it cost or may cost at worst.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Money {
    pub attempt: u32,
    pub cost: Cost,
}

/// How an attempt failed. The problem is for people who read the journal.
#[derive(Serialize)]
pub(super) struct AttemptEnd<'a> {
    pub class: Class,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub uncertain_micro_usd: u64,
    pub problem: &'a Problem,
}

/// What the books need of it.
#[derive(Deserialize)]
pub(super) struct AttemptCharge {
    pub uncertain_micro_usd: u64,
}

/// A line on its way in, all but its value.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    pub n: u64,
    pub kind: Kind,
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

#[derive(Deserialize)]
struct Payload<T> {
    value: T,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SessionStart {
    pub format: u32,
    pub plan_hash: String,
    /// The whole document, in the first session of a file and wherever it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_drift: Vec<Drift>,
    pub runs: usize,
    /// Expected work by unit, where it is known.
    #[serde(default)]
    pub totals: Counts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_micro_usd: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_limit_micro_usd: Option<u64>,
    /// What the program ran on and with.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub environment: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SessionStop {
    pub how: SessionEnd,
    /// Engine work of the session by unit.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub work: Counts,
}

/// A `Problem` on its way in.
#[derive(Deserialize)]
pub(super) struct ProblemValue {
    what: String,
    place: Option<String>,
    hint: Option<String>,
}

/// A `Halt` on its way in.
#[derive(Deserialize)]
pub(super) struct HaltValue {
    pub reason: HaltReason,
    pub problem: ProblemValue,
}

impl From<ProblemValue> for Problem {
    fn from(value: ProblemValue) -> Self {
        Self { what: value.what, place: value.place, hint: value.hint }
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Appends the finished line to `out`; `body` is a JSON object that has at least one member.
pub(super) fn seal(n: u64, body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"00000000 ");
    out.extend_from_slice(format!("{{\"n\":{n},").as_bytes());
    out.extend_from_slice(&body[1..]);
    let sum = checksum(&out[start + 9..]);
    out[start..start + 8].copy_from_slice(&sum);
    out.push(b'\n');
}

/// The JSON of a line (without its line break) if its checksum holds.
pub(super) fn unseal(line: &[u8]) -> Result<&[u8], &'static str> {
    if line.len() < 10 || line[8] != b' ' {
        return Err("it does not begin with a checksum");
    }
    let json = &line[9..];
    if checksum(json) == line[..8] { Ok(json) } else { Err("its checksum does not match") }
}

/// The `value` of a line's JSON.
pub(super) fn value_of<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    Ok(serde_json::from_slice::<Payload<T>>(json)?.value)
}

fn checksum(json: &[u8]) -> [u8; 8] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let hash = blake3::hash(json);
    let mut text = [0; 8];
    for (index, byte) in hash.as_bytes()[..4].iter().enumerate() {
        text[2 * index] = HEX[usize::from(byte >> 4)];
        text[2 * index + 1] = HEX[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_and_every_flipped_bit_is_noticed() {
        let step = StepPart { step: 3, name: "turn", hash: "ab" };
        let counts = Counts::from([("turns".to_owned(), 3)]);
        let line = Line {
            kind: Kind::Result,
            at: 7,
            run: Some("a-000"),
            pass: 2,
            step: Some(step),
            money: None,
            counts: Some(&counts),
            value: &"\n\"ü",
        };
        let mut sealed = Vec::new();
        seal(12, &serde_json::to_vec(&line).unwrap(), &mut sealed);
        assert_eq!(sealed.pop(), Some(b'\n'));
        assert!(!sealed.contains(&b'\n'));
        let json = unseal(&sealed).unwrap();
        let back: Envelope = serde_json::from_slice(json).unwrap();
        assert_eq!((back.n, back.kind, back.at, back.pass, back.step), (12, Kind::Result, 7, 2, Some(3)));
        assert_eq!(
            (back.run.as_deref(), back.name.as_deref(), back.hash.as_deref()),
            (Some("a-000"), Some("turn"), Some("ab"))
        );
        assert_eq!(back.counts, counts);
        assert_eq!(value_of::<String>(json).unwrap(), "\n\"ü");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&flipped).is_err(), "bit {bit}");
        }
    }
}
