//! What the engine promises of every rollout: it depends on its own words and seed only — not on what else runs, in which
//! order, in which chunks, with how many threads or how much memory — and nothing is computed twice.

use std::sync::Arc;

use futures::future::join_all;
use tiltmeter_engine::{EngineOptions, KvType};
use tiltmeter_model::{
    ChatReply, ChatRequest, ConversationId, Group, Message, Model, ReadRequest, Role, Sampling, SeedKey,
    probe::{Probe, ProbePlan, Site, Span},
};

use crate::parity::open;

const FIXTURE: &str = "olmo3_yarn_nested_8l";
const WORDS: [&str; 6] =
    ["Tell me of the tide.", "And the fog?", "Why is the bell silent today", "Go on", "When does the ferry go", "x"];

fn plan(span: Span) -> Arc<ProbePlan> {
    let probe = |name: &str, site, phase: f32| {
        let raw: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7 + phase).cos()).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        Probe { name: name.into(), site, unit: raw.iter().map(|x| x / norm).collect() }
    };
    let probes =
        vec![probe("a", Site::BlockOut(3), 0.0), probe("b", Site::BlockOut(3), 1.0), probe("a", Site::FinalNorm, 0.0)];
    Arc::new(ProbePlan { probes, span, vectors: vec![Site::BlockOut(3)] })
}

/// Three turns of conversation `i`; each conversation has its own words and lengths.
async fn converse(model: &impl Model, i: usize, cap: Option<usize>) -> Vec<ChatReply> {
    let mut messages = Vec::new();
    let mut replies = Vec::new();
    for turn in 0..3 {
        messages.push(Message::new(Role::User, WORDS[(i * 5 + turn * 2) % WORDS.len()].repeat(1 + (i + turn) % 3)));
        let request = ChatRequest {
            sampling: Sampling { temperature: 0.9, ..Sampling::default() },
            max_new_tokens: Some(6 + (i * 7) % 13),
            seed: SeedKey { key: 42 + 1000 * turn as u64, stream: i as u64 },
            probes: Some(plan(Span::Content)),
            conversation: Some(ConversationId(i as u64)),
            group: cap.map(|cap| Group { id: i as u64 % 2, cap }),
            ..ChatRequest::new(messages.clone())
        };
        let reply = model.chat(&request).await.unwrap();
        messages.push(reply.message.clone());
        replies.push(reply);
    }
    model.close(ConversationId(i as u64));
    replies
}

/// Keys and values as the weights are, and in bf16: pages of half the size.
const KINDS: [(Option<KvType>, u64); 2] = [(None, 1), (Some(KvType::Bf16), 2)];

/// Everything of a reply but how much of its prompt was at hand already.
fn facts(replies: &[ChatReply]) -> Vec<ChatReply> {
    replies.iter().map(|reply| ChatReply { reused_tokens: 0, ..reply.clone() }).collect()
}

#[tokio::test]
async fn a_rollout_is_the_same_to_the_bit_whatever_runs_beside_it() {
    let mut of_each_kind = Vec::new();
    for (kv, smaller) in KINDS {
        of_each_kind.push(rollouts_are_the_same(kv, smaller).await);
    }
    assert!(of_each_kind[0] != of_each_kind[1], "what keys and values are kept as makes a difference, if a small one");
}

/// Each conversation alone and one after the other, as all the ways together must have it.
async fn rollouts_are_the_same(kv: Option<KvType>, smaller: u64) -> Vec<Vec<ChatReply>> {
    let alone_model = open(FIXTURE, &EngineOptions { kv, threads: Some(1), ..EngineOptions::default() });
    let mut alone = Vec::new();
    for i in 0..16 {
        alone.push(facts(&converse(&alone_model, i, None).await));
    }
    let options = [
        ("together", EngineOptions::default(), None),
        ("chunks of 1", EngineOptions { prefill_chunk: Some(1), ..Default::default() }, None),
        ("chunks of 7", EngineOptions { prefill_chunk: Some(7), ..Default::default() }, None),
        ("chunks of 64", EngineOptions { prefill_chunk: Some(64), ..Default::default() }, None),
        ("five threads", EngineOptions { threads: Some(5), ..Default::default() }, None),
        ("groups of 3", EngineOptions::default(), Some(3)),
        // Room for about two of the sixteen: caches are dropped and made again.
        ("little memory", EngineOptions { kv_bytes: Some((512 << 10) / smaller), ..Default::default() }, None),
    ];
    for (name, options, cap) in options {
        let model = open(FIXTURE, &EngineOptions { kv, ..options });
        // Backwards, so that nobody joins in the order of the first pass.
        let together = join_all((0..16).rev().map(|i| converse(&model, i, cap))).await;
        for (i, replies) in together.iter().rev().enumerate() {
            assert_eq!(facts(replies), alone[i], "{name}, {kv:?}: conversation {i}");
        }
        let work = model.stats();
        let repeated = work.forward_tokens - work.unique_tokens;
        assert_eq!(repeated > 0, name == "little memory", "{name}, {kv:?}: {work:?}");
    }
    alone
}

/// Each conversation carries a mark of its own: with greedy decoding its reply is a function of its words, so a swapped row shows as
/// another conversation's reply. Joins and leaves are random; the mean vectors must match those of a lone pass too.
#[tokio::test]
async fn rows_are_never_swapped_when_conversations_join_and_leave() {
    let model = open(FIXTURE, &EngineOptions::default());
    let ask = async |i: u64, delay: u64| {
        tokio::time::sleep(std::time::Duration::from_micros(delay)).await;
        let request = ChatRequest {
            max_new_tokens: Some(1 + (i as usize * 11) % 29),
            probes: Some(plan(Span::Content)),
            ..ChatRequest::new(vec![Message::new(Role::User, format!("Mark {i} of {}", i * i * 77 + 5))])
        };
        model.chat(&request).await.unwrap()
    };
    let mut alone = Vec::new();
    for i in 0..40 {
        alone.push(ask(i, 0).await);
    }
    let distinct: std::collections::HashSet<&[u32]> = alone.iter().map(|reply| &reply.token_ids[..]).collect();
    assert!(distinct.len() > 20, "the marks must tell conversations apart");
    for round in 0..3_u64 {
        let delay = |i: u64| (i * 7919 + round * 104_729) % 6000;
        let together = join_all((0..40).map(|i| ask(i, delay(i)))).await;
        assert_eq!(together, alone, "round {round}");
    }
}

/// Two turns of sample `i`: all begin with the same words, and with other ones from the second turn on.
async fn sample(model: &impl Model, i: usize) -> Vec<ChatReply> {
    let rules = "The bell rings at noon and the ferry waits for the tide, whatever the fog may say of it. ".repeat(3);
    let mut messages = vec![Message::new(Role::System, rules)];
    let mut replies = Vec::new();
    for turn in 0..2 {
        let asked = if turn == 0 { WORDS[2].to_owned() } else { format!("{} {i}", WORDS[i % WORDS.len()]) };
        messages.push(Message::new(Role::User, asked));
        let request = ChatRequest {
            sampling: Sampling { temperature: 0.9, ..Sampling::default() },
            max_new_tokens: Some(4 + i % 5),
            seed: SeedKey { key: 7 + turn as u64, stream: i as u64 },
            probes: Some(plan(if i % 4 == 3 { Span::Prompt } else { Span::Content })),
            conversation: Some(ConversationId(i as u64)),
            ..ChatRequest::new(messages.clone())
        };
        let reply = model.chat(&request).await.unwrap();
        messages.push(reply.message.clone());
        replies.push(reply);
    }
    replies
}

/// What samples of a condition begin with is prefilled once, by whichever comes first, and nobody can tell from the results; only those
/// whose prompt is measured feed it themselves.
#[tokio::test]
async fn a_common_beginning_is_computed_once_and_leaves_no_trace() {
    const SAMPLES: usize = 12;
    for (fixture, (kv, smaller)) in [(FIXTURE, KINDS[0]), ("olmo2_4l", KINDS[0]), (FIXTURE, KINDS[1])] {
        let mut alone = Vec::new();
        let mut alone_tokens = 0;
        for i in 0..SAMPLES {
            let model = open(fixture, &EngineOptions { kv, threads: Some(1), ..EngineOptions::default() });
            alone.push(facts(&sample(&model, i).await));
            alone_tokens += model.stats().forward_tokens;
        }
        for (name, options) in [
            ("together", EngineOptions::default()),
            ("chunks of 7", EngineOptions { prefill_chunk: Some(7), ..Default::default() }),
            ("little memory", EngineOptions { kv_bytes: Some((900 << 10) / smaller), ..Default::default() }),
        ] {
            let model = open(fixture, &EngineOptions { kv, ..options });
            let together = join_all((0..SAMPLES).map(|i| sample(&model, i))).await;
            for (i, replies) in together.iter().enumerate() {
                assert_eq!(facts(replies), alone[i], "{fixture}, {name}: sample {i}");
            }
            let work = model.stats();
            if name != "little memory" {
                // Whole pages of 32; of the twelve three measure their prompts.
                let saved = alone_tokens - work.forward_tokens;
                let first = alone[0][0].usage.prompt_tokens - 1;
                assert!(first >= 64, "{first} tokens are too few to see anything");
                assert_eq!(saved, (SAMPLES as u64 - 3 - 1) * (first / 32 * 32), "{fixture}, {name}: {work:?}");
                assert!(work.forward_tokens as f64 / work.unique_tokens as f64 <= 1.05, "{work:?}");
            }
            // What was shared is nobody's any more when it is dropped: the same again in the same engine.
            for i in 0..SAMPLES {
                model.close(ConversationId(i as u64));
            }
            let again = join_all((0..SAMPLES).rev().map(|i| sample(&model, i))).await;
            for (i, replies) in again.iter().rev().enumerate() {
                assert_eq!(facts(replies), alone[i], "{fixture}, {name}, again: sample {i}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_computed_twice() {
    let model = open(FIXTURE, &EngineOptions::default());
    join_all((0..8).map(|i| converse(&model, i, None))).await;
    let work = model.stats();
    // Random weights write text that is tokenised otherwise when read back, so a little is rolled back; see the demo for 1.00.
    assert!(work.forward_tokens >= work.unique_tokens);
    assert!(work.forward_tokens as f64 / work.unique_tokens as f64 <= 1.05, "{work:?}");
    // And the run can say what memory that took.
    assert!(work.weight_bytes > 0 && work.kv_bytes > 0, "{work:?}");
}

/// The span decides what is measured; the mean is the token mean, and a reading of the finished conversation agrees with what was
/// measured while it was generated.
#[tokio::test]
async fn spans_measure_what_they_say_and_reading_agrees_with_generating() {
    let model = open("olmo3_yarn_nested_8l", &EngineOptions::default());
    let messages = vec![Message::new(Role::User, "When does the tide turn today?")];
    let ask = async |span| {
        let request =
            ChatRequest { max_new_tokens: Some(24), probes: Some(plan(span)), ..ChatRequest::new(messages.clone()) };
        model.chat(&request).await.unwrap()
    };
    let content = ask(Span::Content).await;
    let with_stop = ask(Span::ContentAndStop).await;
    let first = ask(Span::FirstK(3)).await;
    let user = ask(Span::User).await;
    let prompt = ask(Span::Prompt).await;
    assert_eq!(content.token_ids, with_stop.token_ids);
    let stopped = usize::from(content.finish == tiltmeter_model::Finish::Stop);
    let tokens = |reply: &ChatReply| reply.readout.as_ref().unwrap().measured_tokens;
    assert_eq!(tokens(&content), content.token_ids.len() - stopped);
    assert_eq!(tokens(&with_stop), content.token_ids.len());
    assert_eq!(tokens(&first), 3);
    assert!(tokens(&user) > 3 && tokens(&user) < tokens(&prompt));
    assert_eq!(tokens(&prompt) as u64, prompt.usage.prompt_tokens);
    let values = |reply: &ChatReply| reply.readout.as_ref().unwrap().projections[0].per_token.clone();
    assert_eq!(values(&content)[..3], values(&first)[..]);
    let mean = values(&content).iter().map(|&x| f64::from(x)).sum::<f64>() / tokens(&content) as f64;
    assert!((f64::from(content.readout.as_ref().unwrap().projections[0].mean) - mean).abs() < 1e-6);
}

/// A reference reading measures each reply where it stands.
#[tokio::test]
async fn a_reference_has_one_readout_per_reply() {
    let model = open("llama_llama3_tied", &EngineOptions::default());
    let width = model.card().hidden_size.unwrap();
    let unit = vec![1.0 / (width as f32).sqrt(); width];
    let probes = vec![Probe { name: "a".into(), site: Site::BlockOut(1), unit }];
    let probes = Arc::new(ProbePlan { probes, span: Span::Content, vectors: Vec::new() });
    let talk = |n: usize| -> Vec<Message> {
        (0..n)
            .flat_map(|i| {
                [Message::new(Role::User, format!("the tide {i}")), Message::new(Role::Assistant, "It turns at noon.")]
            })
            .collect()
    };
    let read = async |n, max_seq_len| {
        model.read(&ReadRequest { messages: talk(n), max_seq_len, probes: probes.clone() }).await.unwrap().readouts
    };
    let three = read(3, None).await;
    assert_eq!(three.len(), 3);
    let tokens: Vec<usize> = three.iter().map(|readout| readout.as_ref().unwrap().measured_tokens).collect();
    assert!(tokens[0] > 3 && tokens.iter().all(|&n| n == tokens[0]), "{tokens:?}");
    // What comes later does not change what was read before.
    let one = read(1, None).await;
    assert_eq!(one[0].as_ref().unwrap().projections, three[0].as_ref().unwrap().projections);
    // What does not fit is said, not guessed.
    let cut = read(3, Some(60)).await;
    assert!(cut[0].is_some() && cut[2].is_none(), "{cut:?}");
}
