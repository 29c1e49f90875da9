//! API models against a faulty server: each fault gets its class, in time; nothing is sent twice; a billed cost is known or stays unknown.

mod plan;
pub mod secrets;

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tiltmeter_model::{
    ChatReply, ChatRequest, Finish, Message, Model, ModelError, Role,
    failure::{Class, Failure},
    secret::Keys,
};
use tiltmeter_providers::{ApiModel, ApiOptions, Price, Timeouts};
use tiltmeter_test_support::fault_server::{Act, Api, FaultServer, Limit, PROMPT_TOKENS, REPLY_TOKENS};

/// One model of each API, and two that use variants of OpenAI's.
const MODELS: [&str; 5] = [
    "openai/gpt-4o",
    "anthropic/claude-haiku-4-5",
    "gemini/gemini-2.5-flash",
    "openrouter/qwen/qwen3-8b",
    "openai-compatible/local",
];

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_millis(500),
    first_byte: Duration::from_millis(400),
    idle: Duration::from_millis(300),
    attempt: Duration::from_millis(900),
};

fn price() -> Price {
    Price::from_usd_per_million(3.0, 15.0).unwrap()
}

/// Cost of one billed call.
fn billed_micro_usd() -> u64 {
    price().cost(PROMPT_TOKENS, REPLY_TOKENS)
}

fn keys() -> Keys {
    let variables = ["OPENAI", "ANTHROPIC", "GEMINI", "OPENROUTER", "GOODFIRE", "OPENAI_COMPATIBLE"];
    Keys::from_pairs(variables.map(|name| (format!("{name}_API_KEY"), format!("sk-test-of-{name}"))))
}

fn open(name: &str, server: &FaultServer) -> ApiModel {
    open_with(name, server, TIMEOUTS)
}

fn open_with(name: &str, server: &FaultServer, timeouts: Timeouts) -> ApiModel {
    let base_url = Some(server.base_url());
    let options = ApiOptions { base_url, timeouts, price: Some(price()), ..ApiOptions::default() };
    ApiModel::open(name, &keys(), options).unwrap()
}

fn request() -> ChatRequest {
    let messages = vec![Message::new(Role::System, "Be brief."), Message::new(Role::User, "What is a quay?")];
    ChatRequest { max_new_tokens: Some(64), ..ChatRequest::new(messages) }
}

fn failure(result: Result<ChatReply, ModelError>) -> Failure {
    match result {
        Err(ModelError::Call(failure)) => *failure,
        other => panic!("expected a failed call, got {other:?}"),
    }
}

/// Expected result of a fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Is(Class),
    Reply(Finish),
}

fn faults() -> Vec<(Act, End)> {
    use Class::*;
    let minute = Duration::from_secs(60);
    let raw = |status, body: &str| Act::Raw(status, Vec::new(), body.as_bytes().to_vec());
    let mut table = vec![
        (Act::Reply("a wharf".into()), End::Reply(Finish::Stop)),
        (Act::ReplyThenClose("a wharf".into()), End::Reply(Finish::Stop)),
        (Act::CutShort("a whar".into()), End::Reply(Finish::Length)),
        (Act::Filtered, End::Reply(Finish::ContentFilter)),
        (Act::WrongUsage, End::Reply(Finish::Stop)),
        (Act::NoUsage, End::Reply(Finish::Stop)),
        (Act::Late(Duration::from_millis(150), "late but in time".into()), End::Reply(Finish::Stop)),
        (Act::Late(Duration::from_secs(3), "too late".into()), End::Is(Transient)),
        (Act::Html(502), End::Is(Transient)),
        (Act::Html(200), End::Is(Malformed)),
        (Act::ResetBeforeBody, End::Is(Transient)),
        (Act::ResetMidBody, End::Is(Transient)),
        (Act::TruncatedJson, End::Is(Malformed)),
        (Act::WrongShape, End::Is(Malformed)),
        (Act::EmptyChoices, End::Is(Malformed)),
        (Act::NullContent, End::Is(Malformed)),
        (Act::EmptyBody, End::Is(Malformed)),
        (Act::Huge { bytes: 50 << 20, announced: true }, End::Is(Malformed)),
        (Act::Huge { bytes: 50 << 20, announced: false }, End::Is(Malformed)),
        (Act::SlowLoris(Duration::from_millis(20)), End::Is(Transient)),
        (Act::SlowLoris(Duration::from_millis(600)), End::Is(Transient)),
        (Act::Silence, End::Is(Transient)),
        (Act::SilenceAfterHead, End::Is(Transient)),
        (raw(200, "null"), End::Is(Malformed)),
        (raw(200, "[]"), End::Is(Malformed)),
        (raw(200, "\u{feff}\0\0"), End::Is(Malformed)),
        (raw(400, "{{{"), End::Is(BadRequest)),
        (Act::Raw(307, vec![("location".into(), "/elsewhere".into())], Vec::new()), End::Is(BadRequest)),
        (Act::Limited(Limit::Quota), End::Is(Quota)),
        (Act::Limited(Limit::Daily), End::Is(Quota)),
    ];
    let limits = [
        Limit::Silent,
        Limit::Seconds(2.0),
        Limit::Milliseconds(300),
        Limit::Date(minute),
        Limit::RetryInfo(34.5),
        Limit::Reset(minute),
        Limit::Epoch(minute),
    ];
    table.extend(limits.map(|limit| (Act::Limited(limit), End::Is(RateLimit))));
    for (class, statuses) in [
        (BadRequest, &[400, 404, 413, 422][..]),
        (Auth, &[401, 403]),
        (Quota, &[402]),
        (Transient, &[408, 409, 500, 502, 503, 504, 529]),
    ] {
        table.extend(statuses.iter().map(|status| (Act::Status(*status), End::Is(class))));
    }
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_gets_its_class_in_time_and_is_sent_once() {
    let cases = MODELS.iter().flat_map(|model| faults().into_iter().map(move |(act, end)| (*model, act, end)));
    let tried = cases.map(|(model, act, end)| async move {
        let server = FaultServer::always(act.clone()).await;
        // Megabytes are slow when tests share a processor; the size cap ends these calls, not a time-out.
        let slow = Timeouts { attempt: Duration::from_secs(20), ..TIMEOUTS };
        let timeouts = if matches!(act, Act::Huge { .. }) { slow } else { TIMEOUTS };
        let api = open_with(model, &server, timeouts);
        let begin = Instant::now();
        let result = api.chat(&request()).await;
        let took = begin.elapsed();
        let name = format!("{model} {act:?}");
        match (&result, end) {
            (Ok(reply), End::Reply(finish)) => assert_eq!(reply.finish, finish, "{name}"),
            (Err(ModelError::Call(failure)), End::Is(class)) => {
                assert_eq!(failure.class, class, "{name}: {}", failure.problem);
                assert!(
                    failure.problem.hint.is_some() && failure.problem.what.len() < 450,
                    "{name}: {}",
                    failure.problem
                );
            }
            _ => panic!("{name}: {result:?}"),
        }
        assert!(took < timeouts.attempt + Duration::from_secs(1), "{name} took {took:?}");
        assert_eq!(server.received().len(), 1, "{name} was asked more than once");

        // A call reported as free was not billed; any other reported cost equals the bill, to the micro-dollar.
        let billed = server.bill().len() as u64 * billed_micro_usd();
        match result {
            Ok(reply) => {
                let cost = (reply.usage.cost_usd * 1e6).round() as u64;
                let guessed = matches!(act, Act::WrongUsage | Act::NoUsage);
                assert!(if guessed { cost > billed } else { cost == billed }, "{name}: {cost} for a bill of {billed}");
            }
            Err(error) => {
                let known = failure(Err(error)).cost_micro_usd;
                assert!(known.is_none_or(|cost| cost == billed), "{name}: {known:?} for a bill of {billed}");
            }
        }
    });
    // Not all at once: a busy processor would delay the time-outs.
    let tried = stream::iter(tried).buffer_unordered(24).count().await;
    assert_eq!(tried, MODELS.len() * faults().len());
}

#[tokio::test]
async fn every_form_of_retry_after_is_reported() {
    let seconds = Duration::from_secs_f64;
    for (model, limit, least, most) in [
        ("openai/gpt-4o", Limit::Seconds(7.0), 7.0, 7.0),
        ("openai/gpt-4o", Limit::Seconds(1.5), 1.5, 1.5),
        ("openai/gpt-4o", Limit::Milliseconds(250), 0.25, 0.25),
        ("openai/gpt-4o", Limit::Date(seconds(60.0)), 58.0, 61.0),
        ("openai/gpt-4o", Limit::Reset(seconds(360.5)), 360.5, 360.5),
        ("anthropic/claude-haiku-4-5", Limit::Reset(seconds(60.0)), 57.0, 60.0),
        ("anthropic/claude-haiku-4-5", Limit::Seconds(12.0), 12.0, 12.0),
        ("gemini/gemini-2.5-flash", Limit::RetryInfo(34.5), 34.5, 34.5),
        ("openrouter/x/y:free", Limit::Epoch(seconds(30.0)), 28.0, 30.0),
    ] {
        let server = FaultServer::always(Act::Limited(limit.clone())).await;
        let failure = failure(open(model, &server).chat(&request()).await);
        let wait = failure.retry_after.map(|wait| wait.as_secs_f64());
        assert!(wait.is_some_and(|wait| (least..=most).contains(&wait)), "{model} {limit:?}: {wait:?}");
        assert_eq!((failure.class, failure.status), (Class::RateLimit, Some(429)));
    }
    let server = FaultServer::always(Act::Limited(Limit::Silent)).await;
    assert_eq!(failure(open("openai/gpt-4o", &server).chat(&request()).await).retry_after, None);
}

#[tokio::test]
async fn time_outs_close_the_connection() {
    // Far enough apart to tell which of them it was.
    let patient = Timeouts { attempt: Duration::from_secs(5), ..TIMEOUTS };
    let ms = Duration::from_millis;
    for (act, timeouts, limit, said) in [
        (Act::Silence, patient, patient.first_byte, "400 ms for the first byte"),
        (Act::Late(ms(5000), "too late".into()), patient, patient.first_byte, "400 ms for the first byte"),
        (Act::SilenceAfterHead, patient, patient.idle, "300 ms for more of the reply"),
        (Act::SlowLoris(ms(2000)), patient, patient.idle, "300 ms for more of the reply"),
        (Act::SlowLoris(ms(20)), TIMEOUTS, TIMEOUTS.attempt, "900 ms for the whole reply"),
    ] {
        let server = FaultServer::always(act.clone()).await;
        let options = ApiOptions { base_url: Some(server.base_url()), timeouts, ..ApiOptions::default() };
        let api = ApiModel::open("openai/gpt-4o", &keys(), options).unwrap();
        let failure = failure(api.chat(&request()).await);
        assert!(failure.problem.what.contains(said), "{act:?}: {}", failure.problem.what);
        assert!(gone(&server).await, "{act:?}: the connection is still open");
        let seen = server.received().remove(0);
        let held = seen.hung_up.unwrap() - seen.at;
        assert!(held < limit + Duration::from_secs(1), "{act:?}: held for {held:?}");
    }
    // Dropping the future cancels the call.
    let server = FaultServer::always(Act::Silence).await;
    let api = open("openai/gpt-4o", &server);
    tokio::time::timeout(Duration::from_millis(100), api.chat(&request())).await.unwrap_err();
    assert!(gone(&server).await, "the connection outlived the call");
}

/// Whether the server sees the client leave within a second.
async fn gone(server: &FaultServer) -> bool {
    for _ in 0..100 {
        if server.received().iter().all(|request| request.hung_up.is_some()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn an_unreachable_server_is_transient_and_free() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = Some(format!("http://{}/v1", listener.local_addr().unwrap()));
    drop(listener);
    let options = ApiOptions { base_url, timeouts: TIMEOUTS, ..ApiOptions::default() };
    let api = ApiModel::open("openai-compatible/x", &Keys::default(), options).unwrap();
    let failure = failure(api.chat(&request()).await);
    assert_eq!((failure.class, failure.cost_micro_usd), (Class::Transient, Some(0)));
    assert!(!failure.problem.what.contains("127.0.0.1"), "{}", failure.problem.what);
}

#[tokio::test]
async fn an_error_inside_a_success_is_classified_as_the_error() {
    let inside = |body: &str| Act::Raw(200, Vec::new(), body.as_bytes().to_vec());
    for (body, class) in [
        (r#"{"error": {"code": 429, "message": "slow down"}}"#, Class::RateLimit),
        (r#"{"error": {"code": 402, "message": "no credit"}}"#, Class::Quota),
        (
            r#"{"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": ""}}]}"#,
            Class::Transient,
        ),
        (r#"{"error": "something"}"#, Class::Malformed),
    ] {
        let server = FaultServer::always(inside(body)).await;
        let failure = failure(open("openrouter/x/y", &server).chat(&request()).await);
        assert_eq!((failure.class, failure.cost_micro_usd), (class, None), "{body}: {}", failure.problem);
    }
    let filter = r#"{"error": {"code": "content_filter", "message": "policy"}}"#;
    let server = FaultServer::always(Act::Raw(400, Vec::new(), filter.as_bytes().to_vec())).await;
    let reply = open("openai/gpt-4o", &server).chat(&request()).await.unwrap();
    assert_eq!((reply.finish, reply.usage.cost_usd), (Finish::ContentFilter, 0.0));
}

#[tokio::test]
async fn no_truncated_or_altered_body_is_accepted_as_a_free_reply() {
    for (model, api) in [(MODELS[0], Api::OpenAi), (MODELS[1], Api::Anthropic), (MODELS[2], Api::Gemini)] {
        let whole = api.reply("a wharf, says \"quay\"");
        let mut bodies: Vec<String> = (0..whole.to_string().len()).map(|end| whole.to_string()[..end].into()).collect();
        let cut = bodies.len();
        // Every value in it replaced by every kind of value.
        for place in places(&whole, "") {
            for other in
                [json!(null), json!(-1), json!(1e300), json!("x"), json!([]), json!({}), json!([[{}]]), json!(true)]
            {
                let mut body = whole.clone();
                *body.pointer_mut(&place).unwrap() = other;
                bodies.push(body.to_string());
            }
        }
        let script = bodies.clone();
        let server = FaultServer::start(move |n, _| Act::Raw(200, Vec::new(), script[n].clone().into_bytes())).await;
        let api = open(model, &server);
        for (i, body) in bodies.iter().enumerate() {
            match api.chat(&request()).await {
                Ok(reply) => {
                    assert!(i >= cut, "{body}");
                    let most = api.worst_case_micro_usd(&request()).unwrap() as f64 / 1e6;
                    assert!((0.0..=most).contains(&reply.usage.cost_usd), "{body}: {reply:?}");
                }
                Err(error) => assert_eq!(failure(Err(error)).class, Class::Malformed, "{body}"),
            }
        }
    }
}

/// Where each value of a document stands, from the outside in.
fn places(value: &Value, here: &str) -> Vec<String> {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let deeper = inside.into_iter().flat_map(|(key, value)| places(value, &format!("{here}/{key}")));
    std::iter::once(here.to_string()).chain(deeper).collect()
}

#[tokio::test]
async fn a_fault_fails_only_its_own_call() {
    let server = FaultServer::start(|n, _| match n % 5 {
        3 => Act::ResetMidBody,
        4 => Act::Limited(Limit::Seconds(1.0)),
        _ => Act::Reply(format!("reply {n}")),
    })
    .await;
    let api = open("openai/gpt-4o", &server);
    let mut kept = 0;
    for n in 0..50 {
        match api.chat(&request()).await {
            Ok(reply) => {
                assert_eq!(reply.message.content, format!("reply {n}"));
                assert_eq!(reply.version.as_deref(), Some("served-2026-01-01"));
                kept += 1;
            }
            Err(error) => assert!(matches!(failure(Err(error)).class, Class::Transient | Class::RateLimit)),
        }
    }
    assert_eq!((kept, server.received().len(), server.bill().len()), (30, 50, 40));
}

/// A client library may retry on a dead pooled connection, which would be billed twice.
#[tokio::test]
async fn a_pooled_connection_that_dies_is_not_retried() {
    let server = FaultServer::start(|n, _| match n % 3 {
        0 => Act::ReplyThenClose("once".into()),
        1 => Act::Reply("again".into()),
        _ => Act::ResetBeforeBody,
    })
    .await;
    let api = open("openai/gpt-4o", &server);
    let mut kept = 0;
    for _ in 0..300 {
        kept += usize::from(api.chat(&request()).await.is_ok());
    }
    let (asked, billed) = (server.received().len(), server.bill().len());
    assert!(asked <= 300 && kept == billed && billed >= 150, "{asked} asked, {billed} billed, {kept} kept");
}
