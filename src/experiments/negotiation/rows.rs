//! Owns what a game leaves in its outcome, row by row: who played for what, what was said, what became of it, what the judge found.
//! Everything else that is told of a run is made of these.
//! Must not know: engine, provider, run folders, terminal.

use serde::{Deserialize, Serialize};

use super::judge::Verdict;
use super::protocol::{Allocation, End, Event, Phase};
use crate::reply_record::{self, ReplyRecord};
use tiltmeter_store::Outcome;

/// Which list of the experiment an agent is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Weak,
    Strong,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Weak => "weak",
            Side::Strong => "strong",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// As the others know it.
    pub name: String,
    pub side: Side,
    /// What the experiment calls the bargainer.
    pub model: String,
    /// Of every item; their sum is 100.
    pub values: Vec<f64>,
}

/// What is played for, and by whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// In the order of speaking.
    pub agents: Vec<Agent>,
    pub items: Vec<String>,
    /// Of the agents' values, as it came out.
    pub cosine_similarity: f64,
    pub seed: u64,
}

/// How a turn fared, beside what becomes of replies.
pub mod status {
    pub use crate::reply_record::status::*;

    /// Not said by a model.
    pub const PROGRAMMED: &str = "programmed";
}

/// Everything that is known of one turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// From 1.
    pub round: usize,
    pub phase: Phase,
    /// Place in the order of speaking, from 0.
    pub agent: usize,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Why the proposal does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<Vec<Option<bool>>>,
    #[serde(flatten)]
    pub reply_record: ReplyRecord,
}

/// The judge's part.
pub type Judgement = reply_record::Judgement<Verdict>;

/// A row of an outcome, in the order in which things happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Row {
    Setup(Setup),
    Said(Box<Said>),
    /// What was enumerated or tabulated.
    Public(Event),
    End(End),
    Judge(Judgement),
}

/// An outcome, read back.
#[derive(Clone, Debug, Default)]
pub struct ParsedOutcome {
    pub rows: Vec<Row>,
}

impl ParsedOutcome {
    /// Rows that do not read back would be a defect of the program; `defects` tells what is missing.
    pub fn of(outcome: &Outcome) -> Self {
        Self { rows: outcome.turns.iter().filter_map(|row| serde_json::from_value(row.clone()).ok()).collect() }
    }

    pub fn setup(&self) -> Option<&Setup> {
        self.rows.iter().find_map(|row| if let Row::Setup(setup) = row { Some(setup) } else { None })
    }

    pub fn said(&self) -> impl Iterator<Item = &Said> {
        self.rows.iter().filter_map(|row| if let Row::Said(said) = row { Some(said.as_ref()) } else { None })
    }

    pub fn end(&self) -> Option<&End> {
        self.rows.iter().find_map(|row| if let Row::End(end) = row { Some(end) } else { None })
    }

    pub fn judgement(&self) -> Option<&Judgement> {
        self.rows.iter().find_map(|row| if let Row::Judge(judged) = row { Some(judged) } else { None })
    }

    /// The agent of a side, and its place in the order of speaking.
    pub fn agent(&self, side: Side) -> Option<(usize, &Agent)> {
        self.setup()?.agents.iter().enumerate().find(|(_, agent)| agent.side == side)
    }
}
