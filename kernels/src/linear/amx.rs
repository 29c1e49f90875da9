//! The linear layer on AMX tiles: 16 rows of x times 64 outputs at a time, for bf16 weights and f32 rows.
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
//!
//! Must not know: models, engine.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

use super::{Layer, PANEL, runs, share};
use crate::memory::Scratch;
use crate::pool::{Pool, Shares};

/// Rows of a tile.
const ROWS: usize = 16;
/// Inputs of a tile.
const STEP: usize = 32;
/// Outputs that are worked on together: four tiles.
const OUTPUTS: usize = 2 * PANEL;
/// bf16 elements of a tile.
const TILE: usize = ROWS * STEP;
/// The upper, middle and lower part of x.
const PARTS: usize = 3;
/// Steps between two visits of the sums: two panels' weights of so many (16 KiB) stay in the first cache while rows pass.
const STEPS_PER_BLOCK: usize = 4;
/// The parts of the rows that are worked on at a time stay in the second cache, if not fewer than `FEWEST_ROWS` fit.
const ROWS_LIMIT_BYTES: usize = 5 << 18;
const FEWEST_ROWS: usize = 64;
/// One block of rows asks for its weights so far ahead.
const AHEAD_BYTES: usize = 8 << 10;
/// Bytes of a step's weights in one panel.
const STEP_BYTES: usize = 2 * STEP * PANEL;
const LINE: usize = 64;
/// Pairs of panels in a task when many rows pass over them.
const PAIRS_PER_TASK: usize = 4;

/// Whether this CPU has the tiles and the system lets this process use them; asks the system once.
pub(crate) fn tiles_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        unsafe extern "C" {
            fn syscall(number: i64, ...) -> i64;
        }
        // The lint: on older toolchains the query is an unsafe function.
        #[allow(unused_unsafe)]
        // SAFETY: every x86-64 CPU answers the query; leaf 0 tells whether there is a leaf 7.
        let features = unsafe { if __cpuid_count(0, 0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
        // SAFETY: the call touches no memory of ours; without the permission a tile instruction would end the process.
        features & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
            && unsafe { syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) } == 0
    })
}

/// Each layer's y = x W^T: `x` `[m, k]`, the weights packed panels `[panel][pair][32]`.
pub(super) fn forward(layers: &[Layer<u32>], x: &[f32], k: usize, pool: &Pool) {
    let pairs = k.div_ceil(2);
    let fitting = ROWS_LIMIT_BYTES / (2 * PARTS * k.next_multiple_of(STEP));
    let rows_at_once = (fitting / ROWS * ROWS).max(FEWEST_ROWS);
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
        // Of one block of rows a thread takes pair after pair; over many rows several pairs share their loads.
        let at_once = if m <= ROWS { 1 } else { PAIRS_PER_TASK };
        let pairs_of = |layer: &Layer<u32>| layer.n.div_ceil(OUTPUTS);
        let items = |layer: &Layer<u32>| pairs_of(layer).div_ceil(at_once);
        let runs = runs(layers, items, pool.threads());
        pool.run(runs.len(), |task| {
            let run = &runs[task];
            let layer = &layers[run.layer];
            let y = layer.y.as_mut_ptr().wrapping_add(i * rows_at_once * layer.n);
            let work = Tiles { w: layer.w, pairs, packed: &packed, exact: &exact, m, n: layer.n, y };
            for item in run.items.clone() {
                // SAFETY: the tier was permitted; every task writes to columns of its own.
                unsafe { work.run(share(pairs_of(layer), items(layer), item)) }
            }
        });
    }
}

/// Writes the three parts of up to sixteen rows of `k` inputs; whether the two lower ones are zero throughout.
///
/// # Safety
/// The CPU has AVX-512F; `parts` holds `[step][blocks][part][16][32]` bf16, and nobody else uses those of `block`.
#[target_feature(enable = "avx512f")]
unsafe fn split_rows(rows: &[f32], k: usize, block: usize, blocks: usize, parts: Shares<f32>) -> bool {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut rest = _mm512_setzero_si512();
    for step in 0..k.div_ceil(STEP) {
        // SAFETY: the caller's promise.
        let tiles = unsafe { parts.range((step * blocks + block) * PARTS * TILE / 2, PARTS * TILE / 2) };
        for row in 0..ROWS {
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
    /// The outputs of some pairs of panels, for all rows.
    ///
    /// # Safety
    /// Tiles are permitted; nobody else writes to these columns of y.
    unsafe fn run(&self, range: Range<usize>) {
        let (blocks, steps) = (self.exact.len(), self.pairs.div_ceil(STEP / 2));
        // `[pair of panels][row block][tile][16][16]`
        let mut sums = Scratch::take(range.len() * blocks * 4 * ROWS * ROWS);
        // SAFETY: below, all addresses stay inside the packed weights, the packed rows and the sums.
        unsafe {
            configure(self.m.min(ROWS));
            for first in (0..steps).step_by(STEPS_PER_BLOCK) {
                let block_steps = first..steps.min(first + STEPS_PER_BLOCK);
                for (at, pair) in range.clone().enumerate() {
                    // Whose weights come next: those of the next pair, or of the first one's next steps.
                    let next = if at + 1 < range.len() { (pair + 1, first) } else { (range.start, block_steps.end) };
                    for block in 0..blocks {
                        let sums = sums.as_mut_ptr().add((at * blocks + block) * 4 * ROWS * ROWS);
                        let (out, row_len, tile) = match block_steps.end == steps && self.is_whole(pair, block) {
                            true => (self.y.add(block * ROWS * self.n + pair * OUTPUTS), self.n, ROWS),
                            false => (sums, ROWS, ROWS * ROWS),
                        };
                        self.block(pair, block, block_steps.clone(), next, sums);
                        store(out, row_len, tile);
                    }
                }
            }
            release();
        }
        for (at, pair) in range.enumerate() {
            for row in (0..self.m).filter(|row| !self.is_whole(pair, row / ROWS)) {
                let from = &sums[(at * blocks + row / ROWS) * 4 * ROWS * ROWS + row % ROWS * ROWS..];
                // SAFETY: the row and its columns lie in y, and are this task's own.
                unsafe {
                    let to = self.y.add(row * self.n + pair * OUTPUTS);
                    for tile in 0..4 {
                        let (from, to) = (from[tile * ROWS * ROWS..].as_ptr(), to.wrapping_add(tile * ROWS));
                        match self.n.saturating_sub(pair * OUTPUTS + tile * ROWS) {
                            ROWS.. => std::ptr::copy_nonoverlapping(from, to, ROWS),
                            width => std::ptr::copy_nonoverlapping(from, to, width),
                        }
                    }
                }
            }
        }
    }

    /// Whether y has all rows and outputs of these four tiles.
    fn is_whole(&self, pair: usize, block: usize) -> bool {
        (block + 1) * ROWS <= self.m && (pair + 1) * OUTPUTS <= self.n
    }

    /// Where the weights of a pair of panels begin, and how far on the second panel is. A panel at the end may have no
    /// neighbour: then it is taken twice, and what the second gives is not used.
    fn weights(&self, pair: usize) -> (*const u32, usize) {
        let panel_len = self.pairs * PANEL;
        let second = if (2 * pair + 1) * panel_len < self.w.len() { panel_len } else { 0 };
        (self.w[2 * pair * panel_len..].as_ptr(), second)
    }

    /// Goes on with the sums of 16 rows and 64 outputs over `steps`, which are left in the tiles, and asks for the weights
    /// of `next`, a pair of panels and a step.
    ///
    /// # Safety
    /// Tiles are configured; `sums` is valid for four tiles.
    unsafe fn block(&self, pair: usize, block: usize, steps: Range<usize>, next: (usize, usize), sums: *mut f32) {
        let (w, second) = self.weights(pair);
        let blocks = self.exact.len();
        let (ahead, ahead_second) = self.weights(next.0);
        let ahead = ahead.wrapping_add(next.1 * STEP / 2 * PANEL);
        // Each block of rows asks for its part of the steps that come next.
        let lines = (STEP_BYTES / LINE).div_ceil(blocks);
        let exact = self.exact[block];
        let tile_bytes = 4 * ROWS * ROWS;
        // SAFETY: the caller's promise; tiles of weights lie within their panel, the last of them is cut out below.
        unsafe {
            if steps.start == 0 {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack));
            } else {
                asm!(
                    "tileloadd tmm0, [{sums} + {row}*1]",
                    "tileloadd tmm1, [{sums} + {row}*1 + 1024]",
                    "tileloadd tmm2, [{sums} + {row}*1 + 2048]",
                    "tileloadd tmm3, [{sums} + {row}*1 + 3072]",
                    sums = in(reg) sums, row = in(reg) tile_bytes / ROWS, options(nostack, readonly)
                );
            }
            let mut edge = [[0u32; STEP / 2 * PANEL]; 2];
            for (at, step) in steps.enumerate() {
                let x = self.packed[(step * self.exact.len() + block) * PARTS * TILE / 2..].as_ptr();
                let first_pair = step * STEP / 2;
                let (mut left, mut right) = (w.add(first_pair * PANEL), w.add(second + first_pair * PANEL));
                let there = (self.pairs - first_pair) * PANEL;
                if there < edge[0].len() {
                    // The end of the inputs: x is zero beyond it, but the weights there belong to others.
                    std::ptr::copy_nonoverlapping(left, edge[0].as_mut_ptr(), there);
                    std::ptr::copy_nonoverlapping(right, edge[1].as_mut_ptr(), there);
                    (left, right) = (edge[0].as_ptr(), edge[1].as_ptr());
                }
                if blocks == 1 {
                    ask::<_MM_HINT_T0>(left.cast::<u8>().wrapping_add(AHEAD_BYTES), STEP_BYTES / LINE);
                    ask::<_MM_HINT_T0>(right.cast::<u8>().wrapping_add(AHEAD_BYTES), STEP_BYTES / LINE);
                } else {
                    let from = ahead.cast::<u8>().wrapping_add(at * STEP_BYTES + block * lines * LINE);
                    ask::<_MM_HINT_T1>(from, lines);
                    ask::<_MM_HINT_T1>(from.wrapping_add(4 * ahead_second), lines);
                }
                if exact { multiply::<1>(x, left, right) } else { multiply::<3>(x, left, right) }
            }
        }
    }
}

/// Writes the four tiles of sums beside each other: rows `row_len` apart, tiles `tile`.
///
/// # Safety
/// Tiles are configured; `to` is valid for them.
#[inline(always)]
unsafe fn store(to: *mut f32, row_len: usize, tile: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{a} + {row}*1], tmm0",
            "tilestored [{b} + {row}*1], tmm1",
            "tilestored [{c} + {row}*1], tmm2",
            "tilestored [{d} + {row}*1], tmm3",
            a = in(reg) to, b = in(reg) to.add(tile), c = in(reg) to.add(2 * tile), d = in(reg) to.add(3 * tile),
            row = in(reg) 4 * row_len, options(nostack)
        );
    }
}

/// Asks for `lines` cache lines.
#[inline(always)]
fn ask<const HINT: i32>(from: *const u8, lines: usize) {
    for line in 0..lines {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<HINT>(from.wrapping_add(LINE * line).cast()) }
    }
}

/// Adds the product of one step to the four tiles of sums, for the upper part of x or all three.
///
/// # Safety
/// Tiles are configured; `x` is valid for its parts' tiles, `left` and `right` for sixteen pairs of a panel each.
#[inline(always)]
unsafe fn multiply<const COUNT: usize>(x: *const f32, left: *const u32, right: *const u32) {
    // SAFETY: the caller's promise. No other code uses the tile registers, so what they hold lasts from one block of
    // assembly to the next.
    unsafe {
        if COUNT == 1 {
            asm!(
                "tileloadd tmm4, [{x} + {x_row}*1]",
                "tileloadd tmm7, [{left} + {w_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tileloadd tmm7, [{left} + {w_row}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1 + 64]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                x = in(reg) x, left = in(reg) left, right = in(reg) right,
                x_row = in(reg) 2 * STEP, w_row = in(reg) 4 * PANEL, options(nostack, readonly)
            );
        } else {
            asm!(
                "tileloadd tmm4, [{x} + {x_row}*1]",
                "tileloadd tmm5, [{x} + {x_row}*1 + 1024]",
                "tileloadd tmm6, [{x} + {x_row}*1 + 2048]",
                "tileloadd tmm7, [{left} + {w_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tdpbf16ps tmm0, tmm5, tmm7",
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tileloadd tmm7, [{left} + {w_row}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tdpbf16ps tmm1, tmm6, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm7",
                "tdpbf16ps tmm2, tmm6, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1 + 64]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tdpbf16ps tmm3, tmm6, tmm7",
                x = in(reg) x, left = in(reg) left, right = in(reg) right,
                x_row = in(reg) 2 * STEP, w_row = in(reg) 4 * PANEL, options(nostack, readonly)
            );
        }
    }
}

/// Sets this thread's tiles: sums (0 to 3) and x (4 to 6) of `rows` rows, weights (7) of sixteen pairs, 64 bytes a row.
///
/// # Safety
/// Tiles are permitted.
unsafe fn configure(rows: usize) {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    configuration.row_bytes[..8].fill(64);
    configuration.rows[..8].fill(ROWS as u8);
    configuration.rows[..7].fill(rows as u8);
    // SAFETY: the caller's promise; the configuration is laid out as the instruction reads it.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly)) }
}

/// Leaves the tiles, so that a switch of threads need not save them.
///
/// # Safety
/// Tiles are permitted.
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack)) }
}
