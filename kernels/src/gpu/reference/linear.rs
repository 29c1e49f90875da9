//! References of [`crate::gpu::linear`].

use super::round;
use crate::gpu::Element;
use crate::gpu::linear::LinearShape;

/// y = x W^T in f64, for `x` `[m, k]` and the unpacked weight `[n, k]`.
pub fn linear(shape: LinearShape, x: &[f32], w: &[f32]) -> Vec<f64> {
    crate::reference::linear(x, w, shape.n, shape.k)
}

/// The parts `[splits][m][n]` in the order that `linear.cuh` states, with a step of 16 inputs as the emulated tensor core does it:
/// exact products summed in f64, added to the chain so far, rounded to f32.
pub fn parts(shape: LinearShape, x: &[f32], w: &[f32]) -> Vec<f32> {
    let stages = shape.k.div_ceil(64);
    let mut parts = Vec::new();
    for split in 0..shape.splits() {
        let inputs = |stage: usize| (stage * 64).min(shape.k);
        let range = inputs(split * stages / shape.splits())..inputs((split + 1) * stages / shape.splits());
        for x in x.chunks_exact(shape.k) {
            for w in w.chunks_exact(shape.k) {
                parts.push(chain(&x[range.clone()], &w[range.clone()]));
            }
        }
    }
    parts
}

/// One chain. The steps of a stage of 64 inputs take 4 inputs of every 8: those of step s are 32 (s / 2) + 8 t + 4 (s % 2) + 0..4, t = 0..4.
fn chain(x: &[f32], w: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for stage in (0..x.len()).step_by(64) {
        for step in 0..4 {
            let mut products = 0.0f64;
            // The order inside a step: pairs at 2 t of the fragment's first 8 inputs, then of its last 8.
            for pair in [0, 2] {
                for t in 0..4 {
                    let first = stage + step / 2 * 32 + t * 8 + step % 2 * 4 + pair;
                    for i in first..(first + 2).min(x.len()) {
                        products += f64::from(x[i]) * f64::from(w[i]);
                    }
                }
            }
            sum = (f64::from(sum) + products) as f32;
        }
    }
    sum
}

/// The parts `[splits][rest]` summed in order.
pub fn summed(parts: &[f32], splits: usize) -> Vec<f32> {
    let rest = parts.len() / splits;
    let sum = |i: usize| parts.iter().skip(i).step_by(rest).copied().reduce(|sum, part| sum + part);
    (0..rest).filter_map(sum).collect()
}

/// Gates (even) and ups (odd) of each row of sums into silu(gate) * up, rounded where a model of that element rounds.
pub fn swiglu(element: Element, sums: &[f32]) -> Vec<f32> {
    let round = |x: f64| f64::from(round(element, x));
    let silu = |gate: f64| gate / (1.0 + (-gate).exp());
    let pair = |pair: &[f32]| round(round(silu(round(pair[0].into()))) * round(pair[1].into())) as f32;
    sums.chunks_exact(2).map(pair).collect()
}
