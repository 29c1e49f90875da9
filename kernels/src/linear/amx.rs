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
use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::OnceLock;

use super::{PANEL, share};
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
/// Steps between two visits of the sums: two panels' weights of so many (32 KiB) stay in the first cache while rows pass.
const STEPS_PER_BLOCK: usize = 8;
/// Rows that are worked on at a time; their parts of one block stay in the second cache.
const ROWS_AT_ONCE: usize = 512;
/// Weights are asked for so far ahead.
const AHEAD_BYTES: usize = 8 << 10;
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

/// y = x W^T: `w` the packed panels `[panel][pair][32]` of `n` outputs, `x` `[m, k]`, `y` `[m, n]`.
pub(super) fn forward(w: &[u32], x: &[f32], y: &mut [f32], k: usize, n: usize, pool: &Pool) {
    let pairs = k.div_ceil(2);
    for (x, y) in x.chunks(ROWS_AT_ONCE * k).zip(y.chunks_mut(ROWS_AT_ONCE * n)) {
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
        let pairs_of_panels = n.div_ceil(OUTPUTS);
        let tasks = if m <= ROWS { pairs_of_panels } else { pairs_of_panels.div_ceil(PAIRS_PER_TASK) };
        let y = Shares::new(y);
        pool.run(tasks, |task| {
            let work = Tiles { w, pairs, packed: &packed, exact: &exact, m, n, y: y.as_mut_ptr() };
            // SAFETY: the tier was permitted; every task writes to columns of its own.
            unsafe { work.run(share(pairs_of_panels, tasks, task)) }
        });
    }
}

/// Writes the three parts of up to sixteen rows of `k` inputs; whether the two lower ones are zero throughout.
///
/// # Safety
/// `parts` holds `[step][blocks][part][16][32]` bf16, and nobody else uses those of `block`.
unsafe fn split_rows(rows: &[f32], k: usize, block: usize, blocks: usize, parts: Shares<f32>) -> bool {
    let mut rest = 0;
    for step in 0..k.div_ceil(STEP) {
        // SAFETY: the caller's promise.
        let tiles = unsafe { parts.range((step * blocks + block) * PARTS * TILE / 2, PARTS * TILE / 2) };
        let (inputs, width) = (step * STEP, STEP.min(k - step * STEP));
        for row in 0..ROWS {
            let mut x = [0.0; STEP];
            if let Some(from) = rows.get(row * k..(row + 1) * k) {
                x[..width].copy_from_slice(&from[inputs..inputs + width]);
            }
            for pair in 0..STEP / 2 {
                let (even, odd) = (split(x[2 * pair]), split(x[2 * pair + 1]));
                for part in 0..PARTS {
                    let both = even[part] >> 16 | odd[part];
                    tiles[part * TILE / 2 + row * STEP / 2 + pair] = f32::from_bits(both);
                    rest |= if part > 0 { both } else { 0 };
                }
            }
        }
    }
    // The sign of a zero is no remainder.
    rest & 0x7fff_7fff == 0
}

/// Three numbers of eight significant bits each, in the upper halves, whose sum is `x`.
#[inline(always)]
fn split(x: f32) -> [u32; PARTS] {
    const UPPER: u32 = 0xffff_0000;
    let upper = x.to_bits() & UPPER;
    let remainder = x - f32::from_bits(upper);
    let middle = remainder.to_bits() & UPPER;
    [upper, middle, (remainder - f32::from_bits(middle)).to_bits() & UPPER]
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
                    for block in 0..blocks {
                        let sums = sums.as_mut_ptr().add((at * blocks + block) * 4 * ROWS * ROWS);
                        self.block(pair, block, block_steps.clone(), sums);
                    }
                }
            }
            release();
        }
        for (at, pair) in range.enumerate() {
            for row in 0..self.m {
                let (block, row_in) = (row / ROWS, row % ROWS);
                for column in (0..OUTPUTS.min(self.n - pair * OUTPUTS)).step_by(ROWS) {
                    let width = ROWS.min(self.n - pair * OUTPUTS - column);
                    let from = ((at * blocks + block) * 4 + column / ROWS) * ROWS * ROWS + row_in * ROWS;
                    // SAFETY: the row and its columns lie in y, and are this task's own.
                    unsafe {
                        let to = self.y.add(row * self.n + pair * OUTPUTS + column);
                        std::ptr::copy_nonoverlapping(sums[from..].as_ptr(), to, width);
                    }
                }
            }
        }
    }

    /// Goes on with the sums of 16 rows and 64 outputs over `steps`.
    ///
    /// # Safety
    /// Tiles are configured; `sums` is valid for four tiles.
    unsafe fn block(&self, pair: usize, block: usize, steps: Range<usize>, sums: *mut f32) {
        let panel_len = self.pairs * PANEL;
        let w = self.w[2 * pair * panel_len..].as_ptr();
        // A panel at the end may have no neighbour: then it is taken twice, and what the second gives is not used.
        let second = if (2 * pair + 1) * panel_len < self.w.len() { panel_len } else { 0 };
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
            for step in steps {
                let x = self.packed[(step * self.exact.len() + block) * PARTS * TILE / 2..].as_ptr();
                let first_pair = step * STEP / 2;
                let (mut left, mut right) = (w.add(first_pair * PANEL), w.add(second + first_pair * PANEL));
                let there = (self.pairs - first_pair) * PANEL;
                if there < edge[0].len() {
                    // The end of the inputs: x is zero beyond it, but the weights there belong to others.
                    std::ptr::copy_nonoverlapping(left, edge[0].as_mut_ptr(), there);
                    std::ptr::copy_nonoverlapping(right, edge[1].as_mut_ptr(), there);
                    (left, right) = (edge[0].as_ptr(), edge[1].as_ptr());
                } else if block == 0 {
                    ahead(left);
                    ahead(right);
                }
                if exact { multiply::<1>(x, left, right) } else { multiply::<3>(x, left, right) }
            }
            asm!(
                "tilestored [{sums} + {row}*1], tmm0",
                "tilestored [{sums} + {row}*1 + 1024], tmm1",
                "tilestored [{sums} + {row}*1 + 2048], tmm2",
                "tilestored [{sums} + {row}*1 + 3072], tmm3",
                sums = in(reg) sums, row = in(reg) tile_bytes / ROWS, options(nostack)
            );
        }
    }
}

/// Asks for the tile's weights some way on.
#[inline(always)]
fn ahead(weights: *const u32) {
    for line in 0..STEP / 2 * PANEL / 16 {
        let at = weights.cast::<u8>().wrapping_add(AHEAD_BYTES + 64 * line);
        // SAFETY: a prefetch does not fault.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) }
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
