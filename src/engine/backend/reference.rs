//! The reference backend: a spec interpreted by candle's own operations, one after the other, on any device candle has. The other
//! backends are tested against it (`TILTMETER_ENGINE=reference` runs it).

mod attention;
mod load;
mod model;

use candle_core::Device;

use crate::{
    backend::{self, Backend, BackendInfo, Batch, Drawn, PageCounts, SequenceCache, Watcher},
    checkpoint::weights::Weights,
    kv_cache::PAGE_LEN,
    sequence::Sequence,
    spec::{ArchSpec, Part},
};
use attention::LayerCache;
use model::Model;
use tiltmeter_model::problem::Problem;

pub use model::Precision;

fn broken(error: candle_core::Error) -> Problem {
    Problem::new(format!("the engine failed: {error}")).hint("this is a defect in tiltmeter: please report it")
}

/// All but a mixture of experts and attention sinks.
const PARTS: &[Part] = &[
    Part::EmbedScale,
    Part::LogitSoftcap,
    Part::AttentionSoftcap,
    Part::ClipQkv,
    Part::QkNormPerHead,
    Part::Gelu,
    Part::Bias,
    Part::OnePlusNorm,
];

/// Tokens and, per layer, their keys and values.
#[derive(Default)]
pub struct TensorCache {
    tokens: Vec<u32>,
    layers: Vec<LayerCache>,
}

impl SequenceCache for TensorCache {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl TensorCache {
    fn pages(&self) -> usize {
        self.tokens.len().div_ceil(PAGE_LEN)
    }
}

/// A model whose every operation is candle's. Its memory is counted in pages of `PAGE_LEN` tokens of all layers, windows or not.
pub struct ReferenceBackend {
    model: Model,
    facts: BackendInfo,
    capacity: usize,
    in_use: usize,
}

impl ReferenceBackend {
    /// `kv_bytes`: memory for keys and values.
    pub fn load(
        arch: ArchSpec,
        weights: &Weights,
        precision: Precision,
        device: Device,
        device_name: String,
        kv_bytes: u64,
    ) -> Result<Self, Problem> {
        backend::check(&arch, PARTS, "the reference engine")?;
        let dtype = precision.name();
        let facts =
            BackendInfo { device: device_name, dtype: format!("{dtype} by candle"), kv_dtype: dtype.to_owned() };
        let width = arch.num_layers() * arch.attention().kv_width();
        let page = 2 * PAGE_LEN * width * precision.bytes();
        let model = Model::load(arch, weights, precision, device)?;
        Ok(Self { capacity: (kv_bytes / page as u64) as usize, in_use: 0, model, facts })
    }

    /// Keeps count while a cache changes.
    fn change<R>(&mut self, cache: &mut TensorCache, change: impl FnOnce(&mut TensorCache) -> R) -> R {
        let before = cache.pages();
        let result = change(cache);
        self.in_use = self.in_use + cache.pages() - before;
        result
    }
}

impl Backend for ReferenceBackend {
    type Cache = TensorCache;

    fn arch(&self) -> &ArchSpec {
        self.model.arch()
    }

    fn facts(&self) -> BackendInfo {
        self.facts.clone()
    }

    fn capacity(&self) -> PageCounts {
        PageCounts([self.capacity, 0])
    }

    fn available(&self) -> PageCounts {
        PageCounts([self.capacity.saturating_sub(self.in_use), 0])
    }

    fn pages_for(&self, len: usize, _anchor: usize) -> PageCounts {
        PageCounts([len.div_ceil(PAGE_LEN), 0])
    }

    fn pages_held(&self, cache: &TensorCache) -> PageCounts {
        PageCounts([cache.pages(), 0])
    }

    fn extend(&mut self, cache: &mut TensorCache, tokens: &[u32]) {
        self.change(cache, |cache| cache.tokens.extend_from_slice(tokens));
    }

    fn truncate(&mut self, cache: &mut TensorCache, len: usize) {
        let whole = cache.layers.iter().zip(self.arch().windows()).all(|(layer, window)| layer.reaches(window, len));
        let kept = if whole { len.min(cache.tokens.len()) } else { 0 };
        self.change(cache, |cache| {
            cache.tokens.truncate(kept);
            if kept == 0 {
                cache.layers.clear();
            }
            cache.layers.iter_mut().for_each(|layer| layer.truncate(kept));
        });
    }

    fn evict_window(&mut self, cache: &mut TensorCache, anchor: usize) {
        for (layer, window) in cache.layers.iter_mut().zip(self.arch().windows()) {
            layer.evict_window(window, anchor);
        }
    }

    fn clear(&mut self, cache: &mut TensorCache) {
        self.change(cache, |cache| *cache = TensorCache::default());
    }

    /// Nothing is shared here.
    fn shareable(&self, _cache: &TensorCache, _tokens: &[u32]) -> usize {
        0
    }

    fn fork_prefix(&self, _cache: &TensorCache, _len: usize) -> TensorCache {
        TensorCache::default()
    }

    fn pass(&mut self, batch: &Batch, sequences: &mut [&mut Sequence<TensorCache>]) -> Result<Vec<Drawn>, Problem> {
        let sites = backend::sites(sequences);
        let mut caches = Vec::new();
        let mut watchers = Vec::new();
        for sequence in sequences.iter_mut() {
            let Sequence { cache, recorder, raw, draft, .. } = &mut **sequence;
            cache.layers.resize_with(self.arch().num_layers(), LayerCache::default);
            caches.push(&mut cache.layers);
            watchers.push(Watcher { recorder, raw, draft });
        }
        let width = self.arch().hidden_size;
        let mut seen = |site, states: &[f32]| backend::show(batch, &mut watchers, site, states, width);
        let logits = self.model.forward(batch, &mut caches, &sites, &mut seen).map_err(broken)?;
        Ok(backend::draw(batch, sequences, &logits, self.arch().vocab_size))
    }
}
