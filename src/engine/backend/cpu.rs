//! The CPU backend: interprets an architecture with the kernels of `tiltmeter-kernels`, over one pool of pages for all layers.

mod attention;
mod block;
pub mod decoder;
mod ops;

use tiltmeter_kernels::{Isa, KvType};

use crate::{
    backend::{Backend, BackendInfo, Batch, Drawn, PageCounts, SequenceCache, Watcher, draw, free_memory, show, sites},
    kv_cache::{PagePool, PagedCache},
    sequence::Sequence,
    spec::{ArchSpec, Part},
};
use decoder::{Decoder, Workspace};
use tiltmeter_model::problem::Problem;

impl SequenceCache for PagedCache {
    fn tokens(&self) -> &[u32] {
        self.tokens()
    }
}

/// What the kernels compute beyond the basics.
pub const PARTS: &[Part] = &[Part::QkNormPerHead];

/// The CPU: one pool of pages for all layers.
pub struct CpuBackend {
    decoder: Decoder,
    pages: PagePool,
    space: Workspace,
    dtype: String,
}

impl CpuBackend {
    /// `kv_bytes`: memory for keys and values; `None`: half of the free memory after loading.
    pub fn new(decoder: Decoder, dtype: &str, kv: KvType, kv_bytes: Option<u64>) -> Self {
        let bytes = kv_bytes.unwrap_or_else(|| free_memory() / 2);
        Self {
            pages: PagePool::new(&decoder.arch, bytes, kv),
            space: Workspace::default(),
            decoder,
            dtype: dtype.to_owned(),
        }
    }
}

impl Backend for CpuBackend {
    type Cache = PagedCache;

    fn arch(&self) -> &ArchSpec {
        &self.decoder.arch
    }

    fn facts(&self) -> BackendInfo {
        let kv_dtype = self.pages.shape().kv.name().to_owned();
        BackendInfo { device: "cpu".to_owned(), dtype: self.dtype.clone(), kv_dtype }
    }

    fn weight_bytes(&self) -> u64 {
        self.decoder.weight_bytes()
    }

    fn kv_bytes(&self) -> u64 {
        self.pages.bytes_in_use()
    }

    fn cost_of_rows(&self, rows: usize) -> Option<f64> {
        Some(RowCost::of(Isa::active()).of_rows(rows as f64))
    }

    fn cost_of_attention(&self, len: usize) -> f64 {
        self.decoder.arch.kv_bytes_read(len, self.pages.shape().kv.bytes()) as f64 / self.decoder.weight_bytes() as f64
    }

    fn capacity(&self) -> PageCounts {
        PageCounts([self.pages.capacity(), 0])
    }

    fn available(&self) -> PageCounts {
        PageCounts([self.pages.available(), 0])
    }

    fn pages_for(&self, len: usize, anchor: usize) -> PageCounts {
        PageCounts([self.pages.pages_for(len, anchor), 0])
    }

    fn pages_held(&self, cache: &PagedCache) -> PageCounts {
        PageCounts([cache.pages_held(), 0])
    }

    fn extend(&mut self, cache: &mut PagedCache, tokens: &[u32]) {
        cache.extend(tokens, &mut self.pages);
    }

    fn truncate(&mut self, cache: &mut PagedCache, len: usize) {
        cache.truncate(len, &mut self.pages);
    }

    fn evict_window(&mut self, cache: &mut PagedCache, anchor: usize) {
        cache.evict_window(anchor, &mut self.pages);
    }

    fn clear(&mut self, cache: &mut PagedCache) {
        cache.clear(&mut self.pages);
    }

    fn shareable(&self, cache: &PagedCache, tokens: &[u32]) -> usize {
        cache.shareable(tokens, &self.pages)
    }

    fn fork_prefix(&self, cache: &PagedCache, len: usize) -> PagedCache {
        cache.fork_prefix(len)
    }

    fn pass(&mut self, batch: &Batch, sequences: &mut [&mut Sequence<PagedCache>]) -> Result<Vec<Drawn>, Problem> {
        let sites = sites(sequences);
        let width = self.decoder.arch.hidden_size;
        let mut caches = Vec::new();
        let mut watchers = Vec::new();
        for sequence in sequences.iter_mut() {
            let Sequence { cache, recorder, raw, draft, .. } = &mut **sequence;
            caches.push(cache);
            watchers.push(Watcher { recorder, raw, draft });
        }
        let mut seen = |site, states: &[f32]| show(batch, &mut watchers, site, states, width);
        let logits = self.decoder.forward(batch, &mut caches, &self.pages, &sites, &mut seen, &mut self.space)?;
        Ok(draw(batch, sequences, logits, self.decoder.arch.vocab_size))
    }
}

/// Cost of a pass over some rows in the linear layers, in passes of one row. Reading the weights is most of it for few rows, arithmetic
/// for many: `max(base + rows / per_read, rows / per_compute)`.
struct RowCost {
    base: f64,
    per_read: f64,
    per_compute: f64,
}

/// As `tests/peers/linear.sh` measured bf16 weights.
const ROW_COSTS: [(Isa, RowCost); 3] = [
    (Isa::Amx, RowCost { base: 1.0, per_read: 85.0, per_compute: 20.0 }),
    (Isa::Avx512, RowCost { base: 0.85, per_read: 24.0, per_compute: 10.4 }),
    (Isa::Avx2, RowCost { base: 0.85, per_read: 12.0, per_compute: 4.9 }),
];

/// Of every other instruction set.
const OTHER_ROW_COST: RowCost = RowCost { base: 0.7, per_read: 3.0, per_compute: f64::INFINITY };

impl RowCost {
    fn of(isa: Isa) -> &'static Self {
        ROW_COSTS.iter().find(|(of, _)| *of == isa).map_or(&OTHER_ROW_COST, |(_, cost)| cost)
    }

    fn of_rows(&self, rows: f64) -> f64 {
        (self.base + rows / self.per_read).max(rows / self.per_compute)
    }
}
