//! Attention of a few rows of one sequence over some of its key heads: block of keys after block of keys, and within a block head after
//! head, which is the order the pages lie in.
//!
//! Rows of a head are ordered by position, then query head. Scratch space, with D the head's size rounded up to 16: for each head
//! queries `[rows / 6][head_dim][6]`, totals `[rows][D]`, maxima and sums `[rows]`; for the tile at hand scores `[6][64]` and block sums
//! `[6][D]`; for many rows over bf16 the block at hand in f32, as a page of 64 would hold it.

mod blocks;

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
}
