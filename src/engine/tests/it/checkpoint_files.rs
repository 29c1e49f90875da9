//! Checkpoints whose files contradict each other or hold something else than they seem to: another model than was meant is never run.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tiltmeter_engine::{EngineOptions, LocalModel};
use tiltmeter_model::{Message, Model, Role};
use tiltmeter_test_support::paths::fixture;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const NORM: &str = "model.norm.weight";

fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("parity/olmo3_plain_3l")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn open(folder: &Path) -> Result<LocalModel, String> {
    LocalModel::open(folder.to_str().unwrap(), &EngineOptions::default()).map_err(|problem| problem.to_string())
}

#[track_caller]
fn refused(folder: &Path, part: &str) {
    let problem = open(folder).err().expect("it is refused");
    assert!(problem.contains(part), "{part}: {problem}");
}

/// Header and data of a safetensors file.
fn parts(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Rewrites config.json or tokenizer.json.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn weights_that_are_no_numbers_or_no_weights() {
    let folder = copy();
    let path = folder.path().join(WEIGHTS);
    assert!(open(folder.path()).is_ok());
    let (header, data) = parts(&path);
    for bits in [f32::NAN, f32::INFINITY] {
        let at = header[NORM]["data_offsets"][0].as_u64().unwrap() as usize;
        let mut damaged = data.clone();
        damaged[at + 4..at + 8].copy_from_slice(&bits.to_le_bytes());
        fs::write(&path, join(&header.to_string(), &damaged)).unwrap();
        refused(folder.path(), "`model.norm.weight` holds NaN or infinity");
    }
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n").unwrap();
    refused(folder.path(), "Git LFS pointer");
    fs::rename(&path, folder.path().join("consolidated.safetensors")).unwrap();
    refused(folder.path(), "consolidated.safetensors is not read");
}

#[test]
fn a_tensor_that_is_there_twice() {
    let folder = copy();
    let path = folder.path().join(WEIGHTS);
    let (header, data) = parts(&path);
    let text = header.to_string();
    // The same entry once more, under the same name.
    let again = format!("{},\"{NORM}\":{}}}", &text[..text.len() - 1], header[NORM]);
    fs::write(&path, join(&again, &data)).unwrap();
    refused(folder.path(), "names the tensor `model.norm.weight` twice");

    let names: Vec<&String> = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__").collect();
    let map: Value =
        names.iter().map(|name| ((*name).clone(), json!("a.safetensors"))).collect::<serde_json::Map<_, _>>().into();
    let mut map = map;
    map[NORM] = json!("b.safetensors");
    fs::write(folder.path().join(INDEX), json!({"weight_map": map}).to_string()).unwrap();
    fs::remove_file(&path).unwrap();
    for name in ["a.safetensors", "b.safetensors"] {
        fs::write(folder.path().join(name), join(&text, &data)).unwrap();
    }
    refused(folder.path(), "is in two files");
}

#[test]
fn a_whole_file_comes_before_shards_of_an_older_save() {
    let folder = copy();
    fs::write(folder.path().join(INDEX), json!({"weight_map": {NORM: "gone.safetensors"}}).to_string()).unwrap();
    assert!(open(folder.path()).is_ok());
}

#[test]
fn texts_that_would_be_cut_otherwise_than_in_training() {
    let folder = copy();
    edit(&folder.path().join("tokenizer.json"), |json| json["model"]["dropout"] = json!(0.1));
    refused(folder.path(), "BPE dropout");

    let folder = copy();
    fs::write(folder.path().join("added_tokens.json"), r#"{"<tool>": 900}"#).unwrap();
    let model = open(folder.path()).unwrap();
    let render =
        |text: &str| model.render(&[Message::new(Role::User, text)]).map_err(|error| error.problem().to_string());
    assert!(render("plain words").is_ok(), "a token that does not occur changes nothing");
    assert!(render("call <tool> now").unwrap_err().contains("the token `<tool>`"));
}

#[test]
fn keys_that_config_json_may_leave_out_and_values_no_model_has() {
    let folder = copy();
    let config = folder.path().join("config.json");
    let original = fs::read(&config).unwrap();
    edit(&config, |json| {
        json.as_object_mut().unwrap().remove("max_position_embeddings");
    });
    // That of transformers' Olmo3Config.
    assert_eq!(open(folder.path()).unwrap().card().max_positions, Some(2048));
    for (key, value, part) in [
        ("num_hidden_layers", json!(2_000_000_000), "at most 4096"),
        ("rope_theta", json!(1e13), "`rope_theta` is"),
        ("rms_norm_eps", json!(5), "`rms_norm_eps` is 5"),
    ] {
        fs::write(&config, &original).unwrap();
        edit(&config, |json| {
            json.as_object_mut().unwrap().remove("layer_types");
            json.as_object_mut().unwrap().remove("rope_parameters");
            json[key] = value;
        });
        refused(folder.path(), part);
    }
    for (kind, expected) in [("linear", 4 * 512), ("yarn", 4 * 128)] {
        fs::write(&config, &original).unwrap();
        edit(&config, |json| {
            json["max_position_embeddings"] = json!(512);
            json.as_object_mut().unwrap().remove("rope_parameters");
            let mut scaling = json!({"rope_type": kind, "factor": 4.0});
            if kind == "yarn" {
                scaling["original_max_position_embeddings"] = json!(128);
            }
            json["rope_scaling"] = scaling;
        });
        assert_eq!(open(folder.path()).unwrap().card().max_positions, Some(expected), "{kind}");
    }
}
