//! Attention over paged keys and values: decoding in chunks of 256 keys with an ordered combination, and prefill, both by the one
//! recipe of `attention.cuh`, so that a row has the same bits from either.
//!
//! Where sequences begin and how long they are is read on the device; a recorded launch stays valid while they grow, up to the
//! [`Reach`] that it was made for.

use super::{Address, Element, Gpu, Result, Span};

/// Positions in a page.
pub const PAGE_LEN: usize = 32;
/// Keys of a partial result, at absolute positions.
const CHUNK: usize = 256;
/// Query rows (tokens times the heads that share a key head) of a block.
const DECODE_ROWS: usize = 16;
const PREFILL_ROWS: usize = 128;
/// Decoding blocks of which more would not help: a hundred for each multiprocessor.
const DECODE_BLOCKS: usize = 16384;
/// Pages in a decoding block's ring, and in a prefill block.
const RING: usize = 4;
const PREFILL_PAGES: usize = 8;

/// Heads and what they see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// 16, 32, 64, 96 or 128.
    pub head_dim: usize,
    /// A query at position p sees the keys at (p - window, p]; all up to p without a window.
    pub window: Option<usize>,
    /// Factor on q . k, usually 1 / sqrt(head_dim).
    pub scale: f32,
}

/// The pages of one layer, each `[kv_heads, 32, head_dim]` elements, `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    pub k: Span<'a>,
    pub v: Span<'a>,
    pub count: usize,
    pub stride: usize,
}

/// The sequences of a launch, all u32 on the device. Nothing is read or written for a sequence without tokens.
#[derive(Clone, Copy)]
pub struct Sequences<'a> {
    pub count: usize,
    /// `[count]`: the sequence's first row in q and out.
    pub first_row: Span<'a>,
    /// `[count]`: its query tokens; their keys and values are in the pages already.
    pub tokens: Span<'a>,
    /// `[count]`: the absolute position of the first of them.
    pub start: Span<'a>,
    /// `[count][table_stride]`: the page of the positions 32 i to 32 i + 31. Entries that no row sees are not read.
    pub table: Span<'a>,
    pub table_stride: usize,
}

/// The most that a launch must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Rows of q and out together.
    pub rows: usize,
    /// Query tokens of one sequence.
    pub tokens: usize,
    /// Keys of one sequence, its own tokens among them.
    pub keys: usize,
}

/// Memory that decoding needs while it runs: partial results and their states, f32; see [`AttentionShape::scratch`].
#[derive(Clone, Copy)]
pub struct AttentionScratch<'a> {
    pub partials: Span<'a>,
    pub states: Span<'a>,
}

impl AttentionShape {
    /// Why the kernels cannot do this shape.
    pub fn unsupported(&self) -> Option<String> {
        let AttentionShape { heads, kv_heads, head_dim, window, scale } = *self;
        if kernels(Element::Bf16, head_dim).is_none() {
            return Some(format!("heads of {head_dim} elements; 16, 32, 64, 96 and 128 can be done"));
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Some(format!("{heads} heads that share {kv_heads} key heads"));
        }
        if window == Some(0) {
            return Some("a window without the query's own key".into());
        }
        (scale <= 0.0 || !scale.is_finite()).then(|| format!("a scale of {scale}"))
    }

    /// Chunks that the rows of one sequence can see together.
    pub fn slots(&self, reach: Reach) -> usize {
        let all = reach.keys.div_ceil(CHUNK).max(1);
        match self.window {
            // So many neighbouring keys lie in so many chunks at most.
            Some(window) => all.min((window + reach.tokens.max(1)).saturating_sub(3) / CHUNK + 2),
            None => all,
        }
    }

    /// Numbers of [`AttentionScratch`]: partial results and states.
    pub fn scratch(&self, reach: Reach) -> (usize, usize) {
        let chunks = reach.rows * self.heads * self.slots(reach);
        (chunks * self.head_dim, chunks * 2)
    }

    /// Elements of a page.
    pub fn page_len(&self) -> usize {
        self.kv_heads * PAGE_LEN * self.head_dim
    }

    /// A page of one head in shared memory: 16 bytes more to a key, against bank conflicts.
    fn shared_page_bytes(&self) -> usize {
        PAGE_LEN * (self.head_dim * 2 + 16)
    }
}

/// Decode, combine, prefill.
fn kernels(element: Element, head_dim: usize) -> Option<[&'static str; 3]> {
    macro_rules! of {
        ($dim:literal) => {
            [
                element.of(concat!("attention_bf16_decode", $dim), concat!("attention_f16_decode", $dim)),
                element.of(concat!("attention_bf16_combine", $dim), concat!("attention_f16_combine", $dim)),
                element.of(concat!("attention_bf16_prefill", $dim), concat!("attention_f16_prefill", $dim)),
            ]
        };
    }
    Some(match head_dim {
        16 => of!("16"),
        32 => of!("32"),
        64 => of!("64"),
        96 => of!("96"),
        128 => of!("128"),
        _ => return None,
    })
}

parameters! {
    struct AttentionParameters {
        q: Address,
        k: Address,
        v: Address,
        out: Address,
        partials: Address,
        states: Address,
        first_row: Address,
        tokens: Address,
        start: Address,
        table: Address,
        table_stride: u32,
        page_stride: u32,
        heads: u32,
        kv_heads: u32,
        window: u32,
        slots: u32,
        scale: f32,
        unused: u32,
    }
}

impl AttentionParameters {
    fn new(
        shape: &AttentionShape,
        pages: Pages,
        sequences: Sequences,
        reach: Reach,
        q: Span,
        out: Span,
    ) -> AttentionParameters {
        if let Some(what) = shape.unsupported() {
            panic!("attention cannot have {what}");
        }
        let width = shape.heads * shape.head_dim;
        assert!(
            pages.stride >= shape.page_len() && pages.stride.is_multiple_of(8),
            "pages of {} elements are {} apart",
            shape.page_len(),
            pages.stride
        );
        let pages_len = pages.count.saturating_sub(1) * pages.stride + shape.page_len() * pages.count.min(1);
        assert!(
            sequences.table_stride * PAGE_LEN >= reach.keys,
            "{} pages a sequence do not hold {} keys",
            sequences.table_stride,
            reach.keys
        );
        AttentionParameters {
            q: q.of::<u16>(reach.rows * width, "q"),
            k: pages.k.of::<u16>(pages_len, "the keys"),
            v: pages.v.of::<u16>(pages_len, "the values"),
            out: out.of::<u16>(reach.rows * width, "the result of attention"),
            partials: Address::NONE,
            states: Address::NONE,
            first_row: sequences.first_row.of_any::<u32>(sequences.count, "the first rows"),
            tokens: sequences.tokens.of_any::<u32>(sequences.count, "the numbers of tokens"),
            start: sequences.start.of_any::<u32>(sequences.count, "the positions"),
            table: sequences.table.of_any::<u32>(sequences.count * sequences.table_stride, "the block table"),
            table_stride: sequences.table_stride as u32,
            page_stride: u32::try_from(pages.stride).expect("a page fits 32 bits"),
            heads: shape.heads as u32,
            kv_heads: shape.kv_heads as u32,
            window: shape.window.map_or(u32::MAX, |window| u32::try_from(window).unwrap_or(u32::MAX)),
            slots: shape.slots(reach) as u32,
            scale: (f64::from(shape.scale) * std::f64::consts::LOG2_E) as f32,
            unused: 0,
        }
    }
}

/// Attention of few rows a sequence, each key and value read once: two launches.
///
/// # Panics
/// When the shape cannot be done or a span is too short.
pub fn decode(
    gpu: &Gpu,
    element: Element,
    shape: &AttentionShape,
    pages: Pages,
    sequences: Sequences,
    reach: Reach,
    q: Span,
    out: Span,
    scratch: AttentionScratch,
) -> Result<()> {
    decode_by(DECODE_BLOCKS, gpu, element, shape, pages, sequences, reach, q, out, scratch)
}

/// [`decode`] in about so many blocks; never a matter of bits.
pub(super) fn decode_by(
    blocks: usize,
    gpu: &Gpu,
    element: Element,
    shape: &AttentionShape,
    pages: Pages,
    sequences: Sequences,
    reach: Reach,
    q: Span,
    out: Span,
    scratch: AttentionScratch,
) -> Result<()> {
    let mut parameters = AttentionParameters::new(shape, pages, sequences, reach, q, out);
    let (partials, states) = shape.scratch(reach);
    parameters.partials = scratch.partials.of::<f32>(partials, "the partial results of attention");
    parameters.states = scratch.states.of::<f32>(states, "the states of attention");
    let Some([decode, combine, _]) = kernels(element, shape.head_dim) else { unreachable!("checked with the shape") };
    if sequences.count == 0 || reach.tokens == 0 {
        return Ok(());
    }
    let row_blocks = (reach.tokens * (shape.heads / shape.kv_heads)).div_ceil(DECODE_ROWS);
    let others = shape.kv_heads * row_blocks * sequences.count;
    let grid = [shape.slots(reach).min(blocks.div_ceil(others)), shape.kv_heads * row_blocks, sequences.count];
    gpu.launch(decode, grid, 32, RING * shape.shared_page_bytes(), &parameters)?;
    gpu.launch(combine, [shape.heads.div_ceil(4), reach.tokens, sequences.count], 128, 0, &parameters)
}

/// Attention of many rows a sequence: one launch, no scratch.
///
/// # Panics
/// When the shape cannot be done or a span is too short.
pub fn prefill(
    gpu: &Gpu,
    element: Element,
    shape: &AttentionShape,
    pages: Pages,
    sequences: Sequences,
    reach: Reach,
    q: Span,
    out: Span,
) -> Result<()> {
    let parameters = AttentionParameters::new(shape, pages, sequences, reach, q, out);
    let Some([_, _, prefill]) = kernels(element, shape.head_dim) else { unreachable!("checked with the shape") };
    if sequences.count == 0 || reach.tokens == 0 {
        return Ok(());
    }
    let row_blocks = (reach.tokens * (shape.heads / shape.kv_heads)).div_ceil(PREFILL_ROWS);
    let q_bytes = PREFILL_ROWS * shape.head_dim * 2;
    let shared = PREFILL_PAGES * shape.shared_page_bytes() + q_bytes;
    gpu.launch(prefill, [row_blocks, shape.kv_heads, sequences.count], 256, shared, &parameters)
}
