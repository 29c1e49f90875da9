//! The CPU backend: interprets an architecture with the kernels of `tiltmeter-kernels`, over one pool of pages for all layers.

pub mod decoder;
mod ops;

use tiltmeter_kernels::{Isa, KvType};

use crate::{
    backend::{Backend, BackendInfo, Batch, Drawn, PageCounts, SequenceCache, Watcher, draw, free_memory, show, sites},
    checkpoint::config::ModelConfig,
    kv_cache::{PagePool, PagedCache},
    sequence::Sequence,
};
use decoder::{Decoder, Workspace};
use tiltmeter_model::problem::Problem;

impl SequenceCache for PagedCache {
    fn tokens(&self) -> &[u32] {
        self.tokens()
    }
}

/// The processor: one pool of pages for all layers.
pub struct CpuBackend {
    decoder: Decoder,
    pages: PagePool,
    space: Workspace,
    dtype: String,
}

impl CpuBackend {
    /// `kv_bytes`: memory for keys and values; `None` is half of what is free after loading.
    pub fn new(decoder: Decoder, dtype: &str, kv: KvType, kv_bytes: Option<u64>) -> Self {
        let bytes = kv_bytes.unwrap_or_else(|| free_memory() / 2);
        Self {
            pages: PagePool::new(&decoder.config, bytes, kv),
            space: Workspace::default(),
            decoder,
            dtype: dtype.to_owned(),
        }
    }
}

impl Backend for CpuBackend {
    type Cache = PagedCache;

    fn config(&self) -> &ModelConfig {
        &self.decoder.config
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
        // As `tests/peers/linear.sh` measured bf16 weights: reading them is the most up to some rows, then each row costs the same.
        let rows = rows as f64;
        Some(match Isa::active() {
            Isa::Amx => (1.0 + rows / 85.0).max(rows / 20.0),
            Isa::Avx512 => (0.85 + rows / 24.0).max(rows / 10.4),
            Isa::Avx2 => (0.85 + rows / 12.0).max(rows / 4.9),
            _ => 0.7 + rows / 3.0,
        })
    }

    fn cost_of_attention(&self, len: usize) -> f64 {
        let config = &self.decoder.config;
        config.kv_bytes_read(len, self.pages.shape().kv.bytes()) as f64 / self.decoder.weight_bytes() as f64
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
        let width = self.decoder.config.hidden_size;
        let mut caches = Vec::new();
        let mut watchers = Vec::new();
        for sequence in sequences.iter_mut() {
            let Sequence { cache, recorder, raw, draft, .. } = &mut **sequence;
            caches.push(cache);
            watchers.push(Watcher { recorder, raw, draft });
        }
        let mut seen = |site, states: &[f32]| show(batch, &mut watchers, site, states, width);
        let logits = self.decoder.forward(batch, &mut caches, &self.pages, &sites, &mut seen, &mut self.space)?;
        Ok(draw(batch, sequences, logits, self.decoder.config.vocab_size))
    }
}
