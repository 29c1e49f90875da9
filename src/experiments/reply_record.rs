//! Owns what is kept of a reply besides its words: how it fared, how it was drawn, what it took, what was read of it.
//! Must not know: engine, provider, run folders, terminal.

use serde::{Deserialize, Serialize};

use tiltmeter_model::probe::Readout;
use tiltmeter_model::{ChatReply, Finish, SeedKey, Usage};

/// How a reply fared.
pub mod status {
    pub const OK: &str = "ok";
    /// It came to its longest length.
    pub const LENGTH_CAPPED: &str = "length_capped";
    /// The provider withheld it, or part of it.
    pub const CONTENT_FILTER: &str = "content_filter";
    pub const EMPTY: &str = "empty";
}

/// A reply without its words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplyRecord {
    /// One of [`status`], or of those that a kind has besides.
    pub status: String,
    pub finish: Option<Finish>,
    pub seed_key: u64,
    pub seed_stream: u64,
    pub usage: Usage,
    /// The name under which the model answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_ids: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readout: Option<Readout>,
}

impl ReplyRecord {
    pub fn of(reply: &ChatReply, seed: SeedKey) -> Self {
        let status = match reply.finish {
            Finish::ContentFilter => status::CONTENT_FILTER,
            _ if reply.message.content.trim().is_empty() => status::EMPTY,
            Finish::Length => status::LENGTH_CAPPED,
            Finish::Stop => status::OK,
        };
        Self {
            finish: Some(reply.finish),
            usage: reply.usage,
            version: reply.version.clone(),
            token_ids: reply.token_ids.clone(),
            readout: reply.readout.clone(),
            ..Self::nothing(status, seed)
        }
    }

    /// Where no model was asked.
    pub fn nothing(status: &str, seed: SeedKey) -> Self {
        Self { status: status.to_owned(), seed_key: seed.key, seed_stream: seed.stream, ..Self::default() }
    }

    /// The mean projection on a probe of the request, by its place there.
    pub fn mean(&self, probe: usize) -> Option<f64> {
        Some(f64::from(self.readout.as_ref()?.projections.get(probe)?.mean))
    }
}

/// A judge's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement<V> {
    pub verdict: V,
    pub usage: Usage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl<V> Judgement<V> {
    pub fn of(verdict: V, reply: ChatReply) -> Self {
        Self { verdict, usage: reply.usage, version: reply.version }
    }
}
