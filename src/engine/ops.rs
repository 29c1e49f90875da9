//! Owns the operations of a decoder on candle tensors `[rows, width]` f32. Each row's bits depend on that row and the weights
//! alone, so a sequence computes the same whatever it is batched with.
//! Must not know: architectures, batching.

use std::sync::{Arc, RwLock};

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Module, Result, Shape, Storage, Tensor, bail};
use tiltmeter_kernels::{PackedLinear, Pool, rms_norm, rope, swiglu};

use super::config::RopeSpec;

/// The f32 values of a contiguous tensor on the CPU.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&all[start..end]),
        _ => bail!("a decoder operation needs a contiguous f32 tensor"),
    }
}

/// Calls `f` with the values of a contiguous f32 tensor.
pub fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(values(storage, layout)?)),
        _ => bail!("this operation runs on the CPU only"),
    }
}

/// `y = x Wᵀ` with packed weights.
pub struct Linear {
    pub weights: Arc<PackedLinear>,
    pub pool: Arc<Pool>,
}

impl Linear {
    /// `[rows, k_in]` -> `[rows, n_out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "packed-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (rows, n_out) = (x.len() / self.weights.k_in(), self.weights.n_out());
        let mut y = vec![0.0; rows * n_out];
        self.weights.forward(x, &mut y, rows, &self.pool);
        Ok((CpuStorage::F32(y), Shape::from((rows, n_out))))
    }
}

/// `x / rms(x) · w` over each row.
pub struct RmsNorm {
    pub weight: Vec<f32>,
    pub eps: f32,
    pub pool: Arc<Pool>,
}

impl RmsNorm {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut out = vec![0.0; x.len()];
        rms_norm(x, &self.weight, self.eps, &mut out, self.weight.len(), &self.pool);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// SwiGLU feed-forward: `down(silu(gate(x)) · up(x))`.
pub struct Mlp {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Mlp {
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        let mut out = vec![0.0; gate.elem_count()];
        with_values(&gate, |gate| with_values(&up, |up| swiglu(gate, up, &mut out, &self.gate.pool)))??;
        self.down.forward(&Tensor::from_vec(out, gate.shape(), &Device::Cpu)?)
    }
}

/// Token embeddings, f32 or bf16; rows come out as f32, which holds both.
pub struct Embedding {
    table: candle_nn::Embedding,
}

impl Embedding {
    /// `table`: `[vocab, hidden]`.
    pub fn new(table: Tensor, hidden: usize) -> Self {
        Self { table: candle_nn::Embedding::new(table, hidden) }
    }

    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        self.table.forward(&Tensor::from_slice(ids, ids.len(), &Device::Cpu)?)?.to_dtype(DType::F32)
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
