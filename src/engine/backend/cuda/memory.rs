//! Device memory besides weights: KV pages, activations, RoPE tables, and the division of free memory among them. Everything is allocated
//! once, since recorded steps contain the addresses.

use std::collections::HashMap;

use tiltmeter_kernels::gpu::{
    Gpu, Memory, Result, Span,
    attention::{Pages, Reach},
};

use crate::{
    backend::PageCounts,
    backend::cuda::layers::shape_of,
    backend::cuda::pages::SPARE_PAGES,
    backend::cuda::weights::Shapes,
    kv_cache::PAGE_LEN,
    spec::{ArchSpec, RopeSpec},
};

/// Keys and values of all layers. A pool's layers have equally many pages; page n of a layer is n pages into its part.
pub struct KvMemory {
    /// Per pool: keys, values.
    pools: [Option<[Memory; 2]>; 2],
    /// Per pool: pages of a layer.
    counts: [usize; 2],
    /// Per layer: its pool, and which of the pool's layers it is.
    places: Vec<(usize, usize)>,
    page_len: usize,
}

/// The pool of each layer: 1 where it has a window.
fn places(config: &ArchSpec) -> Vec<(usize, usize)> {
    let mut seen = [0, 0];
    let place = |window: Option<usize>| {
        let pool = usize::from(window.is_some());
        seen[pool] += 1;
        (pool, seen[pool] - 1)
    };
    config.windows().map(place).collect()
}

fn layers_of(config: &ArchSpec) -> [usize; 2] {
    let windowed = config.windows().flatten().count();
    [config.num_layers() - windowed, windowed]
}

/// Bytes of a page of all layers of each pool.
pub fn page_bytes(config: &ArchSpec) -> [u64; 2] {
    let page = 2 * 2 * config.attention().kv_heads * PAGE_LEN * config.attention().head_dim;
    layers_of(config).map(|layers| (layers * page) as u64)
}

/// How many pages of each pool fit into so many bytes: as a conversation of twice the window needs them, so that both pools are full
/// at the same time where conversations are long, and the windowed layers' is where they are short.
pub fn divide(config: &ArchSpec, bytes: u64) -> PageCounts {
    let [full, windowed] = page_bytes(config);
    let window = config.windows().flatten().max();
    let longest = config.max_positions.min(window.map_or(usize::MAX, |window| 2 * window)).div_ceil(PAGE_LEN);
    // A reply's pages stay until its turn is over, and a prompt is fed in chunks.
    let in_window = window.map_or(0, |window| longest.min((window + 1024).div_ceil(PAGE_LEN)));
    let spare = SPARE_PAGES as u64 * (full + windowed);
    let conversation = longest as u64 * full + in_window as u64 * windowed;
    let share = bytes.saturating_sub(spare) as f64 / conversation.max(1) as f64;
    let pages = |each: usize, bytes: u64| if bytes == 0 { 0 } else { (each as f64 * share) as usize };
    PageCounts([pages(longest, full), pages(in_window, windowed)])
}

impl KvMemory {
    pub fn new(gpu: &Gpu, config: &ArchSpec, capacity: PageCounts) -> Result<Self> {
        let layers = layers_of(config);
        let page_len = config.attention().kv_heads * PAGE_LEN * config.attention().head_dim;
        let counts = [0, 1].map(|pool| if layers[pool] == 0 { 0 } else { capacity.0[pool] + SPARE_PAGES });
        let pool = |pool: usize| -> Result<Option<[Memory; 2]>> {
            let bytes = 2 * layers[pool] * counts[pool] * page_len;
            if bytes == 0 { Ok(None) } else { Ok(Some([gpu.alloc(bytes)?, gpu.alloc(bytes)?])) }
        };
        Ok(Self { pools: [pool(0)?, pool(1)?], counts, places: places(config), page_len })
    }

    /// The pool of a layer, and its pages.
    pub fn layer(&self, layer: usize) -> (usize, Pages<'_>) {
        let (pool, index) = self.places[layer];
        let count = self.counts[pool];
        let Some([keys, values]) = &self.pools[pool] else { unreachable!("a pool that has a layer has memory") };
        let (skip, len) = (index * count * self.page_len, count * self.page_len);
        let (k, v) = (keys.part::<u16>(skip, len), values.part::<u16>(skip, len));
        (pool, Pages { k, v, count, stride: self.page_len })
    }

    /// Copies a page of all layers of a pool.
    pub fn copy_page(&self, pool: usize, from: u32, to: u32) -> Result<()> {
        let layers = self.places.iter().filter(|(of, _)| *of == pool).map(|(_, index)| index);
        for index in layers {
            for memory in self.pools[pool].iter().flatten() {
                let page = |number: u32| {
                    memory.part::<u16>((index * self.counts[pool] + number as usize) * self.page_len, self.page_len)
                };
                page(from).copy_to(page(to))?;
            }
        }
        Ok(())
    }
}

/// Cosines and sines `[positions, head_dim / 2]`; layers of the same frequencies share a table.
pub struct RopeTables {
    tables: Vec<[Memory; 2]>,
    of_layer: Vec<usize>,
    pub positions: usize,
}

impl RopeTables {
    pub fn new(gpu: &Gpu, config: &ArchSpec, positions: usize) -> Result<Self> {
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut tables = Vec::new();
        let mut of_layer = Vec::new();
        for spec in config.blocks.iter().map(|block| &block.attention.rope) {
            let next = tables.len();
            let index = *known.entry(format!("{spec:?}")).or_insert(next);
            if index == next {
                tables.push(Self::table(gpu, spec, config.attention().head_dim, positions)?);
            }
            of_layer.push(index);
        }
        Ok(Self { tables, of_layer, positions })
    }

    /// Angles in f32, as the reference implementations compute them: at position 8,000 f64 angles would differ visibly.
    fn table(gpu: &Gpu, spec: &RopeSpec, head_dim: usize, positions: usize) -> Result<[Memory; 2]> {
        let (frequencies, scaling) = spec.frequencies(head_dim);
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() * scaling, a.sin() * scaling)).unzip();
        Ok([gpu.upload(&cos)?, gpu.upload(&sin)?])
    }

    pub fn of(&self, layer: usize) -> (Span<'_>, Span<'_>) {
        let [cos, sin] = &self.tables[self.of_layer[layer]];
        (cos.all(), sin.all())
    }
}

/// What the kernels of a pass hand to each other, for so many rows and so many drawn tokens.
pub struct Activations {
    /// f32 `[rows, hidden]`.
    pub residual: Memory,
    /// The next product's input.
    pub x: Memory,
    /// Parts of sums that the next kernel adds.
    pub parts: Memory,
    pub q: Memory,
    pub attended: Memory,
    pub inner: Memory,
    /// The head's input, of the rows whose logits are wanted.
    pub last: Memory,
    /// f32 `[drawn, vocab]`.
    pub logits: Memory,
    /// Scratch of products that add their parts themselves.
    pub sums: Memory,
    pub arrivals: Memory,
}

impl Activations {
    pub fn new(gpu: &Gpu, config: &ArchSpec, rows: usize, drawn: usize) -> Result<Self> {
        let shapes = Shapes::of(config);
        let most = |need: &dyn Fn(usize) -> usize| (1..=rows).map(need).max().unwrap_or(0);
        let parts = [shapes.qkv, shapes.out, shapes.down].map(|shape| most(&|m| shape.parts(m) * m * shape.n));
        let scratch = shapes.all().map(|shape| {
            (1..=rows).fold((0, 0), |(a, b), m| {
                let (sums, arrivals) = shape.scratch(m);
                (a.max(sums), b.max(arrivals))
            })
        });
        let q = config.attention().heads * config.attention().head_dim;
        let largest = |numbers: &mut dyn Iterator<Item = usize>| numbers.max().unwrap_or(0);
        Ok(Self {
            residual: gpu.alloc(4 * rows * config.hidden_size)?,
            x: gpu.alloc(2 * rows * config.hidden_size)?,
            parts: gpu.alloc(4 * largest(&mut parts.into_iter()))?,
            q: gpu.alloc(2 * rows * q)?,
            attended: gpu.alloc(2 * rows * q)?,
            inner: gpu.alloc(2 * rows * config.intermediate_size())?,
            last: gpu.alloc(2 * drawn * config.hidden_size)?,
            logits: gpu.alloc(4 * drawn * config.vocab_size)?,
            sums: gpu.alloc(4 * largest(&mut scratch.iter().map(|(sums, _)| *sums)))?,
            arrivals: gpu.alloc(4 * largest(&mut scratch.iter().map(|(_, arrivals)| *arrivals)))?,
        })
    }
}

/// Scratch of attention while decoding, for conversations of up to so many keys.
pub struct AttentionMemory {
    pub partials: Memory,
    pub states: Memory,
}

impl AttentionMemory {
    pub fn new(gpu: &Gpu, config: &ArchSpec, reach: Reach) -> Result<Self> {
        let (mut partials, mut states) = (0, 0);
        for layer in 0..config.num_layers() {
            let (p, s) = shape_of(config, layer).scratch(reach);
            (partials, states) = (partials.max(p), states.max(s));
        }
        Ok(Self { partials: gpu.alloc(4 * partials)?, states: gpu.alloc(4 * states)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Olmo-3-7B: 8 of 32 layers see everything, 24 see 4,096 keys; a page of a layer is half a megabyte.
    #[test]
    fn memory_is_divided_as_long_conversations_need_it() {
        let config = crate::families::ModelConfig::parse(
            r#"{"model_type": "olmo3", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                "num_attention_heads": 32, "vocab_size": 100278, "rms_norm_eps": 1e-6, "max_position_embeddings": 65536,
                "sliding_window": 4096}"#,
            None,
        )
        .unwrap()
        .arch;
        assert_eq!(page_bytes(&config), [8 << 19, 24 << 19]);
        let room = divide(&config, 119_000_000_000);
        let conversations = room.0[0] as f64 / 256.0;
        assert!((38.0..39.0).contains(&conversations), "{conversations}");
        assert!((room.0[1] as f64 / 160.0 - conversations).abs() < 0.1);
        assert_eq!(divide(&config, 1 << 20), PageCounts([0, 0]), "a megabyte holds nothing");
    }
}
