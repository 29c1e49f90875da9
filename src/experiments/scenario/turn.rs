//! `Turn`: private messages, decisions, new world state and metrics of one turn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{messages::PrivateMessage, metrics::MetricValue, reply::Sections};
use crate::reply_record::ReplyRecord;
use tiltmeter_model::{ChatReply, SeedKey};

/// Status of a reply; decisions add two to those of all replies.
pub mod status {
    pub use crate::reply_record::status::*;

    /// A decision without headings; all of it is the action.
    pub const UNSTRUCTURED: &str = "unstructured";
    /// A decision with headings but without an action.
    pub const NO_ACTION: &str = "no_action";
}

/// `Turn::replies` names the replies of actors by their short names, the others by these.
pub const WORLD: &str = "world_state";
pub const JUDGE: &str = "judge";

/// A reply without its text, and its model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReply {
    pub model: String,
    #[serde(flatten)]
    pub reply_record: ReplyRecord,
}

impl ModelReply {
    pub fn of(model: &str, reply: &ChatReply, seed: SeedKey) -> Self {
        Self { model: model.to_owned(), reply_record: ReplyRecord::of(reply, seed) }
    }
}

/// An actor's reply in a round of private messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageReply {
    /// From 1.
    pub round: usize,
    pub from: String,
    /// The whole reply.
    pub text: String,
    pub messages: Vec<PrivateMessage>,
    pub reply: ModelReply,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub actor: String,
    /// The whole reply.
    pub text: String,
    pub sections: Sections,
    pub reply: ModelReply,
}

/// A turn, complete or under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// From 1.
    pub turn: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageReply>,
    /// In the order of the scenario's actors.
    pub decisions: Vec<Decision>,
    /// After the turn.
    pub world_state: String,
    pub world: ModelReply,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<ModelReply>,
    pub metrics: BTreeMap<String, MetricValue>,
    /// End of the turn, RFC 3339 in UTC.
    pub ended: String,
}

impl Turn {
    /// All replies with their authors: an actor's short name, [`WORLD`] or [`JUDGE`].
    pub fn replies(&self) -> impl Iterator<Item = (&str, &ModelReply)> {
        let messages = self.messages.iter().map(|message| (message.from.as_str(), &message.reply));
        let decisions = self.decisions.iter().map(|decision| (decision.actor.as_str(), &decision.reply));
        let judge = self.judge.iter().map(|reply| (JUDGE, reply));
        messages.chain(decisions).chain([(WORLD, &self.world)]).chain(judge)
    }

    pub fn decision(&self, actor: &str) -> Option<&Decision> {
        self.decisions.iter().find(|decision| decision.actor == actor)
    }

    /// Without token ids and readouts: every partial outcome holds all earlier turns, so these would be saved many times.
    pub fn light(&self) -> Self {
        let mut light = self.clone();
        let messages = light.messages.iter_mut().map(|message| &mut message.reply);
        let decisions = light.decisions.iter_mut().map(|decision| &mut decision.reply);
        for reply in messages.chain(decisions).chain([&mut light.world]) {
            reply.reply_record.token_ids.clear();
            reply.reply_record.readout = None;
        }
        light
    }
}
