//! The trait `Backend`: KV pages, and forward passes over rows of sequences. The batcher decides what runs; a backend computes it and
//! samples. On one backend a sequence's result does not depend on the other sequences.

pub mod cpu;
pub mod cuda;
pub mod reference;

use std::{
    iter::Sum,
    ops::{Add, Sub},
};

pub use crate::sequence::{Drawn, SequenceCache};
use crate::{
    capture::{RawStates, Recorder},
    sequence::{Draft, Sequence},
    spec::{ArchSpec, Part},
};
use tiltmeter_model::probe::Site;
use tiltmeter_model::problem::Problem;

/// Pages by pool: of layers that see everything, and of layers with a sliding window. Where all layers share one pool, the second
/// number is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts(pub [usize; 2]);

impl PageCounts {
    pub fn fits(self, there: PageCounts) -> bool {
        self.0[0] <= there.0[0] && self.0[1] <= there.0[1]
    }

    pub fn total(self) -> usize {
        self.0[0] + self.0[1]
    }
}

impl Add for PageCounts {
    type Output = PageCounts;

    fn add(self, other: PageCounts) -> PageCounts {
        PageCounts([self.0[0] + other.0[0], self.0[1] + other.0[1]])
    }
}

/// What is left, and never less than nothing.
impl Sub for PageCounts {
    type Output = PageCounts;

    fn sub(self, other: PageCounts) -> PageCounts {
        PageCounts([self.0[0].saturating_sub(other.0[0]), self.0[1].saturating_sub(other.0[1])])
    }
}

impl Sum for PageCounts {
    fn sum<I: Iterator<Item = PageCounts>>(rooms: I) -> PageCounts {
        rooms.fold(PageCounts::default(), Add::add)
    }
}

/// Rows of one sequence within a batch: consecutive positions from `first` on, already noted in its cache.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Index of the sequence's cache.
    pub cache: usize,
    pub first: usize,
    pub len: usize,
}

/// One forward pass over rows of several sequences, flattened.
#[derive(Debug, Default)]
pub struct Batch {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub sequences: Vec<Rows>,
    /// Rows whose logits are wanted.
    pub logit_rows: Vec<u32>,
}

/// What records say of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    pub device: String,
    /// Weight dtype plus kernel family; resume requires identical numerics.
    pub dtype: String,
    /// What keys and values are kept in.
    pub kv_dtype: String,
}

/// Something that computes passes and keeps keys and values.
pub trait Backend {
    type Cache: SequenceCache;

    fn arch(&self) -> &ArchSpec;

    fn facts(&self) -> BackendInfo;

    /// Bytes of weights in this computer's memory.
    fn weight_bytes(&self) -> u64 {
        0
    }

    /// Bytes of the pages in use there.
    fn kv_bytes(&self) -> u64 {
        0
    }

    /// Cost of the linear layers in a pass over `rows` rows, relative to one row; `None` if the backend cannot verify draft tokens.
    fn cost_of_rows(&self, _rows: usize) -> Option<f64> {
        None
    }

    /// What attention takes for one more token of a sequence of `len`, in the same unit.
    fn cost_of_attention(&self, _len: usize) -> f64 {
        0.0
    }

    /// Pages there are.
    fn capacity(&self) -> PageCounts;

    /// Pages that can still be taken.
    fn available(&self) -> PageCounts;

    /// Most pages that a sequence holds on its way to `len` tokens if everything after `anchor` must stay reachable.
    fn pages_for(&self, len: usize, anchor: usize) -> PageCounts;

    fn pages_held(&self, cache: &Self::Cache) -> PageCounts;

    /// Makes room for `tokens`, which follow those held.
    fn extend(&mut self, cache: &mut Self::Cache, tokens: &[u32]);

    /// Drops the positions from `len` on, or everything if positions below `len` were evicted.
    fn truncate(&mut self, cache: &mut Self::Cache, len: usize);

    /// Frees what no query at `anchor` or later can see.
    fn evict_window(&mut self, cache: &mut Self::Cache, anchor: usize);

    /// Gives every page back.
    fn clear(&mut self, cache: &mut Self::Cache);

    /// How many of these tokens could be taken over from this sequence.
    fn shareable(&self, cache: &Self::Cache, tokens: &[u32]) -> usize;

    /// A sequence that holds the first `len` tokens of this one, `len` being `shareable`.
    fn fork_prefix(&self, cache: &Self::Cache, len: usize) -> Self::Cache;

    /// One pass over `batch`, whose entry i belongs to `sequences[i]`: delivers captured states, and samples where a token is due.
    fn pass(&mut self, batch: &Batch, sequences: &mut [&mut Sequence<Self::Cache>]) -> Result<Vec<Drawn>, Problem>;
}

/// Refuses an architecture with a part beyond those that a backend computes.
pub fn check(arch: &ArchSpec, computed: &[Part], device: &str) -> Result<(), Problem> {
    arch.part_beyond(computed).map_or(Ok(()), |part| Err(not_yet(part, device)))
}

/// A backend lacks a part of an architecture.
pub fn not_yet(part: Part, device: &str) -> Problem {
    Problem::new(format!("{part} on {device}: not yet"))
        .hint("TILTMETER_ENGINE=reference runs most architectures, slowly, on any device")
}

/// Memory that can be taken without swapping; 4 GiB where the system does not say.
pub fn free_memory() -> u64 {
    let kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:").map(str::to_owned))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    });
    kib.map_or(4 << 30, |kib| kib * 1024)
}

/// The sites that anyone in a pass asks for, in the order of the forward pass.
pub fn sites<C: SequenceCache>(sequences: &[&mut Sequence<C>]) -> Vec<Site> {
    let mut sites = Vec::new();
    for sequence in sequences {
        sites.extend(sequence.recorder.iter().flat_map(|recorder| recorder.sites()));
        sites.extend(sequence.raw.iter().flat_map(|raw| raw.sites.iter().copied()));
    }
    sites.sort_unstable();
    sites.dedup();
    sites
}

/// Who wants to see states of a sequence.
pub struct Watcher<'a> {
    pub recorder: &'a mut Option<Recorder>,
    pub raw: &'a mut Option<RawStates>,
    pub draft: &'a mut Draft,
}

/// Passes the states `[rows, width]` of a site to the recorders.
pub fn show(batch: &Batch, watchers: &mut [Watcher], site: Site, states: &[f32], width: usize) {
    let mut rest = states;
    for (Watcher { recorder, raw, draft }, rows) in watchers.iter_mut().zip(&batch.sequences) {
        let (own, others) = rest.split_at(rows.len * width);
        rest = others;
        match recorder {
            Some(recorder) if draft.tokens.is_empty() => recorder.observe(site, rows.first, own, width),
            Some(_) => draft.states.push((site, own.to_vec())),
            None => {}
        }
        if let Some(raw) = raw {
            raw.observe(site, own);
        }
    }
}

/// Draws a token for every sequence whose pending tokens are all fed, from the logits `[logit_rows, vocab]`, on this processor.
pub fn draw<C: SequenceCache>(
    batch: &Batch,
    sequences: &mut [&mut Sequence<C>],
    logits: &[f32],
    vocab: usize,
) -> Vec<Drawn> {
    let mut rows = logits.chunks_exact(vocab);
    let drawn = sequences.iter_mut().zip(&batch.sequences).map(|(sequence, fed)| {
        let due = sequence.pending().is_empty() && sequence.draws();
        let all_logits = sequence.raw.as_ref().is_some_and(|raw| raw.with_logits);
        let drafted = !sequence.draft.tokens.is_empty();
        let count = if all_logits || drafted { fed.len } else { usize::from(due) };
        let own: Vec<&[f32]> = rows.by_ref().take(count).collect();
        if let Some(raw) = sequence.raw.as_mut().filter(|raw| raw.with_logits) {
            own.iter().for_each(|row| raw.logits.extend_from_slice(row));
        }
        if drafted {
            return sequence.draw_along(&own);
        }
        own.last().filter(|_| due).and_then(|last| sequence.draw(last))
    });
    drawn.collect()
}
