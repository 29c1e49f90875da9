//! What the APIs say, good and bad: replies, refusals, limits, each in the shape of OpenAI, Anthropic or Gemini.

use std::time::Duration;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::Limit;

/// Every call is billed alike, so that a sum is a count.
pub const PROMPT_TOKENS: u64 = 21;
pub const REPLY_TOKENS: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    OpenAi,
    Anthropic,
    Gemini,
}

type Headers = Vec<(String, String)>;

impl Api {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            _ if path.ends_with("/chat/completions") => Some(Api::OpenAi),
            _ if path.ends_with("/messages") => Some(Api::Anthropic),
            _ if path.ends_with(":generateContent") => Some(Api::Gemini),
            _ => None,
        }
    }

    pub fn reply(self, text: &str) -> Value {
        self.said(json!(text), "stop", json!(PROMPT_TOKENS), json!(REPLY_TOKENS))
    }

    pub fn cut_short(self, text: &str) -> Value {
        self.said(json!(text), "length", json!(PROMPT_TOKENS), json!(REPLY_TOKENS))
    }

    pub fn filtered(self) -> Value {
        self.said(json!(""), "content_filter", json!(PROMPT_TOKENS), json!(REPLY_TOKENS))
    }

    pub fn null_content(self) -> Value {
        self.said(Value::Null, "stop", json!(PROMPT_TOKENS), json!(REPLY_TOKENS))
    }

    pub fn wrong_usage(self, text: &str) -> Value {
        self.said(json!(text), "stop", json!(-5), json!(1e300))
    }

    pub fn no_usage(self, text: &str) -> Value {
        let mut body = self.reply(text);
        let object = body.as_object_mut().unwrap();
        object.remove("usage").or_else(|| object.remove("usageMetadata"));
        body
    }

    pub fn empty_choices(self) -> Value {
        let mut body = self.reply("");
        let list = match self {
            Api::OpenAi => "choices",
            Api::Anthropic => "content",
            Api::Gemini => "candidates",
        };
        body[list] = json!([]);
        body
    }

    fn said(self, text: Value, finish: &str, prompt: Value, completion: Value) -> Value {
        let pick = |openai: &'static str, anthropic: &'static str, gemini: &'static str| match self {
            Api::OpenAi => openai,
            Api::Anthropic => anthropic,
            Api::Gemini => gemini,
        };
        let finish = match finish {
            "stop" => pick("stop", "end_turn", "STOP"),
            "length" => pick("length", "max_tokens", "MAX_TOKENS"),
            _ => pick("content_filter", "refusal", "SAFETY"),
        };
        match self {
            Api::OpenAi => json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "served-2026-01-01",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
            }),
            Api::Anthropic => json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "served-2026-01-01",
                "content": [{"type": "text", "text": text}], "stop_reason": finish, "stop_sequence": null,
                "usage": {"input_tokens": prompt, "output_tokens": completion},
            }),
            Api::Gemini => json!({
                "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish, "index": 0}],
                "usageMetadata": {"promptTokenCount": prompt, "candidatesTokenCount": completion},
                "modelVersion": "served-2026-01-01",
            }),
        }
    }

    pub fn error(self, status: u16) -> Value {
        self.named_error(status, "planned_fault", &format!("fault {status} as planned"))
    }

    fn named_error(self, status: u16, name: &str, message: &str) -> Value {
        match self {
            Api::OpenAi => json!({"error": {"message": message, "type": name, "param": null, "code": name}}),
            Api::Anthropic => json!({"type": "error", "error": {"type": name, "message": message}}),
            Api::Gemini => json!({"error": {"code": status, "message": message, "status": name}}),
        }
    }

    pub fn limited(self, limit: &Limit) -> (Headers, Value) {
        let mut body = self.named_error(429, "rate_limit_exceeded", "too many requests");
        let one = |name: &str, value: String| vec![(name.to_string(), value)];
        let now = OffsetDateTime::now_utc();
        let headers = match limit {
            Limit::Silent => Vec::new(),
            Limit::Seconds(seconds) => one("retry-after", seconds.to_string()),
            Limit::Milliseconds(ms) => one("retry-after-ms", ms.to_string()),
            Limit::Date(wait) => one("retry-after", http_date(now + *wait)),
            Limit::RetryInfo(seconds) => {
                body["error"]["details"] = json!([
                    {"@type": "type.googleapis.com/google.rpc.Help"},
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{seconds}s")},
                ]);
                Vec::new()
            }
            Limit::Reset(wait) if self == Api::Anthropic => vec![
                ("anthropic-ratelimit-requests-remaining".into(), "0".into()),
                ("anthropic-ratelimit-requests-reset".into(), (now + *wait).format(&Rfc3339).unwrap()),
            ],
            Limit::Reset(wait) => vec![
                ("x-ratelimit-remaining-requests".into(), "0".into()),
                ("x-ratelimit-reset-requests".into(), format!("{}ms", wait.as_millis())),
            ],
            Limit::Epoch(wait) => {
                let epoch = (now + *wait).unix_timestamp_nanos() / 1_000_000;
                one("x-ratelimit-reset", epoch.to_string())
            }
            Limit::Quota => {
                body = self.named_error(429, "insufficient_quota", "you exceeded your current quota");
                Vec::new()
            }
            Limit::Daily => {
                body["error"]["details"] = json!([{
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
                }]);
                Vec::new()
            }
        };
        (headers, body)
    }
}

/// Rounded up: a wait is never shortened by its form.
fn http_date(moment: OffsetDateTime) -> String {
    let whole = moment + Duration::from_nanos(999_999_999);
    let form =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    whole.format(&form).unwrap()
}
