//! The comparison with the official Python client: it reads what was appended here, what it commits is appended to here, and
//! both see the same bytes. Runs where TILTMETER_PYTHON names a Python that has huggingface_hub, and says so where it does not.

use std::process::Command;

use serde_json::Value;
use tiltmeter_test_support::{
    hub::{FakeHub, TOKEN},
    paths::in_repo,
};

use super::{FILE, REPO, file, lines, open, records};

/// One call of tests/peers/hub_readback.py.
async fn python(python: &str, hub: &FakeHub, arguments: &[&str]) -> Value {
    let script = in_repo("tests/peers/hub_readback.py");
    let mut command = Command::new(python);
    command.arg(script).args([REPO, FILE]).args(arguments).env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", TOKEN);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}\n{:#?}", hub.asked().last());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Base64 of the fake Hub's own reader would check itself; the peer's is compared as text.
fn base64(bytes: &[u8]) -> String {
    tiltmeter_test_support::keys::base64_unpadded(bytes, b"+/") + ["", "==", "="][bytes.len() % 3]
}

#[tokio::test]
async fn the_official_client_and_this_one_read_each_others_bytes() {
    let Ok(path) = std::env::var("TILTMETER_PYTHON") else {
        // Past the capture of the test harness, so that nobody takes this for a comparison that was made.
        use std::io::Write;
        let said = "NOT RUN: the comparison with huggingface_hub; set TILTMETER_PYTHON to a Python that has it\n";
        std::io::stdout().write_all(said.as_bytes()).unwrap();
        return;
    };
    let hub = FakeHub::with(REPO).await;
    let dataset = open(&hub);
    let first = dataset.append(FILE, &records(&["a", "b"])).await.unwrap();

    let seen = python(&path, &hub, &["read"]).await;
    assert_eq!(
        (seen["head"].as_str(), &seen["content"]),
        (first.commit.as_deref(), &base64(file(&hub).as_bytes()).into())
    );
    assert_eq!(seen["files"], serde_json::json!([".gitattributes", FILE]));

    // Its commit, and ours after it, without and with its record among ours.
    let theirs = "{\"run_id\": \"theirs\", \"text\": \"größer\"}";
    let made = python(&path, &hub, &["append", theirs]).await;
    assert_eq!(made["commit"].as_str(), Some(hub.commits(REPO)[2].oid.as_str()));
    let second = dataset.append(FILE, &records(&["b", "theirs", "c"])).await.unwrap();
    assert_eq!((second.added, second.already_there), (1, 2));
    let whole = format!("{}{theirs}\n{}", lines(&["a", "b"]), lines(&["c"]));
    assert_eq!(file(&hub), whole);
    let seen = python(&path, &hub, &["read"]).await;
    assert_eq!((&seen["content"], seen["head"].as_str()), (&base64(whole.as_bytes()).into(), second.commit.as_deref()));

    // A file that it put into LFS is read here.
    hub.lfs_from(1000);
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.jsonl");
    let ids: Vec<String> = (0..50).map(|n| format!("run-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    std::fs::write(&large, lines(&ids)).unwrap();
    python(&path, &hub, &["replace", large.to_str().unwrap()]).await;
    assert!(hub.asked().iter().any(|request| request.line.starts_with("PUT /lfs/")), "it went by LFS");
    assert_eq!(file(&hub), lines(&ids));
    assert_eq!(dataset.append(FILE, &records(&ids)).await.unwrap().already_there, 50);
    println!("compared with huggingface_hub {}", seen["version"]);
}
