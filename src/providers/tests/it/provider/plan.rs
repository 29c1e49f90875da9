//! Names, addresses and request bodies of API models, and the requests that are refused before they are sent.

use serde_json::{Value, json};
use tiltmeter_model::{ChatRequest, Message, Model, ModelError, Role, Sampling, SeedKey, SeedSupport, secret::Keys};
use tiltmeter_providers::{ApiModel, ApiName, ApiOptions, Price};
use tiltmeter_test_support::fault_server::{Act, Api, FaultServer, Received};

use super::{keys, open, request};

#[test]
fn names_select_the_provider() {
    for (text, provider, model) in [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("openrouter/qwen/qwen3-8b:free", "openrouter", "qwen/qwen3-8b:free"),
        ("goodfire/meta-llama/Llama-3.3-70B-Instruct", "goodfire", "meta-llama/Llama-3.3-70B-Instruct"),
        ("openai-compatible/quay.gguf", "openai-compatible", "quay.gguf"),
    ] {
        let name = ApiName::parse(text).unwrap();
        assert_eq!((name.provider.prefix, name.model.as_str(), name.to_string().as_str()), (provider, model, text));
    }
    for text in [
        "gpt-4o",
        "allenai/Olmo-3-7B-Instruct",
        "local/openai/gpt",
        "openai/",
        "openai",
        "openai/../keys",
        "openai//x",
        "gemini/a/../b",
        "gemini/x?key=1",
        "gemini/x#y",
        "openai/a b",
        "openai/a\n",
        "OPENAI/gpt-4o",
        "/openai/x",
    ] {
        assert_eq!(ApiName::parse(text), None, "{text}");
    }
}

#[test]
fn lanes_start_with_the_presets() {
    let preset = |name: &str| ApiName::parse(name).unwrap().lane_preset();
    assert_eq!(preset("anthropic/x").requests_per_minute, Some(5));
    assert_eq!(preset("openai/x").requests_per_minute, Some(60));
    assert_eq!(preset("openrouter/x/y:free").max_in_flight, Some(2));
    assert_eq!(preset("openrouter/x/y"), Default::default());
    assert_eq!(ApiName::parse("openrouter/x/y:free").unwrap().lane(), "openrouter:free");
}

async fn sent(name: &str, request: &ChatRequest) -> Received {
    let server = FaultServer::always(Act::Reply("ok".into())).await;
    let reply = open(name, &server).chat(request).await.unwrap();
    assert_eq!((reply.message.role, reply.message.content.as_str()), (Role::Assistant, "ok"));
    server.received().remove(0)
}

fn full() -> ChatRequest {
    let mut request = request();
    request.messages.push(Message::new(Role::Assistant, "A wharf."));
    request.messages.push(Message::new(Role::User, "And \"a\\berth\"?"));
    request.sampling = Sampling { temperature: 0.5, top_p: Some(0.9), ..Sampling::default() };
    request.seed = SeedKey { key: 42, stream: 0 };
    request
}

#[tokio::test]
async fn each_codec_encodes_the_request_in_its_format() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
    let mut request = full();
    request.response_schema = Some(schema.clone());

    let openai = sent("openai/gpt-4o", &request).await;
    assert_eq!((openai.path.as_str(), openai.api), ("/v1/chat/completions", Some(Api::OpenAi)));
    assert_eq!(openai.header("authorization"), Some("Bearer sk-test-of-OPENAI"));
    let turns = json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a quay?"},
        {"role": "assistant", "content": "A wharf."}, {"role": "user", "content": "And \"a\\berth\"?"}]);
    let format = json!({"type": "json_schema", "json_schema": {"name": "reply", "strict": true, "schema": schema}});
    assert_eq!(
        openai.body,
        json!({"model": "gpt-4o", "messages": turns, "temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 64,
            "response_format": format, "seed": 42})
    );

    let anthropic = sent("anthropic/claude-3-5-haiku-20241022", &request).await;
    assert_eq!((anthropic.path.as_str(), anthropic.api), ("/v1/messages", Some(Api::Anthropic)));
    assert_eq!(anthropic.header("x-api-key"), Some("sk-test-of-ANTHROPIC"));
    assert_eq!((anthropic.header("anthropic-version"), anthropic.header("authorization")), (Some("2023-06-01"), None));
    let rest = &turns.as_array().unwrap()[1..];
    assert_eq!(
        anthropic.body,
        json!({"model": "claude-3-5-haiku-20241022", "max_tokens": 64, "messages": rest, "system": "Be brief.", "temperature": 0.5,
            "top_p": 0.9, "output_config": {"format": {"type": "json_schema", "schema": schema}}})
    );

    let gemini = sent("gemini/gemini-2.5-flash", &request).await;
    assert_eq!(gemini.path, "/v1/models/gemini-2.5-flash:generateContent");
    assert_eq!((gemini.header("x-goog-api-key"), gemini.header("authorization")), (Some("sk-test-of-GEMINI"), None));
    let part = |role: &str, text: &str| json!({"role": role, "parts": [{"text": text}]});
    assert_eq!(
        gemini.body,
        json!({"contents": [part("user", "What is a quay?"), part("model", "A wharf."), part("user", "And \"a\\berth\"?")],
            "generationConfig": {"temperature": 0.5, "seed": 42, "topP": 0.9, "maxOutputTokens": 64,
                "responseMimeType": "application/json", "responseJsonSchema": schema},
            "systemInstruction": {"parts": [{"text": "Be brief."}]}})
    );

    let openrouter = sent("openrouter/qwen/qwen3-8b:free", &request).await;
    assert_eq!(openrouter.body["provider"], json!({"require_parameters": true}));
    assert_eq!((&openrouter.body["seed"], &openrouter.body["max_tokens"]), (&Value::Null, &json!(64)));
    let plain = sent("openrouter/qwen/qwen3-8b:free", &full()).await;
    assert_eq!((&plain.body["seed"], &plain.body["provider"]), (&json!(42), &Value::Null));
    let own = sent(
        "openai-compatible/x",
        &ChatRequest { sampling: Sampling { min_p: Some(0.1), top_k: Some(40), ..Sampling::default() }, ..full() },
    )
    .await;
    assert_eq!(
        (&own.body["min_p"], &own.body["top_k"], &own.body["temperature"]),
        (&json!(0.1), &json!(40), &json!(0.0))
    );

    let thinking = sent(
        "openai/o4-mini",
        &ChatRequest { sampling: Sampling { temperature: 1.0, ..Sampling::default() }, ..full() },
    )
    .await;
    assert_eq!(thinking.body["temperature"], Value::Null);
    let open_schema = json!({"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"], "additionalProperties": false});
    let loose = sent("openai/gpt-4o", &ChatRequest { response_schema: Some(open_schema), ..full() }).await;
    assert_eq!(loose.body["response_format"]["json_schema"]["strict"], json!(false));
}

#[tokio::test]
async fn seeds_of_one_run_differ_by_turn_and_fit_every_api() {
    let mut seen = std::collections::BTreeSet::new();
    for stream in 0..50 {
        let request = ChatRequest { seed: SeedKey { key: u64::MAX - 7, stream }, ..full() };
        let seed = sent("gemini/gemini-2.5-flash", &request).await.body["generationConfig"]["seed"].as_u64().unwrap();
        assert!(seed <= i32::MAX as u64 && seen.insert(seed), "{stream}: {seed}");
    }
    assert_eq!(ApiName::parse("anthropic/x").unwrap().provider.seed_support, SeedSupport::NotSent);
    assert_eq!(sent("anthropic/claude-3-5-haiku-20241022", &full()).await.body["seed"], Value::Null);
}

#[tokio::test]
async fn unsupported_fields_are_refused_and_nothing_is_sent() {
    let server = FaultServer::always(Act::Reply("ok".into())).await;
    let with = |change: fn(&mut ChatRequest)| {
        let mut request = full();
        change(&mut request);
        request
    };
    for (name, request, said) in [
        ("openai/gpt-4o", with(|r| r.sampling.top_k = Some(5)), "does not support top_k"),
        ("goodfire/x", with(|r| r.sampling.top_k = Some(5)), "does not support top_k"),
        ("anthropic/x", with(|r| r.sampling.min_p = Some(0.1)), "does not support min_p"),
        ("gemini/x", with(|r| r.sampling.min_p = Some(0.1)), "does not support min_p"),
        ("anthropic/x", with(|r| r.sampling.temperature = 1.5), "temperature of 1.5"),
        ("openai/gpt-4o", with(|r| r.sampling.temperature = f64::NAN), "temperature of NaN"),
        ("openai/o3-mini", with(|r| r.sampling.temperature = 0.5), "a fixed temperature"),
        ("anthropic/x", with(|r| r.max_new_tokens = None), "requires max_tokens"),
        ("goodfire/x", with(|r| r.response_schema = Some(json!({}))), "JSON schema"),
        ("gemini/x", with(|r| r.messages.push(Message::new(Role::System, "late"))), "before all others"),
        ("openai/gpt-4o", with(|r| r.messages.truncate(1)), "no message to answer"),
        ("openai/gpt-4o", with(|r| r.max_seq_len = Some(9)), "max_seq_len"),
        ("openai/gpt-4o", with(|r| r.probes = Some(Default::default())), "hidden states"),
    ] {
        let refused = open(name, &server).chat(&request).await;
        let Err(ModelError::Refused(problem)) = refused else { panic!("{name} {said}: {refused:?}") };
        assert!(problem.what.contains(said) && problem.hint.is_some(), "{name}: {problem}");
    }
    assert!(server.received().is_empty());
}

#[test]
fn base_urls_are_checked_and_a_key_is_never_sent_unencrypted() {
    let open = |name: &str, base: Option<&str>| {
        let options = ApiOptions { base_url: base.map(str::to_string), ..ApiOptions::default() };
        ApiModel::open(name, &keys(), options).err().map(|problem| problem.what)
    };
    assert_eq!(open("openai/gpt-4o", None), None);
    assert_eq!(open("openai-compatible/x", Some("http://localhost:8080/v1/")), None);
    assert_eq!(open("openai-compatible/x", Some("http://[::1]:8080/v1")), None);
    for (base, said) in [
        (None, "needs base_url"),
        (Some("nowhere"), "is not a URL"),
        (Some("file:///etc/passwd"), "http"),
        (Some("http://user:pass@127.0.0.1/v1"), "has a user, a query or a fragment"),
        (Some("https://gateway.example/v1?key=secret-in-here"), "has a user, a query or a fragment"),
        (Some("http://gateway.example/v1"), "unencrypted"),
    ] {
        let what = open("openai-compatible/x", base).unwrap_or_default();
        assert!(what.contains(said) && !what.contains("secret") && !what.contains("pass"), "{base:?}: {what}");
    }
    let without_key = ApiOptions { base_url: Some("http://gateway.example/v1".into()), ..ApiOptions::default() };
    assert!(ApiModel::open("openai-compatible/x", &Keys::default(), without_key).is_ok());
}

#[tokio::test]
async fn a_price_comes_from_the_options_or_the_table_or_is_unknown() {
    let server = FaultServer::always(Act::Reply("ok".into())).await;
    let bare = |name: &str| {
        ApiModel::open(name, &keys(), ApiOptions { base_url: Some(server.base_url()), ..ApiOptions::default() })
            .unwrap()
    };
    assert_eq!(bare("openai/gpt-4o").price(), Price::from_usd_per_million(2.5, 10.0).ok());
    assert_eq!(
        (bare("openai-compatible/x").price(), bare("openai-compatible/x").worst_case_micro_usd(&request())),
        (None, None)
    );
    let free = bare("openrouter/x/y:free");
    assert_eq!(free.worst_case_micro_usd(&ChatRequest { max_new_tokens: None, ..request() }), Some(0));
    let priced = open("openai-compatible/x", &server);
    let reply = priced.chat(&request()).await.unwrap();
    let worst = priced.worst_case_micro_usd(&request()).unwrap();
    assert!(
        worst as f64 / 1e6 >= reply.usage.cost_usd && reply.usage.cost_usd == 183e-6,
        "{worst} {}",
        reply.usage.cost_usd
    );
}

#[test]
fn fields_that_a_model_refuses_are_refused_or_left_out() {
    let keys = keys();
    let open = |name: &str| ApiModel::open(name, &keys, ApiOptions::default()).unwrap();
    let asked = |sampling| ChatRequest { sampling, ..request() };
    let both = Sampling { temperature: 0.7, top_p: Some(0.95), ..Sampling::default() };
    let claude = open("anthropic/claude-sonnet-4-5");
    assert!(claude.check(&asked(both)).unwrap_err().what.contains("not both"));
    assert!(claude.check(&asked(Sampling { top_p: None, ..both })).is_ok());
    let o3 = open("openai/o3");
    assert!(o3.check(&asked(both)).is_err() && o3.check(&asked(Sampling::default())).is_err());
    assert!(o3.check(&asked(Sampling::model_default())).is_ok());
}
