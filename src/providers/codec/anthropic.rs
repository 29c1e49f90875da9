//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::{BadReply, Codec, Completion, non_empty, split_system, text_at, token_counts};
use tiltmeter_model::{ChatRequest, Finish};

pub(crate) struct Anthropic;

impl Codec for Anthropic {
    fn path(&self, _model: &str) -> String {
        "/messages".into()
    }

    fn encode(&self, model: &str, request: &ChatRequest) -> Value {
        let (system, turns) = split_system(&request.messages);
        let mut body = json!({ "model": model, "max_tokens": request.max_new_tokens, "messages": turns });
        if let Some(system) = system {
            body["system"] = json!(system);
        }
        let sampling = &request.sampling;
        // 1 is the API's default, and some models reject the field.
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

    fn decode(&self, body: &Value) -> Result<Completion, BadReply> {
        let input = ["/usage/input_tokens", "/usage/cache_creation_input_tokens", "/usage/cache_read_input_tokens"];
        let usage = token_counts(body, &input, &["/usage/output_tokens"]);
        if text_at(body, "/type").as_deref() == Some("error") {
            return Err(BadReply::Error { status: None, error: body.get("error").cloned().unwrap_or_default() });
        }
        let Some(blocks) = body.get("content").and_then(Value::as_array) else {
            return Err(BadReply::Malformed { what: "`content` is missing".into(), usage });
        };
        // Thinking blocks are not part of the reply.
        let texts = blocks.iter().filter(|block| block.get("type") == Some(&json!("text")));
        let text = texts.filter_map(|block| block.get("text")?.as_str()).collect();
        let finish = match text_at(body, "/stop_reason").as_deref() {
            Some("max_tokens" | "model_context_window_exceeded") => Finish::Length,
            Some("refusal") => Finish::ContentFilter,
            _ => Finish::Stop,
        };
        non_empty(Completion { text, finish, usage, billed_micro_usd: None, version: text_at(body, "/model") })
    }
}
