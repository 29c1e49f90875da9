//! Owns what is known of a turn: who wrote to whom, who decided what, what became of the world, what was measured, what it took.
//! Must not know: engine, provider, run folders, terminal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{decision::Sections, measure::Found};
use crate::reply_record::ReplyRecord;
use tiltmeter_model::{ChatReply, SeedKey};

/// How a reply fared, beside what becomes of any.
pub mod status {
    pub use crate::reply_record::status::*;

    /// A decision without headings: all of it counts as the action.
    pub const UNSTRUCTURED: &str = "unstructured";
    /// A decision with headings and no action.
    pub const NO_ACTION: &str = "no_action";
}

/// A reply without its words, and whose it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub model: String,
    #[serde(flatten)]
    pub reply_record: ReplyRecord,
}

impl Taken {
    pub fn of(model: &str, reply: &ChatReply, seed: SeedKey) -> Self {
        Self { model: model.to_owned(), reply_record: ReplyRecord::of(reply, seed) }
    }
}

/// What an actor wrote in a round of messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// From 1.
    pub round: usize,
    pub from: String,
    /// The whole reply.
    pub text: String,
    pub letters: Vec<Sent>,
    pub taken: Taken,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Short names of those who got it; empty if nobody did.
    pub to: Vec<String>,
    pub text: String,
    /// Why nobody got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What an actor decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub actor: String,
    /// The whole reply.
    pub text: String,
    pub sections: Sections,
    pub taken: Taken,
}

/// A turn, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// From 1.
    pub turn: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<Written>,
    /// In the order of the scenario's actors.
    pub decisions: Vec<Decision>,
    /// After the turn.
    pub world_state: String,
    pub world: Taken,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Taken>,
    pub metrics: BTreeMap<String, Found>,
    /// When the turn was over, RFC 3339 in UTC.
    pub ended: String,
}

impl Turn {
    /// What every reply of the turn took, and whose it was: an actor's short name, `world_state` or `judge`.
    pub fn taken(&self) -> impl Iterator<Item = (&str, &Taken)> {
        let written = self.written.iter().map(|written| (written.from.as_str(), &written.taken));
        let decided = self.decisions.iter().map(|decision| (decision.actor.as_str(), &decision.taken));
        let judge = self.judge.iter().map(|taken| (JUDGE, taken));
        written.chain(decided).chain([(WORLD, &self.world)]).chain(judge)
    }

    pub fn decision(&self, actor: &str) -> Option<&Decision> {
        self.decisions.iter().find(|decision| decision.actor == actor)
    }

    /// Without what only a finished run has to carry: an outcome is kept after every turn.
    pub fn light(&self) -> Self {
        let mut light = self.clone();
        let written = light.written.iter_mut().map(|written| &mut written.taken);
        let decided = light.decisions.iter_mut().map(|decision| &mut decision.taken);
        for taken in written.chain(decided).chain([&mut light.world]) {
            taken.reply_record.token_ids.clear();
            taken.reply_record.readout = None;
        }
        light
    }
}

/// Whose the replies are that no actor gives.
pub const WORLD: &str = "world_state";
pub const JUDGE: &str = "judge";
