//! [`ApiName`]: `provider/model`, its rate-limit lane, and the requests it accepts.

use std::fmt;

use crate::profiles::{LanePreset, PROVIDERS, Provider};
use tiltmeter_model::{ChatRequest, Problem, Role};

/// The name of a model behind an API: `openai/gpt-4o`, `openrouter/qwen/qwen3-8b:free`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiName {
    /// The provider of the prefix.
    pub provider: &'static Provider,
    /// The model's name as the provider knows it.
    pub model: String,
}

impl ApiName {
    /// Reads `provider/model`; `None` if the prefix is not a provider's or the model's name could change the path of a URL or file. A hub
    /// id with such a prefix is written `local/openai/...`.
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, model) = text.split_once('/')?;
        let provider = PROVIDERS.iter().find(|provider| provider.prefix == prefix)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:@+".contains(c);
        let is_plain = |part: &str| !part.is_empty() && part.chars().all(plain) && !["..", "."].contains(&part);
        model.split('/').all(is_plain).then(|| Self { provider, model: model.to_owned() })
    }

    /// Whether the model costs nothing.
    pub fn is_free(&self) -> bool {
        self.provider.free_preset.is_some() && self.model.ends_with(":free")
    }

    /// Name of the rate-limit lane: calls that share a limit share a lane.
    pub fn lane(&self) -> String {
        let prefix = self.provider.prefix;
        if self.is_free() { format!("{prefix}:free") } else { prefix.to_owned() }
    }

    /// Default limits of that lane.
    pub fn lane_preset(&self) -> LanePreset {
        self.provider.free_preset.filter(|_| self.is_free()).unwrap_or(self.provider.preset)
    }

    /// Refuses a request that the provider would reject, or of which it would ignore a part.
    pub(crate) fn check(&self, request: &ChatRequest) -> Result<(), Problem> {
        let provider = self.provider;
        let title = provider.title;
        let sampling = &request.sampling;
        let refuse = |what: String, hint: &str| Err(Problem::new(what).hint(hint));
        if request.probes.is_some() {
            return refuse(
                format!("{self} does not return its hidden states"),
                "projections need a local model: a folder or a hub id",
            );
        }
        if request.max_seq_len.is_some() {
            return refuse(
                format!("{self} does not support max_seq_len"),
                "remove max_seq_len: the provider sets the context length of its models",
            );
        }
        if sampling.top_k.is_some() && !provider.takes_top_k {
            return refuse(format!("{title} does not support top_k"), "remove top_k, or use top_p");
        }
        if sampling.min_p.is_some() && !provider.takes_min_p {
            return refuse(format!("{title} does not support min_p"), "remove min_p, or use top_p");
        }
        let highest = provider.max_temperature;
        if !(0.0..=highest).contains(&sampling.temperature) {
            return refuse(
                format!("{title} does not support a temperature of {}", sampling.temperature),
                &format!("use a temperature from 0 to {highest}"),
            );
        }
        if provider.codec.takes_one_of_temperature_and_top_p(&self.model)
            && sampling.top_p.is_some()
            && sampling.temperature != 1.0
        {
            return refuse(
                format!("{self} takes a temperature or top_p, not both"),
                "set top_p: null, or temperature: null",
            );
        }
        if provider.codec.fixes_sampling(&self.model) && (sampling.temperature != 1.0 || sampling.top_p.is_some()) {
            return refuse(
                format!("{self} is a reasoning model with a fixed temperature"),
                "set temperature: null and top_p: null for this model",
            );
        }
        if request.response_schema.is_some() && !provider.takes_schema {
            return refuse(
                format!("{title} does not support JSON schemas"),
                "ask for JSON in the prompt, or use a model of another provider",
            );
        }
        if provider.requires_max_tokens && request.max_new_tokens.is_none() {
            return refuse(format!("{title} requires max_tokens"), "set max_tokens");
        }
        let late = request.messages.iter().skip_while(|m| m.role == Role::System).any(|m| m.role == Role::System);
        if late && !provider.takes_late_system {
            return refuse(format!("{title} accepts system messages only before all others"), "make it a user message");
        }
        if request.messages.iter().all(|m| m.role == Role::System) {
            return refuse("the conversation has no message to answer".into(), "start it with a user message");
        }
        Ok(())
    }
}

impl fmt::Display for ApiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider.prefix, self.model)
    }
}
