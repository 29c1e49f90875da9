//! The KV cache of the CPU: a pool of pages, a page list per sequence and layer, and eviction of pages that left the sliding window.
//! Sequences with a common prefix share its full pages; a shared page is never written.

use std::sync::Arc;

use tiltmeter_kernels::{KvPage, KvPages, KvType, KvWrite, PageShape};

use crate::spec::{ArchSpec, AttentionSpec};

/// Tokens per page.
pub const PAGE_LEN: usize = 32;

/// Hands out pages up to a fixed number; freed pages are kept for reuse while any is in use.
pub struct PagePool {
    memory: KvPages,
    capacity: usize,
    in_use: usize,
    free: Vec<KvPage>,
    windows: Vec<Option<usize>>,
}

/// What the pages of a model have in common.
pub fn page_shape(arch: &ArchSpec, kv: KvType) -> PageShape {
    let AttentionSpec { kv_heads, head_dim, .. } = *arch.attention();
    PageShape { n_kv_heads: kv_heads, head_dim, page_len: PAGE_LEN, kv }
}

impl PagePool {
    /// A pool of at most `bytes`.
    pub fn new(arch: &ArchSpec, bytes: u64, kv: KvType) -> Self {
        let shape = page_shape(arch, kv);
        Self {
            memory: KvPages::new(shape),
            capacity: (bytes / shape.bytes() as u64) as usize,
            in_use: 0,
            free: Vec::new(),
            windows: arch.windows().collect(),
        }
    }

    pub fn shape(&self) -> PageShape {
        *self.memory.shape()
    }

    /// Pages that can still be taken.
    pub fn available(&self) -> usize {
        // A page that was shared and is written to after all is copied, whatever the capacity.
        self.capacity.saturating_sub(self.in_use)
    }

    pub fn bytes_in_use(&self) -> u64 {
        (self.in_use * self.shape().bytes()) as u64
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Most pages that a sequence holds on its way to `len` tokens if everything after `anchor` must stay reachable.
    pub fn pages_for(&self, len: usize, anchor: usize) -> usize {
        self.windows.iter().map(|&window| len.div_ceil(PAGE_LEN) - first_needed_page(window, anchor.min(len))).sum()
    }

    fn take(&mut self) -> Arc<KvPage> {
        self.in_use += 1;
        Arc::new(self.free.pop().unwrap_or_else(|| self.memory.take()))
    }

    /// A private copy of a shared page.
    fn copy(&mut self, shared: &KvPage) -> Arc<KvPage> {
        let mut own = self.take();
        if let Some(page) = Arc::get_mut(&mut own) {
            page.copy_from(shared);
        }
        own
    }

    /// Frees the page unless another sequence holds it. With the last one all memory goes back to the system: reports are made while the model
    /// stays loaded.
    fn give_back(&mut self, page: Arc<KvPage>) {
        if let Ok(page) = Arc::try_unwrap(page) {
            self.in_use -= 1;
            self.free.push(page);
        }
        if self.in_use == 0 {
            self.free = Vec::new();
            self.memory = KvPages::new(self.shape());
        }
    }
}

/// The first page that a query at position `next` or later still reads. It sees the positions (next - window, next].
fn first_needed_page(window: Option<usize>, next: usize) -> usize {
    window.map_or(0, |window| (next + 1).saturating_sub(window) / PAGE_LEN)
}

#[derive(Default)]
struct LayerCache {
    /// Absolute index of `pages[0]`; earlier pages have left the window.
    first_page: usize,
    pages: Vec<Arc<KvPage>>,
}

/// What is kept of one sequence: its token ids and, per layer, the pages that a later query can see.
#[derive(Default)]
pub struct PagedCache {
    layers: Vec<LayerCache>,
    tokens: Vec<u32>,
}

impl PagedCache {
    /// Tokens whose keys and values are held.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn pages_held(&self) -> usize {
        self.layers.iter().map(|layer| layer.pages.len()).sum()
    }

    /// Makes room for `tokens`, which follow those held.
    pub fn extend(&mut self, tokens: &[u32], pool: &mut PagePool) {
        self.layers.resize_with(pool.windows.len(), LayerCache::default);
        // After a roll-back the next token may go into a page that another sequence holds too.
        let next = self.tokens.len() / PAGE_LEN;
        for layer in &mut self.layers {
            if let Some(page) = next.checked_sub(layer.first_page).and_then(|at| layer.pages.get_mut(at))
                && Arc::get_mut(page).is_none()
            {
                let own = pool.copy(page);
                pool.give_back(std::mem::replace(page, own));
            }
        }
        self.tokens.extend_from_slice(tokens);
        let until = self.tokens.len().div_ceil(PAGE_LEN);
        for layer in &mut self.layers {
            while layer.first_page + layer.pages.len() < until {
                layer.pages.push(pool.take());
            }
        }
    }

    /// How many of these tokens could be taken over from this sequence: whole pages of what both begin with.
    pub fn shareable(&self, tokens: &[u32], pool: &PagePool) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let len = common / PAGE_LEN * PAGE_LEN;
        let reachable =
            |(layer, window): (&LayerCache, &Option<usize>)| layer.first_page <= first_needed_page(*window, len);
        if self.layers.iter().zip(&pool.windows).all(reachable) { len } else { 0 }
    }

    /// A sequence that holds the first `len` tokens of this one, `len` being `shareable`.
    pub fn fork_prefix(&self, len: usize) -> Self {
        let pages = |layer: &LayerCache| {
            let held = (len / PAGE_LEN).saturating_sub(layer.first_page);
            LayerCache { first_page: layer.first_page, pages: layer.pages[..held].to_vec() }
        };
        Self { layers: self.layers.iter().map(pages).collect(), tokens: self.tokens[..len].to_vec() }
    }

    /// Where keys and values `[n, n_kv_heads, head_dim]` of the positions from `first` on are to be written, page by page.
    pub fn writes<'a>(
        &'a mut self,
        layer: usize,
        first: usize,
        k: &'a [f32],
        v: &'a [f32],
        width: usize,
    ) -> impl Iterator<Item = KvWrite<'a>> {
        let LayerCache { first_page, pages } = &mut self.layers[layer];
        let end = first + k.len() / width;
        let reached = (first / PAGE_LEN..end.div_ceil(PAGE_LEN)).zip(&mut pages[first / PAGE_LEN - *first_page..]);
        reached.map(move |(number, page)| {
            let (from, to) = (first.max(number * PAGE_LEN), end.min((number + 1) * PAGE_LEN));
            let rows = (from - first) * width..(to - first) * width;
            let page = Arc::get_mut(page).expect("`extend` made the page its own");
            KvWrite { page, slot: from % PAGE_LEN, k: &k[rows.clone()], v: &v[rows] }
        })
    }

    /// The pages of a layer and the absolute number of the first.
    pub fn pages(&self, layer: usize) -> (usize, Vec<&KvPage>) {
        let cache = &self.layers[layer];
        (cache.first_page, cache.pages.iter().map(|page| &**page).collect())
    }

    /// Frees what no query at `anchor` or later can see. A later roll-back must not go below `anchor`.
    pub fn evict_window(&mut self, anchor: usize, pool: &mut PagePool) {
        for (layer, window) in self.layers.iter_mut().zip(pool.windows.clone()) {
            let gone = first_needed_page(window, anchor).saturating_sub(layer.first_page).min(layer.pages.len());
            layer.first_page += gone;
            layer.pages.drain(..gone).for_each(|page| pool.give_back(page));
        }
    }

    /// Forgets the positions from `len` on. If a window's pages below `len` are gone already, everything is forgotten and the
    /// sequence starts over: slower, never wrong.
    pub fn truncate(&mut self, len: usize, pool: &mut PagePool) {
        if len >= self.len() {
            return;
        }
        let reachable = self
            .layers
            .iter()
            .zip(&pool.windows)
            .all(|(layer, &window)| layer.first_page <= first_needed_page(window, len));
        if !reachable {
            return self.clear(pool);
        }
        self.tokens.truncate(len);
        for layer in &mut self.layers {
            let keep = len.div_ceil(PAGE_LEN).saturating_sub(layer.first_page).min(layer.pages.len());
            layer.pages.drain(keep..).for_each(|page| pool.give_back(page));
        }
        if len == 0 {
            self.clear(pool);
        }
    }

    /// Gives every page back.
    pub fn clear(&mut self, pool: &mut PagePool) {
        self.tokens.clear();
        for mut layer in self.layers.drain(..) {
            layer.pages.drain(..).for_each(|page| pool.give_back(page));
        }
    }
}
