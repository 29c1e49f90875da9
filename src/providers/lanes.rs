//! Owns what is known of the providers' limits before the first answer: how fast a lane may go when nobody says otherwise.
//! Must not know: HTTP, what a lane is, runs.

use super::name::{Provider, ProviderName};

/// Limits of one provider account; `None`: none known, the provider's own answers set the pace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LanePreset {
    pub requests_per_minute: Option<u32>,
    pub max_in_flight: Option<usize>,
}

pub fn lane_preset(name: &ProviderName) -> LanePreset {
    let paced = |rpm| LanePreset { requests_per_minute: Some(rpm), max_in_flight: None };
    match name.provider {
        // The first paid tier of each; whoever has more says so.
        Provider::Anthropic => paced(5),
        Provider::OpenAi => paced(60),
        Provider::OpenRouter if name.is_free() => LanePreset { requests_per_minute: None, max_in_flight: Some(2) },
        Provider::OpenRouter | Provider::Gemini | Provider::Goodfire | Provider::Compatible => LanePreset::default(),
    }
}

/// Calls that share a limit share a lane: one per provider, account and, where it differs, price class.
pub fn lane_name(name: &ProviderName) -> String {
    let prefix = name.provider.prefix();
    if name.is_free() { format!("{prefix}:free") } else { prefix.to_string() }
}
