//! Kernels that work along a row of the residual stream or of q, k and v: see `kernels/cuda/rows.cu` for what they compute.
//!
//! A row is a block, whose size follows from the width alone, so a row's bits do not depend on the others.

use super::{Address, Element, Gpu, Result, Span};

/// A row, page or token that there is not.
pub const ABSENT: u32 = u32::MAX;

/// Positions of a page.
pub const PAGE_POSITIONS: usize = 32;

parameters! {
    struct EmbedParameters {
        table: Address,
        ids: Address,
        residual: Address,
        width: u32,
        vocab: u32,
    }
}

parameters! {
    struct FinishParameters {
        partials: Address,
        residual: Address,
        sources: Address,
        post_weight: Address,
        next_weight: Address,
        next: Address,
        axes: Address,
        dots: Address,
        steering: Address,
        steering_of: Address,
        steering_scale: Address,
        rows: u32,
        width: u32,
        splits: u32,
        axes_count: u32,
        dots_stride: u32,
        flags: u32,
        post_eps: f32,
        next_eps: f32,
    }
}

parameters! {
    struct PlaceParameters {
        partials: Address,
        q_weight: Address,
        k_weight: Address,
        cos: Address,
        sin: Address,
        positions: Address,
        sequences: Address,
        pages: Address,
        q: Address,
        keys: Address,
        values: Address,
        page_stride: u64,
        rows: u32,
        splits: u32,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        pages_stride: u32,
        positions_end: u32,
        eps: f32,
    }
}

/// Threads of a block whose rows have this width: a function of the width and nothing else, because the order of sums hangs on it.
pub(super) fn threads_for(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).clamp(32, 1024)
}

/// The widest residual stream that the kernels are made for; q may be twice as wide.
pub const MOST_WIDTH: usize = 8192;

/// Which of the kernels has rows of this width in its threads' registers: 1 or 2 fours a thread.
fn size_class(width: usize) -> usize {
    assert!(width <= MOST_WIDTH, "rows of {width} are wider than the kernels are made for");
    width.div_ceil(4 * threads_for(width)).saturating_sub(1)
}

fn check_width(width: usize) {
    assert!(width > 0 && width.is_multiple_of(16), "a row's width is a multiple of 16, not {width}");
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("counts fit 32 bits")
}

/// `residual[r] = table[ids[r]]` in f32, for `table` `[vocab, width]` and `ids` `[rows]` of u32. An id outside the vocabulary gives zeros.
///
/// # Panics
/// When the width is no multiple of 16, or a span is too short.
pub fn embed(
    gpu: &Gpu,
    element: Element,
    table: Span,
    ids: Span,
    residual: Span,
    rows: usize,
    width: usize,
    vocab: usize,
) -> Result<()> {
    check_width(width);
    if rows == 0 {
        return Ok(());
    }
    let parameters = EmbedParameters {
        table: table.of::<u16>(vocab * width, "the table"),
        ids: ids.of::<u32>(rows, "the ids"),
        residual: residual.of::<f32>(rows * width, "the residual stream"),
        width: small(width),
        vocab: small(vocab),
    };
    gpu.launch(element.of("embed_bf16", "embed_f16"), [rows, 1, 1], threads_for(width), 0, &parameters)
}

/// An RMS norm.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// `[width]` of the two-byte element.
    pub weight: Span<'a>,
    pub eps: f32,
}

/// What the next product takes in.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    /// `[rows, width]` of the two-byte element.
    pub out: Span<'a>,
    /// The norm of what goes in, where the family has one.
    pub norm: Option<Norm<'a>>,
    /// Rounded before the weight and after it (Llama), not only after it (OLMo).
    pub round_first: bool,
}

/// Directions that a row is compared with.
#[derive(Clone, Copy)]
pub struct Dots<'a> {
    /// `[count, width]` of f32.
    pub axes: Span<'a>,
    pub count: usize,
    /// f32; row r's results begin at `r * stride`.
    pub out: Span<'a>,
    pub stride: usize,
    /// Of the norm of what goes on, before it is rounded, instead of the residual stream.
    pub of_next: bool,
}

/// What is added to rows of the residual stream.
#[derive(Clone, Copy)]
pub struct Steering<'a> {
    /// `[count, width]` of f32.
    pub vectors: Span<'a>,
    /// `[rows]` of u32: which vector, [`ABSENT`] for none. It must be under the number of vectors.
    pub which: Span<'a>,
    /// `[rows]` of f32.
    pub scale: Span<'a>,
}

/// The end of a sublayer, in this order: sum of the parts, its norm, the addition to the residual stream, steering; then dot products
/// and the next input of what the stream now holds.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    pub rows: usize,
    pub width: usize,
    /// f32, `[., width]`.
    pub residual: Span<'a>,
    /// `[splits, rows, width]` of f32, and the number of splits.
    pub partials: Option<(Span<'a>, usize)>,
    /// The norm of what comes out of the sublayer, where the family has one.
    pub post: Option<Norm<'a>>,
    pub steering: Option<Steering<'a>>,
    pub dots: Option<Dots<'a>>,
    pub next: Option<Next<'a>>,
    /// `[rows]` of u32: row r of everything else is row `sources[r]` of the residual stream, which must have it. Only to read it.
    pub sources: Option<Span<'a>>,
}

/// See [`Finish`].
///
/// # Panics
/// When the width is no multiple of 16 or over [`MOST_WIDTH`], a span is too short, or `sources` is given with something that changes the stream.
pub fn finish(gpu: &Gpu, element: Element, work: &Finish) -> Result<()> {
    let Finish { rows, width, .. } = *work;
    check_width(width);
    assert!(work.sources.is_none() || (work.partials.is_none() && work.steering.is_none()), "sources are only read");
    assert!(work.post.is_none() || work.partials.is_some(), "the norm of what comes out needs what comes out");
    if rows == 0 {
        return Ok(());
    }
    let none = Address::NONE;
    let (partials, splits) = match work.partials {
        Some((span, splits)) => {
            assert!(splits > 0, "a product has at least one part");
            (span.of::<f32>(splits * rows * width, "the parts"), splits)
        }
        None => (none, 0),
    };
    let weight = |norm: &Norm| norm.weight.of::<u16>(width, "a norm's weight");
    let next_norm = work.next.as_ref().and_then(|next| next.norm);
    let mut flags = 0;
    flags |= u32::from(work.next.is_some_and(|next| next.round_first));
    flags |= u32::from(work.dots.is_some_and(|dots| dots.of_next)) << 1;
    let (axes, dots, axes_count, dots_stride) = match work.dots {
        Some(dots) if dots.count > 0 => {
            assert!(dots.count <= dots.stride || rows == 1, "rows of dot products would overlap");
            (
                dots.axes.of::<f32>(dots.count * width, "the axes"),
                dots.out.of_any::<f32>((rows - 1) * dots.stride + dots.count, "the dot products"),
                dots.count,
                dots.stride,
            )
        }
        _ => (none, none, 0, 0),
    };
    let read_rows = if work.sources.is_some() { 1 } else { rows };
    let parameters = FinishParameters {
        partials,
        residual: work.residual.of::<f32>(read_rows * width, "the residual stream"),
        sources: work.sources.map_or(none, |sources| sources.of_any::<u32>(rows, "the sources")),
        post_weight: work.post.as_ref().map_or(none, weight),
        next_weight: next_norm.as_ref().map_or(none, weight),
        next: work.next.map_or(none, |next| next.out.of::<u16>(rows * width, "the next input")),
        axes,
        dots,
        steering: work.steering.map_or(none, |steering| steering.vectors.of::<f32>(width, "the steering vectors")),
        steering_of: work.steering.map_or(none, |steering| steering.which.of_any::<u32>(rows, "steering rows")),
        steering_scale: work.steering.map_or(none, |steering| steering.scale.of_any::<f32>(rows, "steering strengths")),
        rows: small(rows),
        width: small(width),
        splits: small(splits),
        axes_count: small(axes_count),
        dots_stride: small(dots_stride),
        flags,
        post_eps: work.post.map_or(0.0, |norm| norm.eps),
        next_eps: next_norm.map_or(0.0, |norm| norm.eps),
    };
    let names = [("finish_bf16_1", "finish_f16_1"), ("finish_bf16_2", "finish_f16_2")];
    let (bf16, f16) = names[size_class(width)];
    gpu.launch(element.of(bf16, f16), [rows, 1, 1], threads_for(width), 0, &parameters)
}

/// The cached keys and values of one layer: pages `[kv_heads, 32, head_dim]`, of which page n begins n strides further.
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    pub keys: Span<'a>,
    pub values: Span<'a>,
    /// Elements between the beginnings of two pages, and how many pages there are.
    pub stride: usize,
    pub count: usize,
}

/// q, k and v of new tokens: see [`place`].
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub rows: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// `[splits, rows, (heads + 2 kv_heads) * head_dim]` of f32, and the number of splits.
    pub partials: (Span<'a>, usize),
    /// The norms over the whole width of q and of k, where the family has them; of the same eps.
    pub norms: Option<(Norm<'a>, Norm<'a>)>,
    /// Tables `[positions, head_dim / 2]` of f32, and how many positions.
    pub cos: Span<'a>,
    pub sin: Span<'a>,
    pub positions_end: usize,
    /// `[rows]` of u32 each: the position of a token, and the row of `tables` of its sequence ([`ABSENT`]: k and v are not written).
    pub positions: Span<'a>,
    pub sequences: Span<'a>,
    /// `[sequences, stride]` of u32: the page of positions 32 i to 32 i + 31. The pages named must exist.
    pub tables: Span<'a>,
    pub tables_stride: usize,
    pub pages: Pages<'a>,
    /// `[rows, heads * head_dim]` of the two-byte element.
    pub q: Span<'a>,
}

/// Sums the parts of q, k and v, norms q and k, turns them to their positions, and writes k and v into their pages.
///
/// A position outside the rotary tables gives NaN in q, and k and v are not written.
///
/// # Panics
/// When `head_dim` is no multiple of 16, q is wider than two [`MOST_WIDTH`], or a span is too short.
pub fn place(gpu: &Gpu, element: Element, work: &Place) -> Result<()> {
    let Place { rows, heads, kv_heads, head_dim, positions_end, tables_stride, .. } = *work;
    assert!(head_dim > 0 && head_dim.is_multiple_of(16), "a head's size is a multiple of 16, not {head_dim}");
    assert!(heads > 0 && kv_heads > 0, "there are heads");
    if rows == 0 {
        return Ok(());
    }
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let (partials, splits) = work.partials;
    assert!(splits > 0, "a product has at least one part");
    let page = kv_width * PAGE_POSITIONS;
    let pages = &work.pages;
    assert!(pages.count > 0 && pages.stride >= page, "pages do not overlap");
    let in_pages = (pages.count - 1) * pages.stride + page;
    let (q_norm, k_norm) = work.norms.unzip();
    let eps = q_norm.map_or(0.0, |norm| norm.eps);
    assert!(k_norm.is_none_or(|norm| norm.eps.to_bits() == eps.to_bits()), "q and k have norms of the same eps");
    let weight =
        |norm: Option<Norm>, width| norm.map_or(Address::NONE, |norm| norm.weight.of::<u16>(width, "a norm's weight"));
    let parameters = PlaceParameters {
        partials: partials.of::<f32>(splits * rows * (q_width + 2 * kv_width), "the parts"),
        q_weight: weight(q_norm, q_width),
        k_weight: weight(k_norm, kv_width),
        cos: work.cos.of::<f32>(positions_end * head_dim / 2, "the table of cosines"),
        sin: work.sin.of::<f32>(positions_end * head_dim / 2, "the table of sines"),
        positions: work.positions.of_any::<u32>(rows, "the positions"),
        sequences: work.sequences.of_any::<u32>(rows, "the sequences"),
        pages: work.tables.of_any::<u32>(tables_stride, "the tables of pages"),
        q: work.q.of::<u16>(rows * q_width, "q"),
        keys: pages.keys.of::<u16>(in_pages, "the keys"),
        values: pages.values.of::<u16>(in_pages, "the values"),
        page_stride: pages.stride as u64,
        rows: small(rows),
        splits: small(splits),
        heads: small(heads),
        kv_heads: small(kv_heads),
        head_dim: small(head_dim),
        pages_stride: small(tables_stride),
        positions_end: small(positions_end),
        eps,
    };
    let names = [("place_bf16_1", "place_f16_1"), ("place_bf16_2", "place_f16_2")];
    let half = q_width.max(kv_width) / 2;
    let (bf16, f16) = names[size_class(half)];
    gpu.launch(element.of(bf16, f16), [rows, 3, 1], threads_for(half), 0, &parameters)
}
