//! The linear layer on AMX tiles, for bf16 weights and f32 rows: 16 rows of x times 64 outputs at a time, or 32 times 32 where there
//! are so many.
//!
//! An f32 is the sum of three bf16 (8 + 8 + 8 bits of its significand, cut off, so that each remainder is exact), and a
//! product of two bf16 is exact in f32. So each block of 32 inputs is multiplied three times, by the upper, the middle
//! and the lower part of x, and nothing of x is rounded. What the tile instruction adds, in this order, is part of the
//! contract: for block after block of 32 inputs, and part after part,
//!
//! ```text
//! e = fma(x[0], w[0], 0), fma(x[2], w[2], e), … x[30]     o = the same over x[1], x[3], … x[31]     y = y + (e + o)
//! ```
//!
//! with subnormal inputs and results as zero (Intel, "Intrinsics Guide", `_tile_dpbf16ps`; measured: no difference to
//! this formula in 512,000 sums). So a row's bits depend on it and the weights alone here too, but they are not those of
//! the other tiers. Rows that are bf16 already have empty lower parts, which are left out where a whole block of rows
//! has none: adding their zeros would change no bit.
//!
//! The packed panels serve as they are: sixteen pairs of a panel's half are one tile, 128 bytes from row to row.

use std::arch::x86_64::*;
use std::ops::Range;

use super::tiles::{LINE, PARTS, ROWS, STEP, ask, configure, load, multiply_panel, multiply_row, release, store, zero};
use super::{Layer, PANEL, runs, share};
use crate::lanes::FAR_BYTES;
use crate::memory::Scratch;
use crate::pool::{Pool, Shares};

/// Outputs that are worked on together: four tiles.
const OUTPUTS: usize = 2 * PANEL;
/// bf16 elements of a tile.
const TILE: usize = ROWS * STEP;
/// Steps between two visits of the sums of many rows: a panel's weights of so many (16 KiB) stay in the first cache while rows pass, and
/// all rows' parts of them in the second.
const STEPS_PER_BLOCK: usize = 8;
/// Most rows at a time, and most bytes of their parts if not fewer than `FEWEST_ROWS` fit.
const MOST_ROWS: usize = 512;
const ROWS_LIMIT_BYTES: usize = 16 << 20;
const FEWEST_ROWS: usize = 64;
/// Bytes of a step's weights in one panel.
const STEP_BYTES: usize = 2 * STEP * PANEL;
/// Most panels that a thread takes together when many rows pass over them.
const PANELS_AT_ONCE: usize = 8;

/// Each layer's y = x W^T: `x` `[m, k]`, the weights packed panels `[panel][pair][32]`.
pub(super) fn forward(layers: &[Layer<u32>], x: &[f32], k: usize, pool: &Pool) {
    let pairs = k.div_ceil(2);
    let fitting = ROWS_LIMIT_BYTES / (2 * PARTS * k.next_multiple_of(STEP));
    let rows_at_once = (fitting / ROWS * ROWS).clamp(FEWEST_ROWS, MOST_ROWS);
    for (i, x) in x.chunks(rows_at_once * k).enumerate() {
        let m = x.len() / k;
        let blocks = m.div_ceil(ROWS);
        let steps = k.div_ceil(STEP);
        // bf16 `[step][row block][part][16][32]`, two in one u32.
        let mut packed = Scratch::take(steps * blocks * PARTS * TILE / 2);
        let mut exact = vec![false; blocks];
        {
            let (parts, exact) = (Shares::new(&mut packed), Shares::new(&mut exact));
            pool.run(blocks, |block| {
                let rows = &x[block * ROWS * k..((block + 1) * ROWS * k).min(x.len())];
                // SAFETY: each task writes to the tiles and the mark of its own block of rows.
                unsafe { exact.range(block, 1)[0] = split_rows(rows, k, block, blocks, parts) };
            });
        }
        // Of one block of rows a thread takes pair after pair of panels; over many rows several panels share their loads, as long as each
        // thread has several times as many.
        let panels: usize = layers.iter().map(|layer| layer.n.div_ceil(PANEL)).sum();
        let (panels_at_once, at_once) = match blocks {
            1 => (2, 1),
            _ => (1, (panels / (4 * pool.threads())).clamp(1, PANELS_AT_ONCE)),
        };
        let pieces = |layer: &Layer<u32>| layer.n.div_ceil(panels_at_once * PANEL);
        let items = |layer: &Layer<u32>| pieces(layer).div_ceil(at_once);
        let runs = runs(layers, items, pool.threads());
        pool.run(runs.len(), |task| {
            let run = &runs[task];
            let layer = &layers[run.layer];
            let y = layer.y.as_mut_ptr().wrapping_add(i * rows_at_once * layer.n);
            let work = Tiles { w: layer.w, pairs, packed: &packed, exact: &exact, m, n: layer.n, y };
            for item in run.items.clone() {
                let pieces = share(pieces(layer), items(layer), item);
                // SAFETY: the tier was permitted; every task writes to columns of its own.
                unsafe { if blocks == 1 { work.few(pieces) } else { work.many(pieces) } }
            }
        });
    }
}

/// Writes the three parts of up to sixteen rows of `k` inputs; whether the two lower ones are zero throughout.
///
/// # Safety
/// The CPU has AVX-512F; `parts` holds `[step][blocks][part][16][32]` bf16, and no other thread uses those of `block`.
#[target_feature(enable = "avx512f")]
unsafe fn split_rows(rows: &[f32], k: usize, block: usize, blocks: usize, parts: Shares<f32>) -> bool {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut rest = _mm512_setzero_si512();
    // The tiles of a single block have no more rows than there are.
    let tile_rows = if blocks == 1 { rows.len() / k } else { ROWS };
    for step in 0..k.div_ceil(STEP) {
        // SAFETY: the caller's promise.
        let tiles = unsafe { parts.range((step * blocks + block) * PARTS * TILE / 2, PARTS * TILE / 2) };
        for row in 0..tile_rows {
            for half in 0..2 {
                let at = step * STEP + half * ROWS;
                let there = if row * k < rows.len() { k.saturating_sub(at).min(ROWS) } else { 0 };
                // SAFETY: lanes beyond those that are there are not read; the tiles hold all parts of all rows.
                unsafe {
                    let from = rows.as_ptr().wrapping_add(row * k + at);
                    let mut x = _mm512_maskz_loadu_ps(((1u32 << there) - 1) as __mmask16, from);
                    for part in 0..PARTS {
                        let bits = _mm512_and_si512(_mm512_castps_si512(x), upper);
                        let to = tiles.as_mut_ptr().add((part * TILE + row * STEP + half * ROWS) / 2);
                        _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits)));
                        if part > 0 {
                            rest = _mm512_or_si512(rest, bits);
                        }
                        // What remains of eight bits fewer is exact.
                        x = _mm512_sub_ps(x, _mm512_castsi512_ps(bits));
                    }
                }
            }
        }
    }
    // The sign of a zero is no remainder.
    _mm512_test_epi32_mask(rest, _mm512_set1_epi32(0x7fff_ffff)) == 0
}

/// The layer, as all tasks see it.
struct Tiles<'a> {
    w: &'a [u32],
    /// Pairs of inputs in a panel.
    pairs: usize,
    packed: &'a [f32],
    /// Per block of rows: whether its lower parts are zero.
    exact: &'a [bool],
    m: usize,
    n: usize,
    y: *mut f32,
}

impl Tiles<'_> {
    /// The outputs of some pairs of panels, for one block of rows.
    ///
    /// # Safety
    /// Tiles are permitted; no other thread writes to these columns of y.
    unsafe fn few(&self, range: Range<usize>) {
        let steps = self.pairs.div_ceil(STEP / 2);
        let panel_len = self.pairs * PANEL;
        let mut sums = [0.0; 4 * ROWS * ROWS];
        let mut edge = [[0u32; STEP / 2 * PANEL]; 2];
        // SAFETY: all addresses stay inside the packed weights, the packed rows and the sums.
        unsafe {
            configure(self.m);
            for pair in range {
                // A panel at the end may have no neighbour: then it is taken twice, and what the second gives is not used.
                let second = if (2 * pair + 1) * panel_len < self.w.len() { panel_len } else { 0 };
                let w = self.w[2 * pair * panel_len..].as_ptr();
                zero();
                for step in 0..steps {
                    let at = step * STEP / 2 * PANEL;
                    let left = self.step(w.add(at), step, &mut edge[0]);
                    let right = self.step(w.add(second + at), step, &mut edge[1]);
                    // As other streams; a step is what is nearest here.
                    for w in [left, right].map(<*const u32>::cast::<u8>) {
                        ask::<_MM_HINT_T1>(w.wrapping_add(FAR_BYTES), STEP_BYTES / LINE);
                        ask::<_MM_HINT_T0>(w.wrapping_add(STEP_BYTES), STEP_BYTES / LINE);
                    }
                    let x = self.rows(step, 0);
                    if self.exact[0] { multiply_row::<1>(x, left, right) } else { multiply_row::<3>(x, left, right) }
                }
                if self.m == ROWS && (pair + 1) * OUTPUTS <= self.n {
                    store(self.y.add(pair * OUTPUTS), self.n, [0, ROWS, 2 * ROWS, 3 * ROWS]);
                } else {
                    store(sums.as_mut_ptr(), ROWS, [0, 1, 2, 3].map(|tile| tile * ROWS * ROWS));
                    for tile in 0..4 {
                        self.copy(&sums[tile * ROWS * ROWS..], 0, pair * OUTPUTS + tile * ROWS);
                    }
                }
            }
            release();
        }
    }

    /// The outputs of some panels, for all rows, by pairs of blocks.
    ///
    /// # Safety
    /// As `few`.
    unsafe fn many(&self, range: Range<usize>) {
        const PLACES: [usize; 4] = [0, ROWS * ROWS, 2 * ROWS * ROWS, 3 * ROWS * ROWS];
        let (blocks, steps) = (self.exact.len(), self.pairs.div_ceil(STEP / 2));
        let pairs = blocks.div_ceil(2);
        let panel_len = self.pairs * PANEL;
        // `[panel][pair of row blocks][tile][16][16]`
        let mut sums = Scratch::take(range.len() * pairs * 4 * ROWS * ROWS);
        let mut edge = [0u32; STEP / 2 * PANEL];
        // SAFETY: all addresses stay inside the packed weights, the packed rows and the sums.
        unsafe {
            configure(ROWS);
            for first in (0..steps).step_by(STEPS_PER_BLOCK) {
                let block_steps = first..steps.min(first + STEPS_PER_BLOCK);
                for (at, panel) in range.clone().enumerate() {
                    let w = self.w[panel * panel_len..].as_ptr();
                    // Whose weights come next: those of the next panel, or of the first one's next steps. Each pair of row blocks asks for
                    // its part of them.
                    let (next, next_step) =
                        if at + 1 < range.len() { (panel + 1, first) } else { (range.start, block_steps.end) };
                    let ahead = self.w.as_ptr().wrapping_add(next * panel_len + next_step * STEP / 2 * PANEL);
                    let lines = (STEP_BYTES / LINE).div_ceil(pairs);
                    for pair in 0..pairs {
                        let sums = sums.as_mut_ptr().add((at * pairs + pair) * 4 * ROWS * ROWS);
                        if first == 0 {
                            zero();
                        } else {
                            load(sums);
                        }
                        let (upper, both) = (2 * pair, 2 * pair + 1 < blocks);
                        let exact = self.exact[upper] && (!both || self.exact[upper + 1]);
                        for (n, step) in block_steps.clone().enumerate() {
                            let part = n * STEP_BYTES + pair * lines * LINE;
                            ask::<_MM_HINT_T1>(ahead.cast::<u8>().wrapping_add(part), lines);
                            let w = self.step(w.add(step * STEP / 2 * PANEL), step, &mut edge);
                            let x = self.rows(step, upper);
                            match (both, exact) {
                                (true, true) => multiply_panel::<2, 1>(x, w),
                                (true, false) => multiply_panel::<2, PARTS>(x, w),
                                (false, true) => multiply_panel::<1, 1>(x, w),
                                (false, false) => multiply_panel::<1, PARTS>(x, w),
                            }
                        }
                        let whole = 2 * (pair + 1) * ROWS <= self.m && (panel + 1) * PANEL <= self.n;
                        if block_steps.end < steps || !whole {
                            store(sums, ROWS, PLACES);
                        } else {
                            let y = self.y.add(2 * pair * ROWS * self.n + panel * PANEL);
                            store(y, self.n, [0, ROWS, ROWS * self.n, ROWS * self.n + ROWS]);
                        }
                        if block_steps.end == steps && !whole {
                            let sums = std::slice::from_raw_parts(sums, 4 * ROWS * ROWS);
                            for (tile, place) in PLACES.into_iter().enumerate() {
                                let (row, column) = (tile / 2 * ROWS, tile % 2 * ROWS);
                                self.copy(&sums[place..], 2 * pair * ROWS + row, panel * PANEL + column);
                            }
                        }
                    }
                }
            }
            release();
        }
    }

    /// A step's weights in one panel. At the end of the inputs, where those behind them belong to others, they are cut out: x is zero there.
    ///
    /// # Safety
    /// `w` is where the step's weights are.
    #[inline(always)]
    unsafe fn step(&self, w: *const u32, step: usize, edge: &mut [u32; STEP / 2 * PANEL]) -> *const u32 {
        let there = (self.pairs - step * STEP / 2) * PANEL;
        if there >= edge.len() {
            return w;
        }
        // SAFETY: so many weights are left in the panel.
        unsafe { std::ptr::copy_nonoverlapping(w, edge.as_mut_ptr(), there) };
        edge.as_ptr()
    }

    /// The parts of a block of rows at a step.
    #[inline(always)]
    fn rows(&self, step: usize, block: usize) -> *const f32 {
        self.packed[(step * self.exact.len() + block) * PARTS * TILE / 2..].as_ptr()
    }

    /// Copies what y has of a tile.
    ///
    /// # Safety
    /// Nobody else writes there.
    unsafe fn copy(&self, tile: &[f32], row: usize, column: usize) {
        let width = self.n.saturating_sub(column).min(ROWS);
        for (from, row) in tile.chunks_exact(ROWS).take(ROWS).zip(row..self.m) {
            // SAFETY: the row and these columns lie in y.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.y.add(row * self.n + column), width) }
        }
    }
}
