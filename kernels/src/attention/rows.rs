//! Attention of a few rows of one sequence over some of its key heads: block of keys after block of keys, and within a block head after
//! head, which is the order the pages lie in.
//!
//! Rows of a head are ordered by position, then query head. Scratch space, with D the head's size rounded up to 16: for each head
//! queries `[rows / 6][head_dim][6]`, totals `[rows][D]`, maxima and sums `[rows]`; for the tile at hand scores `[6][64]` and block sums
//! `[6][D]`; for many rows over bf16 the block at hand in f32, as a page of 64 would hold it.

use std::ops::Range;

use super::AttentionShape;
use super::page::{KvPage, KvType};
use super::tile::{GROUPS, KEYS, ROWS, Score, Values};
use crate::lanes::{self, Kernel, LANES, Lanes};
use crate::memory::Scratch;

/// One task.
///
/// Valid for: pages and positions as checked by `AttentionJob::check`; `q` and `out` start at the first token and hold `tokens` tokens,
/// `n_heads * head_dim` apart, of which the query heads `heads` of each key head in `kv_heads` are used.
pub(super) struct Rows<'a> {
    pub shape: &'a AttentionShape,
    pub pages: &'a [&'a KvPage],
    pub first_page: usize,
    pub kv_heads: Range<usize>,
    /// Of a key head's group.
    pub heads: Range<usize>,
    pub first_pos: usize,
    pub tokens: usize,
    pub q: &'a [f32],
    pub out: *mut f32,
}

/// The parts of the scratch space.
struct Parts {
    queries: *mut f32,
    totals: *mut f32,
    maxima: *mut f32,
    sums: *mut f32,
    scores: *mut f32,
    block: *mut f32,
    /// Empty for few rows.
    widened: *mut f32,
    /// D.
    stride: usize,
}

/// From so many rows on bf16 is widened once for all of them, not by each tile.
const MANY_ROWS: usize = 2 * ROWS + 1;

/// Some of a block's keys.
#[derive(Clone, Copy, PartialEq)]
struct Keys {
    first: usize,
    end: usize,
}

impl Keys {
    const ALL: Keys = Keys { first: 0, end: KEYS };

    fn is_empty(self) -> bool {
        self.first >= self.end
    }
}

/// Where the keys and the values of each sixteen positions of a block are.
#[derive(Clone, Copy)]
struct Block {
    keys: [*const u32; GROUPS],
    values: [*const u32; GROUPS],
}

/// A block of keys of one head.
#[derive(Clone, Copy)]
struct Place {
    /// Number of the head among the task's.
    head: usize,
    /// Position of the block's first key.
    from: usize,
}

impl Kernel for Rows<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let dim = self.shape.pages.head_dim;
        let stride = dim.next_multiple_of(LANES);
        let (rows, heads) = (self.rows(), self.kv_heads.len());
        let queries = heads * rows.next_multiple_of(ROWS) * dim;
        let widened = if self.widens() { 2 * KEYS * dim } else { 0 };
        let sizes = [queries, heads * rows * stride, heads * rows, heads * rows, ROWS * KEYS, ROWS * stride, widened];
        let mut scratch = Scratch::take(sizes.iter().map(|size| size.next_multiple_of(LANES)).sum());
        let mut next = scratch.as_mut_ptr();
        let parts = sizes.map(|size| {
            let part = next;
            next = next.wrapping_add(size.next_multiple_of(LANES));
            part
        });
        let [queries, totals, maxima, sums, scores, block, widened] = parts;
        let parts = Parts { queries, totals, maxima, sums, scores, block, widened, stride };
        // SAFETY: the scratch space has all parts at the sizes above; the rest is the caller's promise.
        unsafe {
            self.start(&parts);
            match self.shape.pages.kv {
                KvType::F32 => self.blocks::<V, false>(&parts),
                KvType::Bf16 => self.blocks::<V, true>(&parts),
            }
            self.finish::<V>(&parts);
        }
    }
}

impl Rows<'_> {
    /// Rows of each key head.
    fn rows(&self) -> usize {
        self.tokens * self.heads.len()
    }

    fn widens(&self) -> bool {
        self.shape.pages.kv == KvType::Bf16 && self.rows() >= MANY_ROWS
    }

    /// The keys that each of `count` rows from `row` on sees in the block from `from`; may be none.
    #[inline(always)]
    fn seen(&self, row: usize, count: usize, from: usize) -> [Keys; ROWS] {
        let mut position = self.first_pos + row / self.heads.len();
        let mut head = row % self.heads.len();
        let mut seen = [Keys { first: 0, end: 0 }; ROWS];
        for seen in &mut seen[..count] {
            let first = self.shape.first_seen(position).max(from) - from;
            let end = (position + 1).min(from + KEYS).max(from) - from;
            *seen = Keys { first: first.min(KEYS), end };
            head += 1;
            if head == self.heads.len() {
                (position, head) = (position + 1, 0);
            }
        }
        seen
    }

    /// Where a row of a head starts in q and out.
    #[inline(always)]
    fn offset(&self, head: usize, row: usize) -> usize {
        let group = self.shape.n_heads / self.shape.pages.n_kv_heads;
        let token = row / self.heads.len();
        let head = (self.kv_heads.start + head) * group + self.heads.start + row % self.heads.len();
        (token * self.shape.n_heads + head) * self.shape.pages.head_dim
    }

    /// Where a block lies in the pages; beyond them anywhere in the last one.
    #[inline(always)]
    fn find(&self, place: Place) -> Block {
        let shape = &self.shape.pages;
        let head = (self.kv_heads.start + place.head) * shape.head_words();
        let group_words = LANES * shape.head_dim / shape.kv.per_word();
        let mut block = Block { keys: [std::ptr::null(); GROUPS], values: [std::ptr::null(); GROUPS] };
        for group in 0..GROUPS {
            let position = place.from + group * LANES;
            // The first block may begin before the first page.
            let page = (position / shape.page_len).saturating_sub(self.first_page).min(self.pages.len() - 1);
            let words = &self.pages[page].words()[head..head + shape.head_words()];
            let at = position % shape.page_len / LANES * group_words;
            block.keys[group] = words[at..].as_ptr();
            block.values[group] = words[shape.values_at() + at..].as_ptr();
        }
        block
    }

    /// The block as f32 in the scratch space.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid; the block is bf16.
    #[inline(always)]
    unsafe fn widen<V: Lanes>(&self, parts: &Parts, block: &Block) -> Block {
        let dim = self.shape.pages.head_dim;
        let mut wide = *block;
        for group in 0..GROUPS {
            let keys = parts.widened.wrapping_add(group * LANES * dim);
            let values = keys.wrapping_add(KEYS * dim);
            // SAFETY: the caller's promise: sixteen keys and sixteen values, in pairs.
            unsafe {
                for pair in 0..dim / 2 {
                    let words = V::load(block.keys[group].add(pair * LANES).cast());
                    words.bf16_even().store(keys.add(2 * pair * LANES));
                    words.bf16_odd().store(keys.add((2 * pair + 1) * LANES));
                }
                for pair in 0..LANES / 2 {
                    for i in (0..dim).step_by(LANES) {
                        let count = LANES.min(dim - i);
                        let words = V::load_first(block.values[group].add(pair * dim + i).cast(), count);
                        words.bf16_even().store_first(values.add(2 * pair * dim + i), count);
                        words.bf16_odd().store_first(values.add((2 * pair + 1) * dim + i), count);
                    }
                }
            }
            wide.keys[group] = keys.cast_const().cast();
            wide.values[group] = values.cast_const().cast();
        }
        wide
    }

    /// Lays out the queries and clears the running values.
    ///
    /// # Safety
    /// The parts are valid.
    #[inline(always)]
    unsafe fn start(&self, parts: &Parts) {
        let dim = self.shape.pages.head_dim;
        let rows = self.rows();
        for head in 0..self.kv_heads.len() {
            for row in 0..rows {
                let q = &self.q[self.offset(head, row)..][..dim];
                // SAFETY: the caller's promise.
                unsafe {
                    let to = self.queries(parts, head, row).add(row % ROWS);
                    for (i, &q) in q.iter().enumerate() {
                        *to.add(i * ROWS) = q;
                    }
                    let at = head * rows + row;
                    *parts.maxima.add(at) = f32::NEG_INFINITY;
                    *parts.sums.add(at) = 0.0;
                    parts.totals.add(at * parts.stride).write_bytes(0, parts.stride);
                }
            }
        }
    }

    /// The queries of the tile that `row` is in.
    #[inline(always)]
    fn queries(&self, parts: &Parts, head: usize, row: usize) -> *mut f32 {
        let tile = head * self.rows().div_ceil(ROWS) + row / ROWS;
        parts.queries.wrapping_add(tile * ROWS * self.shape.pages.head_dim)
    }

    /// All blocks that a row sees.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn blocks<V: Lanes, const BF16: bool>(&self, parts: &Parts) {
        let end = self.first_pos + self.tokens;
        let heads = self.kv_heads.len();
        let first = self.shape.first_seen(self.first_pos) / KEYS * KEYS;
        let mut block = self.find(Place { head: 0, from: first });
        for from in (first..end).step_by(KEYS) {
            for head in 0..heads {
                let next = if head + 1 < heads {
                    Place { head: head + 1, from }
                } else {
                    Place { head: 0, from: from + KEYS }
                };
                let next = self.find(next);
                // SAFETY: the caller's promise.
                unsafe {
                    if BF16 && self.widens() {
                        let block = self.widen::<V>(parts, &block);
                        self.block::<V, false>(parts, Place { head, from }, &block, None);
                    } else {
                        self.block::<V, BF16>(parts, Place { head, from }, &block, Some(&next));
                    }
                }
                block = next;
            }
        }
    }

    /// One block of one head for all rows; `next` is the one after it.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn block<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        Place { head, from }: Place,
        block: &Block,
        next: Option<&Block>,
    ) {
        let rows = self.rows();
        // SAFETY: the caller's promise.
        unsafe {
            for row in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - row);
                let seen = &self.seen(row, count, from)[..count];
                // Rows of a tile are consecutive.
                let (first, last) = (seen[0], seen[count - 1]);
                if first.is_empty() && last.is_empty() {
                    continue;
                }
                let next = next.filter(|_| row == 0);
                let queries = self.queries(parts, head, row);
                self.score::<V, BF16>(parts, queries, block, next, count, Keys { first: first.first, end: last.end });
                let scales = self.weigh::<V>(parts, head * rows + row, seen);
                self.values::<V, BF16>(parts, block, next, seen);
                for r in 0..count {
                    if let Some(scale) = scales[r] {
                        let total = parts.totals.add((head * rows + row + r) * parts.stride);
                        let block = parts.block.add(r * parts.stride);
                        for i in (0..parts.stride).step_by(LANES) {
                            let sum = V::load(total.add(i)).fma(V::splat(scale), V::load(block.add(i)));
                            sum.store(total.add(i));
                        }
                    }
                }
            }
        }
    }

    /// Scores of `count` rows for the keys `seen` by any of them, by groups of sixteen.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn score<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        queries: *const f32,
        block: &Block,
        next: Option<&Block>,
        count: usize,
        seen: Keys,
    ) {
        let score = Score {
            queries,
            keys: &block.keys,
            ahead: next.map(|next| &next.keys),
            dim: self.shape.pages.head_dim,
            out: parts.scores,
        };
        // SAFETY: groups are whole; the rest is the caller's promise.
        unsafe { score.run::<V, BF16>(count, seen.first / LANES..seen.end.div_ceil(LANES)) }
    }

    /// Turns the scores of a tile's rows into weights, and says what their totals have to be scaled by; none for a row that sees nothing
    /// here. The rows' running values are at `running`.
    ///
    /// One step for all rows after the other: a row alone would wait for its maximum, its weights and its sum in turn.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn weigh<V: Lanes>(&self, parts: &Parts, running: usize, seen: &[Keys]) -> [Option<f32>; ROWS] {
        let mut maxima = [0.0; ROWS];
        let mut falls = [0.0; LANES];
        let mut scales = [None; ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for (r, &seen) in seen.iter().enumerate().filter(|(_, seen)| !seen.is_empty()) {
                let scores = parts.scores.add(r * KEYS);
                let mut s = [V::splat(0.0); GROUPS];
                for (c, s) in s.iter_mut().enumerate() {
                    *s = V::load(scores.add(c * LANES)).mul(V::splat(self.shape.scale));
                    if seen != Keys::ALL {
                        let lane = |key: usize| key.saturating_sub(c * LANES).min(LANES);
                        *s = s.keep(lane(seen.first), lane(seen.end), f32::NEG_INFINITY);
                    }
                    s.store(scores.add(c * LANES));
                }
                let old = *parts.maxima.add(running + r);
                let max = s[0].max(s[1]).max(s[2].max(s[3])).maximum();
                maxima[r] = if old > max { old } else { max };
                falls[r] = old - maxima[r];
                scales[r] = (old == maxima[r]).then_some(1.0);
                *parts.maxima.add(running + r) = maxima[r];
            }
            // The vector function keeps the bits the same everywhere.
            lanes::exp(V::load(falls.as_ptr())).store(falls.as_mut_ptr());
            for (r, _) in seen.iter().enumerate().filter(|(_, seen)| !seen.is_empty()) {
                let scores = parts.scores.add(r * KEYS);
                let mut sum = V::splat(0.0);
                for c in 0..GROUPS {
                    let weight = lanes::exp(V::load(scores.add(c * LANES)).sub(V::splat(maxima[r])));
                    weight.store(scores.add(c * LANES));
                    sum = sum.add(weight);
                }
                let scale = scales[r].unwrap_or(falls[r]);
                scales[r] = Some(scale);
                let total = parts.sums.add(running + r);
                *total = (*total).mul_add(scale, sum.sum());
            }
        }
        scales
    }

    /// The block's weighted sum of values for the rows of a tile: keys that all of them see together, the others row by row, each row's
    /// keys in order.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn values<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        block: &Block,
        next: Option<&Block>,
        seen: &[Keys],
    ) {
        let count = seen.len();
        let common = Keys { first: seen[count - 1].first, end: seen[0].end };
        // SAFETY: the caller's promise.
        unsafe {
            parts.block.write_bytes(0, count * parts.stride);
            if common.is_empty() {
                for (r, &seen) in seen.iter().enumerate() {
                    self.add_values::<V, BF16>(parts, block, next, r, 1, seen);
                }
                return;
            }
            for (r, seen) in seen.iter().enumerate() {
                self.add_values::<V, BF16>(parts, block, None, r, 1, Keys { end: common.first, ..*seen });
            }
            self.add_values::<V, BF16>(parts, block, next, 0, count, common);
            for (r, seen) in seen.iter().enumerate() {
                self.add_values::<V, BF16>(parts, block, None, r, 1, Keys { first: common.end, ..*seen });
            }
        }
    }

    /// Goes on with the block sums of `count` rows of the tile over `keys`, as far at a time as they lie one after the other.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid; all rows see all of `keys`.
    #[inline(always)]
    unsafe fn add_values<V: Lanes, const BF16: bool>(
        &self,
        parts: &Parts,
        block: &Block,
        next: Option<&Block>,
        r: usize,
        count: usize,
        keys: Keys,
    ) {
        let dim = self.shape.pages.head_dim;
        let per_word = if BF16 { 2 } else { 1 };
        let mut key = keys.first;
        while key < keys.end {
            let first = key / LANES;
            let mut last = first;
            let follows =
                |group: usize| block.values[group].wrapping_add(LANES / per_word * dim) == block.values[group + 1];
            while (last + 1) * LANES < keys.end && follows(last) {
                last += 1;
            }
            let end = keys.end.min((last + 1) * LANES);
            let within = key % LANES / per_word * dim;
            let values = Values {
                weights: parts.scores.wrapping_add(r * KEYS + key),
                values: block.values[first].wrapping_add(within),
                ahead: next.map(|next| next.values[first].wrapping_add(within)),
                keys: end - key,
                from_odd: key % 2 == 1,
                dim,
                out: parts.block.wrapping_add(r * parts.stride),
                stride: parts.stride,
            };
            // SAFETY: the values lie there; the rest is the caller's promise.
            unsafe { values.run::<V, BF16>(count) };
            key = end;
        }
    }

    /// Writes out = total / sum.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the parts are valid.
    #[inline(always)]
    unsafe fn finish<V: Lanes>(&self, parts: &Parts) {
        let dim = self.shape.pages.head_dim;
        let rows = self.rows();
        for head in 0..self.kv_heads.len() {
            for row in 0..rows {
                let at = head * rows + row;
                // SAFETY: the caller's promise.
                unsafe {
                    let total = parts.totals.add(at * parts.stride);
                    let sum = V::splat(*parts.sums.add(at));
                    let out = self.out.add(self.offset(head, row));
                    for i in (0..dim).step_by(LANES) {
                        let value = V::load(total.add(i)).div(sum);
                        value.store_first(out.add(i), LANES.min(dim - i));
                    }
                }
            }
        }
    }
}
