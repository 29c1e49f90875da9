//! The micro-kernel: a few rows of x times 16 to 128 outputs over one block of inputs, all sums in registers.
//!
//! AVX-512 holds 12 rows x 32 outputs in 24 of its 32 registers; one or two rows take four panels at once, so that
//! there are enough independent FMA chains to hide the latency, and 13 to 24 rows half a panel, so that each weight is
//! widened once. The narrower sets hold 6 rows x 16 outputs.
//!
//! Weights stream from memory: they are prefetched, 8 KiB over all panels in flight into the second cache and
//! then 1 KiB into the first; or a whole block ahead where the block at hand is used for several row blocks, each of which
//! asks for a part.

use std::ops::Range;

use super::{PAIRS_PER_BLOCK, PANEL, RowBlocks};
use crate::isa::Isa;
use crate::lanes::{FAR_BYTES, Kernel, LANES, Lanes, NEAR_BYTES};
use crate::memory::Scratch;

const LINE: usize = 64;

/// The most rows a tile takes when there are `m`.
pub(super) fn rows_at_once(isa: Isa, m: usize) -> usize {
    match (isa.is_wide(), m) {
        (true, 13..=24) => 24,
        (true, _) => 12,
        (false, _) => 6,
    }
}

/// Whether the tile of so many rows takes sixteen outputs, so that a panel is done in two halves.
fn in_halves<V: Lanes>(rows: usize) -> bool {
    rows > if V::WIDE { 12 } else { 2 }
}

/// How many panels a task takes together.
pub(super) fn panels_at_once(isa: Isa, m: usize) -> usize {
    match (isa.is_wide(), m) {
        (true, 1 | 2) => 4,
        (true, 3..=6) => 2,
        (true, _) => 1,
        (false, 1) => 2,
        _ => 1,
    }
}

/// How a weight lies in a panel.
pub(super) trait Weight: Copy + Send + Sync {
    /// Elements of a pair of inputs in a panel.
    const PAIR_LEN: usize;
    /// Cache lines of a pair of inputs in a panel.
    const PAIR_LINES: usize = Self::PAIR_LEN * size_of::<Self>() / LINE;

    /// Elements of a panel of `k` inputs, `k` even.
    fn panel_len(k: usize) -> usize {
        k / 2 * Self::PAIR_LEN
    }

    /// The weights of sixteen outputs for one pair of inputs, (odd, even).
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; `at` is valid for the pair.
    unsafe fn pair<V: Lanes>(at: *const Self) -> (V, V);

    /// Asks the first cache for the same outputs' weights `NEAR_BYTES` further on.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`.
    unsafe fn ask_near<V: Lanes>(at: *const Self);
}

impl Weight for f32 {
    const PAIR_LEN: usize = 2 * PANEL;

    #[inline(always)]
    unsafe fn pair<V: Lanes>(at: *const f32) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe { (V::load(at.add(PANEL)), V::load(at)) }
    }

    #[inline(always)]
    unsafe fn ask_near<V: Lanes>(at: *const f32) {
        let ahead = at.cast::<u8>().wrapping_add(NEAR_BYTES);
        // SAFETY: the caller's promise.
        unsafe {
            V::prefetch(ahead);
            V::prefetch(ahead.wrapping_add(PANEL * size_of::<f32>()));
        }
    }
}

impl Weight for u32 {
    const PAIR_LEN: usize = PANEL;

    #[inline(always)]
    unsafe fn pair<V: Lanes>(at: *const u32) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16_pairs(at) }
    }

    #[inline(always)]
    unsafe fn ask_near<V: Lanes>(at: *const u32) {
        // SAFETY: the caller's promise.
        unsafe { V::prefetch(at.cast::<u8>().wrapping_add(NEAR_BYTES)) }
    }
}

/// `ROWS` rows times `COLUMNS` vectors of sixteen outputs over `pairs` pairs of inputs.
///
/// For every pair, it asks for `LINES` cache lines of weights from `ahead` on, in each panel.
///
/// Valid for: `x` `[2 pairs][ROWS]`; `w` a panel, or several `panel_len` apart when `COLUMNS` is above 2;
/// `sums_in`, unless null, and `sums_out` `ROWS` rows of `16 COLUMNS`, `*_stride` apart.
#[derive(Clone, Copy)]
struct Tile<W, const ROWS: usize, const COLUMNS: usize, const LINES: usize, const KEEP: bool> {
    x: *const f32,
    w: *const W,
    panel_len: usize,
    pairs: usize,
    ahead: *const u8,
    /// Where the weights are put as f32, when `KEEP`.
    kept: *mut f32,
    sums_in: *const f32,
    in_stride: usize,
    sums_out: *mut f32,
    out_stride: usize,
}

impl<W: Weight, const ROWS: usize, const COLUMNS: usize, const LINES: usize, const KEEP: bool>
    Tile<W, ROWS, COLUMNS, LINES, KEEP>
{
    /// Whether the weights come from the second cache: no tile of other rows has read them before.
    const READS_FIRST: bool = LINES == W::PAIR_LINES || COLUMNS == 1 && LINES > 0;
}

impl<W: Weight, const ROWS: usize, const COLUMNS: usize, const LINES: usize, const KEEP: bool> Kernel
    for Tile<W, ROWS, COLUMNS, LINES, KEEP>
{
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: the pointers are valid as the struct documents.
        unsafe {
            let mut sums = [[V::splat(0.0); COLUMNS]; ROWS];
            let mut x = self.x;
            let mut w = self.w;
            let mut ahead = self.ahead;
            let mut kept = self.kept;
            for _ in 0..self.pairs {
                let mut odd = [V::splat(0.0); COLUMNS];
                let mut even = [V::splat(0.0); COLUMNS];
                for c in 0..COLUMNS {
                    let at = w.add(c / 2 * self.panel_len + c % 2 * LANES);
                    (odd[c], even[c]) = W::pair::<V>(at);
                    if Self::READS_FIRST {
                        W::ask_near::<V>(at);
                    }
                    if c % 2 == 0 {
                        for line in 0..LINES {
                            V::prefetch_far(ahead.wrapping_add(c / 2 * self.panel_len * size_of::<W>() + line * LINE));
                        }
                    }
                }
                ahead = ahead.wrapping_add(LINES * LINE);
                if KEEP {
                    for c in 0..COLUMNS {
                        even[c].store(kept.add(c * LANES));
                        odd[c].store(kept.add(PANEL + c * LANES));
                    }
                    kept = kept.add(2 * PANEL);
                }
                for r in 0..ROWS {
                    let factor = V::splat(*x.add(ROWS + r));
                    for c in 0..COLUMNS {
                        sums[r][c] = factor.fma(odd[c], sums[r][c]);
                    }
                }
                for r in 0..ROWS {
                    let factor = V::splat(*x.add(r));
                    for c in 0..COLUMNS {
                        sums[r][c] = factor.fma(even[c], sums[r][c]);
                    }
                }
                x = x.add(2 * ROWS);
                w = w.add(W::PAIR_LEN);
            }
            for r in 0..ROWS {
                for c in 0..COLUMNS {
                    let mut sum = sums[r][c];
                    if !self.sums_in.is_null() {
                        sum = V::load(self.sums_in.add(r * self.in_stride + c * LANES)).add(sum);
                    }
                    sum.store(self.sums_out.add(r * self.out_stride + c * LANES));
                }
            }
        }
    }
}

/// One task: some panels times some row blocks.
///
/// Valid for: `w` `count` packed panels of `pairs` pairs; `x` the packed row blocks; `y` the rows of `blocks` with
/// the panels' outputs, of which there are `width` (more or fewer than fill the panels).
pub(super) struct Panels<W> {
    pub w: *const W,
    pub count: usize,
    /// Whether there is a tile that takes as many panels.
    pub whole: bool,
    pub width: usize,
    pub pairs: usize,
    pub x: *const f32,
    pub blocks: RowBlocks,
    pub range: Range<usize>,
    pub y: *mut f32,
    pub y_stride: usize,
}

impl<W: Weight> Panels<W> {
    /// # Safety
    /// The CPU has the instructions of `V`; the pointers are valid as documented.
    #[inline(always)]
    pub(super) unsafe fn work<V: Lanes>(self) {
        // SAFETY: the caller's promise; every offset stays inside the panels, the packed rows, the sums and y.
        unsafe {
            // A group at the end may be short of the tile that takes several panels.
            let step = if self.whole { self.count } else { 1 };
            for panel in (0..self.count).step_by(step) {
                self.panel::<V>(panel, step);
            }
        }
    }

    /// `step` panels from `panel` on, together.
    ///
    /// # Safety
    /// As for `work`.
    #[inline(always)]
    unsafe fn panel<V: Lanes>(&self, panel: usize, step: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let columns = step * PANEL;
            let width = columns.min(self.width - panel * PANEL);
            let y = self.y.add(panel * PANEL);
            let w = self.w.add(panel * W::panel_len(2 * self.pairs));
            let (first_row, _) = self.blocks.rows(self.range.start);
            let (last_row, last_rows) = self.blocks.rows(self.range.end - 1);
            let rows_total = last_row + last_rows - first_row;
            let mut sums = Scratch::take(rows_total * columns);
            let sums = sums.as_mut_ptr();
            // The first row block leaves the weights as f32 in the first cache for the others, which need not widen them again. For two
            // blocks that is no gain.
            let keeps = self.range.len() > 2 && V::WIDE && W::PAIR_LINES == 2;
            let mut kept = Scratch::take(if keeps { PAIRS_PER_BLOCK * 2 * PANEL } else { 0 });
            let kept = kept.as_mut_ptr();
            let mut start = 0;
            while start < self.pairs {
                let pairs = PAIRS_PER_BLOCK.min(self.pairs - start);
                let last = start + pairs == self.pairs;
                for block in self.range.clone() {
                    let (row, rows) = self.blocks.rows(block);
                    let sums = sums.add((row - first_row) * columns);
                    let (out, out_stride) = if last && width == columns {
                        (y.add(row * self.y_stride), self.y_stride)
                    } else {
                        (sums, columns)
                    };
                    let w = w.add(start * W::PAIR_LEN);
                    let tile = Tile::<W, 0, 0, 0, false> {
                        x: self.x.add(2 * (row * self.pairs + start * rows)),
                        w,
                        panel_len: W::panel_len(2 * self.pairs),
                        pairs,
                        ahead: w.cast::<u8>().wrapping_add(FAR_BYTES / step),
                        kept,
                        sums_in: if start == 0 { std::ptr::null() } else { sums },
                        in_stride: columns,
                        sums_out: out,
                        out_stride,
                    };
                    let halves = 1 + usize::from(in_halves::<V>(rows));
                    for half in 0..halves {
                        let (index, count) = (halves * (block - self.range.start) + half, halves * self.range.len());
                        let (lines, tile) = match count {
                            1 => (W::PAIR_LINES, tile),
                            _ => tile.next_block(index, count),
                        };
                        let (tile, width) = match halves {
                            1 => (tile, columns),
                            _ => (tile.half(half), LANES),
                        };
                        match (keeps, index) {
                            (true, 0) => tile.dispatch::<V, 1, true>(rows, width),
                            (true, _) => {
                                tile.over::<f32, 0, 0, 0, false>(kept.cast_const()).asking::<V>(lines, rows, width)
                            }
                            _ => tile.asking::<V>(lines, rows, width),
                        }
                    }
                }
                start += pairs;
            }
            if width != columns {
                for row in 0..rows_total {
                    let from = sums.add(row * columns);
                    let to = y.add((first_row + row) * self.y_stride);
                    std::ptr::copy_nonoverlapping(from, to, width);
                }
            }
        }
    }
}

impl<W: Weight> Tile<W, 0, 0, 0, false> {
    /// The tile of row block `index` of `count`, which share in asking for the next block of weights, and the lines for which it asks.
    #[inline(always)]
    fn next_block(mut self, index: usize, count: usize) -> (usize, Self) {
        let lines = W::PAIR_LINES.div_ceil(count);
        let block_bytes = PAIRS_PER_BLOCK * W::PAIR_LINES * LINE;
        let from = index * self.pairs * lines * LINE;
        self.ahead = self.w.cast::<u8>().wrapping_add(block_bytes + from);
        (if from >= block_bytes { 0 } else { lines }, self)
    }

    /// Runs the tile; for every pair of inputs it asks for `lines` cache lines in each panel.
    ///
    /// # Safety
    /// As for `dispatch`.
    #[inline(always)]
    unsafe fn asking<V: Lanes>(self, lines: usize, rows: usize, width: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match lines {
                0 => self.dispatch::<V, 0, false>(rows, width),
                1 => self.dispatch::<V, 1, false>(rows, width),
                2 => self.dispatch::<V, 2, false>(rows, width),
                _ => self.dispatch::<V, 4, false>(rows, width),
            }
        }
    }

    /// Runs the tile as the micro-kernel for `rows` rows and `width` outputs.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the pointers are valid for those rows and outputs.
    #[inline(always)]
    unsafe fn dispatch<V: Lanes, const LINES: usize, const KEEP: bool>(self, rows: usize, width: usize) {
        macro_rules! choose {
            ($($vectors:literal: $($rows:literal)*;)*) => {
                match (rows, width / LANES) {
                    $($(($rows, $vectors) => V::enter(self.over::<W, $rows, $vectors, LINES, KEEP>(self.w)),)*)*
                    (rows, vectors) => unreachable!("no tile of {rows} x {vectors}"),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            if V::WIDE {
                choose!(
                    8: 1 2;
                    4: 3 4 5 6;
                    2: 1 2 3 4 5 6 7 8 9 10 11 12;
                    1: 13 14 15 16 17 18 19 20 21 22 23 24;
                );
            } else {
                choose!(4: 1; 2: 1 2; 1: 3 4 5 6;);
            }
        }
    }

    /// The left or right sixteen outputs of the panel.
    #[inline(always)]
    fn half(&self, half: usize) -> Self {
        let offset = half * LANES;
        Tile {
            w: self.w.wrapping_add(offset),
            sums_in: if self.sums_in.is_null() { self.sums_in } else { self.sums_in.wrapping_add(offset) },
            sums_out: self.sums_out.wrapping_add(offset),
            ..*self
        }
    }

    /// The same place for a tile of another size, or over weights that lie elsewhere in another type.
    #[inline(always)]
    fn over<O, const ROWS: usize, const COLUMNS: usize, const LINES: usize, const KEEP: bool>(
        &self,
        w: *const O,
    ) -> Tile<O, ROWS, COLUMNS, LINES, KEEP> {
        Tile {
            x: self.x,
            w,
            panel_len: self.panel_len,
            pairs: self.pairs,
            ahead: self.ahead,
            kept: self.kept,
            sums_in: self.sums_in,
            in_stride: self.in_stride,
            sums_out: self.sums_out,
            out_stride: self.out_stride,
        }
    }
}
