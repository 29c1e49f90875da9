//! Attention in candle's operations: keys and values that grow by concatenation, and softmax(scale · q kᵀ + mask) v in f32.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::softmax;

use super::model::soft_cap;
use crate::spec::AttentionSpec;

/// Keys and values `[n_kv_heads, positions, head_dim]` of one layer of one sequence; `None` before the first.
#[derive(Default)]
pub struct LayerCache {
    held: Option<(Tensor, Tensor)>,
    /// Position of the first key held; earlier ones have left the window.
    first: usize,
}

/// The first position that a query at `next` or later still sees: it sees (next - window, next].
fn first_needed(window: Option<usize>, next: usize) -> usize {
    window.map_or(0, |window| (next + 1).saturating_sub(window))
}

impl LayerCache {
    fn len(&self) -> Result<usize> {
        self.held.as_ref().map_or(Ok(0), |(k, _)| k.dim(1))
    }

    /// Whether all that a query at `next` sees is still held.
    pub fn reaches(&self, window: Option<usize>, next: usize) -> bool {
        self.first <= first_needed(window, next)
    }

    /// Appends keys and values `[n_kv_heads, n, head_dim]`.
    pub fn append(&mut self, k: Tensor, v: Tensor) -> Result<()> {
        self.held = Some(match self.held.take() {
            None => (k, v),
            Some((old_k, old_v)) => (Tensor::cat(&[&old_k, &k], 1)?, Tensor::cat(&[&old_v, &v], 1)?),
        });
        Ok(())
    }

    fn narrow(&mut self, from: usize, until: usize) {
        let cut = |t: &Tensor| t.narrow(1, from, until - from).and_then(|t| t.contiguous());
        self.held = match self.held.take() {
            // A narrow within bounds does not fail; if it did, an empty cache would be slower, never wrong.
            Some((k, v)) if until > from => cut(&k).and_then(|k| Ok((k, cut(&v)?))).ok(),
            _ => None,
        };
        self.first += from;
    }

    /// Forgets the positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        let held = self.len().unwrap_or(0);
        let kept = len.saturating_sub(self.first);
        if kept < held {
            self.narrow(0, kept);
        }
    }

    /// Forgets what no query at `anchor` or later sees.
    pub fn evict_window(&mut self, window: Option<usize>, anchor: usize) {
        let held = self.len().unwrap_or(0);
        let gone = first_needed(window, anchor).saturating_sub(self.first);
        if gone > 0 && gone < held {
            self.narrow(gone, held);
        }
    }

    /// `q`: `[n_heads, n, head_dim]` of the last n positions held. Gives `[n, n_heads * head_dim]`, f32.
    pub fn attend(&self, q: &Tensor, spec: &AttentionSpec) -> Result<Tensor> {
        let Some((k, v)) = &self.held else { candle_core::bail!("attention over no keys") };
        let (n_heads, n, head_dim) = q.dims3()?;
        let (n_kv_heads, len, _) = k.dims3()?;
        let (k, v) = (k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?);
        // The heads of a group share keys and values: their queries stand below each other.
        let group = n_heads / n_kv_heads;
        let q = q.to_dtype(DType::F32)?.contiguous()?.reshape((n_kv_heads, group * n, head_dim))?;
        let scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(spec.scale))?;
        let scores = soft_cap(scores, spec.softcap)?.reshape((n_kv_heads, group, n, len))?;
        let mask = self.mask(n, len, spec.window, q.device())?;
        let weights = softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
        let out = weights.reshape((n_kv_heads, group * n, len))?.matmul(&v.contiguous()?)?;
        out.reshape((n_heads, n, head_dim))?.transpose(0, 1)?.contiguous()?.reshape((n, n_heads * head_dim))
    }

    /// `[n, len]`: 0 where the query sees the key, -inf elsewhere.
    fn mask(&self, n: usize, len: usize, window: Option<usize>, device: &candle_core::Device) -> Result<Tensor> {
        let sees = |query: usize, key: usize| key <= query && window.is_none_or(|window| key + window > query);
        let rows = len - n..len;
        let values =
            rows.flat_map(|query| (0..len).map(move |key| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY }));
        Tensor::from_vec(values.collect::<Vec<f32>>(), (n, len), device)
    }
}
