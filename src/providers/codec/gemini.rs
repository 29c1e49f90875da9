//! Owns Google's `generateContent` as a request and a reply.
//! Must not know: HTTP, keys, prices.

use serde_json::{Value, json};

use super::{BadReply, Completion, count, finished, provider_seed, split_system, text_at};
use tiltmeter_model::{ChatRequest, Finish, Role};

pub(super) fn body(request: &ChatRequest) -> Value {
    let (system, turns) = split_system(&request.messages);
    let role = |role| if role == Role::Assistant { "model" } else { "user" };
    let contents = turns.iter().map(|m| json!({ "role": role(m.role), "parts": [{ "text": m.content }] }));
    let mut config = json!({ "temperature": request.sampling.temperature, "seed": provider_seed(request.seed) });
    if let Some(top_p) = request.sampling.top_p {
        config["topP"] = json!(top_p);
    }
    if let Some(top_k) = request.sampling.top_k {
        config["topK"] = json!(top_k);
    }
    if let Some(max) = request.max_new_tokens {
        config["maxOutputTokens"] = json!(max);
    }
    if let Some(schema) = &request.response_schema {
        config["responseMimeType"] = json!("application/json");
        config["responseJsonSchema"] = schema.clone();
    }
    let mut body = json!({ "contents": contents.collect::<Vec<_>>(), "generationConfig": config });
    if let Some(system) = system {
        body["systemInstruction"] = json!({ "parts": [{ "text": system }] });
    }
    body
}

pub(super) fn read(body: &Value) -> Result<Completion, BadReply> {
    let output = ["/usageMetadata/candidatesTokenCount", "/usageMetadata/thoughtsTokenCount"];
    let usage = count(body, &["/usageMetadata/promptTokenCount"], &output);
    if let Some(error) = body.get("error") {
        let status = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        return Err(BadReply::Refused { status, error: error.clone() });
    }
    let version = text_at(body, "/modelVersion");
    let Some(candidate) = body.pointer("/candidates/0") else {
        // A prompt that is blocked has no candidates, and says why.
        if text_at(body, "/promptFeedback/blockReason").is_some() {
            let finish = Finish::ContentFilter;
            return Ok(Completion { text: String::new(), finish, usage, billed_micro_usd: None, version });
        }
        return Err(BadReply::Unreadable { what: "it has no candidates".into(), usage });
    };
    let parts = candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten();
    let said = parts.filter(|part| part.get("thought") != Some(&Value::Bool(true)));
    let text = said.filter_map(|part| part.get("text")?.as_str()).collect();
    let finish = match text_at(candidate, "/finishReason").as_deref() {
        Some("MAX_TOKENS") => Finish::Length,
        Some("SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE") => {
            Finish::ContentFilter
        }
        _ => Finish::Stop,
    };
    finished(Completion { text, finish, usage, billed_micro_usd: None, version })
}
