//! The tests of a checkpoint's files, in a folder and on a hub (a small one of our own, on this machine).

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use tiltmeter_engine::checkpoint::{hub::Checkpoint, template::ChatTemplate};
use tiltmeter_model::problem::Problem;

use super::says;

/// A folder with everything but real weights.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("config.json", "{}"),
        ("tokenizer.json", "{}"),
        ("model.safetensors", "weights"),
        ("special_tokens_map.json", r#"{"bos_token": "<old>", "unk_token": "<unk>"}"#),
        ("tokenizer_config.json", r#"{"bos_token": {"content": "<s>"}, "chat_template": "inside", "pad_token": null}"#),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
    }
    folder
}

fn open(folder: &tempfile::TempDir) -> Result<Checkpoint, Problem> {
    Checkpoint::open(folder.path().to_str().unwrap())
}

#[test]
fn of_one_file() {
    let folder = folder();
    let checkpoint = open(&folder).unwrap();
    assert_eq!(checkpoint.chat_template.as_deref(), Some("inside"));
    assert_eq!(checkpoint.special_tokens["bos_token"], "<s>");
    assert_eq!(checkpoint.special_tokens["unk_token"], "<unk>");
    assert!(!checkpoint.special_tokens.contains_key("pad_token") && checkpoint.generation_config.is_none());
    let fingerprint = checkpoint.fingerprint().unwrap();
    let hex = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
    assert_eq!(fingerprint.value, format!("sha256:{hex}"));
    assert_eq!(fingerprint.files, [("model.safetensors".to_owned(), hex.to_owned())]);
}

#[test]
fn in_shards_is_named_by_the_digests_in_name_order() {
    let folder = folder();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let index =
        r#"{"weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors", "c": "model-2.safetensors"}}"#;
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    fs::write(folder.path().join("model-1.safetensors"), "abc").unwrap();
    says(&open(&folder).unwrap_err(), "1 of 2 weight files are missing, the first is model-2.safetensors", "again");
    fs::write(folder.path().join("model-2.safetensors"), "").unwrap();
    let fingerprint = open(&folder).unwrap().fingerprint().unwrap();
    // SHA-256 of "abc" and of nothing, joined and hashed.
    assert_eq!(fingerprint.files[0].1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(fingerprint.files[1].1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(fingerprint.value, "sha256:17076dc047c0c18dc1ba5e0310336762a1db0b7daa275b1004887c2cca2c25b0");
}

#[test]
fn template_files_override_and_named_templates_have_a_default() {
    let folder = folder();
    let config = folder.path().join("tokenizer_config.json");
    fs::write(
        &config,
        r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#,
    )
    .unwrap();
    assert_eq!(open(&folder).unwrap().chat_template.as_deref(), Some("d"));
    fs::write(&config, r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#).unwrap();
    says(&open(&folder).unwrap_err(), "among: rag", "chat_template.jinja");
    fs::write(folder.path().join("chat_template.jinja"), "beside").unwrap();
    assert_eq!(open(&folder).unwrap().chat_template.as_deref(), Some("beside"));
    fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    fs::write(&config, "{}").unwrap();
    says(&ChatTemplate::of(&open(&folder).unwrap()).err().unwrap(), "has no chat template", "instruct");
}

#[test]
fn problems_tell_apart_what_is_missing() {
    says(&Checkpoint::open("./no/such/folder").unwrap_err(), "no folder `./no/such/folder`", "hub id");
    says(&Checkpoint::open("nothing").unwrap_err(), "not a hub id either", "config.json");
    says(&Checkpoint::open("../etc/passwd@x y").unwrap_err(), "not a hub id either", "config.json");
    let empty = tempfile::tempdir().unwrap();
    says(&open(&empty).unwrap_err(), "not a checkpoint", "folder that holds config.json");
    let folder = folder();
    says(&Checkpoint::open(folder.path().join("config.json").to_str().unwrap()).unwrap_err(), "is a file", "folder");
    fs::rename(folder.path().join("model.safetensors"), folder.path().join("pytorch_model.bin")).unwrap();
    says(&open(&folder).unwrap_err(), "pickled", "safe_serialization");
    fs::remove_file(folder.path().join("pytorch_model.bin")).unwrap();
    says(&open(&folder).unwrap_err(), "no weights", "whole repository");
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"a": "../../secret.safetensors"}}"#).unwrap();
    says(&open(&folder).unwrap_err(), "no safetensors file beside it", "again");
    fs::write(&index, "{}").unwrap();
    says(&open(&folder).unwrap_err(), "no `weight_map`", "again");
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    says(&open(&folder).unwrap_err(), "no tokenizer.json", "save_pretrained");
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the test below starts anew for each hub, since a hub is named by environment variables, which are the process's.
#[test]
#[ignore = "is started by the test below"]
fn open_from_environment() {
    match Checkpoint::open(&std::env::var("CHECKPOINT").unwrap()) {
        Ok(checkpoint) => {
            let weights = checkpoint.fingerprint().unwrap().files.len();
            println!("opened {:?} with {weights} weight files, {:?}", checkpoint.revision, checkpoint.chat_template);
        }
        Err(problem) => println!("{problem}"),
    }
}

fn open_with(endpoint: &str, home: &Path, offline: bool, name: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "template::checkpoint::open_from_environment", "--ignored", "--nocapture"]);
    command.envs([
        ("HF_ENDPOINT", endpoint),
        ("HF_HUB_OFFLINE", if offline { "1" } else { "0" }),
        ("CHECKPOINT", name),
    ]);
    command.env("HF_HOME", home).env_remove("HF_TOKEN").env_remove("HF_HUB_CACHE").env_remove("HUGGINGFACE_HUB_CACHE");
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Answers as a hub does that has the models `house/full` and `house/pickled`.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (method, path) = request.trim_end().split_once(' ').unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let (repository, file) = path.trim_start_matches('/').split_once("/resolve/").unwrap_or((path, ""));
    let (revision, file) = file.split_once('/').unwrap_or_default();
    let body = match (repository, file) {
        (repository, "") if ["/api/models/house/full", "/api/models/house/pickled"].contains(&repository) => Ok("{}"),
        (repository, "") if repository.ends_with("/revision/main") => Ok("{}"),
        _ if ![COMMIT, "main"].contains(&revision) => Err("RevisionNotFound"),
        ("house/full" | "house/pickled", "config.json" | "tokenizer.json") => Ok("{}"),
        ("house/full", "chat_template.jinja") => Ok("from the hub"),
        ("house/full", "model.safetensors.index.json") => {
            Ok(r#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#)
        }
        ("house/full", "a.safetensors" | "b.safetensors") => Ok("weights"),
        ("house/pickled", "pytorch_model.bin") => Ok("pickle"),
        ("house/full" | "house/pickled", _) => Err("EntryNotFound"),
        ("house/gated", _) => Err("GatedRepo"),
        ("house/hidden", _) => Err("RepoNotFound without a login"),
        _ => Err("RepoNotFound"),
    };
    let (status, error, body) = match body {
        Ok(body) => ("200 OK", "", body),
        Err(error @ "GatedRepo") => ("403 Forbidden", error, ""),
        Err(error @ "RepoNotFound without a login") => ("401 Unauthorized", error, ""),
        Err(error) => ("404 Not Found", error, ""),
    };
    let etag = format!("{:x}", file.len() * 1000 + body.len());
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\nx-error-code: {error}\r\n\
         connection: close\r\n\r\n{}",
        body.len(),
        if method == "HEAD" { "" } else { body }
    )
}

#[test]
fn of_a_hub_is_fetched_once_and_problems_say_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
    let home = tempfile::tempdir().unwrap();
    let says = |offline, name: &str, texts: &[&str]| {
        let said = open_with(&hub, home.path(), offline, name);
        assert!(texts.iter().all(|text| said.contains(text)), "{name}: {said}");
    };
    let opened = format!("opened Some(\"{COMMIT}\") with 2 weight files, Some(\"from the hub\")");
    says(true, "house/full", &["config.json is not in the cache", "hf download house/full --local-dir"]);
    says(false, "house/full", &[&opened]);
    says(true, "house/full", &[&opened]);
    says(false, "house/pickled@main", &["pickled (.bin) files only", "safe_serialization"]);
    says(false, "house/absent", &["neither a folder `house/absent` nor a hub model that may be seen", "HF_TOKEN"]);
    says(false, "house/hidden", &["neither a folder `house/hidden` nor a hub model that may be seen", "gated"]);
    says(false, "house/gated", &["without permission", "accept the model's terms"]);
    says(false, "house/full@v9", &["no revision `v9`", "after @"]);
    // A hub that does not answer; what is cached opens all the same.
    let said = open_with("http://127.0.0.1:9", home.path(), false, "house/full");
    assert!(said.contains(&opened), "{said}");
    let said = open_with("http://127.0.0.1:9", home.path(), false, "house/other");
    assert!(said.contains("the hub cannot be reached") && said.contains("hf download house/other"), "{said}");
}
