//! What differs between providers: one [`Provider`] row each. A new provider is a row in [`PROVIDERS`] and, if it has a wire format of
//! its own, a file in `codec/`.

use std::fmt;

use tiltmeter_model::{ChatRequest, Problem, Role, SeedSupport};

use crate::codec::{Anthropic, Codec, Gemini, OpenAi, is_reasoning_model};

/// Every provider, in the order in which messages list them.
pub static PROVIDERS: [Provider; 6] = [
    Provider {
        prefix: "openai",
        title: "OpenAI",
        key_variable: "OPENAI_API_KEY",
        base_url: Some("https://api.openai.com/v1"),
        codec: &OpenAi { max_tokens: "max_completion_tokens", fixes_sampling: is_reasoning_model, ..CHAT_COMPLETIONS },
        preset: LanePreset::per_minute(60),
        ..OPENAI_STYLE
    },
    Provider {
        prefix: "anthropic",
        title: "Anthropic",
        key_variable: "ANTHROPIC_API_KEY",
        base_url: Some("https://api.anthropic.com/v1"),
        auth: Auth::Header("x-api-key"),
        headers: &[("anthropic-version", "2023-06-01")],
        codec: &Anthropic,
        preset: LanePreset::per_minute(5),
        seed_support: SeedSupport::NotSent,
        takes_top_k: true,
        max_temperature: 1.0,
        requires_max_tokens: true,
        takes_late_system: false,
        ..OPENAI_STYLE
    },
    Provider {
        prefix: "gemini",
        title: "Gemini",
        key_variable: "GEMINI_API_KEY",
        base_url: Some("https://generativelanguage.googleapis.com/v1beta"),
        auth: Auth::Header("x-goog-api-key"),
        codec: &Gemini,
        takes_top_k: true,
        takes_late_system: false,
        ..OPENAI_STYLE
    },
    Provider {
        prefix: "openrouter",
        title: "OpenRouter",
        key_variable: "OPENROUTER_API_KEY",
        base_url: Some("https://openrouter.ai/api/v1"),
        codec: &OpenAi { require_parameters: true, ..CHAT_COMPLETIONS },
        free_preset: Some(LanePreset { requests_per_minute: None, max_in_flight: Some(2) }),
        is_gateway: true,
        seed_support: SeedSupport::Uncertain,
        takes_top_k: true,
        takes_min_p: true,
        ..OPENAI_STYLE
    },
    Provider {
        prefix: "goodfire",
        title: "Goodfire",
        key_variable: "GOODFIRE_API_KEY",
        base_url: Some("https://api.goodfire.ai/api/inference/v1"),
        codec: &OpenAi { max_tokens: "max_completion_tokens", ..CHAT_COMPLETIONS },
        seed_support: SeedSupport::Uncertain,
        takes_schema: false,
        ..OPENAI_STYLE
    },
    // Any server with OpenAI's chat completions: llama.cpp, vLLM, a gateway.
    Provider {
        prefix: "openai-compatible",
        title: "the OpenAI-compatible server",
        key_variable: "OPENAI_COMPATIBLE_API_KEY",
        needs_key: false,
        takes_top_k: true,
        takes_min_p: true,
        ..OPENAI_STYLE
    },
];

const CHAT_COMPLETIONS: OpenAi =
    OpenAi { max_tokens: "max_tokens", require_parameters: false, fixes_sampling: |_| false };

/// What a row leaves out: chat completions as most servers implement them, at no known address.
const OPENAI_STYLE: Provider = Provider {
    prefix: "",
    title: "",
    key_variable: "",
    needs_key: true,
    base_url: None,
    auth: Auth::Bearer,
    headers: &[],
    codec: &CHAT_COMPLETIONS,
    preset: LanePreset { requests_per_minute: None, max_in_flight: None },
    free_preset: None,
    is_gateway: false,
    seed_support: SeedSupport::BestEffort,
    takes_schema: true,
    takes_top_k: false,
    takes_min_p: false,
    max_temperature: 2.0,
    requires_max_tokens: false,
    takes_late_system: true,
};

/// A provider's API: address, authentication, wire format, limits, and the request fields it accepts.
pub struct Provider {
    /// The part of a model's name before the first slash: `openai` in `openai/gpt-4o`.
    pub prefix: &'static str,
    /// The name in messages.
    pub title: &'static str,
    /// Environment variable that holds the API key.
    pub key_variable: &'static str,
    /// Whether a call without a key is refused before it is sent.
    pub needs_key: bool,
    /// Default base URL, without a slash at the end; `None`: the experiment must give one.
    pub base_url: Option<&'static str>,
    pub(crate) auth: Auth,
    /// Fixed headers of every request, names in lower case.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// Wire format of requests and replies.
    pub(crate) codec: &'static dyn Codec,
    /// Default limits of an account: the provider's first paid tier.
    pub preset: LanePreset,
    /// Limits of models named `…:free`, which cost nothing and share a lane of their own; `None`: the provider has no such models.
    pub free_preset: Option<LanePreset>,
    /// Whether it resells models of other makers, as `maker/model`, at the maker's price.
    pub is_gateway: bool,
    /// What a seed guarantees.
    pub seed_support: SeedSupport,
    /// Whether a JSON schema can constrain a reply.
    pub takes_schema: bool,
    pub(crate) takes_top_k: bool,
    pub(crate) takes_min_p: bool,
    pub(crate) max_temperature: f64,
    /// Whether `max_new_tokens` must be set.
    pub(crate) requires_max_tokens: bool,
    /// Whether system messages may follow other messages.
    pub(crate) takes_late_system: bool,
}

/// The header that carries the API key.
pub(crate) enum Auth {
    /// `Authorization: Bearer <key>`
    Bearer,
    /// The key alone, under this lower-case name.
    Header(&'static str),
}

/// Default limits of one lane; `None`: unlimited until the provider's replies set the pace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LanePreset {
    /// Requests started per minute.
    pub requests_per_minute: Option<u32>,
    /// Concurrent requests.
    pub max_in_flight: Option<usize>,
}

impl LanePreset {
    const fn per_minute(requests: u32) -> Self {
        Self { requests_per_minute: Some(requests), max_in_flight: None }
    }
}

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

impl Eq for Provider {}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title)
    }
}

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
        if provider.codec.fixes_sampling(&self.model) && (sampling.temperature != 1.0 || sampling.top_p.is_some()) {
            return refuse(
                format!("{self} is a reasoning model with a fixed temperature"),
                "set temperature: 1 and remove top_p for this model",
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
