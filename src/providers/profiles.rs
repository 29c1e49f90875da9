//! What differs between providers: one [`Provider`] row each. A new provider is a row in [`PROVIDERS`] and, if it has a wire format of
//! its own, a file in `codec/`.

use std::fmt;

use tiltmeter_model::SeedSupport;

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
