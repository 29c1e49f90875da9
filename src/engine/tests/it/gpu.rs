//! What the GPU engine promises, shown without a GPU: its own kernels, carried out by this computer, against transformers, and
//! bit for bit against themselves whatever runs beside a conversation. What only a GPU can show is in `tests/gpu`.

use std::sync::Arc;

use futures::future::join_all;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tiltmeter_engine::{
    BenchModel, BenchRequest, Condition, EngineOptions, LocalModel, Rollouts, WeightType, bench_on,
};
use tiltmeter_kernels::gpu::{Gpu, emulated::Emulated};
use tiltmeter_model::{
    ChatReply, ChatRequest, ConversationId, Message, Model, ReadRequest, Role, Sampling, SeedKey,
    probe::{Probe, ProbePlan, Site, Span},
};

use crate::parity::{expected, fixture, floats, ids, messages, open};

const MEMORY: usize = 256 << 20;

fn emulated(memory: usize) -> Gpu {
    Gpu::new(Emulated::open(memory).unwrap_or_else(|error| panic!("{error}")))
}

/// What carries the kernels out: this computer or, where TILTMETER_TEST_GPU has its number, a GPU (in a build with CUDA).
fn device() -> Gpu {
    match std::env::var("TILTMETER_TEST_GPU") {
        Err(_) => emulated(MEMORY),
        #[cfg(feature = "cuda")]
        Ok(number) => {
            let number = number.parse().expect("TILTMETER_TEST_GPU is the number of a GPU");
            Gpu::new(tiltmeter_kernels::gpu::cuda::Cuda::open(number).unwrap_or_else(|error| panic!("{error}")))
        }
        #[cfg(not(feature = "cuda"))]
        Ok(_) => panic!("TILTMETER_TEST_GPU is set, and these tests were built without CUDA"),
    }
}

fn bf16() -> EngineOptions {
    EngineOptions { weights: Some(WeightType::Bf16), ..EngineOptions::default() }
}

fn open_gpu(name: &str, options: &EngineOptions) -> LocalModel {
    let folder = fixture(name).display().to_string();
    LocalModel::open_on(&folder, options, device()).unwrap_or_else(|problem| panic!("{problem}"))
}

fn relative_l2(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f32| f64::from(x).powi(2);
    let error: f64 = ours.iter().zip(theirs).map(|(a, b)| square(a - b)).sum();
    (error / theirs.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

/// Every site and the logits of a conversation of three turns, within what bf16 allows. Where rounding turns a greedy choice, rows are
/// compared as far as the tokens are the same.
async fn check(name: &str, chunk: Option<usize>) {
    let model = open_gpu(name, &EngineOptions { prefill_chunk: chunk, ..bf16() });
    assert_eq!(
        (model.card().device.clone(), model.card().dtype.as_deref()),
        (Some(device().driver().name()), Some("bf16 on cuda"))
    );
    let (json, bytes) = expected(name);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let layers = json["num_layers"].as_u64().unwrap() as usize;
    let sites = Site::all(layers);
    let turn = json["turns"].as_array().unwrap().last().unwrap();
    let said = ids(&turn["generated_ids"]);
    let captured = model
        .capture(&messages(&turn["messages"]), sites.clone(), true, said.len(), Sampling::default(), SeedKey::default())
        .await
        .unwrap();
    let same = captured.generated_ids.iter().zip(&said).take_while(|(a, b)| a == b).count();
    let rows = captured.prompt.token_ids.len() + same;
    let mut worst: f64 = 0.0;
    for (site, ours) in sites.iter().zip(&captured.raw.states) {
        let (shape, theirs) = floats(&tensors, &site.to_string());
        let count = rows.min(shape[0]) * shape[1];
        let error = relative_l2(&ours[..count], &theirs[..count]);
        assert!(error <= 3e-2, "{name}: {site} is off by {error:.4}");
        worst = worst.max(error);
    }
    println!("{name}: {same} of {} greedy tokens, worst site {worst:.4}", said.len());
}

macro_rules! parity {
    ($($test:ident)*) => {$(
        #[tokio::test]
        async fn $test() {
            check(stringify!($test), None).await;
        }
    )*};
}

parity! {
    olmo3_yarn_nested_8l
    llama_llama3_tied
    llama_bf16_sharded
}

/// A checkpoint of the fixtures with another config.json.
fn variant(of: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(of)).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

/// Families and forms of rotary positions that no fixture has with heads that the kernels know, beside the CPU in f32, whose own test
/// is the comparison with transformers.
#[tokio::test]
async fn other_families_and_forms_agree_with_the_cpu() {
    let of = "olmo3_yarn_nested_8l";
    let olmo2 = variant(of, |config| {
        config["model_type"] = json!("olmo2");
        config["architectures"] = json!(["Olmo2ForCausalLM"]);
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 500_000.0});
    });
    let legacy = variant(of, |config| {
        config["rope_parameters"] = Value::Null;
        config["rope_theta"] = json!(10_000.0);
        config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
        config["sliding_window"] = json!(40);
    });
    let f32 = EngineOptions { weights: Some(WeightType::F32), ..EngineOptions::default() };
    let messages = [Message::new(Role::User, WORDS.concat().repeat(4))];
    for (name, folder) in [("olmo2", olmo2), ("yarn in the old form", legacy)] {
        let folder = folder.path().display().to_string();
        let gpu = LocalModel::open_on(&folder, &bf16(), device()).unwrap_or_else(|problem| panic!("{problem}"));
        let cpu = LocalModel::open(&folder, &f32).unwrap_or_else(|problem| panic!("{problem}"));
        let sites = Site::all(cpu.card().num_layers.unwrap());
        let capture = async |model: &LocalModel| {
            let greedy = (Sampling::default(), SeedKey::default());
            model.capture(&messages, sites.clone(), true, 1, greedy.0, greedy.1).await.unwrap()
        };
        let (ours, theirs) = (capture(&gpu).await, capture(&cpu).await);
        let prompt = ours.prompt.token_ids.len();
        assert!(prompt > 100, "{prompt} tokens say little of late positions");
        let width = cpu.card().hidden_size.unwrap();
        for (site, (ours, theirs)) in sites.iter().zip(ours.raw.states.iter().zip(&theirs.raw.states)) {
            let error = relative_l2(&ours[..prompt * width], &theirs[..prompt * width]);
            assert!(error <= 3e-2, "{name}: {site} is off by {error:.4}");
        }
    }
}

fn plan(width: usize, layers: usize, span: Span) -> Arc<ProbePlan> {
    let probe = |name: &str, site, phase: f32| {
        let raw: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7 + phase).cos()).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        Probe { name: name.into(), site, unit: raw.iter().map(|x| x / norm).collect() }
    };
    let middle = Site::BlockOut(layers / 2);
    let probes = vec![
        probe("a", middle, 0.0),
        probe("b", middle, 1.0),
        probe("a", Site::FinalNorm, 0.0),
        probe("c", Site::Embed, 2.0),
    ];
    Arc::new(ProbePlan { probes, span, vectors: vec![middle] })
}

/// The projections of replies that stand already, read by the GPU's kernels in bf16, beside the CPU's in f32.
#[tokio::test]
async fn projections_of_a_reading_agree_with_the_cpu() {
    for name in ["olmo3_yarn_nested_8l", "llama_llama3_tied"] {
        let (gpu, cpu) = (open_gpu(name, &bf16()), open(name, &EngineOptions::default()));
        let (width, layers) = (cpu.card().hidden_size.unwrap(), cpu.card().num_layers.unwrap());
        let messages: Vec<Message> = (0..3)
            .flat_map(|i| {
                [Message::new(Role::User, format!("the tide {i}")), Message::new(Role::Assistant, "It turns at noon.")]
            })
            .collect();
        let probes = plan(width, layers, Span::Content);
        let request = ReadRequest { messages, max_seq_len: None, probes };
        let (ours, theirs) = (gpu.read(&request).await.unwrap(), cpu.read(&request).await.unwrap());
        for (ours, theirs) in ours.readouts.iter().zip(&theirs.readouts) {
            let (ours, theirs) = (ours.as_ref().unwrap(), theirs.as_ref().unwrap());
            assert_eq!(ours.measured_tokens, theirs.measured_tokens);
            let norm = theirs.vectors[0].mean.iter().map(|x| x * x).sum::<f32>().sqrt();
            let error = relative_l2(&ours.vectors[0].mean, &theirs.vectors[0].mean);
            assert!(error <= 3e-2, "{name}: mean vector off by {error}");
            for (ours, theirs) in ours.projections.iter().zip(&theirs.projections) {
                let delta = (ours.mean - theirs.mean).abs();
                assert!(delta <= 1e-2 * norm, "{name}: {} at {}: {delta} of {norm}", ours.name, ours.site);
            }
        }
    }
}

const WORDS: [&str; 4] = ["Tell me of the tide.", "And the fog?", "Why is the bell silent today", "x"];

/// Two or three turns of conversation `i`; each has its own words and lengths.
async fn converse(model: &LocalModel, i: usize) -> Vec<ChatReply> {
    let (width, layers) = (model.card().hidden_size.unwrap(), model.card().num_layers.unwrap());
    let span = if i % 3 == 2 { Span::ContentAndStop } else { Span::Content };
    let probes = plan(width, layers, span);
    let mut messages = Vec::new();
    let mut replies = Vec::new();
    for turn in 0..2 + i % 2 {
        messages.push(Message::new(Role::User, WORDS[(i * 3 + turn) % WORDS.len()].repeat(1 + (i + turn) % 2)));
        let request = ChatRequest {
            sampling: Sampling {
                temperature: if i == 1 { 0.0 } else { 0.9 },
                top_k: (i == 2).then_some(20),
                top_p: (i == 3).then_some(0.9),
                min_p: (i == 4).then_some(0.01),
                ..Sampling::default()
            },
            max_new_tokens: Some(3 + (i * 5) % 9),
            seed: SeedKey { key: 42 + 1000 * turn as u64, stream: i as u64 },
            probes: (i != 5).then(|| probes.clone()),
            conversation: Some(ConversationId(i as u64)),
            ..ChatRequest::new(messages.clone())
        };
        let reply = model.chat(&request).await.unwrap();
        messages.push(reply.message.clone());
        replies.push(reply);
    }
    model.close(ConversationId(i as u64));
    replies
}

/// Everything of a reply but how much of its prompt was at hand already.
fn facts(replies: &[ChatReply]) -> Vec<ChatReply> {
    replies.iter().map(|reply| ChatReply { reused_tokens: 0, ..reply.clone() }).collect()
}

const CONVERSATIONS: usize = 6;

async fn a_conversation_is_the_same_whatever_runs_beside_it(name: &str, little_kib: u64) {
    let model = open_gpu(name, &bf16());
    let mut alone = Vec::new();
    for i in 0..CONVERSATIONS {
        alone.push(facts(&converse(&model, i).await));
    }
    let work = model.stats();
    assert!(work.forward_tokens as f64 / work.unique_tokens as f64 <= 1.05, "{work:?}");
    // Little memory: conversations wait for each other, and what was kept is dropped and computed again.
    let little = EngineOptions { kv_bytes: Some(little_kib << 10), ..bf16() };
    for (how, options) in [
        ("together", bf16()),
        ("prefill in chunks of 7", EngineOptions { prefill_chunk: Some(7), ..bf16() }),
        ("prefill token by token", EngineOptions { prefill_chunk: Some(1), ..bf16() }),
        ("little memory", little),
    ] {
        let model = open_gpu(name, &options);
        // Backwards, so that nobody has the row it had alone.
        let together = join_all((0..CONVERSATIONS).rev().map(|i| converse(&model, i))).await;
        for (i, replies) in together.iter().rev().enumerate() {
            assert_eq!(facts(replies), alone[i], "{name}, {how}: conversation {i}");
        }
    }
}

#[tokio::test]
async fn a_conversation_is_the_same_whatever_runs_beside_it_olmo3() {
    a_conversation_is_the_same_whatever_runs_beside_it("olmo3_yarn_nested_8l", 700).await;
}

#[tokio::test]
async fn a_conversation_is_the_same_whatever_runs_beside_it_llama() {
    a_conversation_is_the_same_whatever_runs_beside_it("llama_bf16_sharded", 320).await;
}

/// Too little memory is said before anything is loaded, with what to do.
#[test]
fn a_model_that_does_not_fit_is_refused_with_numbers() {
    let folder = fixture("olmo3_yarn_nested_8l").display().to_string();
    let refused = |memory| match LocalModel::open_on(&folder, &bf16(), emulated(memory)) {
        Ok(_) => panic!("{memory} bytes cannot hold it"),
        Err(problem) => problem.to_string(),
    };
    let small = refused(100 << 10);
    assert!(small.contains("the weights need") && small.contains("--device cpu"), "{small}");
    let tight = refused(2 << 20);
    assert!(tight.contains("GiB") && tight.contains("--device cpu"), "{tight}");
    let f32 = EngineOptions { weights: Some(WeightType::F32), ..EngineOptions::default() };
    let wide = LocalModel::open_on(&folder, &f32, emulated(MEMORY)).err().unwrap().to_string();
    assert!(wide.contains("leave --dtype f32 out"), "{wide}");
    let unsaid = LocalModel::open_on(&folder, &EngineOptions::default(), emulated(MEMORY))
        .unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(
        unsaid.card().dtype.as_deref(),
        Some("bf16 on cuda"),
        "f32 weights are held in bf16, and the card says so"
    );
    assert_eq!(unsaid.take_notes(), ["the weights are f32; the GPU holds them in bf16"]);
    let small_heads = fixture("olmo2_4l").display().to_string();
    let heads = LocalModel::open_on(&small_heads, &bf16(), emulated(MEMORY)).err().unwrap().to_string();
    assert!(heads.contains("heads of 8 elements") && heads.contains("reference"), "{heads}");
}

/// The measuring code, on a model of no size: every row is there, rollouts have the lengths that were asked for, and nothing differs.
#[test]
fn the_bench_measures_what_it_says() {
    let shape = json!({
        "model_type": "olmo3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 200, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "sliding_window": 64
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, shape.to_string()).unwrap();
    let condition = Condition { user: vec![9, 40], system: 3, reply: vec![vec![5, 7], vec![6, 3], vec![4, 4]] };
    let request = BenchRequest {
        batches: vec![1, 5],
        contexts: vec![40, 90],
        steps: 4,
        captures: vec![(3, 2)],
        compared: 2,
        rollouts: Some(Rollouts { conditions: [("only".to_owned(), condition)].into(), template_tokens: 2 }),
    };
    let what = BenchModel::Shape(path);
    let mut said = Vec::new();
    let mut say = |line: &str| said.push(line.to_owned());
    let options = EngineOptions::default();
    let bench = bench_on(device(), "here".to_owned(), &what, &options, &request, &mut say).unwrap();
    if let Some(out) = std::env::var_os("TILTMETER_BENCH_OUT") {
        std::fs::write(out, serde_json::to_string(&bench).unwrap()).unwrap();
    }
    assert_eq!((bench.decode.len(), bench.capture.len(), bench.left_out.len()), (4, 1, 0));
    assert!(bench.prefill.is_some_and(|row| row.tokens_per_s > 0.0));
    let same = bench.independence.unwrap();
    assert!(same.tokens > 50 && same.projections > 100, "{same:?}");
    assert_eq!((same.differing_tokens, same.differing_projections), (0, 0));
    let rollouts = bench.rollouts.unwrap();
    assert_eq!((rollouts.conversations, rollouts.generated_tokens, rollouts.repeated), (3, 29, 0));
    assert!(said.len() >= 8, "{said:?}");
}
