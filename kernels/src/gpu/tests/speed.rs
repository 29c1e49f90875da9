//! What the tensor-core kernels take, a line `name <tab> microseconds` each, named as `tests/gpu/predict.py` names them; into the file
//! TILTMETER_KERNEL_TIMES where that is set. On the emulated device tiny shapes show that it runs, and the times mean nothing.

use std::fmt::Write;

use super::*;
use crate::gpu::attention::{self, AttentionScratch, AttentionShape, Pages, Reach, Sequences};
use crate::gpu::linear::{LinearScratch, LinearShape, Output, linear};
use crate::gpu::{Memory, Result};

/// Weights of Olmo-3-7B: name, outputs, inputs, and the place in [`run_linear`] of what is done with the sums.
const LINEAR: [(&str, usize, usize, usize); 5] = [
    ("qkv", 12288, 4096, 0),
    ("o", 4096, 4096, 0),
    ("gate+up", 22016, 4096, 1),
    ("down", 4096, 11008, 0),
    ("head", 100_278, 4096, 2),
];
/// Memory that the weights or pages of a measurement come from in turn, several times the L2 of a GPU, so that they are read from memory.
const ROTATED_BYTES: usize = 256 << 20;

/// Median microseconds of one of some launches, recorded together and replayed; enough of them that starting a graph does not count.
fn time(gpu: &Gpu, mut launch: impl FnMut(usize) -> Result<()>) -> f64 {
    let (count, rounds) = if is_emulated(gpu) { (2, 1) } else { (32, 7) };
    launch(0).unwrap();
    let graph = gpu.capture(|| (0..count).try_for_each(&mut launch)).unwrap();
    graph.replay().unwrap();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let begin = gpu.mark().unwrap();
            graph.replay().unwrap();
            let end = gpu.mark().unwrap();
            end.wait().unwrap();
            f64::from(end.milliseconds_since(&begin).unwrap()) * 1000.0 / count as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Normal numbers, the same again and again.
fn filled(gpu: &Gpu, elements: usize) -> Memory {
    let memory = gpu.alloc(elements * 2).unwrap();
    let block = narrow(Element::Bf16, &Numbers::new(elements as u64).normal(elements.min(1 << 20))).0;
    for first in (0..elements).step_by(block.len().max(1)) {
        let part = memory.part::<u16>(first, block.len().min(elements - first));
        match first {
            0 => part.write(&block).unwrap(),
            _ => memory.part::<u16>(0, part.bytes() / 2).copy_to(part).unwrap(),
        }
    }
    memory
}

fn run_linear(gpu: &Gpu, shape: LinearShape, kind: usize, m: usize) -> f64 {
    let copies = (ROTATED_BYTES / (2 * shape.packed_len())).clamp(1, 16);
    let weights: Vec<Memory> = (0..copies).map(|_| filled(gpu, shape.packed_len())).collect();
    let x = filled(gpu, m * shape.k);
    let y = gpu.alloc(shape.splits().max(1) * m * shape.n * 4).unwrap();
    let (partials, arrivals) = shape.scratch(m);
    let (partials, arrivals) = (gpu.alloc(partials * 4).unwrap(), gpu.alloc(arrivals * 4).unwrap());
    let scratch = LinearScratch { partials: partials.all(), arrivals: arrivals.all() };
    let output = || match kind {
        0 => Output::Parts(y.all()),
        1 => Output::SwiGlu(y.all()),
        _ => Output::Wide(y.all()),
    };
    time(gpu, |i| linear(gpu, Element::Bf16, shape, weights[i % copies].all(), x.all(), m, output(), scratch).map(drop))
}

/// Decoding of one token in each of `batch` sequences of `length` keys, or prefill of all their tokens.
fn run_attention(gpu: &Gpu, shape: AttentionShape, batch: usize, length: usize, prefilled: bool) -> f64 {
    let pages_each = length.div_ceil(attention::PAGE_LEN);
    let bytes = batch * pages_each * shape.page_len() * 2 * 2;
    let copies = (ROTATED_BYTES / bytes).clamp(1, 16);
    let count = copies * batch * pages_each;
    let (k, v) = (filled(gpu, count * shape.page_len()), filled(gpu, count * shape.page_len()));
    let mut table: Vec<u32> = (0..count as u32).collect();
    let mut numbers = Numbers::new(count as u64);
    (1..count).rev().for_each(|left| table.swap(left, numbers.below(left + 1)));
    let tokens = if prefilled { length } else { 1 };
    let upload =
        |numbers: Vec<usize>| gpu.upload(&numbers.into_iter().map(|n| n as u32).collect::<Vec<u32>>()).unwrap();
    let (first_row, counts) = (upload((0..batch).map(|i| i * tokens).collect()), upload(vec![tokens; batch]));
    let (start, table) = (upload(vec![length - tokens; batch]), gpu.upload(&table).unwrap());
    let sequences = |copy: usize| Sequences {
        count: batch,
        first_row: first_row.all(),
        tokens: counts.all(),
        start: start.all(),
        table: table.part::<u32>(copy * batch * pages_each, batch * pages_each),
        table_stride: pages_each,
    };
    let pages = Pages { k: k.all(), v: v.all(), count, stride: shape.page_len() };
    let reach = Reach { rows: batch * tokens, tokens, keys: length };
    let width = shape.heads * shape.head_dim;
    let q = filled(gpu, reach.rows * width);
    let out = gpu.alloc(reach.rows * width * 2).unwrap();
    let (partials, states) = if prefilled { (0, 0) } else { shape.scratch(reach) };
    let (partials, states) = (gpu.alloc(partials * 4).unwrap(), gpu.alloc(states * 4).unwrap());
    let scratch = AttentionScratch { partials: partials.all(), states: states.all() };
    time(gpu, |i| {
        let sequences = sequences(i % copies);
        if prefilled {
            attention::prefill(gpu, Element::Bf16, &shape, pages, sequences, reach, q.all(), out.all())
        } else {
            attention::decode(gpu, Element::Bf16, &shape, pages, sequences, reach, q.all(), out.all(), scratch)
        }
    })
}

#[test]
fn what_kernels_take() {
    let gpu = gpu();
    let real = !is_emulated(&gpu);
    let mut table = String::new();
    let say = |table: &mut String, name: String, microseconds: f64| {
        assert!(microseconds > 0.0, "{name} took no time");
        writeln!(table, "{name}\t{microseconds:.1}").unwrap();
    };
    // A hundredth of each width on the emulated device.
    let scaled = |n: usize| if real { n } else { (n / 100).next_multiple_of(16) };
    for m in if real { vec![1, 16, 48, 128, 4096] } else { vec![1, 70] } {
        for (name, n, k, kind) in LINEAR.into_iter().filter(|&(name, ..)| m < 4096 || name != "head") {
            let taken = run_linear(&gpu, LinearShape { n: scaled(n), k: scaled(k) }, kind, m);
            say(&mut table, format!("{name} {n}x{k} m={m}"), taken);
        }
    }
    let (heads, head_dim) = if real { (32, 128) } else { (2, 16) };
    let scale = 1.0 / (head_dim as f32).sqrt();
    let shape = AttentionShape { heads, kv_heads: heads, head_dim, window: None, scale };
    let sizes: &[(usize, usize)] =
        if real { &[(1, 2048), (1, 4096), (16, 2048), (16, 4096), (48, 2048), (48, 4096)] } else { &[(2, 300)] };
    for &(batch, length) in sizes {
        say(&mut table, format!("attention B={batch} L={length}"), run_attention(&gpu, shape, batch, length, false));
    }
    let length = if real { 4096 } else { 100 };
    say(&mut table, format!("prefill attention L={length}"), run_attention(&gpu, shape, 1, length, true));
    print!("{table}");
    if let Some(path) = std::env::var_os("TILTMETER_KERNEL_TIMES") {
        std::fs::write(path, table).unwrap();
    }
}
