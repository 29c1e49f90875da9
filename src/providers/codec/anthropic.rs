//! Owns Anthropic's Messages API as a request and a reply.
//! Must not know: HTTP, keys, prices.

use serde_json::{Value, json};

use super::{BadReply, Completion, count, finished, split_system, text_at};
use crate::name::ProviderName;
use tiltmeter_model::{ChatRequest, Finish};

/// The version of the API this file was written to.
pub const VERSION: &str = "2023-06-01";

pub(super) fn body(name: &ProviderName, request: &ChatRequest) -> Value {
    let (system, turns) = split_system(&request.messages);
    let mut body = json!({ "model": name.model, "max_tokens": request.max_new_tokens, "messages": turns });
    if let Some(system) = system {
        body["system"] = json!(system);
    }
    let sampling = &request.sampling;
    // 1 is the API's own default, and some models take no temperature at all: unsaid it means the same and works with both.
    if sampling.temperature != 1.0 {
        body["temperature"] = json!(sampling.temperature);
    }
    if let Some(top_p) = sampling.top_p {
        body["top_p"] = json!(top_p);
    }
    if let Some(top_k) = sampling.top_k {
        body["top_k"] = json!(top_k);
    }
    if let Some(schema) = &request.response_schema {
        body["output_config"] = json!({ "format": { "type": "json_schema", "schema": schema } });
    }
    body
}

pub(super) fn read(body: &Value) -> Result<Completion, BadReply> {
    let input = ["/usage/input_tokens", "/usage/cache_creation_input_tokens", "/usage/cache_read_input_tokens"];
    let usage = count(body, &input, &["/usage/output_tokens"]);
    if text_at(body, "/type").as_deref() == Some("error") {
        return Err(BadReply::Refused { status: None, error: body.get("error").cloned().unwrap_or_default() });
    }
    let Some(blocks) = body.get("content").and_then(Value::as_array) else {
        return Err(BadReply::Unreadable { what: "it has no content".into(), usage });
    };
    // Other blocks (thinking) are not what was said.
    let said = blocks.iter().filter(|block| block.get("type") == Some(&json!("text")));
    let text = said.filter_map(|block| block.get("text")?.as_str()).collect();
    let finish = match text_at(body, "/stop_reason").as_deref() {
        Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
        Some("refusal") => Finish::ContentFilter,
        _ => Finish::Stop,
    };
    finished(Completion { text, finish, usage, billed_micro_usd: None, version: text_at(body, "/model") })
}
