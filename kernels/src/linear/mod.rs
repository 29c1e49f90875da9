//! The linear layer y = x W^T, with weights packed once into panels of 32 outputs.
//!
//! y[i][j] is the sum, in order, over blocks of 256 inputs of one FMA chain each: a chain starts at 0 and takes, pair
//! by pair, the odd input and then the even one. No horizontal sum, no split of the inputs over threads: so a row of
//! y depends on that row of x and the weights alone, and bf16 weights give the bits that their f32 values would. (The
//! order odd, even is the one in which the bf16 dot-product instruction of AVX-512 adds, should it ever be used.)
//!
//! On the tier `amx` bf16 weights have a recipe of their own, which `amx.rs` describes.
//!
//! Loops: panel, block of inputs, block of rows. A panel's block (16 KiB of bf16) stays in the first cache while all
//! row blocks pass over it, and the weights are read from memory once for every few hundred rows.

mod pack;
mod tile;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::ops::Range;

use half::{bf16, f16};

use crate::isa::Isa;
use crate::lanes::{Kernel, Lanes};
use crate::memory::{Block, Scratch};
use crate::pool::{Pool, Shares};
use tile::{Panels, Weight};

/// Outputs in a panel.
pub(crate) const PANEL: usize = 32;
/// Pairs of inputs in one FMA chain.
const PAIRS_PER_BLOCK: usize = 128;
/// Packed rows that are worked on at a time stay in the second cache.
const ROWS_LIMIT_BYTES: usize = 2 << 20;
/// Weights times rows below which waking other threads costs more than it saves.
const PARALLEL_FROM: usize = 50_000;

/// The weights `[n_out, k_in]` of a linear layer, packed for [`PackedLinear::forward`].
pub struct PackedLinear {
    n_out: usize,
    k_in: usize,
    weights: Weights,
}

enum Weights {
    /// `[panel][k][32]`.
    F32(Block<f32>),
    /// `[panel][pair][32]`, each u32 the odd input's weight above the even input's.
    Bf16(Block<u32>),
}

impl PackedLinear {
    /// Packs f32 weights `[n_out, k_in]`, row-major; takes `4 * n_out * k_in` bytes.
    ///
    /// # Panics
    /// When `w.len() != n_out * k_in`.
    pub fn from_f32(w: &[f32], n_out: usize, k_in: usize) -> Self {
        let weights = Weights::F32(pack::pack_f32(w, n_out, k_in));
        PackedLinear { n_out, k_in, weights }
    }

    /// Packs bf16 weights `[n_out, k_in]`, row-major, and keeps them bf16; takes `2 * n_out * k_in` bytes.
    ///
    /// # Panics
    /// When `w.len() != n_out * k_in`.
    pub fn from_bf16(w: &[bf16], n_out: usize, k_in: usize) -> Self {
        let weights = Weights::Bf16(pack::pack_bf16(w, n_out, k_in));
        PackedLinear { n_out, k_in, weights }
    }

    /// Packs f16 weights `[n_out, k_in]`, row-major, widened to f32; takes `4 * n_out * k_in` bytes.
    ///
    /// # Panics
    /// When `w.len() != n_out * k_in`.
    pub fn from_f16(w: &[f16], n_out: usize, k_in: usize) -> Self {
        let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
        Self::from_f32(&wide, n_out, k_in)
    }

    /// Outputs: the width of a row of y.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Inputs: the width of a row of x.
    pub fn k_in(&self) -> usize {
        self.k_in
    }

    /// Memory the packed weights take.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::F32(block) => block.bytes(),
            Weights::Bf16(block) => block.bytes(),
        }
    }

    /// y = x W^T for `m` rows: `x` is `[m, k_in]`, `y` is `[m, n_out]`, both row-major.
    ///
    /// Within about 3e-7 of the largest |x||w| sum from the exact product; the same bits for a row whatever the other
    /// rows, their number, the threads and the instruction set, [`Isa::Amx`] excepted.
    ///
    /// # Panics
    /// When the lengths of `x` and `y` do not fit `m`.
    pub fn forward(&self, x: &[f32], y: &mut [f32], m: usize, pool: &Pool) {
        forward_each(&[self], x, &mut [y], m, pool);
    }

    /// [`PackedLinear::forward`] on a tier of one's choice, to compare them.
    ///
    /// # Panics
    /// As above, and when this CPU lacks the tier.
    pub fn forward_on(&self, isa: Isa, x: &[f32], y: &mut [f32], m: usize, pool: &Pool) {
        assert!(isa.is_here(), "this CPU lacks {}", isa.name());
        each_on(isa, &[self], x, &mut [y], m, pool);
    }
}

/// [`PackedLinear::forward`] of several layers of the same inputs, `ys[i]` being that of `layers[i]`: the same bits, and x is laid out
/// for all of them at once.
///
/// # Panics
/// When there is not one y for each layer, the layers' inputs differ in number, or the lengths of `x` and the `ys` do not fit `m`.
pub fn forward_each(layers: &[&PackedLinear], x: &[f32], ys: &mut [&mut [f32]], m: usize, pool: &Pool) {
    each_on(Isa::active(), layers, x, ys, m, pool);
}

/// One layer of a call.
pub(crate) struct Layer<'a, W> {
    w: &'a [W],
    n: usize,
    /// `[rows, n]`
    y: Shares<f32>,
}

fn each_on(isa: Isa, layers: &[&PackedLinear], x: &[f32], ys: &mut [&mut [f32]], m: usize, pool: &Pool) {
    assert_eq!(layers.len(), ys.len(), "each layer has its y");
    let k = layers.first().map_or(0, |layer| layer.k_in);
    assert_eq!(x.len(), m * k, "x is [m, k_in] = [{m}, {k}]");
    for (layer, y) in layers.iter().zip(ys.iter_mut()) {
        assert_eq!(layer.k_in, k, "all layers take the same inputs");
        assert_eq!(y.len(), m * layer.n_out, "y is [m, n_out] = [{m}, {}]", layer.n_out);
        if k == 0 {
            y.fill(0.0);
        }
    }
    if x.is_empty() {
        return;
    }
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    for (layer, y) in layers.iter().zip(ys) {
        let (n, y) = (layer.n_out, Shares::new(y));
        match &layer.weights {
            Weights::Bf16(w) => narrow.push(Layer { w: &w[..], n, y }),
            Weights::F32(w) => wide.push(Layer { w: &w[..], n, y }),
        }
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if isa == Isa::Amx {
        amx::forward(&std::mem::take(&mut narrow), x, k, pool);
    }
    let k_even = k.next_multiple_of(2);
    let fitting = ROWS_LIMIT_BYTES / size_of::<f32>() / k_even;
    let rows = (fitting / 12 * 12).max(48);
    for (i, x) in x.chunks(rows * k).enumerate() {
        forward_rows(isa, &narrow, x, k, i * rows, pool);
        forward_rows(isa, &wide, x, k, i * rows, pool);
    }
}

/// The layers for the rows `x`, which are those from `first_row` on of each y.
fn forward_rows<W: Weight>(isa: Isa, layers: &[Layer<W>], x: &[f32], k: usize, first_row: usize, pool: &Pool) {
    let n: usize = layers.iter().map(|layer| layer.n).sum();
    if n == 0 {
        return;
    }
    let m = x.len() / k;
    let k_even = k.next_multiple_of(2);
    let blocks = RowBlocks::new(m, tile::rows_at_once(isa, m));
    let alone = n * k * (1 + m / 8) < PARALLEL_FROM;

    let mut packed = Scratch::take(m * k_even);
    let pack_tasks = if alone || m < 32 { 1 } else { blocks.count };
    let packed_rows = Shares::new(&mut packed);
    pool.run(pack_tasks, |task| {
        for block in share(blocks.count, pack_tasks, task) {
            let (row, rows) = blocks.rows(block);
            // SAFETY: row blocks do not overlap.
            let to = unsafe { packed_rows.range(row * k_even, rows * k_even) };
            pack::pack_rows(&x[row * k..(row + rows) * k], k, rows, to);
        }
    });

    let at_once = tile::panels_at_once(isa, m);
    let groups = |layer: &Layer<W>| layer.n.div_ceil(PANEL).div_ceil(at_once);
    let all_groups: usize = layers.iter().map(groups).sum();
    // With few panels the rows are shared out as well.
    let splits = (4 * pool.threads()).div_ceil(all_groups).min(blocks.count);
    let runs = runs(layers, groups, if splits > 1 { all_groups } else { pool.threads() });
    let task = |task: usize| {
        let Run { layer, items } = &runs[task / splits];
        let layer = &layers[*layer];
        for group in items.clone() {
            let (first, panels) = (group * at_once, layer.n.div_ceil(PANEL));
            let work = Panels {
                w: layer.w[first * W::panel_len(k_even)..].as_ptr(),
                count: at_once.min(panels - first),
                whole: first + at_once <= panels,
                width: layer.n - first * PANEL,
                pairs: k_even / 2,
                x: packed.as_ptr(),
                blocks,
                range: share(blocks.count, splits, task % splits),
                y: layer.y.as_mut_ptr().wrapping_add(first_row * layer.n + first * PANEL),
                y_stride: layer.n,
            };
            // SAFETY: the packed weights hold `count` panels from `first`, the packed rows all blocks, and y has m rows of n from
            // `first_row` on; tasks write to different layers, columns or rows.
            unsafe { isa.run(work) }
        }
    };
    let tasks = runs.len() * splits;
    if alone {
        (0..tasks).for_each(task);
    } else {
        pool.run(tasks, task);
    }
}

/// Items of one layer that one thread takes one after the other.
struct Run {
    layer: usize,
    items: Range<usize>,
}

/// Cuts the items of all layers, `count` says how many each has, into runs: long ones first, since a thread asks for the weights that
/// lie behind those it works on, and single ones last, so that all threads end together.
fn runs<W>(layers: &[Layer<W>], count: impl Fn(&Layer<W>) -> usize, threads: usize) -> Vec<Run> {
    let mut left: usize = layers.iter().map(&count).sum();
    let mut runs = Vec::new();
    for (layer, count) in layers.iter().map(count).enumerate() {
        let mut first = 0;
        while first < count {
            let len = (left / (2 * threads)).clamp(1, count - first);
            runs.push(Run { layer, items: first..first + len });
            (first, left) = (first + len, left - len);
        }
    }
    runs
}

impl std::fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.weights {
            Weights::F32(_) => "f32",
            Weights::Bf16(_) => "bf16",
        };
        write!(f, "PackedLinear({kind} [{}, {}])", self.n_out, self.k_in)
    }
}

/// Part `part` of `count` items cut into `parts` even parts.
fn share(count: usize, parts: usize, part: usize) -> Range<usize> {
    count * part / parts..count * (part + 1) / parts
}

/// `m` rows cut into blocks of nearly the same size.
#[derive(Clone, Copy)]
pub(crate) struct RowBlocks {
    m: usize,
    pub(crate) count: usize,
}

impl RowBlocks {
    fn new(m: usize, limit: usize) -> Self {
        RowBlocks { m, count: m.div_ceil(limit) }
    }

    /// The first row of a block and how many it has.
    #[inline(always)]
    pub(crate) fn rows(&self, block: usize) -> (usize, usize) {
        let (size, longer) = (self.m / self.count, self.m % self.count);
        let row = block * size + block.min(longer);
        (row, size + usize::from(block < longer))
    }
}

impl<W: Weight> Kernel for Panels<W> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.work::<V>() }
    }
}

#[cfg(test)]
mod tests;
