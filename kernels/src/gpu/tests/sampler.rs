//! Sampling of the next token, and the state kept for the next step.

use super::*;
use crate::gpu::Memory;
use crate::gpu::rows::ABSENT;
use crate::gpu::sampler::{Draw, FINISH_LENGTH, FINISH_NOTHING, FINISH_STOP, NextStep, SamplerRoom, SamplerRow, draw};

fn row(numbers: &mut Numbers) -> SamplerRow {
    let one_of = |numbers: &mut Numbers, choices: &[f64]| choices[numbers.below(choices.len())];
    SamplerRow {
        key: numbers.below(1 << 40) as u64 * 7_919,
        stream: numbers.below(1 << 40) as u64,
        index: numbers.below(1000) as u64,
        temperature: one_of(numbers, &[0.0, 0.3, 0.7, 1.0, 1.0, 1.9]),
        top_p: one_of(numbers, &[1.0, 1.0, 0.95, 0.5, 0.01]),
        min_p: one_of(numbers, &[0.0, 0.0, 0.05, 0.5]),
        top_k: [0, 0, 1, 2, 50, 100_000][numbers.below(6)],
        left: 100,
        active: 1,
        finish: 0,
    }
}

/// Logits of many kinds: smooth, with ties, nearly flat, with NaN and infinities.
fn logits(numbers: &mut Numbers, vocab: usize) -> Vec<f32> {
    let kind = numbers.below(4);
    let size = [3.0, 8.0, 0.01, 2.0][kind];
    let mut logits: Vec<f32> = numbers.normal(vocab).iter().map(|x| x * size).collect();
    if kind == 1 {
        logits.iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
    }
    if kind == 3 {
        for special in [f32::NAN, f32::NEG_INFINITY, f32::NAN, -1e30] {
            logits[numbers.below(vocab)] = special;
        }
    }
    logits
}

/// Draws for all rows at once; what was drawn, and the states afterwards.
fn draws(
    gpu: &Gpu,
    logits: &[Vec<f32>],
    states: &[SamplerRow],
    stops: &[u32],
) -> (Vec<u32>, Vec<u32>, Vec<SamplerRow>) {
    let (rows, vocab) = (logits.len(), logits[0].len());
    let stride = vocab + 5;
    let mut all = vec![f32::NAN; (rows - 1) * stride + vocab];
    for (r, logits) in logits.iter().enumerate() {
        all[r * stride..r * stride + vocab].copy_from_slice(logits);
    }
    let on = |numbers: &[u32]| gpu.upload(numbers).unwrap();
    let (all, states) = (gpu.upload(&all).unwrap(), gpu.upload(states).unwrap());
    let (stops_on, sampled, finished) = (on(stops), on(&vec![7; rows]), on(&vec![7; rows]));
    let room = SamplerRoom::new(gpu, rows + 1, vocab).unwrap();
    let work = Draw {
        rows,
        logits: all.all(),
        stride,
        slots: rows,
        slot_of: None,
        states: states.all(),
        stops: (stops_on.all(), stops.len()),
        sampled: sampled.all(),
        finished: finished.all(),
        next: NextStep::default(),
    };
    // Twice what is left over from the first is in the room.
    draw(gpu, &room, &work).unwrap();
    let numbers = |memory: &Memory| memory.all().read::<u32>(rows).unwrap();
    (numbers(&sampled), numbers(&finished), states.all().read(rows).unwrap())
}

#[test]
fn philox_gives_the_published_numbers() {
    let expected = |a: u64, b: u64| (a << 32 | b) >> 11;
    assert_eq!(reference::sampler::philox53(0, 0, 0), expected(0x6627_e8d5, 0xe169_c58d));
    assert_eq!(reference::sampler::philox53(u64::MAX, u64::MAX, u64::MAX), expected(0x408f_276d, 0x41c8_3b0e));
}

#[test]
fn tokens_are_those_of_the_reference_whatever_else_is_drawn() {
    let (tested, gpu) = device();
    let mut numbers = Numbers::new(5);
    for (vocab, count) in [(1, 40), (5, 40), (77, 40), (4096, 12), (4097, 12), (9000, 12), (100_278, 3)] {
        let states: Vec<SamplerRow> = (0..count).map(|_| row(&mut numbers)).collect();
        let all: Vec<Vec<f32>> = (0..count).map(|_| logits(&mut numbers, vocab)).collect();
        let (sampled, finished, after) = draws(&gpu, &all, &states, &[]);
        for r in 0..count {
            let expected = reference::sampler::draw(&all[r], &states[r]);
            assert_eq!(sampled[r], expected.unwrap_or(ABSENT), "vocab {vocab} row {r}: {:?}", states[r]);
            assert_eq!(finished[r], if expected.is_none() { FINISH_NOTHING } else { 0 });
            assert_eq!((after[r].index, after[r].left), (states[r].index + 1, 99));
            if r % 5 == 0 {
                tested.set_turns(Turns::Shuffled(r as u32));
                let (alone, ..) = draws(&gpu, &all[r..=r], &states[r..=r], &[]);
                assert_eq!(alone, [sampled[r]], "alone");
                tested.set_turns(Turns::InOrder);
            }
        }
    }
}

/// As the host's sampler has it: f64 weights, sorted, summed in token order.
fn on_the_host(logits: &[f32], row: &SamplerRow) -> Option<u32> {
    let top = logits.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x - top) / row.temperature).exp()).collect();
    weights.iter_mut().filter(|w| w.is_nan()).for_each(|w| *w = 0.0);
    let mut sorted: Vec<f64> = weights.iter().copied().filter(|&w| w > 0.0).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    if row.top_k > 0 && (row.top_k as usize) < sorted.len() {
        let floor = sorted[row.top_k as usize - 1];
        sorted.retain(|&w| w >= floor);
    }
    if row.top_p < 1.0 {
        let target = row.top_p * sorted.iter().sum::<f64>();
        let mut sum = 0.0;
        let last = sorted.iter().position(|&w| {
            sum += w;
            sum >= target
        });
        sorted.truncate(last.map_or(sorted.len(), |last| last + 1));
    }
    let floor = sorted.last()?.max(row.min_p * sorted[0]);
    weights.iter_mut().filter(|w| **w < floor).for_each(|w| *w = 0.0);
    let total: f64 = weights.iter().sum();
    let u = reference::sampler::philox53(row.key, row.stream, row.index) as f64 / (1u64 << 53) as f64;
    let mut sum = 0.0;
    let found = weights.iter().position(|w| {
        sum += w;
        *w > 0.0 && sum > u * total
    });
    found.or_else(|| weights.iter().rposition(|&w| w > 0.0)).map(|id| id as u32)
}

#[test]
fn tokens_are_those_of_the_host_on_many_random_rows() {
    let gpu = gpu();
    let mut numbers = Numbers::new(11);
    let mut compared = 0;
    for vocab in [30, 500, 6000] {
        let states: Vec<SamplerRow> = (0..120).map(|_| row(&mut numbers)).filter(|row| row.temperature > 0.0).collect();
        let all: Vec<Vec<f32>> = states.iter().map(|_| logits(&mut numbers, vocab)).collect();
        let (sampled, ..) = draws(&gpu, &all, &states, &[]);
        for (r, (logits, state)) in all.iter().zip(&states).enumerate() {
            assert_eq!(Some(sampled[r]), on_the_host(logits, state), "vocab {vocab} row {r}: {state:?}");
            compared += 1;
        }
    }
    assert!(compared > 200);
}

#[test]
fn a_row_without_a_finite_largest_logit_gives_nothing() {
    let gpu = gpu();
    let all = [vec![f32::NAN; 9], vec![f32::INFINITY; 9], vec![f32::NEG_INFINITY; 9]];
    for temperature in [0.0, 1.0] {
        let state = SamplerRow { temperature, left: 5, active: 1, ..SamplerRow::default() };
        let (sampled, finished, after) = draws(&gpu, &all, &[state; 3], &[]);
        assert_eq!((sampled, finished), (vec![ABSENT; 3], vec![FINISH_NOTHING; 3]));
        assert!(after.iter().all(|row| row.active == 0 && row.finish == FINISH_NOTHING));
    }
}

#[test]
fn a_recorded_step_goes_on_by_itself_until_the_slot_has_finished() {
    let gpu = gpu();
    // Row 0 is for slot 2, row 1 for slot 0; slot 1 is unused.
    let logits = gpu.upload(&[0.0f32, 5.0, 1.0, 9.0, 0.0, 1.0]).unwrap();
    let slot_of = gpu.upload(&[2u32, 0]).unwrap();
    let mut states = [SamplerRow::default(); 3];
    states[0] = SamplerRow { left: 9, active: 1, ..states[0] };
    states[2] = SamplerRow { left: 3, active: 1, ..states[0] };
    let states = gpu.upload(&states).unwrap();
    let on = |numbers: [u32; 3]| gpu.upload(&numbers).unwrap();
    let (sampled, finished, stops) = (on([8; 3]), on([8; 3]), gpu.upload(&[0u32, 77]).unwrap());
    let (ids, positions, tokens, sequences) = (on([50, 51, 52]), on([10, 11, 12]), on([1; 3]), on([0, 1, 2]));
    let room = SamplerRoom::new(&gpu, 2, 3).unwrap();
    let step = || {
        let work = Draw {
            rows: 2,
            logits: logits.all(),
            stride: 3,
            slots: 3,
            slot_of: Some(slot_of.all()),
            states: states.all(),
            stops: (stops.all(), 2),
            sampled: sampled.all(),
            finished: finished.all(),
            next: NextStep {
                ids: Some(ids.all()),
                positions: Some(positions.all()),
                tokens: Some(tokens.all()),
                sequences: Some(sequences.all()),
            },
        };
        draw(&gpu, &room, &work)
    };
    let graph = gpu.capture(step).unwrap();
    let read = |memory: &Memory| memory.all().read::<u32>(3).unwrap();
    assert_eq!(read(&sampled), [8; 3], "what is recorded is not done");

    graph.replay().unwrap();
    assert_eq!((read(&sampled), read(&finished)), (vec![0, 8, 1], vec![FINISH_STOP, 8, 0]));
    assert_eq!((read(&ids), read(&positions)), (vec![0, 51, 1], vec![11, 11, 13]));
    assert_eq!((read(&tokens), read(&sequences)), (vec![0, 1, 1], vec![ABSENT, 1, 2]));
    for _ in 0..2 {
        graph.replay().unwrap();
    }
    assert_eq!((read(&sampled), read(&finished)), (vec![ABSENT, 8, 1], vec![FINISH_STOP, 8, FINISH_LENGTH]));
    assert_eq!((read(&positions), read(&tokens)), (vec![11, 11, 15], vec![0, 1, 0]));
    graph.replay().unwrap();
    assert_eq!((read(&sampled), read(&positions)), (vec![ABSENT, 8, ABSENT], vec![11, 11, 15]));
    let states: Vec<SamplerRow> = states.all().read(3).unwrap();
    assert_eq!(
        states.iter().map(|row| (row.index, row.left, row.active)).collect::<Vec<_>>(),
        [(1, 8, 0), (0, 0, 0), (3, 0, 0)]
    );
}
