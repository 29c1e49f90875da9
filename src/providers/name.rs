//! Owns `ProviderName`: what `provider/model` means, and what is known of each provider before a call: its variable, its address,
//! what of a request it takes.
//! Must not know: HTTP, prices, runs.

use std::fmt;

use tiltmeter_model::SeedSupport;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    OpenAi,
    Anthropic,
    Gemini,
    OpenRouter,
    Goodfire,
    /// Whatever speaks OpenAI's chat completions at a given address: llama.cpp, vLLM, a gateway.
    Compatible,
}

/// A model behind an API: `openai/gpt-4o`, `openrouter/qwen/qwen3-8b:free`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProviderName {
    pub provider: Provider,
    /// The model's name as the provider knows it.
    pub model: String,
}

/// `None`: not the name of a provider's model. A hub id that begins like one is written `local/openai/...`.
pub fn parse_name(text: &str) -> Option<ProviderName> {
    let (prefix, model) = text.split_once('/')?;
    let provider = Provider::ALL.into_iter().find(|provider| provider.prefix() == prefix)?;
    // A model's name goes into an address and into file names: nothing in it may lead elsewhere.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:@+".contains(c);
    let sound =
        model.split('/').all(|part| !part.is_empty() && part.chars().all(plain) && !["..", "."].contains(&part));
    sound.then(|| ProviderName { provider, model: model.to_string() })
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider.prefix(), self.model)
    }
}

impl ProviderName {
    /// OpenRouter's models that cost nothing.
    pub fn is_free(&self) -> bool {
        self.provider == Provider::OpenRouter && self.model.ends_with(":free")
    }

    /// OpenAI's models that think before they answer draw at a temperature of their own and refuse any other.
    pub(super) fn has_fixed_sampling(&self) -> bool {
        let model = self.model.as_str();
        let numbered = model.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let five = model == "gpt-5" || (model.starts_with("gpt-5-") && !model.starts_with("gpt-5-chat"));
        self.provider == Provider::OpenAi && (numbered || five)
    }
}

impl Provider {
    pub const ALL: [Provider; 6] = [
        Provider::OpenAi,
        Provider::Anthropic,
        Provider::Gemini,
        Provider::OpenRouter,
        Provider::Goodfire,
        Provider::Compatible,
    ];

    /// What stands before the first slash of a model's name.
    pub fn prefix(self) -> &'static str {
        match self {
            Provider::OpenAi => "openai",
            Provider::Anthropic => "anthropic",
            Provider::Gemini => "gemini",
            Provider::OpenRouter => "openrouter",
            Provider::Goodfire => "goodfire",
            Provider::Compatible => "openai-compatible",
        }
    }

    /// As a person writes it.
    pub fn title(self) -> &'static str {
        match self {
            Provider::OpenAi => "OpenAI",
            Provider::Anthropic => "Anthropic",
            Provider::Gemini => "Gemini",
            Provider::OpenRouter => "OpenRouter",
            Provider::Goodfire => "Goodfire",
            Provider::Compatible => "the OpenAI-compatible server",
        }
    }

    /// The environment variable that holds the key.
    pub fn key_variable(self) -> &'static str {
        match self {
            Provider::OpenAi => "OPENAI_API_KEY",
            Provider::Anthropic => "ANTHROPIC_API_KEY",
            Provider::Gemini => "GEMINI_API_KEY",
            Provider::OpenRouter => "OPENROUTER_API_KEY",
            Provider::Goodfire => "GOODFIRE_API_KEY",
            Provider::Compatible => "OPENAI_COMPATIBLE_API_KEY",
        }
    }

    /// A server of one's own often asks for no key.
    pub fn needs_key(self) -> bool {
        self != Provider::Compatible
    }

    pub fn default_base_url(self) -> Option<&'static str> {
        match self {
            Provider::OpenAi => Some("https://api.openai.com/v1"),
            Provider::Anthropic => Some("https://api.anthropic.com/v1"),
            Provider::Gemini => Some("https://generativelanguage.googleapis.com/v1beta"),
            Provider::OpenRouter => Some("https://openrouter.ai/api/v1"),
            Provider::Goodfire => Some("https://api.goodfire.ai/api/inference/v1"),
            Provider::Compatible => None,
        }
    }

    pub fn seed_support(self) -> SeedSupport {
        match self {
            Provider::OpenAi | Provider::Gemini | Provider::Compatible => SeedSupport::BestEffort,
            Provider::OpenRouter | Provider::Goodfire => SeedSupport::Uncertain,
            Provider::Anthropic => SeedSupport::NotSent,
        }
    }

    /// Whether a reply can be held to a JSON schema.
    pub fn takes_schema(self) -> bool {
        self != Provider::Goodfire
    }

    pub(super) fn takes_top_k(self) -> bool {
        !matches!(self, Provider::OpenAi | Provider::Goodfire)
    }

    pub(super) fn takes_min_p(self) -> bool {
        matches!(self, Provider::OpenRouter | Provider::Compatible)
    }

    pub(super) fn highest_temperature(self) -> f64 {
        if self == Provider::Anthropic { 1.0 } else { 2.0 }
    }
}
