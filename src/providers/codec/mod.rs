//! Wire formats: a [`Codec`] turns a `ChatRequest` into a provider's JSON and its reply into a [`Completion`].

mod anthropic;
mod gemini;
mod openai;

pub(crate) use anthropic::Anthropic;
pub(crate) use gemini::Gemini;
pub(crate) use openai::{OpenAi, is_reasoning_model};

use serde_json::Value;

use tiltmeter_model::{ChatRequest, Finish, Message, Role, SeedKey};

/// One wire format.
pub(crate) trait Codec: Sync {
    /// Path below the base URL.
    fn path(&self, model: &str) -> String;

    /// Whether a model rejects every temperature but 1 and any `top_p`.
    fn fixes_sampling(&self, _model: &str) -> bool {
        false
    }

    /// Whether a model rejects a request with both.
    fn takes_one_of_temperature_and_top_p(&self, _model: &str) -> bool {
        false
    }

    /// Body of a request that passed `ApiName::check`.
    fn encode(&self, model: &str, request: &ChatRequest) -> Value;

    /// Reads the body of a reply with a success status.
    fn decode(&self, body: &Value) -> Result<Completion, BadReply>;
}

/// Tokens as the provider counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenCounts {
    pub prompt: u64,
    pub completion: u64,
}

/// A reply, independent of the wire format.
#[derive(Debug)]
pub(crate) struct Completion {
    pub text: String,
    pub finish: Finish,
    /// `None`: absent or implausible.
    pub usage: Option<TokenCounts>,
    /// What the provider charged, where the reply says so.
    pub billed_micro_usd: Option<u64>,
    /// The model's name in the reply, often with a version date.
    pub version: Option<String>,
}

/// A success status without a usable reply.
#[derive(Debug)]
pub(crate) enum BadReply {
    /// The body is an error; `status` is the HTTP status it names.
    Error {
        status: Option<u16>,
        error: Value,
    },
    Malformed {
        what: String,
        usage: Option<TokenCounts>,
    },
}

/// A reply that ended for another reason than that it was finished, cut at its limit or filtered.
fn interrupted(reason: &str, usage: Option<TokenCounts>) -> BadReply {
    BadReply::Malformed { what: format!("the reply is not finished: it ended with `{reason}`"), usage }
}

impl BadReply {
    /// An error object, whose `code` may be an HTTP status.
    fn error(error: &Value) -> Self {
        let status = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        Self::Error { status: status.filter(|status| (400..600).contains(status)), error: error.clone() }
    }
}

/// The leading system messages as one text, and the messages after them.
fn split_system(messages: &[Message]) -> (Option<String>, &[Message]) {
    let first = messages.iter().position(|m| m.role != Role::System).unwrap_or(messages.len());
    let texts: Vec<&str> = messages[..first].iter().map(|m| m.content.as_str()).collect();
    ((first > 0).then(|| texts.join("\n\n")), &messages[first..])
}

/// A seed of 31 bits, the widest that every provider accepts. Stream 0 keeps a small key unchanged.
fn provider_seed(seed: SeedKey) -> u64 {
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

/// Rejects an empty text, unless the reply was cut off or filtered.
fn non_empty(completion: Completion) -> Result<Completion, BadReply> {
    if completion.text.trim().is_empty() && completion.finish == Finish::Stop {
        return Err(BadReply::Malformed { what: "the text is empty".into(), usage: completion.usage });
    }
    Ok(completion)
}

/// No call has this many tokens: such a count is a mistake, not a bill.
const IMPLAUSIBLE_TOKENS: u64 = 100_000_000;

/// Sums of the counts at these JSON pointers. The first of each list is required, the others count as 0 where absent.
fn token_counts(body: &Value, prompt: &[&str], completion: &[&str]) -> Option<TokenCounts> {
    let sum = |pointers: &[&str]| {
        let mut total = 0;
        for (i, pointer) in pointers.iter().enumerate() {
            match body.pointer(pointer) {
                // Gemini omits the count of a reply that its filter withheld.
                None | Some(Value::Null) if i > 0 || pointer.contains("candidates") => {}
                value => total += value?.as_u64().filter(|tokens| *tokens < IMPLAUSIBLE_TOKENS)?,
            }
        }
        Some(total)
    };
    Some(TokenCounts { prompt: sum(prompt)?, completion: sum(completion)? })
}

/// Some servers count thinking in the total alone, which is what they bill.
fn with_total(counts: TokenCounts, total: Option<u64>) -> TokenCounts {
    let total = total.filter(|tokens| *tokens < IMPLAUSIBLE_TOKENS).unwrap_or(0);
    TokenCounts { completion: counts.completion.max(total.saturating_sub(counts.prompt)), ..counts }
}

fn text_at(body: &Value, pointer: &str) -> Option<String> {
    body.pointer(pointer).and_then(Value::as_str).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ApiName;

    fn decode(model: &str, body: &Value) -> Result<Completion, BadReply> {
        ApiName::parse(model).unwrap().provider.codec.decode(body)
    }

    fn body(api: &str, reason: Option<&str>) -> Value {
        match api {
            "openai/x" => json!({"choices": [{"message": {"content": "So"}, "finish_reason": reason}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
            "anthropic/x" => json!({"content": [{"type": "text", "text": "So"}], "stop_reason": reason,
                "usage": {"input_tokens": 3, "output_tokens": 1}}),
            _ => json!({"candidates": [{"content": {"parts": [{"text": "So"}]}, "finishReason": reason}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1}}),
        }
    }

    #[test]
    fn only_a_finished_reply_is_one() {
        for (api, good, broken) in [
            ("openai/x", "stop", &["error", "abort", "insufficient_system_resource", "tool_calls", "unheard_of"][..]),
            ("anthropic/x", "end_turn", &["pause_turn", "tool_use", "unheard_of"]),
            ("gemini/x", "STOP", &["OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "UNHEARD_OF"]),
        ] {
            for reason in [None, Some(good)] {
                assert_eq!(decode(api, &body(api, reason)).unwrap().finish, Finish::Stop, "{api} {reason:?}");
            }
            for reason in broken {
                let Err(BadReply::Malformed { what, usage }) = decode(api, &body(api, Some(reason))) else {
                    panic!("{api} {reason}");
                };
                assert!(what.contains(reason), "{what}");
                assert_eq!(usage, Some(TokenCounts { prompt: 3, completion: 1 }), "what was generated is paid");
            }
        }
    }

    #[test]
    fn thinking_that_only_the_total_counts_is_output() {
        // The numbers of a public report on xAI's API.
        let usage = json!({"prompt_tokens": 10120, "completion_tokens": 1499, "total_tokens": 14428});
        let reply = json!({"choices": [{"message": {"content": "So"}, "finish_reason": "stop"}], "usage": usage});
        let counts = |reply: &Value| decode("openai/x", reply).unwrap().usage.unwrap().completion;
        assert_eq!(counts(&reply), 4308);
        let mut sum = reply;
        sum["usage"]["total_tokens"] = json!(11619);
        assert_eq!(counts(&sum), 1499);
    }
}
