//! Causal attention over paged keys and values, with grouped heads and an optional window.
//!
//! Softmax over blocks of 64 keys that start at absolute positions divisible by 64 (Milakov and Gimelshein 2018;
//! Dao et al. 2022): for each block of a row, with m and l its running maximum and sum,
//!
//! ```text
//! s = (q . k) scale          one FMA chain over the head's elements
//! m' = max(m, max s)         c = e^(m - m')        p = e^(s - m')
//! l  = l c + sum p           the sum over 16 lanes by position mod 16, then a fixed tree
//! o  = o c + sum p v         one FMA chain over the block's keys, in order
//! ```
//!
//! and out = o / l at the end. A row meets the blocks and keys that it sees at the same places of these sums whether
//! it is decoded alone or prefilled in any chunk, and keys that it does not see (later ones, those that have left the
//! window) never enter its chains, so garbage there cannot reach it.
//!
//! A task is some rows of one sequence over some key heads; rows that share a key head read each of its blocks once.

mod page;
mod rows;
mod tile;

use std::ops::Range;

use crate::isa::Isa;
use crate::pool::{Pool, Shares};
pub use page::{KvPage, KvPages, KvType, KvWrite, PageShape, write_kv};
use rows::Rows;

/// Most rows of a task: a block of keys is read from near memory for all of them.
const ROWS_PER_TASK: usize = 48;
/// Enough that threads end together.
const TASKS_PER_THREAD: usize = 4;

/// What all sequences of an [`attention`] call have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of the key heads.
    pub n_heads: usize,
    pub pages: PageShape,
    /// Factor on q . k, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A query at position p sees the keys at positions (p - window, p]; all up to p without a window.
    pub window: Option<usize>,
}

/// One sequence of an [`attention`] call.
#[derive(Debug)]
pub struct AttentionJob<'a> {
    /// Queries `[n_tokens, n_heads * head_dim]` of consecutive positions.
    pub q: &'a [f32],
    /// Where the result goes; the shape of `q`.
    pub out: &'a mut [f32],
    /// Absolute position of the first row.
    pub first_pos: usize,
    /// Pages of keys and values, those of the rows themselves included.
    pub pages: &'a [&'a KvPage],
    /// Absolute number of `pages[0]`: it starts at position `first_page * page_len`.
    pub first_page: usize,
}

/// Attention of every row of every job; no job may be missing a page that one of its rows sees.
///
/// # Panics
/// When the shape is impossible, lengths do not fit it, or a page is missing.
pub fn attention(shape: &AttentionShape, jobs: &mut [AttentionJob], pool: &Pool) {
    attention_on(Isa::active(), shape, jobs, pool);
}

pub(crate) fn attention_on(isa: Isa, shape: &AttentionShape, jobs: &mut [AttentionJob], pool: &Pool) {
    shape.check();
    let PageShape { n_kv_heads, head_dim, .. } = shape.pages;
    let group = shape.n_heads / n_kv_heads;
    let width = shape.n_heads * head_dim;
    let tokens: Vec<usize> = jobs.iter().map(|job| job.check(shape)).collect();

    // Rows of a task: as many as are useful while every thread gets several tasks; never a matter of bits.
    let rows_total = tokens.iter().sum::<usize>() * shape.n_heads;
    let wanted_tasks = TASKS_PER_THREAD * pool.threads();
    let rows = (rows_total / wanted_tasks).clamp(tile::ROWS, ROWS_PER_TASK);
    let heads_at_once = group.min(rows);

    struct Task {
        job: usize,
        first_token: usize,
        tokens: usize,
        kv_heads: Range<usize>,
        heads: Range<usize>,
    }
    let mut tasks = Vec::new();
    for (job, &tokens) in tokens.iter().enumerate().filter(|(_, tokens)| **tokens > 0) {
        let tokens_at_once = tokens.min(rows / heads_at_once);
        let kv_heads_at_once = rows / (heads_at_once * tokens_at_once);
        // Late rows see the most keys, so they start first.
        for first_token in (0..tokens).step_by(tokens_at_once).rev() {
            for kv_head in (0..n_kv_heads).step_by(kv_heads_at_once) {
                for head in (0..group).step_by(heads_at_once) {
                    tasks.push(Task {
                        job,
                        first_token,
                        tokens: tokens_at_once.min(tokens - first_token),
                        kv_heads: kv_head..n_kv_heads.min(kv_head + kv_heads_at_once),
                        heads: head..group.min(head + heads_at_once),
                    });
                }
            }
        }
    }
    let outs: Vec<_> = jobs.iter_mut().map(|job| Shares::new(job.out)).collect();
    let jobs: &[AttentionJob] = jobs;
    pool.run(tasks.len(), |index| {
        let task = &tasks[index];
        let job = &jobs[task.job];
        let offset = task.first_token * width;
        let work = Rows {
            shape,
            pages: job.pages,
            first_page: job.first_page,
            kv_heads: task.kv_heads.clone(),
            heads: task.heads.clone(),
            first_pos: job.first_pos + task.first_token,
            tokens: task.tokens,
            q: &job.q[offset..],
            out: outs[task.job].as_mut_ptr().wrapping_add(offset),
        };
        // SAFETY: shape and job were checked, and every task writes to tokens and heads of its own.
        unsafe { isa.run(work) }
    });
}

impl AttentionShape {
    fn check(&self) {
        let kv_heads = self.pages.n_kv_heads;
        assert!(
            kv_heads > 0 && self.n_heads > 0 && self.n_heads.is_multiple_of(kv_heads),
            "{} heads cannot share {kv_heads} key heads",
            self.n_heads,
        );
        self.pages.check();
        assert_ne!(self.window, Some(0), "a window holds at least the query's own key");
    }

    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

impl AttentionJob<'_> {
    /// Checks the job against `shape`; its number of tokens.
    fn check(&self, shape: &AttentionShape) -> usize {
        let width = shape.n_heads * shape.pages.head_dim;
        assert_eq!(self.q.len(), self.out.len(), "out has the shape of q");
        assert_eq!(self.q.len() % width, 0, "q is [tokens, n_heads * head_dim]");
        let fits = |page: &&KvPage| page.words().len() == shape.pages.words();
        assert!(self.pages.iter().all(fits), "the pages have the shape of the call");
        let tokens = self.q.len() / width;
        if tokens > 0 {
            let start = self.first_page * shape.pages.page_len;
            let end = start + self.pages.len() * shape.pages.page_len;
            let seen = shape.first_seen(self.first_pos)..self.first_pos + tokens;
            assert!(
                start <= seen.start && seen.end <= end,
                "the rows see positions {seen:?}, the pages hold {start}..{end}"
            );
        }
        tokens
    }
}

#[cfg(test)]
mod tests;
