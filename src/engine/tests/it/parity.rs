//! The comparison with transformers: checkpoints and expected values written by `tests/peers/make_parity_fixtures.py`.
//! Prompts and ids must be identical, greedy continuations too, and every site and the logits within 1e-6 · ‖h‖ · L. In bf16, as the
//! checkpoint is held then and its keys and values are kept, every site must be within 3e-2 of its norm and the mean projection of a turn
//! within 1e-3.

use std::{fs, path::PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use tiltmeter_engine::{EngineOptions, KvType, LocalModel};
use tiltmeter_model::{ChatRequest, ConversationId, Finish, Message, Model, Sampling, SeedKey, probe::Site};

/// A folder of `tests/fixtures/parity`.
pub fn fixture(name: &str) -> PathBuf {
    tiltmeter_test_support::paths::fixture("parity").join(name)
}

pub fn open(name: &str, options: &EngineOptions) -> LocalModel {
    LocalModel::open(&fixture(name).display().to_string(), options).unwrap_or_else(|problem| panic!("{problem}"))
}

pub fn expected(name: &str) -> (Value, Vec<u8>) {
    let folder = fixture(name);
    let json = fs::read_to_string(folder.join("expected.json")).unwrap();
    (serde_json::from_str(&json).unwrap(), fs::read(folder.join("expected.safetensors")).unwrap())
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap()
}

pub fn floats(tensors: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = tensors.tensor(name).unwrap();
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

/// Largest |Δ| / (1e-6 · ‖h‖ · L) over the rows: at most 1.
fn share_of_gate(ours: &[f32], theirs: &[f32], width: usize, layers: usize) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let rows = ours.chunks_exact(width).zip(theirs.chunks_exact(width));
    rows.map(|(ours, theirs)| {
        let norm = theirs.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let delta = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        delta / (1e-6 * norm * layers as f64)
    })
    .fold(0.0, f64::max)
}

async fn check(name: &str, options: EngineOptions) {
    let model = open(name, &options);
    let (json, bytes) = expected(name);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let layers = json["num_layers"].as_u64().unwrap() as usize;
    let max_new_tokens = json["max_new_tokens"].as_u64().unwrap() as usize;
    assert_eq!(model.card().stop_ids, ids(&json["stop_token_ids"]), "{name}: stop ids");

    // Three turns of one conversation: each goes on from the keys and values of the one before.
    let mut reused = 0;
    for turn in json["turns"].as_array().unwrap() {
        let messages = messages(&turn["messages"]);
        let rendered = model.render(&messages).unwrap();
        assert_eq!(rendered.text, turn["rendered"].as_str().unwrap(), "{name}: rendered prompt");
        assert_eq!(rendered.token_ids, ids(&turn["input_ids"]), "{name}: prompt ids");
        let mut request = ChatRequest::new(messages);
        request.max_new_tokens = Some(max_new_tokens);
        request.conversation = Some(ConversationId(7));
        let reply = model.chat(&request).await.unwrap();
        assert_eq!(reply.token_ids, ids(&turn["generated_ids"]), "{name}: greedy continuation");
        assert_eq!(reply.message.content, turn["reply"].as_str().unwrap(), "{name}: text of the reply");
        let finish = if turn["finish"] == "stop" { Finish::Stop } else { Finish::Length };
        assert_eq!(reply.finish, finish, "{name}");
        // What the last turn fed and this one shares with it is not fed again; the last drawn token has no keys yet.
        let shared = turn["tokens_shared_with_previous_turn"].as_u64().unwrap();
        assert!(reply.reused_tokens + 1 >= shared, "{name}: {} of {shared} reused", reply.reused_tokens);
        reused += reply.reused_tokens;
    }
    assert!(reused > 0, "{name}: later turns must reuse");

    // The last turn once more, with everything that passed by.
    let turn = json["turns"].as_array().unwrap().last().unwrap();
    let sites = Site::all(layers);
    let captured = model
        .capture(
            &messages(&turn["messages"]),
            sites.clone(),
            true,
            max_new_tokens,
            Sampling::default(),
            SeedKey::default(),
        )
        .await
        .unwrap();
    assert_eq!(captured.generated_ids, ids(&turn["generated_ids"]), "{name}");
    let mut worst: f64 = 0.0;
    for (site, ours) in sites.iter().zip(&captured.raw.states) {
        let (shape, theirs) = floats(&tensors, &site.to_string());
        let share = share_of_gate(ours, &theirs, shape[1], layers);
        assert!(share <= 1.0, "{name}: {site} is {share:.2} of what is allowed");
        worst = worst.max(share);
    }
    let (shape, theirs) = floats(&tensors, "logits_tail");
    let tail = &captured.raw.logits[captured.raw.logits.len() - theirs.len()..];
    let share = share_of_gate(tail, &theirs, shape[1], layers);
    assert!(share <= 1.0, "{name}: logits are {share:.2} of what is allowed");
    println!("{name}: worst site {worst:.2}, logits {share:.2} of the gate");
}

macro_rules! parity {
    ($($test:ident)*) => {$(
        #[tokio::test]
        async fn $test() {
            let f32 = EngineOptions { weights: Some(tiltmeter_engine::WeightType::F32), ..EngineOptions::default() };
            check(stringify!($test), f32).await;
            check(stringify!($test), EngineOptions { prefill_chunk: Some(7), ..f32 }).await;
            check(stringify!($test), EngineOptions { reference: true, ..f32 }).await;
            check(stringify!($test), EngineOptions { reference: true, prefill_chunk: Some(7), ..f32 }).await;
        }
    )*};
}

parity! {
    olmo3_yarn_legacy_5l
    olmo3_yarn_nested_8l
    olmo3_plain_3l
    olmo2_4l
    llama_llama3_tied
    llama_bf16_sharded
    qwen3_tied_4l
    qwen3_4l
}

/// A checkpoint in bf16 as it is run by default, beside transformers in f32.
#[tokio::test]
async fn bf16_stays_within_its_gates() {
    let name = "llama_bf16_sharded";
    let (json, bytes) = expected(name);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let sites = Site::all(json["num_layers"].as_u64().unwrap() as usize);
    let turn = json["turns"].as_array().unwrap().last().unwrap();
    let (prompt, generated) = (ids(&turn["input_ids"]).len(), ids(&turn["generated_ids"]));
    let mut states = Vec::new();
    for prefill_chunk in [None, Some(7)] {
        let model = open(name, &EngineOptions { prefill_chunk, ..EngineOptions::default() });
        let card = model.card();
        assert_eq!((card.dtype.as_deref(), card.kv_dtype.as_deref()), (Some("bf16"), Some("bf16")));
        let talk = messages(&turn["messages"]);
        let captured = model
            .capture(&talk, sites.clone(), false, generated.len(), Sampling::default(), SeedKey::default())
            .await
            .unwrap();
        // Where two words are nearly as likely the other one may be drawn; what follows cannot be compared.
        let common = captured.generated_ids.iter().zip(&generated).take_while(|(ours, theirs)| ours == theirs).count();
        let rows = prompt + common;
        for (site, ours) in sites.iter().zip(&captured.raw.states) {
            let (shape, theirs) = floats(&tensors, &site.to_string());
            let width = shape[1];
            let (distance, projected) = bf16_distances(&ours[..rows * width], &theirs[..rows * width], width);
            assert!(distance <= 3e-2, "{site}: {distance:e} of its norm away");
            assert!(projected <= 1e-3, "{site}: mean projections are {projected:e} of its norm away");
            println!("{name}, bf16: {site} {distance:.1e}, mean projections {projected:.1e}, over {rows} tokens");
        }
        states.push(captured.raw.states);
    }
    assert_eq!(states[0], states[1], "bf16 in chunks");
    // The same weights with keys and values as they were computed, for whoever wants that.
    let exact = open(name, &EngineOptions { kv: Some(KvType::F32), ..EngineOptions::default() });
    assert_eq!(exact.card().kv_dtype.as_deref(), Some("f32"));
}

/// The largest ‖Δ‖ / ‖h‖ of a row, and the largest difference of the rows' mean along one of several directions, over the mean ‖h‖.
fn bf16_distances(ours: &[f32], theirs: &[f32], width: usize) -> (f64, f64) {
    let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let wide = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (mut farthest, mut norms, mut mean_delta, mut rows) = (0f64, 0.0, vec![0.0; width], 0.0);
    for (ours, theirs) in ours.chunks_exact(width).zip(theirs.chunks_exact(width)) {
        let (ours, theirs) = (wide(ours), wide(theirs));
        let delta: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        farthest = farthest.max(norm(&delta) / norm(&theirs));
        norms += norm(&theirs);
        rows += 1.0;
        mean_delta.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += delta);
    }
    let along = |phase: usize| {
        let axis: Vec<f64> = (0..width).map(|i| ((i * (phase + 3)) as f64 * 0.7 + phase as f64).cos()).collect();
        mean_delta.iter().zip(&axis).map(|(d, a)| d * a).sum::<f64>().abs() / norm(&axis) / rows
    };
    (farthest, (0..8).map(along).fold(0.0, f64::max) / (norms / rows))
}
