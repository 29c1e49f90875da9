//! Google's `generateContent`.

use serde_json::{Value, json};

use super::{BadReply, Codec, Completion, interrupted, non_empty, provider_seed, split_system, text_at, token_counts};
use tiltmeter_model::{ChatRequest, Finish, Role};

pub(crate) struct Gemini;

impl Codec for Gemini {
    fn path(&self, model: &str) -> String {
        format!("/models/{model}:generateContent")
    }

    fn encode(&self, _model: &str, request: &ChatRequest) -> Value {
        let (system, turns) = split_system(&request.messages);
        let role = |role| if role == Role::Assistant { "model" } else { "user" };
        let contents = turns.iter().map(|m| json!({ "role": role(m.role), "parts": [{ "text": m.content }] }));
        let mut config = json!({ "seed": provider_seed(request.seed) });
        if !request.sampling.default_temperature {
            config["temperature"] = json!(request.sampling.temperature);
        }
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

    fn decode(&self, body: &Value) -> Result<Completion, BadReply> {
        let output = ["/usageMetadata/candidatesTokenCount", "/usageMetadata/thoughtsTokenCount"];
        let usage = token_counts(body, &["/usageMetadata/promptTokenCount"], &output);
        if let Some(error) = body.get("error") {
            return Err(BadReply::error(error));
        }
        let version = text_at(body, "/modelVersion");
        let Some(candidate) = body.pointer("/candidates/0") else {
            // A blocked prompt has no candidates, but a reason.
            if text_at(body, "/promptFeedback/blockReason").is_some() {
                let finish = Finish::ContentFilter;
                return Ok(Completion { text: String::new(), finish, usage, billed_micro_usd: None, version });
            }
            return Err(BadReply::Malformed { what: "`candidates` is missing or empty".into(), usage });
        };
        let parts = candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten();
        let texts = parts.filter(|part| part.get("thought") != Some(&Value::Bool(true)));
        let text = texts.filter_map(|part| part.get("text")?.as_str()).collect();
        let finish = match text_at(candidate, "/finishReason").as_deref() {
            Some("MAX_TOKENS") => Finish::Length,
            Some("SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE") => {
                Finish::ContentFilter
            }
            None | Some("STOP") => Finish::Stop,
            Some(other) => return Err(interrupted(other, usage)),
        };
        non_empty(Completion { text, finish, usage, billed_micro_usd: None, version })
    }
}
