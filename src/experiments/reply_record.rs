//! `ReplyRecord`: everything about a reply except its text, and what outcomes of several kinds compute from such records.

use serde::{Deserialize, Serialize};

use tiltmeter_model::probe::{ProbePlan, Readout};
use tiltmeter_model::{ChatReply, Finish, SeedKey, Usage};
use tiltmeter_store::{Outcome, Series};

/// Status of a reply.
pub mod status {
    pub const OK: &str = "ok";
    /// The reply reached the limit on new tokens.
    pub const LENGTH_CAPPED: &str = "length_capped";
    /// The provider withheld the reply or a part of it.
    pub const CONTENT_FILTER: &str = "content_filter";
    pub const EMPTY: &str = "empty";
}

/// A reply without its text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplyRecord {
    /// One of [`status`], or a status that a kind adds.
    pub status: String,
    pub finish: Option<Finish>,
    pub seed_key: u64,
    pub seed_stream: u64,
    pub usage: Usage,
    /// Version that the provider reports.
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

    /// Record of a turn without a request to a model.
    pub fn nothing(status: &str, seed: SeedKey) -> Self {
        Self { status: status.to_owned(), seed_key: seed.key, seed_stream: seed.stream, ..Self::default() }
    }

    /// Mean projection on the probe at this index of the request.
    pub fn mean(&self, probe: usize) -> Option<f64> {
        Some(f64::from(self.readout.as_ref()?.projections.get(probe)?.mean))
    }
}

/// Names under which a model answered, each once.
pub fn versions<'a>(replies: impl Iterator<Item = &'a ReplyRecord>) -> Vec<&'a str> {
    let mut versions: Vec<&str> = Vec::new();
    for version in replies.filter_map(|reply| reply.version.as_deref()) {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions
}

/// The metrics `prompt_tokens`, `completion_tokens` and `cost_usd`.
pub fn usage_metrics(usages: impl Iterator<Item = Usage>) -> [(String, f64); 3] {
    let mut sum = Usage::default();
    for usage in usages {
        sum.prompt_tokens += usage.prompt_tokens;
        sum.completion_tokens += usage.completion_tokens;
        sum.cost_usd += usage.cost_usd;
    }
    [
        ("prompt_tokens".to_owned(), sum.prompt_tokens as f64),
        ("completion_tokens".to_owned(), sum.completion_tokens as f64),
        ("cost_usd".to_owned(), sum.cost_usd),
    ]
}

/// One series a probe, named `<prefix><axis>@<site>`: the mean projection of each reply.
pub fn projections(probes: Option<&ProbePlan>, prefix: &str, replies: &[&ReplyRecord]) -> Vec<Series> {
    let probes = probes.iter().flat_map(|plan| &plan.probes).enumerate();
    probes
        .map(|(index, probe)| Series {
            name: format!("{prefix}{}@{}", probe.name, probe.site),
            values: replies.iter().map(|reply| reply.mean(index)).collect(),
            statuses: replies.iter().map(|reply| reply.status.clone()).collect(),
        })
        .collect()
}

/// The rows of an outcome, parsed; a row that cannot be parsed is left out and `validate` reports it.
pub fn parse_rows<T: serde::de::DeserializeOwned>(outcome: &Outcome) -> Vec<T> {
    outcome.turns.iter().filter_map(|row| T::deserialize(row).ok()).collect()
}

/// The verdict of a judge.
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
