//! Details of a game in its outcome: setup, turns, public events, result and verdict, one row each.

use serde::{Deserialize, Serialize};

use super::game::{Allocation, End, Event, Phase};
use super::judge::Verdict;
use crate::reply_record::{self, ReplyRecord, parse_rows};
use tiltmeter_store::Outcome;

/// The list of bargainers that an agent belongs to.
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
    /// Name in the game.
    pub name: String,
    pub side: Side,
    /// Label of the bargainer.
    pub model: String,
    /// Value of each item; their sum is 100.
    pub values: Vec<f64>,
}

/// Agents, items and values of a game.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// In the order of speaking.
    pub agents: Vec<Agent>,
    pub items: Vec<String>,
    /// Of the agents' values, as computed.
    pub cosine_similarity: f64,
    pub seed: u64,
}

impl Setup {
    /// `Anchor 12.50, Basket 87.50`
    pub fn value_list(&self, agent: &Agent) -> String {
        let items = self.items.iter().zip(&agent.values);
        items.map(|(item, value)| format!("{item} {value:.2}")).collect::<Vec<_>>().join(", ")
    }

    /// Position of a side in the order of speaking.
    pub fn position(&self, side: Side) -> Option<usize> {
        self.agents.iter().position(|agent| agent.side == side)
    }
}

/// Status of a turn; a programmed bargainer adds one to those of replies.
pub mod status {
    pub use crate::reply_record::status::*;

    pub const PROGRAMMED: &str = "programmed";
}

/// One turn of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// From 1.
    pub round: usize,
    pub phase: Phase,
    /// Position in the order of speaking, from 0.
    pub agent: usize,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Reason why the proposal is invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<Vec<Option<bool>>>,
    #[serde(flatten)]
    pub reply_record: ReplyRecord,
}

pub type Judgement = reply_record::Judgement<Verdict>;

/// A row of an outcome, in chronological order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Row {
    Setup(Setup),
    Turn(Box<TurnRecord>),
    /// Enumerated proposals or tabulated votes.
    Event(Event),
    End(End),
    Judge(Judgement),
}

/// The rows of an outcome.
#[derive(Clone, Debug, Default)]
pub struct ParsedOutcome {
    pub rows: Vec<Row>,
}

impl ParsedOutcome {
    pub fn of(outcome: &Outcome) -> Self {
        Self { rows: parse_rows(outcome) }
    }

    pub fn setup(&self) -> Option<&Setup> {
        self.rows.iter().find_map(|row| if let Row::Setup(setup) = row { Some(setup) } else { None })
    }

    pub fn turns(&self) -> impl Iterator<Item = &TurnRecord> {
        self.rows.iter().filter_map(|row| if let Row::Turn(turn) = row { Some(turn.as_ref()) } else { None })
    }

    pub fn end(&self) -> Option<&End> {
        self.rows.iter().find_map(|row| if let Row::End(end) = row { Some(end) } else { None })
    }

    pub fn judgement(&self) -> Option<&Judgement> {
        self.rows.iter().find_map(|row| if let Row::Judge(judgement) = row { Some(judgement) } else { None })
    }

    /// The agent of a turn.
    pub fn agent(&self, turn: &TurnRecord) -> Option<&Agent> {
        self.setup()?.agents.get(turn.agent)
    }
}
