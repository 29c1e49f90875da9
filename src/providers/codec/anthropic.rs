//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::{BadReply, Codec, Completion, interrupted, non_empty, split_system, text_at, token_counts};
use tiltmeter_model::{ChatRequest, Finish};

pub(crate) struct Anthropic;

impl Codec for Anthropic {
    fn path(&self, _model: &str) -> String {
        "/messages".into()
    }

    fn takes_one_of_temperature_and_top_p(&self, model: &str) -> bool {
        is_exclusive(model)
    }

    fn encode(&self, model: &str, request: &ChatRequest) -> Value {
        let (system, turns) = split_system(&request.messages);
        let mut body = json!({ "model": model, "max_tokens": request.max_new_tokens, "messages": turns });
        if let Some(system) = system {
            body["system"] = json!(system);
        }
        let sampling = &request.sampling;
        // 1 is the API's default, and some models reject the field.
        if sampling.temperature != 1.0 && !sampling.default_temperature {
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
            None | Some("end_turn" | "stop_sequence") => Finish::Stop,
            Some(other) => return Err(interrupted(other, usage)),
        };
        non_empty(Completion { text, finish, usage, billed_micro_usd: None, version: text_at(body, "/model") })
    }
}

/// Claude Opus from 4.1 on, Sonnet and Haiku from 4.5 on, and every later generation.
fn is_exclusive(model: &str) -> bool {
    let mut parts = model.split('-').skip_while(|part| !["opus", "sonnet", "haiku"].contains(part));
    let Some(size) = parts.next() else { return false };
    // A date has eight digits.
    let mut numbers = parts.map_while(|part| part.parse::<u32>().ok().filter(|number| *number < 1000));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= if size == "opus" { (4, 1) } else { (4, 5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_models_take_a_temperature_or_top_p() {
        for model in ["claude-opus-4-1-20250805", "claude-sonnet-4-5", "claude-haiku-4-5-20251001", "claude-opus-5"] {
            assert!(is_exclusive(model), "{model}");
        }
        for model in [
            "claude-3-5-haiku-20241022",
            "claude-3-opus-20240229",
            "claude-sonnet-4-20250514",
            "claude-opus-4-20250514",
        ] {
            assert!(!is_exclusive(model), "{model}");
        }
    }
}
