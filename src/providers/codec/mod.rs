//! Owns what the wire formats have in common: what a reply comes down to, whether a request can be said at all to a provider
//! (what it does not take is a problem of the plan, never dropped), and which format a provider speaks.
//! Must not know: HTTP, keys, prices.

use serde_json::Value;

use crate::name::{Provider, ProviderName};
pub mod anthropic;
mod gemini;
mod openai;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatRequest, Finish, Message, Role, SeedKey};

/// Tokens as the provider counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub prompt: u64,
    pub completion: u64,
}

/// What a reply comes down to.
#[derive(Debug)]
pub(super) struct Completion {
    pub text: String,
    pub finish: Finish,
    /// `None`: not told, or not in numbers a call can have.
    pub usage: Option<Counted>,
    /// What the provider says it charged, where it says so.
    pub billed_micro_usd: Option<u64>,
    /// The model's name as it answers: often with the date of its version.
    pub version: Option<String>,
}

/// A success on the outside that holds no reply.
#[derive(Debug)]
pub(super) enum BadReply {
    /// An error, with the status it should have had.
    Refused {
        status: Option<u16>,
        error: Value,
    },
    Unreadable {
        what: String,
        usage: Option<Counted>,
    },
}

pub(super) fn body(name: &ProviderName, request: &ChatRequest) -> Value {
    match name.provider {
        Provider::Anthropic => anthropic::body(name, request),
        Provider::Gemini => gemini::body(request),
        _ => openai::body(name, request),
    }
}

pub(super) fn read(provider: Provider, body: &Value) -> Result<Completion, BadReply> {
    match provider {
        Provider::Anthropic => anthropic::read(body),
        Provider::Gemini => gemini::read(body),
        _ => openai::read(body),
    }
}

/// Below the base address.
pub(super) fn path(name: &ProviderName) -> String {
    match name.provider {
        Provider::Anthropic => "/messages".into(),
        Provider::Gemini => format!("/models/{}:generateContent", name.model),
        _ => "/chat/completions".into(),
    }
}

/// Refuses what the provider would not take, or would drop without a word.
pub(super) fn check(name: &ProviderName, request: &ChatRequest) -> Result<(), Problem> {
    let title = name.provider.title();
    let sampling = &request.sampling;
    let refuse = |what: String, hint: &str| Err(Problem::new(what).hint(hint));
    if request.probes.is_some() {
        return refuse(
            format!("{name} does not show its hidden states"),
            "projections need a model on this machine: a folder or a hub id",
        );
    }
    if request.max_seq_len.is_some() {
        return refuse(
            format!("max_seq_len means nothing to {name}"),
            "an API model has its own context; leave max_seq_len out",
        );
    }
    if sampling.top_k.is_some() && !name.provider.takes_top_k() {
        return refuse(format!("{title} takes no top_k"), "leave top_k out, or narrow with top_p");
    }
    if sampling.min_p.is_some() && !name.provider.takes_min_p() {
        return refuse(format!("{title} takes no min_p"), "leave min_p out, or narrow with top_p");
    }
    let highest = name.provider.highest_temperature();
    if !(0.0..=highest).contains(&sampling.temperature) {
        return refuse(
            format!("{title} takes no temperature of {}", sampling.temperature),
            &format!("give one from 0 to {highest}"),
        );
    }
    if name.has_fixed_sampling() && (sampling.temperature != 1.0 || sampling.top_p.is_some()) {
        return refuse(
            format!("{name} thinks before it answers and draws at a temperature of its own"),
            "set temperature: 1 and leave top_p out for this model",
        );
    }
    if request.response_schema.is_some() && !name.provider.takes_schema() {
        return refuse(
            format!("{title} cannot hold a reply to a JSON schema"),
            "ask for JSON in words, or take a model of another provider",
        );
    }
    if name.provider == Provider::Anthropic && request.max_new_tokens.is_none() {
        return refuse(format!("{title} answers only with max_tokens set"), "set max_tokens");
    }
    let own_system_field = matches!(name.provider, Provider::Anthropic | Provider::Gemini);
    let late = request.messages.iter().skip_while(|m| m.role == Role::System).any(|m| m.role == Role::System);
    if own_system_field && late {
        return refuse(format!("{title} takes a system message only before all others"), "make it a user message");
    }
    if request.messages.iter().all(|m| m.role == Role::System) {
        return refuse("the conversation has no message to answer".into(), "begin it with a user message");
    }
    Ok(())
}

/// The system messages that stand first, as one text, and the turns after them.
pub(super) fn split_system(messages: &[Message]) -> (Option<String>, &[Message]) {
    let first = messages.iter().position(|m| m.role != Role::System).unwrap_or(messages.len());
    let texts: Vec<&str> = messages[..first].iter().map(|m| m.content.as_str()).collect();
    ((first > 0).then(|| texts.join("\n\n")), &messages[first..])
}

/// Providers take one number of 31 bits. The first stream keeps a small seed as it was written, so that it can be given elsewhere too.
pub(super) fn provider_seed(seed: SeedKey) -> u64 {
    let mut z = seed.key;
    if seed.stream > 0 {
        // splitmix64 (Steele, Lea, Flood 2014): neighbouring streams get unrelated seeds.
        z = z.wrapping_add(seed.stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    z & 0x7fff_ffff
}

/// A reply must say something, unless the model came to its limit while thinking or was held back.
pub(super) fn finished(said: Completion) -> Result<Completion, BadReply> {
    if said.text.trim().is_empty() && said.finish == Finish::Stop {
        return Err(BadReply::Unreadable { what: "it is empty".into(), usage: said.usage });
    }
    Ok(said)
}

/// More tokens than any call has: a number like this is a mistake, and no bill.
const ABSURD_TOKENS: u64 = 100_000_000;

/// The sums of the counts at these places; the first of each must be there, the others are added where they are.
pub(super) fn count(body: &Value, prompt: &[&str], completion: &[&str]) -> Option<Counted> {
    let sum = |places: &[&str]| {
        let mut total = 0;
        for (i, place) in places.iter().enumerate() {
            match body.pointer(place) {
                // Google leaves out the count of what a filter kept from being said.
                None | Some(Value::Null) if i > 0 || place.contains("candidates") => {}
                value => total += value?.as_u64().filter(|tokens| *tokens < ABSURD_TOKENS)?,
            }
        }
        Some(total)
    };
    Some(Counted { prompt: sum(prompt)?, completion: sum(completion)? })
}

pub(super) fn text_at(body: &Value, place: &str) -> Option<String> {
    body.pointer(place).and_then(Value::as_str).map(str::to_string)
}
