//! Owns OpenAI's chat completions as a request and a reply; OpenRouter, Goodfire, llama.cpp and vLLM speak it too, each with its turns.
//! Must not know: HTTP, keys, prices.

use serde_json::{Value, json};

use super::{BadReply, Completion, count, finished, provider_seed, text_at};
use crate::name::{Provider, ProviderName};
use tiltmeter_model::{ChatRequest, Finish};

pub(super) fn body(name: &ProviderName, request: &ChatRequest) -> Value {
    let mut body = json!({ "model": name.model, "messages": request.messages });
    let sampling = &request.sampling;
    if !name.has_fixed_sampling() {
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
        // OpenAI's thinking models know only the new name, other servers often only the old one.
        let renamed = matches!(name.provider, Provider::OpenAi | Provider::Goodfire);
        let field = if renamed { "max_completion_tokens" } else { "max_tokens" };
        body[field] = json!(max);
    }
    if let Some(schema) = &request.response_schema {
        body["response_format"] = json!({
            "type": "json_schema",
            "json_schema": { "name": "reply", "strict": is_strict(schema), "schema": schema },
        });
    }
    let picky = sampling.top_k.is_some() || sampling.min_p.is_some() || request.response_schema.is_some();
    if name.provider == Provider::OpenRouter && picky {
        // Without this the gateway drops what the endpoint it picks does not know. The seed stays out then: few endpoints take one,
        // and it is a wish, not a condition.
        body["provider"] = json!({ "require_parameters": true });
    } else {
        body["seed"] = json!(provider_seed(request.seed));
    }
    body
}

/// Strict mode is to be had only for schemas that leave nothing open: every property required, no others allowed.
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

pub(super) fn read(body: &Value) -> Result<Completion, BadReply> {
    let usage = count(body, &["/usage/prompt_tokens"], &["/usage/completion_tokens"]);
    let choice = body.pointer("/choices/0");
    // A gateway that fails after it has begun to answer says so inside a success.
    let error = body.get("error").or_else(|| choice?.get("error")).filter(|error| !error.is_null());
    if let Some(error) = error {
        let status = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        return Err(BadReply::Refused {
            status: status.filter(|status| (400..600).contains(status)),
            error: error.clone(),
        });
    }
    let Some(message) = choice.and_then(|choice| choice.get("message")).filter(|message| message.is_object()) else {
        return Err(BadReply::Unreadable { what: "it has no choices".into(), usage });
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
        _ => Finish::Stop,
    };
    let text = if text.is_empty() { refusal.unwrap_or_default().to_string() } else { text };
    // OpenRouter tells what it charged, in dollars.
    let charged = body.pointer("/usage/cost").and_then(Value::as_f64).filter(|usd| (0.0..1e6).contains(usd));
    let billed_micro_usd = charged.map(|usd| (usd * 1e6).ceil() as u64);
    finished(Completion { text, finish, usage, billed_micro_usd, version: text_at(body, "/model") })
}
