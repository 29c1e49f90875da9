//! The comparison with candle-transformers' own Llama and OLMo 2: a second oracle, written by others in the same language.
//! It gives the logits of the last token only.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, olmo2};
use serde_json::Value;
use tiltmeter_engine::{EngineOptions, WeightType};
use tiltmeter_model::{Message, Role, Sampling, SeedKey, probe::Site};

use crate::parity::{fixture, open};

fn weights(name: &str) -> VarBuilder<'static> {
    let files: Vec<_> = std::fs::read_dir(fixture(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("model"))
        .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        .collect();
    let mut tensors = std::collections::HashMap::new();
    for file in files {
        for (name, tensor) in candle_core::safetensors::load(file, &Device::Cpu).unwrap() {
            tensors.insert(name, tensor.to_dtype(DType::F32).unwrap());
        }
    }
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn config(name: &str) -> Value {
    let mut json: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture(name).join("config.json")).unwrap()).unwrap();
    // The older place of the same number.
    json["rope_theta"] = json["rope_parameters"]["rope_theta"].clone();
    json
}

/// Our ids and logits of the last prompt token.
async fn ours(name: &str) -> (Tensor, Vec<f32>) {
    let f32 = EngineOptions { weights: Some(WeightType::F32), ..EngineOptions::default() };
    let model = open(name, &f32);
    let messages =
        [Message::new(Role::User, "When does the tide turn, and what should I do if the bell is not heard?")];
    let captured = model
        .capture(&messages, vec![Site::FinalNorm], true, 0, Sampling::default(), SeedKey::default())
        .await
        .unwrap();
    let ids = captured.prompt.token_ids;
    let vocab = captured.raw.logits.len() / ids.len();
    let last = captured.raw.logits[captured.raw.logits.len() - vocab..].to_vec();
    (Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap(), last)
}

fn assert_close(ours: &[f32], theirs: &Tensor, layers: usize) {
    let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let norm = theirs.iter().map(|x| x * x).sum::<f32>().sqrt();
    let delta = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(delta <= 1e-6 * norm * layers as f32, "off by {delta} at a norm of {norm}");
}

#[tokio::test]
async fn llama_agrees() {
    let name = "llama_bf16_sharded";
    let (ids, logits) = ours(name).await;
    let config = serde_json::from_value::<llama::LlamaConfig>(config(name)).unwrap().into_config(false);
    let model = llama::Llama::load(weights(name), &config).unwrap();
    let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
    assert_close(&logits, &model.forward(&ids, 0, &mut cache).unwrap(), config.num_hidden_layers);
}

#[tokio::test]
async fn olmo2_agrees() {
    let name = "olmo2_4l";
    let (ids, logits) = ours(name).await;
    let config: olmo2::Config = serde_json::from_value(config(name)).unwrap();
    let mut model = olmo2::Model::new(&config, weights(name)).unwrap();
    assert_close(&logits, &model.forward(&ids, 0).unwrap(), config.num_hidden_layers);
}
