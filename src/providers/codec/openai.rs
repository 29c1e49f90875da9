//! OpenAI's chat completions, which OpenRouter, Goodfire, llama.cpp and vLLM implement with variations.

use serde_json::{Value, json};

use super::{BadReply, Codec, Completion, interrupted, non_empty, provider_seed, text_at, token_counts, with_total};
use tiltmeter_model::{ChatRequest, Finish};

pub(crate) struct OpenAi {
    /// Field for `max_new_tokens`: OpenAI's reasoning models reject the old `max_tokens`, many other servers the new name.
    pub(crate) max_tokens: &'static str,
    /// Whether a gateway must be kept from choosing an endpoint that ignores optional fields.
    pub(crate) require_parameters: bool,
    /// Which models have a fixed temperature.
    pub(crate) fixes_sampling: fn(&str) -> bool,
}

impl Codec for OpenAi {
    fn path(&self, _model: &str) -> String {
        "/chat/completions".into()
    }

    fn fixes_sampling(&self, model: &str) -> bool {
        (self.fixes_sampling)(model)
    }

    fn encode(&self, model: &str, request: &ChatRequest) -> Value {
        let mut body = json!({ "model": model, "messages": request.messages });
        let sampling = &request.sampling;
        if !self.fixes_sampling(model) && !sampling.default_temperature {
            body["temperature"] = json!(sampling.temperature);
        }
        if let Some(top_p) = sampling.top_p {
            body["top_p"] = json!(top_p);
        }
        if let Some(top_k) = sampling.top_k {
            body["top_k"] = json!(top_k);
        }
        if let Some(min_p) = sampling.min_p {
            body["min_p"] = json!(min_p);
        }
        if let Some(max) = request.max_new_tokens {
            body[self.max_tokens] = json!(max);
        }
        if let Some(schema) = &request.response_schema {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": { "name": "reply", "strict": is_strict(schema), "schema": schema },
            });
        }
        let optional = sampling.top_k.is_some() || sampling.min_p.is_some() || request.response_schema.is_some();
        if self.require_parameters && optional {
            // Few endpoints take a seed, which is best effort anyway: requiring it would leave almost none to choose from.
            body["provider"] = json!({ "require_parameters": true });
        } else {
            body["seed"] = json!(provider_seed(request.seed));
        }
        body
    }

    fn decode(&self, body: &Value) -> Result<Completion, BadReply> {
        let usage = token_counts(body, &["/usage/prompt_tokens"], &["/usage/completion_tokens"]);
        let usage = usage.map(|counts| with_total(counts, body.pointer("/usage/total_tokens").and_then(Value::as_u64)));
        let choice = body.pointer("/choices/0");
        // A gateway that fails after its headers were sent reports the error inside a success.
        let error = body.get("error").or_else(|| choice?.get("error")).filter(|error| !error.is_null());
        if let Some(error) = error {
            return Err(BadReply::error(error));
        }
        let Some(message) = choice.and_then(|choice| choice.get("message")).filter(|message| message.is_object())
        else {
            return Err(BadReply::Malformed { what: "`choices` is missing or empty".into(), usage });
        };
        let refusal = message.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty());
        let text = match message.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
            _ => String::new(),
        };
        let reason = choice.and_then(|choice| text_at(choice, "/finish_reason"));
        let finish = match reason.as_deref() {
            _ if refusal.is_some() => Finish::ContentFilter,
            Some("length") => Finish::Length,
            Some("content_filter") => Finish::ContentFilter,
            // Some servers name the model's own stop token, or nothing.
            None | Some("stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "") => Finish::Stop,
            Some(other) => return Err(interrupted(other, usage)),
        };
        let text = if text.is_empty() { refusal.unwrap_or_default().to_string() } else { text };
        // OpenRouter reports the charge in dollars.
        let charged = body.pointer("/usage/cost").and_then(Value::as_f64).filter(|usd| (0.0..1e6).contains(usd));
        let billed_micro_usd = charged.map(|usd| (usd * 1e6).ceil() as u64);
        non_empty(Completion { text, finish, usage, billed_micro_usd, version: text_at(body, "/model") })
    }
}

/// OpenAI's reasoning models.
pub(crate) fn is_reasoning_model(model: &str) -> bool {
    let o_series = model.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    o_series || model == "gpt-5" || (model.starts_with("gpt-5-") && !model.starts_with("gpt-5-chat"))
}

/// Strict mode accepts only schemas whose objects require every property and allow no others.
fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            let closed = match object.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let required = object.get("required").and_then(Value::as_array);
                    object.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(|key| required.is_some_and(|r| r.iter().any(|name| name == key)))
                }
                None => object.get("type") != Some(&json!("object")),
            };
            closed && object.values().all(is_strict)
        }
        Value::Array(list) => list.iter().all(is_strict),
        _ => true,
    }
}
