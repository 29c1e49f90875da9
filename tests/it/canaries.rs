//! The search for keys where none may be: the program runs with a canary in every provider's variable against servers that throw
//! back what they are sent, and every file, line and error it leaves is searched for each canary in every form it can take.

use std::{fs, path::Path};

use crate::tiltmeter;
use serde_json::json;
use tiltmeter_providers::{PROVIDERS, Provider};
use tiltmeter_test_support::{
    fault_server::{Act, FaultServer, Limit, Received},
    process::{Finished, files},
};

/// With every character that some encoding writes otherwise.
fn canary(variable: &str) -> String {
    format!("sk-Canary+{variable}/\"x\\y=&~")
}

fn variables() -> Vec<String> {
    let providers = PROVIDERS.each_ref().map(|provider| provider.key_variable.to_owned());
    providers.into_iter().chain(["HF_TOKEN".to_owned()]).collect()
}

/// Text, JSON in text, address.
fn forms(key: &str) -> Vec<String> {
    let quoted = json!(key).to_string();
    let twice = json!(quoted).to_string();
    let percent: String = key
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let lower = percent.replace("%2B", "%2b").replace("%2F", "%2f").replace("%5C", "%5c").replace("%3D", "%3d");
    vec![key.to_owned(), quoted[1..quoted.len() - 1].to_owned(), twice, percent, lower]
}

/// The key in base64, with so many bytes before it.
fn in_base64(key: &str) -> impl Iterator<Item = String> {
    (0..3).map(move |offset| base64(&[vec![b' '; offset], key.as_bytes().to_vec()].concat()))
}

/// What to search for: of base64 without the signs that the neighbours share.
fn traces(key: &str) -> Vec<String> {
    let inner = in_base64(key).enumerate().map(|(n, text)| text[4 * usize::from(n > 0)..text.len() - 4].to_owned());
    forms(key).into_iter().chain(inner).collect()
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let sign = SIGNS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(sign) } else { '=' });
        }
    }
    text
}

#[track_caller]
fn assert_silent(where_: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for variable in variables() {
        for form in traces(&canary(&variable)) {
            assert!(!text.contains(&form), "{where_} shows {variable} as {form}");
        }
    }
    assert!(!text.contains("Canary"), "{where_} shows a part of a key: {}", around(&text));
}

fn around(text: &str) -> String {
    let at = text.find("Canary").unwrap_or_default();
    text.chars().skip(text[..at].chars().count().saturating_sub(60)).take(200).collect()
}

/// The header that carried the key, as the server saw it.
fn key_of(received: &Received) -> String {
    let header = ["authorization", "x-api-key", "x-goog-api-key"].iter().find_map(|name| received.header(name));
    header.unwrap_or_default().trim_start_matches("Bearer ").to_owned()
}

/// Throws the key back in one form or the other, in replies and in refusals of every kind.
fn echo(n: usize, received: &Received) -> Act {
    let key = key_of(received);
    let forms: Vec<String> = forms(&key).into_iter().chain(in_base64(&key)).collect();
    let form = &forms[n % forms.len()];
    let error = json!({"error": {"message": format!("no leave for {form}"), "code": form}}).to_string().into_bytes();
    let headers = vec![("x-request-id".to_owned(), "1".to_owned()), ("retry-after".to_owned(), "0".to_owned())];
    match n % 7 {
        0 => Act::Raw(503, headers, error),
        1 => Act::Raw(429, headers, error),
        2 => Act::Raw(502, headers, format!("<html><h1>{form}</h1></html>").into_bytes()),
        3 => Act::Limited(Limit::Milliseconds(5)),
        4 => Act::Raw(200, headers, format!("not JSON: {form}").into_bytes()),
        _ => Act::Reply(format!("I was called with {form}, and answer all the same.")),
    }
}

fn spec(folder: &Path, provider: &Provider, base_url: &str) -> std::path::PathBuf {
    let verdict = json!({
        "strategy": "Evasion", "outcome": "VAULT PROTECTED", "reasoning": "r", "critical_response": "c",
        "deception_level": "minimal", "protocol_adherence": {"primary_directive": true, "secondary_protocol": false},
    });
    let set = folder.join("set.json");
    let variants = json!({"a": {"name": "A", "prompts": ["One?", "Two?", "Three?"]}});
    fs::write(&set, json!({"briefing": "Answer.", "variants": variants}).to_string()).unwrap();
    let spec = json!({
        "kind": "interview", "experiment": "canaries", "prompt_set": set,
        "steward": {
            "name": format!("{}/m", provider.prefix), "base_url": base_url, "price": {"input": 1, "output": 1},
            "attempt_timeout": 10, "max_attempts": 3,
        },
        "judge": {"name": "scripted", "script": [{"reply": verdict.to_string()}]},
        "runs_per_variant": 6, "parallel": 3, "budget_limit": 10, "stop_on_refusal": {"rule": "none"},
        "sampling": {"max_new_tokens": 20},
        "lanes": {provider.prefix: {"requests_per_minute": 100_000}},
    });
    let path = folder.join("canaries.json");
    fs::write(&path, spec.to_string()).unwrap();
    path
}

/// Plans and runs a batch on this provider; how many requests the server threw back.
async fn searched(provider: &Provider) -> usize {
    let server = FaultServer::start(echo).await;
    let home = tempfile::tempdir().unwrap();
    let path = spec(home.path(), provider, &server.base_url());
    for command in ["plan", "run"] {
        let mut process = tiltmeter([command]);
        process.arg(&path).current_dir(home.path());
        if command == "run" {
            process.args(["--progress", "plain", "--out", "out"]);
        }
        for variable in variables() {
            process.env(&variable, canary(&variable));
        }
        let ended = tokio::task::spawn_blocking(move || Finished::of(&mut process)).await.unwrap();
        let title = format!("{command} with {}", provider.title);
        assert!([Some(0), Some(4)].contains(&ended.code), "{title}: {}\n{}", ended.stdout, ended.stderr);
        assert_silent(&format!("standard output of {title}"), ended.stdout.as_bytes());
        assert_silent(&format!("standard error of {title}"), ended.stderr.as_bytes());
    }
    let found = files(home.path());
    assert!(found.keys().any(|name| name.ends_with("journal.jsonl")), "{:?}", found.keys());
    for (name, bytes) in &found {
        assert_silent(name, bytes);
    }
    assert!(server.received().iter().all(|received| key_of(received).contains("Canary")), "{}", provider.title);
    server.received().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_in_any_file_line_or_error_of_a_batch_whose_servers_throw_it_back() {
    let thrown_back: usize = futures::future::join_all(PROVIDERS.each_ref().map(searched)).await.into_iter().sum();
    assert!(thrown_back > 100, "only {thrown_back} requests were thrown back");
}
