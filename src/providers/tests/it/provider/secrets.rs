//! Keys leave in a header and nowhere else, even if a server echoes them in any encoding; and how keys are read from files and variables.

use super::{MODELS, TIMEOUTS, request};
use tiltmeter_model::{
    Model, ModelError,
    secret::{ApiKey, Keys, REDACTED, Scrubber, read_env_file},
};
use tiltmeter_providers::{ApiModel, ApiName, ApiOptions, PROVIDERS, Provider};
use tiltmeter_test_support::fault_server::{Act, FaultServer};
use tiltmeter_test_support::keys::{encodings, leaked};

/// Compiles only while no key can be shown: with one of the traits, two impls would fit.
const _: fn() = || {
    trait Hidden<Way> {
        fn hidden() {}
    }
    struct ByDebug;
    struct ByDisplay;
    struct BySerialize;
    impl<T> Hidden<()> for T {}
    impl<T: std::fmt::Debug> Hidden<ByDebug> for T {}
    impl<T: std::fmt::Display> Hidden<ByDisplay> for T {}
    impl<T: serde::Serialize> Hidden<BySerialize> for T {}
    <ApiKey as Hidden<_>>::hidden();
    <Keys as Hidden<_>>::hidden();
    <Scrubber as Hidden<_>>::hidden();
};

/// With every character that some encoding changes.
fn canary(provider: &Provider) -> String {
    format!("sk-Canary+/=\"\\?>&%{}~0xC0FFEE", provider.prefix)
}

fn canaries() -> Keys {
    Keys::from_pairs(PROVIDERS.each_ref().map(|provider| (provider.key_variable.to_string(), canary(provider))))
}

#[tokio::test]
async fn a_server_that_throws_the_key_back_cannot_get_it_into_an_error() {
    for name in MODELS {
        let provider = ApiName::parse(name).unwrap().provider;
        let key = canary(provider);
        let mut bodies: Vec<(u16, String)> = Vec::new();
        for form in encodings(&key) {
            let json =
                serde_json::json!({"error": {"message": format!("Incorrect API key provided: {form}."), "code": form}});
            bodies.push((401, json.to_string()));
            bodies.push((502, format!("<html><title>at {form}</title></html>")));
            bodies.push((200, format!("no JSON but {form} and more")));
            bodies.push((200, serde_json::json!({"error": {"message": form}}).to_string()));
            // Cut off in the middle of the key.
            for before in 260..300 {
                bodies.push((500, format!("{}{form}", "x".repeat(before))));
            }
        }
        let script = bodies.clone();
        let server = FaultServer::start(move |n, _| {
            let (status, body) = &script[n];
            Act::Raw(*status, vec![("x-echo".into(), "1".into())], body.as_bytes().to_vec())
        })
        .await;
        let options = ApiOptions { base_url: Some(server.base_url()), timeouts: TIMEOUTS, ..ApiOptions::default() };
        let api = ApiModel::open(name, &canaries(), options).unwrap();
        let mut redacted = 0;
        for (status, body) in &bodies {
            let error = api.chat(&request()).await.unwrap_err();
            let ModelError::Call(failure) = &error else { panic!("{name}: {error:?}") };
            let shown = format!("{error} {error:?} {} {failure:?}", error.problem());
            assert_eq!(leaked(&shown, &key), None, "{name} {status} {body}:\n{shown}");
            assert!(!shown.contains("Canary"), "{name} {status} {body}:\n{shown}");
            redacted += usize::from(shown.contains(REDACTED));
        }
        assert!(redacted * 2 > bodies.len(), "{redacted} of {}", bodies.len());
        let asked = server.received();
        let in_headers = |request: &tiltmeter_test_support::fault_server::Received| {
            request.headers.iter().filter(|(_, v)| v.contains(&key)).count()
        };
        assert!(
            asked
                .iter()
                .all(|r| in_headers(r) == 1 && !r.path.contains("Canary") && !r.body.to_string().contains("Canary"))
        );
    }
}

#[test]
fn the_scrubber_knows_a_key_in_every_form_and_leaves_the_rest_alone() {
    let scrubber = canaries().scrubber();
    for provider in &PROVIDERS {
        for form in encodings(&canary(provider)) {
            let text = scrubber.scrub(&format!("before {form} after")).into_owned();
            assert!(
                text.starts_with("before ") && text.ends_with(" after") && text.contains(REDACTED),
                "{form}: {text}"
            );
            assert_eq!(leaked(&text, &canary(provider)), None, "{form}: {text}");
        }
    }
    let text = "nothing to hide, 100 % of it: sk-Canary is only a name";
    assert!(matches!(scrubber.scrub(text), std::borrow::Cow::Borrowed(same) if same == text));
    let short = Keys::from_pairs([("X_API_KEY".to_string(), "a".to_string())]).scrubber();
    assert_eq!(short.scrub("a banana"), "a banana");
}

#[test]
fn a_missing_key_is_one_clear_problem() {
    for provider in PROVIDERS.iter().filter(|provider| provider.needs_key) {
        let name = format!("{}/x", provider.prefix);
        let variable = provider.key_variable;
        for (value, said) in
            [("", "is not set"), ("  ", "is not set"), ("your_key_here", "placeholder"), ("sk-a b", "character")]
        {
            let keys = Keys::from_pairs([(variable.to_string(), value.to_string())]);
            let problem = ApiModel::open(&name, &keys, ApiOptions::default()).err().unwrap();
            assert!(problem.what.contains(variable) && problem.what.contains(said), "{value:?}: {problem}");
            assert!(problem.hint.is_some() && !problem.to_string().contains("sk-a"), "{problem}");
        }
    }
}

#[test]
fn env_files_are_read_as_people_write_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    assert_eq!(read_env_file(&path).unwrap(), []);
    let text = "\u{feff}# keys\nOPENAI_API_KEY=sk-one # mine\r\n\nexport GEMINI_API_KEY = \"sk two#\" # x\nHF_TOKEN='hf_$3'\nBATCH_SIZE=30\nEMPTY=\n";
    std::fs::write(&path, text).unwrap();
    let pairs = read_env_file(&path).unwrap();
    let expected = [
        ("OPENAI_API_KEY", "sk-one"),
        ("GEMINI_API_KEY", "sk two#"),
        ("HF_TOKEN", "hf_$3"),
        ("BATCH_SIZE", "30"),
        ("EMPTY", ""),
    ];
    assert_eq!(pairs, expected.map(|(name, value)| (name.to_string(), value.to_string())));
    let keys = Keys::from_pairs(pairs);
    assert!(keys.get("HF_TOKEN").is_some() && keys.get("BATCH_SIZE").is_none());

    std::fs::write(&path, "A=1\nsk-naked-key\n").unwrap();
    let problem = read_env_file(&path).unwrap_err();
    assert!(problem.place.as_deref().unwrap().ends_with(":2") && !problem.to_string().contains("naked"), "{problem}");
    std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    assert!(read_env_file(&path).is_err());
}
