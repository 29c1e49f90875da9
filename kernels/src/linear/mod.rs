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
//!
//! Must not know: models, engine.

mod pack;
mod tile;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;

use half::{bf16, f16};

use crate::isa::Isa;
use crate::lanes::{Kernel, Lanes};
use crate::memory::{Block, Scratch};
use crate::pool::{Pool, Shares};
use tile::{Panels, Weight};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use amx::tiles_permitted;

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
        self.on(Isa::active(), x, y, m, pool);
    }

    /// [`PackedLinear::forward`] on a tier of one's choice, to compare them.
    ///
    /// # Panics
    /// As above, and when this CPU lacks the tier.
    pub fn forward_on(&self, isa: Isa, x: &[f32], y: &mut [f32], m: usize, pool: &Pool) {
        assert!(isa.is_here(), "this CPU lacks {}", isa.name());
        self.on(isa, x, y, m, pool);
    }

    fn on(&self, isa: Isa, x: &[f32], y: &mut [f32], m: usize, pool: &Pool) {
        assert_eq!(x.len(), m * self.k_in, "x is [m, k_in] = [{m}, {}]", self.k_in);
        assert_eq!(y.len(), m * self.n_out, "y is [m, n_out] = [{m}, {}]", self.n_out);
        if self.k_in == 0 {
            y.fill(0.0);
        }
        if y.is_empty() || self.k_in == 0 {
            return;
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let (Isa::Amx, Weights::Bf16(w)) = (isa, &self.weights) {
            return amx::forward(w, x, y, self.k_in, self.n_out, pool);
        }
        let k_even = self.k_in.next_multiple_of(2);
        let fitting = ROWS_LIMIT_BYTES / size_of::<f32>() / k_even;
        let rows = (fitting / 12 * 12).max(48);
        for (x, y) in x.chunks(rows * self.k_in).zip(y.chunks_mut(rows * self.n_out)) {
            match &self.weights {
                Weights::F32(w) => self.forward_rows(isa, w, x, y, pool),
                Weights::Bf16(w) => self.forward_rows(isa, w, x, y, pool),
            }
        }
    }

    fn forward_rows<W: Weight>(&self, isa: Isa, w: &[W], x: &[f32], y: &mut [f32], pool: &Pool) {
        let (n, k) = (self.n_out, self.k_in);
        let m = x.len() / k;
        let k_even = k.next_multiple_of(2);
        let blocks = RowBlocks::new(m, tile::rows_at_once(isa));
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

        let panels = n.div_ceil(PANEL);
        let at_once = tile::panels_at_once(isa, m);
        let groups = panels.div_ceil(at_once);
        // With few panels the rows are shared out as well.
        let splits = (4 * pool.threads()).div_ceil(groups).min(blocks.count);
        let y = Shares::new(y);
        let task = |task: usize| {
            let first = task / splits * at_once;
            let work = Panels {
                w: w[first * W::panel_len(k_even)..].as_ptr(),
                count: at_once.min(panels - first),
                whole: first + at_once <= panels,
                width: n - first * PANEL,
                pairs: k_even / 2,
                x: packed.as_ptr(),
                blocks,
                range: share(blocks.count, splits, task % splits),
                y: y.as_mut_ptr().wrapping_add(first * PANEL),
                y_stride: n,
            };
            // SAFETY: the packed weights hold `count` panels from `first`, the packed rows all blocks, and y has m
            // rows of n; tasks write to different columns or rows of y.
            unsafe { isa.run(work) }
        };
        if alone {
            (0..groups * splits).for_each(task);
        } else {
            pool.run(groups * splits, task);
        }
    }
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
fn share(count: usize, parts: usize, part: usize) -> std::ops::Range<usize> {
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
