//! Attention of a few rows of one sequence that share a key head, block of keys after block of keys.
//!
//! Rows are ordered by position, then head. Scratch space, with D the head's size rounded up to 16:
//! queries `[rows / 6][head_dim][6]`, scores `[rows][64]`, block sums and totals
//! `[rows][D]` each, maxima and sums `[rows]` each.
//!
//! Must not know: models, engine.

use std::ops::Range;

use super::AttentionShape;
use super::tile::{Product, ROWS};
use crate::lanes::{self, Kernel, LANES, Lanes};
use crate::memory::Scratch;

/// Keys in a block; blocks start at absolute positions divisible by it.
pub(super) const KEYS: usize = 64;

/// One task.
///
/// Valid for: pages and positions as checked by `AttentionJob::check`; `q` and `out` start at the first token's first
/// head and hold `tokens` tokens, `n_heads * head_dim` apart, of which `heads` heads are used.
pub(super) struct Rows<'a> {
    pub shape: &'a AttentionShape,
    pub k_pages: &'a [&'a [f32]],
    pub v_pages: &'a [&'a [f32]],
    pub first_page: usize,
    pub kv_head: usize,
    pub first_pos: usize,
    pub tokens: usize,
    pub heads: usize,
    pub q: &'a [f32],
    pub out: *mut f32,
}

/// The parts of the scratch space.
struct Parts {
    queries: *mut f32,
    scores: *mut f32,
    block: *mut f32,
    total: *mut f32,
    maxima: *mut f32,
    sums: *mut f32,
    /// D.
    stride: usize,
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let dim = self.shape.head_dim;
        let stride = dim.next_multiple_of(LANES);
        let rows = self.tokens * self.heads;
        let sizes = [rows.next_multiple_of(ROWS) * dim, rows * KEYS, rows * stride, rows * stride, rows, rows];
        let mut scratch = Scratch::take(sizes.iter().map(|size| size.next_multiple_of(LANES)).sum());
        let mut next = scratch.as_mut_ptr();
        let parts = sizes.map(|size| {
            let part = next;
            next = next.wrapping_add(size.next_multiple_of(LANES));
            part
        });
        let [queries, scores, block, total, maxima, sums] = parts;
        let parts = Parts { queries, scores, block, total, maxima, sums, stride };
        // SAFETY: the scratch space has all parts at the sizes above; the rest is the caller's promise.
        unsafe {
            self.start(&parts);
            let end = self.first_pos + self.tokens;
            let mut from = self.shape.first_seen(self.first_pos) / KEYS * KEYS;
            while from < end {
                self.block::<V>(&parts, from);
                from += KEYS;
            }
            self.finish::<V>(&parts);
        }
    }
}

impl Rows<'_> {
    fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// The keys that `row` sees in the block from `from`, relative to it; may be empty.
    #[inline(always)]
    fn seen(&self, row: usize, from: usize) -> Range<usize> {
        let position = self.first_pos + row / self.heads;
        let first = self.shape.first_seen(position).max(from) - from;
        let end = (position + 1).min(from + KEYS).max(from) - from;
        first.min(KEYS)..end
    }

    /// Where head `row % heads` of token `row / heads` starts in q and out.
    #[inline(always)]
    fn offset(&self, row: usize) -> usize {
        let (token, head) = (row / self.heads, row % self.heads);
        (token * self.shape.n_heads + head) * self.shape.head_dim
    }

    /// The value at `position`, which a page holds.
    #[inline(always)]
    fn value(&self, position: usize) -> *const f32 {
        let len = self.shape.page_len;
        let page = self.v_pages[position / len - self.first_page];
        let row = self.kv_head * len + position % len;
        page[row * self.shape.head_dim..].as_ptr()
    }

    /// Lays out the queries and clears the running values.
    ///
    /// # Safety
    /// The parts are valid.
    #[inline(always)]
    unsafe fn start(&self, parts: &Parts) {
        let dim = self.shape.head_dim;
        for row in 0..self.rows() {
            let q = &self.q[self.offset(row)..][..dim];
            // SAFETY: the caller's promise.
            unsafe {
                let to = parts.queries.add(row / ROWS * ROWS * dim + row % ROWS);
                for (i, &q) in q.iter().enumerate() {
                    *to.add(i * ROWS) = q;
                }
                *parts.maxima.add(row) = f32::NEG_INFINITY;
                *parts.sums.add(row) = 0.0;
                parts.total.add(row * parts.stride).write_bytes(0, parts.stride);
            }
        }
    }

    /// One block of keys for all rows.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn block<V: Lanes>(&self, parts: &Parts, from: usize) {
        let rows = self.rows();
        let first = self.seen(0, from).start;
        let end = self.seen(rows - 1, from).end;
        // SAFETY: the caller's promise.
        unsafe {
            for row in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - row);
                // SAFETY (range): rows of a tile are consecutive.
                if self.seen(row + count - 1, from).is_empty() && self.seen(row, from).is_empty() {
                    continue;
                }
                self.score::<V>(parts, from, row, count, first..end);
                let mut scales = [None; ROWS];
                for r in 0..count {
                    scales[r] = self.weigh::<V>(parts, row + r, self.seen(row + r, from));
                }
                self.values::<V>(parts, from, row, count);
                for r in 0..count {
                    if let Some(scale) = scales[r] {
                        let total = parts.total.add((row + r) * parts.stride);
                        let block = parts.block.add((row + r) * parts.stride);
                        for i in (0..parts.stride).step_by(LANES) {
                            let sum = V::load(total.add(i)).fma(V::splat(scale), V::load(block.add(i)));
                            sum.store(total.add(i));
                        }
                    }
                }
            }
        }
    }

    /// Scores of `count` rows from `row` for the keys of a block that any row sees, page by page and sixteen at a time.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn score<V: Lanes>(&self, parts: &Parts, from: usize, row: usize, count: usize, seen: Range<usize>) {
        let (dim, len) = (self.shape.head_dim, self.shape.page_len);
        let mut key = seen.start / LANES * LANES;
        let end = seen.end.next_multiple_of(LANES);
        while key < end {
            let slot = (from + key) % len;
            let columns = (len - slot).min(end - key);
            let page = self.k_pages[(from + key) / len - self.first_page];
            // The same place two blocks on: asked for while this one is worked on.
            let later = ((from + key + 2 * KEYS) / len).min((self.first_pos + self.tokens - 1) / len) - self.first_page;
            let ahead = self.k_pages[later][self.kv_head * dim * len..].as_ptr();
            // SAFETY: the page holds `len` keys, a multiple of sixteen; the rest is the caller's promise.
            unsafe {
                if row == 0 {
                    for line in 0..dim * columns / LANES {
                        V::prefetch(ahead.wrapping_add(line * LANES).cast());
                    }
                }
                let product = Product::<1, ROWS> {
                    a: parts.queries.add(row * dim),
                    b: page[self.kv_head * dim * len + slot..].as_ptr(),
                    b_stride: len,
                    steps: dim,
                    out: parts.scores.add(row * KEYS + key),
                    out_stride: KEYS,
                    go_on: false,
                };
                product.run::<V>(count, columns);
            }
            key += columns;
        }
    }

    /// Turns a row's scores into weights, and what its total has to be scaled by; none when it sees nothing here.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn weigh<V: Lanes>(&self, parts: &Parts, row: usize, seen: Range<usize>) -> Option<f32> {
        if seen.is_empty() {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let scores = parts.scores.add(row * KEYS);
            let mut s = [V::splat(0.0); KEYS / LANES];
            for (c, s) in s.iter_mut().enumerate() {
                let scaled = V::load(scores.add(c * LANES)).mul(V::splat(self.shape.scale));
                let lane = |key: usize| key.saturating_sub(c * LANES).min(LANES);
                *s = scaled.keep(lane(seen.start), lane(seen.end), f32::NEG_INFINITY);
            }
            let old = *parts.maxima.add(row);
            let max = s[0].max(s[1]).max(s[2].max(s[3])).maximum();
            let max = if old > max { old } else { max };
            let mut sum = V::splat(0.0);
            for (c, s) in s.iter().enumerate() {
                let weight = lanes::exp(s.sub(V::splat(max)));
                weight.store(scores.add(c * LANES));
                sum = sum.add(weight);
            }
            // Lane 0 is enough; the vector function keeps the bits the same everywhere.
            let scale = if old == max { 1.0 } else { lanes::exp(V::splat(old - max)).maximum() };
            *parts.maxima.add(row) = max;
            *parts.sums.add(row) = (*parts.sums.add(row)).mul_add(scale, sum.sum());
            Some(scale)
        }
    }

    /// The block's weighted sum of values for `count` rows from `row`: keys that all of them see together, the others
    /// row by row, each row's keys in order.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn values<V: Lanes>(&self, parts: &Parts, from: usize, row: usize, count: usize) {
        let common = self.seen(row + count - 1, from).start..self.seen(row, from).end;
        // SAFETY: the caller's promise.
        unsafe {
            let block = parts.block.add(row * parts.stride);
            block.write_bytes(0, count * parts.stride);
            if common.is_empty() {
                for r in row..row + count {
                    self.add_values::<V>(parts, from, r, 1, self.seen(r, from));
                }
                return;
            }
            for r in row..row + count {
                let before = self.seen(r, from).start..common.start;
                self.add_values::<V>(parts, from, r, 1, before);
            }
            self.add_values::<V>(parts, from, row, count, common.clone());
            for r in row..row + count {
                let after = common.end..self.seen(r, from).end;
                self.add_values::<V>(parts, from, r, 1, after);
            }
        }
    }

    /// Goes on with the block sums of `count` rows over `keys`, page by page.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid; all rows see all of `keys`.
    #[inline(always)]
    unsafe fn add_values<V: Lanes>(&self, parts: &Parts, from: usize, row: usize, count: usize, keys: Range<usize>) {
        let mut key = keys.start;
        while key < keys.end {
            let in_page = (from + key) % self.shape.page_len;
            let steps = (self.shape.page_len - in_page).min(keys.end - key);
            // SAFETY: the page holds `steps` values from here; the rest is the caller's promise.
            unsafe {
                let product = Product::<KEYS, 1> {
                    a: parts.scores.add(row * KEYS + key),
                    b: self.value(from + key),
                    b_stride: self.shape.head_dim,
                    steps,
                    out: parts.block.add(row * parts.stride),
                    out_stride: parts.stride,
                    go_on: true,
                };
                product.run::<V>(count, self.shape.head_dim);
            }
            key += steps;
        }
    }

    /// Writes out = total / sum.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn finish<V: Lanes>(&self, parts: &Parts) {
        let dim = self.shape.head_dim;
        for row in 0..self.rows() {
            // SAFETY: the caller's promise.
            unsafe {
                let total = parts.total.add(row * parts.stride);
                let sum = V::splat(*parts.sums.add(row));
                let out = self.out.add(self.offset(row));
                for i in (0..dim).step_by(LANES) {
                    let value = V::load(total.add(i)).div(sum);
                    value.store_first(out.add(i), LANES.min(dim - i));
                }
            }
        }
    }
}
