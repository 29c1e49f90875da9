//! The choice of the next token on the device, and the bookkeeping that lets the next step begin without the host: see
//! `kernels/cuda/sampler.cu` for how tokens are sampled.

use super::rows::ABSENT;
use super::{Address, Gpu, Memory, Result, Span};

/// Logits of a block.
const CHUNK_LOGITS: usize = 4096;
const BINS: usize = 2048;

parameters! {
    /// Sampler state of a slot. The device updates `index` and `left` and records the finish reason in `finish`.
    pub struct SamplerRow {
        /// Of Philox; `index` is that of the next draw.
        key: u64,
        stream: u64,
        index: u64,
        /// Up to 0: the largest logit.
        temperature: f64,
        /// From 1 on, all are kept.
        top_p: f64,
        /// Up to 0, all are kept.
        min_p: f64,
        /// 0: all are kept.
        top_k: u32,
        /// How many tokens the slot may still draw.
        left: u32,
        /// 0: nothing is drawn.
        active: u32,
        /// One of [`FINISH_STOP`], [`FINISH_LENGTH`], [`FINISH_NOTHING`]; 0 while the sequence is running.
        finish: u32,
    }
}

impl Default for SamplerRow {
    /// An unused slot.
    fn default() -> Self {
        SamplerRow {
            key: 0,
            stream: 0,
            index: 0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            top_k: 0,
            left: 0,
            active: 0,
            finish: 0,
        }
    }
}

/// A stop token was drawn.
pub const FINISH_STOP: u32 = 1;
/// No more tokens are left.
pub const FINISH_LENGTH: u32 = 2;
/// The row had no finite largest logit: nothing could be drawn honestly.
pub const FINISH_NOTHING: u32 = 3;

parameters! {
    struct SamplerParameters {
        logits: Address,
        slots: Address,
        states: Address,
        best: Address,
        best_id: Address,
        mass: Address,
        bin_count: Address,
        bin_mass: Address,
        stops: Address,
        sampled: Address,
        finished: Address,
        ids: Address,
        positions: Address,
        tokens: Address,
        sequences: Address,
        rows: u32,
        vocab: u32,
        logits_stride: u32,
        chunks: u32,
        stops_count: u32,
        unused: u32,
    }
}

/// Room for what the sampler's kernels hand on to each other.
pub struct SamplerRoom {
    memory: Memory,
    rows: usize,
    vocab: usize,
}

impl SamplerRoom {
    /// For at most so many rows at a time.
    pub fn new(gpu: &Gpu, rows: usize, vocab: usize) -> Result<Self> {
        assert!(vocab > 0 && vocab < 1 << 20, "weights of a row of {vocab} do not fit 64 bits");
        let chunks = vocab.div_ceil(CHUNK_LOGITS);
        let bytes = rows * (BINS * (8 + 4) + chunks.next_multiple_of(2) * (8 + 4 + 4));
        Ok(SamplerRoom { memory: gpu.alloc(bytes)?, rows, vocab })
    }
}

/// Spans of u32, one a slot, that are kept for the next step; `None` is not kept.
#[derive(Clone, Copy, Default)]
pub struct NextStep<'a> {
    /// The token drawn: what the next step takes in.
    pub ids: Option<Span<'a>>,
    /// One further.
    pub positions: Option<Span<'a>>,
    /// Number of query tokens: 0 when the slot has finished.
    pub tokens: Option<Span<'a>>,
    /// Row of the block tables: [`ABSENT`] when the slot has finished.
    pub sequences: Option<Span<'a>>,
}

/// A draw for each row of logits.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    pub rows: usize,
    /// f32; row r begins at `r * stride`, and its first `vocab` are looked at.
    pub logits: Span<'a>,
    pub stride: usize,
    /// How many slots the spans below have.
    pub slots: usize,
    /// `[rows]` of u32: the slot a row is for, under `slots`, none twice; `None`: row r is for slot r.
    pub slot_of: Option<Span<'a>>,
    /// `[slots]` of [`SamplerRow`].
    pub states: Span<'a>,
    /// u32, and how many.
    pub stops: (Span<'a>, usize),
    /// `[slots]` of u32 each: the token ([`ABSENT`] if none was drawn), and why the slot has finished.
    pub sampled: Span<'a>,
    pub finished: Span<'a>,
    pub next: NextStep<'a>,
}

/// See [`Draw`]. Three launches.
///
/// # Panics
/// When a span is too short, or the room too small.
pub fn draw(gpu: &Gpu, room: &SamplerRoom, work: &Draw) -> Result<()> {
    let Draw { rows, stride, slots, .. } = *work;
    let vocab = room.vocab;
    assert!(rows <= room.rows, "room for {} rows, not {rows}", room.rows);
    assert!(stride >= vocab, "rows of logits do not overlap");
    assert!(work.slot_of.is_some() || rows <= slots, "each row has a slot");
    if rows == 0 {
        return Ok(());
    }
    let chunks = vocab.div_ceil(CHUNK_LOGITS);
    let padded = chunks.next_multiple_of(2);
    let mut taken = 0;
    let mut part = |bytes: usize| {
        let address = room.memory.address().plus(taken);
        taken += room.rows * bytes;
        address
    };
    let kept = |span: Option<Span>, what| span.map_or(Address::NONE, |span: Span| span.of_any::<u32>(slots, what));
    let (bin_mass, mass, bin_count) = (part(BINS * 8), part(padded * 8), part(BINS * 4));
    let (best, best_id) = (part(padded * 4), part(padded * 4));
    let (stops, stops_count) = work.stops;
    let parameters = SamplerParameters {
        logits: work.logits.of_any::<f32>((rows - 1) * stride + vocab, "the logits"),
        slots: work.slot_of.map_or(Address::NONE, |span| span.of_any::<u32>(rows, "the slots")),
        states: work.states.of::<SamplerRow>(slots, "what the sampler knows"),
        best,
        best_id,
        mass,
        bin_count,
        bin_mass,
        stops: stops.of_any::<u32>(stops_count, "the stop tokens"),
        sampled: work.sampled.of_any::<u32>(slots, "the tokens drawn"),
        finished: work.finished.of_any::<u32>(slots, "why slots have finished"),
        ids: kept(work.next.ids, "the next ids"),
        positions: kept(work.next.positions, "the positions"),
        tokens: kept(work.next.tokens, "the numbers of tokens"),
        sequences: kept(work.next.sequences, "the sequences"),
        rows: rows as u32,
        vocab: vocab as u32,
        logits_stride: stride as u32,
        chunks: chunks as u32,
        stops_count: stops_count as u32,
        unused: 0,
    };
    gpu.launch("sampler_scan", [chunks, rows, 1], 256, 0, &parameters)?;
    gpu.launch("sampler_weigh", [chunks, rows, 1], 256, 0, &parameters)?;
    gpu.launch("sampler_pick", [rows, 1, 1], 1024, 0, &parameters)
}

/// The token of a slot that sampled none.
pub const NO_TOKEN: u32 = ABSENT;
