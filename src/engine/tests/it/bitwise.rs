//! The widest check of one promise: a rollout's tokens and projections are the same bits in every batch, order, chunk, number of
//! threads, amount of memory and instruction set. `TILTMETER_TOKENS=100000` has it compare that many tokens; unasked, some thousands.

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tiltmeter_engine::{EngineOptions, LocalModel};
use tiltmeter_model::{
    ChatRequest, ConversationId, Message, Model, Role, Sampling, SeedKey,
    probe::{Probe, ProbePlan, Site, Span},
};
use tiltmeter_test_support::paths::in_repo;

const CONVERSATIONS: usize = 48;
const MODEL: &str = "data/models/quay";
const WORKER: &str = "bitwise::worker";

/// How the same conversations are carried out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Way {
    name: String,
    /// Conversations at once.
    batch: usize,
    /// Step from one conversation to the next one begun, coprime to their number.
    stride: usize,
    threads: Option<usize>,
    prefill_chunk: Option<usize>,
    kv_bytes: Option<u64>,
    no_speculation: bool,
    /// Of the kernels, in a process of its own.
    isa: Option<String>,
    turns: usize,
}

/// One turn: its tokens, and the bits of every token's projections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Turn {
    tokens: Vec<u32>,
    projections: Vec<u32>,
}

fn plan() -> Arc<ProbePlan> {
    let probe = |site| {
        let raw: Vec<f32> = (0..128).map(|i| (i as f32 * 0.7).cos()).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        Probe { name: "a".into(), site, unit: raw.iter().map(|x| x / norm).collect() }
    };
    let probes = [Site::Embed, Site::BlockOut(0), Site::BlockOut(4), Site::BlockOut(7)].map(probe);
    Arc::new(ProbePlan { probes: probes.into(), span: Span::Content, vectors: Vec::new() })
}

/// What people say in the shipped transcript.
fn questions() -> Vec<String> {
    let text = fs::read_to_string(in_repo("data/transcripts/quay_storm.json")).unwrap();
    let transcript: Value = serde_json::from_str(&text).unwrap();
    let messages = transcript["conversation"].as_array().unwrap();
    let asked = messages.iter().filter(|message| message["role"] == "user");
    asked.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

async fn converse(model: &LocalModel, number: usize, turns: usize) -> Vec<Turn> {
    let (questions, plan) = (questions(), plan());
    let mut messages = Vec::new();
    if !number.is_multiple_of(3) {
        messages.push(Message::new(
            Role::System,
            "You are the harbour's assistant. Stay helpful and calm. ".repeat(number % 3),
        ));
    }
    let mut kept = Vec::new();
    for turn in 0..turns {
        messages.push(Message::new(Role::User, questions[(turn + number * 5) % questions.len()].clone()));
        let request = ChatRequest {
            sampling: Sampling { temperature: 0.9, ..Sampling::default() },
            max_new_tokens: Some(16 + number % 17),
            seed: SeedKey { key: 11 + 1000 * turn as u64, stream: number as u64 },
            probes: Some(plan.clone()),
            conversation: Some(ConversationId(number as u64)),
            ..ChatRequest::new(messages.clone())
        };
        let reply = model.chat(&request).await.unwrap();
        let readout = reply.readout.unwrap();
        let values = readout.projections.iter().flat_map(|probe| &probe.per_token);
        kept.push(Turn { tokens: reply.token_ids, projections: values.map(|p| p.to_bits()).collect() });
        messages.push(reply.message);
    }
    model.close(ConversationId(number as u64));
    kept
}

/// All conversations, in the order of their numbers.
fn here(way: &Way) -> Vec<Vec<Turn>> {
    let options = EngineOptions {
        threads: way.threads,
        prefill_chunk: way.prefill_chunk,
        kv_bytes: way.kv_bytes,
        no_speculation: way.no_speculation,
        ..EngineOptions::default()
    };
    let model = LocalModel::open(&in_repo(MODEL), &options).unwrap_or_else(|problem| panic!("{problem}"));
    let order = (0..CONVERSATIONS).map(|i| i * way.stride.max(1) % CONVERSATIONS);
    let all = stream::iter(order)
        .map(|number| {
            let model = &model;
            async move { (number, converse(model, number, way.turns).await) }
        })
        .buffer_unordered(way.batch)
        .collect::<Vec<_>>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut all = runtime.block_on(all);
    all.sort_by_key(|(number, _)| *number);
    let work = model.stats();
    assert!(
        if way.no_speculation { work.draft_tokens == 0 } else { way.batch > 1 || work.accepted_draft_tokens > 0 },
        "{way:?} {work:?}"
    );
    println!("{:<24} {:>7} of {:>7} guesses right", way.name, work.accepted_draft_tokens, work.draft_tokens);
    all.into_iter().map(|(_, turns)| turns).collect()
}

/// The same in another process, with the instruction set that `way` names.
fn elsewhere(way: &Way, folder: &Path) -> Vec<Vec<Turn>> {
    let file = folder.join("turns.json");
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([WORKER, "--exact", "--ignored", "--nocapture"]);
    command.env("TILTMETER_WAY", serde_json::to_string(way).unwrap()).env("TILTMETER_TURNS", &file);
    command.env("TILTMETER_ISA", way.isa.as_ref().unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
#[ignore = "a part of the test below, which starts it in a process of its own"]
fn worker() {
    let way = env::var("TILTMETER_WAY").expect("the other test says what to do");
    let turns = here(&serde_json::from_str(&way).unwrap());
    fs::write(env::var("TILTMETER_TURNS").unwrap(), serde_json::to_vec(&turns).unwrap()).unwrap();
}

fn ways(turns: usize) -> Vec<Way> {
    let way = |name: &str, batch, stride| Way { name: name.into(), batch, stride, turns, ..Way::default() };
    let mut ways = vec![
        way("4 at once", 4, 1),
        way("16 at once", 16, 1),
        way("48 at once", 48, 1),
        way("16 at once, shuffled", 16, 29),
        way("48 at once, backwards", 48, CONVERSATIONS - 1),
        // Room for some of them, so that caches are dropped and made again.
        Way { kv_bytes: Some(24 << 20), ..way("little memory", 48, 5) },
    ];
    for batch in [1, 16] {
        ways.push(Way { no_speculation: true, ..way(&format!("{batch} at once, no guesses"), batch, 1) });
    }
    for chunk in [1, 7, 64, 1 << 20] {
        ways.push(Way { prefill_chunk: Some(chunk), ..way(&format!("chunks of {chunk}"), 16, 11) });
    }
    for threads in [1, 2, 5] {
        ways.push(Way { threads: Some(threads), ..way(&format!("{threads} threads"), 16, 7) });
    }
    // Of a tier of one's own choice, all else is compared.
    if env::var_os("TILTMETER_ISA").is_none() {
        for isa in tiltmeter_engine::Isa::alike() {
            ways.push(Way { isa: Some(isa.name().into()), ..way(isa.name(), 16, 13) });
        }
    }
    ways
}

#[test]
fn tokens_and_projections_are_the_same_bits_whatever_runs_beside_them() {
    let wanted: usize =
        env::var("TILTMETER_TOKENS").map_or(6_000, |text| text.parse().expect("TILTMETER_TOKENS is a number"));
    // About 14 tokens a turn.
    let most = questions().len();
    let turns = wanted.div_ceil(14 * CONVERSATIONS * ways(1).len()).clamp(1, most);
    let folder = tempfile::tempdir().unwrap();
    let alone = here(&Way { name: "alone".into(), batch: 1, threads: Some(1), turns, ..Way::default() });
    let count = |turns: &[Vec<Turn>], of: fn(&Turn) -> usize| turns.iter().flatten().map(of).sum::<usize>();
    let (mut tokens, mut projections) = (0, 0);
    let ways = ways(turns);
    for way in &ways {
        let began = Instant::now();
        let turns = if way.isa.is_some() { elsewhere(way, folder.path()) } else { here(way) };
        for (number, (turns, alone)) in turns.iter().zip(&alone).enumerate() {
            assert!(turns == alone, "{}: conversation {number}\n{turns:?}\nalone\n{alone:?}", way.name);
        }
        tokens += count(&turns, |turn| turn.tokens.len());
        projections += count(&turns, |turn| turn.projections.len());
        report(&way.name, count(&turns, |turn| turn.tokens.len()), began.elapsed());
    }
    println!("{tokens} tokens and {projections} projections in {} ways: 0 differ from those of each alone", ways.len());
    assert!(tokens >= wanted || turns == most, "{tokens} tokens are fewer than the {wanted} asked for");
}

fn report(name: &str, tokens: usize, time: Duration) {
    println!("{name:<24} {tokens:>7} tokens {:>7.1} s", time.as_secs_f64());
}
