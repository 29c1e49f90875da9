//! The operations of a decoder on rows of f32, `[rows, width]`. A row's bits depend on that row and the weights alone, whatever it is
//! batched with.

use std::sync::{Arc, RwLock};

use half::bf16;
use tiltmeter_kernels::{PackedLinear, Pool, add_rms_norm, forward_each, rms_norm, rope, swiglu};

use crate::spec::RopeSpec;
use tiltmeter_model::problem::Problem;

/// `y = x Wᵀ` with packed weights.
pub struct Linear {
    pub weights: Arc<PackedLinear>,
    pub pool: Arc<Pool>,
}

impl Linear {
    /// `[rows, k_in]` -> `[rows, n_out]`.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        self.weights.forward(x, y, x.len() / self.weights.k_in(), &self.pool);
    }

    /// Several of the same rows.
    pub fn forward_each<const N: usize>(layers: [&Linear; N], x: &[f32], mut ys: [&mut [f32]; N]) {
        let rows = x.len() / layers[0].weights.k_in();
        forward_each(&layers.map(|layer| &*layer.weights), x, &mut ys, rows, &layers[0].pool);
    }
}

/// `x / rms(x) · w` over each row.
pub struct RmsNorm {
    pub weight: Vec<f32>,
    pub eps: f32,
    pub pool: Arc<Pool>,
}

impl RmsNorm {
    pub fn forward(&self, x: &[f32], out: &mut [f32]) {
        rms_norm(x, &self.weight, self.eps, out, &self.pool);
    }

    /// `h += norm(x)`.
    pub fn add(&self, x: &[f32], h: &mut [f32]) {
        add_rms_norm(x, &self.weight, self.eps, h, &self.pool);
    }
}

/// SwiGLU feed-forward: `down(silu(gate(x)) · up(x))`.
pub struct Mlp {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Mlp {
    /// `[rows, hidden]` -> `[rows, hidden]`; `space` has room for twice `[rows, intermediate]`.
    pub fn forward(&self, x: &[f32], space: [&mut [f32]; 2], out: &mut [f32]) {
        let len = x.len() / self.gate.weights.k_in() * self.gate.weights.n_out();
        let [gate, up] = space.map(|space| &mut space[..len]);
        Linear::forward_each([&self.gate, &self.up], x, [&mut *gate, &mut *up]);
        swiglu(gate, up, &self.gate.pool);
        self.down.forward(gate, out);
    }
}

/// Token embeddings `[vocab, hidden]`; rows come out as f32, which holds both.
pub enum Embedding {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Embedding {
    pub fn bytes(&self) -> usize {
        match self {
            Embedding::F32(table) => size_of_val(&table[..]),
            Embedding::Bf16(table) => size_of_val(&table[..]),
        }
    }

    /// `out`: `[ids, hidden]`.
    pub fn forward(&self, ids: &[u32], hidden: usize, out: &mut [f32]) -> Result<(), Problem> {
        let vocab = match self {
            Embedding::F32(table) => table.len(),
            Embedding::Bf16(table) => table.len(),
        } / hidden;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            return Err(Problem::new(format!("token {id} is none of the {vocab} that the model has embeddings for"))
                .hint("the tokenizer's files belong to another model than the weights"));
        }
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(hidden)) {
            let row = id as usize * hidden..(id as usize + 1) * hidden;
            match self {
                Embedding::F32(table) => out.copy_from_slice(&table[row]),
                Embedding::Bf16(table) => out.iter_mut().zip(&table[row]).for_each(|(out, x)| *out = x.to_f32()),
            }
        }
        Ok(())
    }
}

/// Cosines and sines `[positions, head_dim / 2]`, grown as longer sequences come.
pub struct RopeTable {
    inv_freq: Vec<f32>,
    attention_scaling: f32,
    tables: RwLock<Arc<(Vec<f32>, Vec<f32>)>>,
}

impl RopeTable {
    pub fn new(spec: &RopeSpec, head_dim: usize) -> Self {
        let (inv_freq, attention_scaling) = spec.frequencies(head_dim);
        Self { inv_freq, attention_scaling, tables: RwLock::default() }
    }

    fn upto(&self, positions: usize) -> Arc<(Vec<f32>, Vec<f32>)> {
        let half = self.inv_freq.len();
        let current = self.tables.read().expect("no panic under this lock").clone();
        if current.0.len() >= positions * half {
            return current;
        }
        // Angles in f32, as the reference implementations compute them: at position 8,000 f64 angles would differ visibly.
        let positions = positions.next_power_of_two().max(1024);
        let angles = (0..positions).flat_map(|p| self.inv_freq.iter().map(move |f| p as f32 * f));
        let (cos, sin) = angles
            .map(|a| (a.cos() * self.attention_scaling, a.sin() * self.attention_scaling))
            .collect::<(Vec<_>, Vec<_>)>();
        let grown = Arc::new((cos, sin));
        *self.tables.write().expect("no panic under this lock") = grown.clone();
        grown
    }

    /// Rotates `[rows, n_heads * head_dim]` in place.
    pub fn rotate(&self, x: &mut [f32], positions: &[u32], n_heads: usize, pool: &Pool) {
        let longest = positions.iter().copied().max().map_or(0, |p| p as usize + 1);
        let tables = self.upto(longest);
        rope(x, positions, n_heads, 2 * self.inv_freq.len(), &tables.0, &tables.1, pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_beyond_the_embeddings_is_a_problem() {
        let table = Embedding::Bf16([1.0, 2.0, 3.0, 4.0].map(bf16::from_f32).into());
        let mut out = [0.0; 4];
        table.forward(&[1, 0], 2, &mut out).unwrap();
        assert_eq!(out, [3.0, 4.0, 1.0, 2.0]);
        let problem = table.forward(&[0, 2], 2, &mut out).unwrap_err();
        assert!(problem.what.contains("token 2") && problem.hint.is_some(), "{problem}");
    }
}
