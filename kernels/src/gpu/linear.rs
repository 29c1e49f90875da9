//! Linear layers y = x W^T on tensor cores: weights packed once, one order of sums per weight whatever the number of rows.
//!
//! An element of y is the sum, in f32 and in order, of one part per split of the inputs, each part one chain of tensor-core steps.
//! [`LinearShape::splits`] is a function of the weight's shape alone, so the bits of a row do not depend on the other rows, nor on
//! which of the kernels of `linear.cu` computes it. `linear.cuh` defines the order.

use super::{Address, Element, Gpu, Result, Span};

/// Outputs of a block.
const ROWS: usize = 128;
/// Inputs of a stage.
const STAGE: usize = 64;
/// Of a stage of packed weights.
const STAGE_LEN: usize = ROWS * STAGE;
/// Outputs of a tile, inputs of a step: those of mma.m16n8k16.
const TILE: usize = 16;
/// Blocks that decoding wants: three on each of 132 multiprocessors, all there at once, so that all of them end together. A
/// constant, not what the device has: bits must not depend on that.
const BLOCKS: usize = 396;
/// A split has so many stages at least, so that its pipeline pays.
const STAGES_PER_SPLIT: usize = 8;
const SPLITS_MOST: usize = 8;

/// The shape of a weight `[n, k]`: `k` inputs, `n` outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    pub n: usize,
    pub k: usize,
}

/// What a linear layer does with its sums.
#[derive(Clone, Copy)]
pub enum Output<'a> {
    /// f32 `[parts][m][n]`, for a kernel that sums the parts in order; how many there are is what [`linear`] returns, at most
    /// [`LinearShape::splits`].
    Parts(Span<'a>),
    /// Rounded to the element, `[m][n]`.
    Rounded(Span<'a>),
    /// f32 `[m][n]`.
    Wide(Span<'a>),
    /// `[m][n / 2]`, of weights whose row 2 j is a gate and row 2 j + 1 its up: both rounded to the element, silu(gate) rounded, its
    /// product with up rounded. Those are the roundings of a model that runs in that element throughout.
    SwiGlu(Span<'a>),
}

/// Memory that a linear layer needs while it runs; see [`LinearShape::scratch`].
#[derive(Clone, Copy)]
pub struct LinearScratch<'a> {
    pub partials: Span<'a>,
    /// Zero before the first use; zero again after each.
    pub arrivals: Span<'a>,
}

impl LinearShape {
    fn row_blocks(&self) -> usize {
        self.n.div_ceil(ROWS)
    }

    fn stages(&self) -> usize {
        self.k.div_ceil(STAGE)
    }

    /// Parts that a sum is made of. Split s has the stages of 64 inputs from s * stages / splits on.
    pub fn splits(&self) -> usize {
        (BLOCKS / self.row_blocks()).min(SPLITS_MOST).min(self.stages() / STAGES_PER_SPLIT).max(1)
    }

    /// Elements of the packed weight: whole blocks of rows and whole stages.
    pub fn packed_len(&self) -> usize {
        self.row_blocks() * self.stages() * STAGE_LEN
    }

    /// Parts that [`linear`] leaves to the next kernel for `m` rows.
    pub fn parts(&self, m: usize) -> usize {
        Way::of(*self, m).parts(*self)
    }

    /// Numbers of [`LinearScratch`] for up to `m` rows: partial sums (f32) and arrivals (u32).
    pub fn scratch(&self, m: usize) -> (usize, usize) {
        let m = m.min(FEW_MOST);
        let partials = if self.splits() > 1 { self.splits() * m * self.n } else { 0 };
        (partials, m.div_ceil(8) * self.row_blocks())
    }

    /// The packed form of the weight whose row `i` is `row(i)`, elements by their bits: see `linear.cuh`.
    ///
    /// # Panics
    /// When a row has not `k` elements.
    pub fn pack<'w>(&self, row: impl Fn(usize) -> &'w [u16]) -> Vec<u16> {
        let mut packed = vec![0; self.packed_len()];
        for (block, to) in packed.chunks_exact_mut(self.block_len()).enumerate() {
            self.pack_block(block, &row, to);
        }
        packed
    }

    /// Blocks of [`pack_block`](Self::pack_block).
    pub fn blocks(&self) -> usize {
        self.row_blocks()
    }

    /// Elements of a block of 128 rows, packed.
    pub fn block_len(&self) -> usize {
        self.stages() * STAGE_LEN
    }

    /// One block of [`pack`](Self::pack), for callers that pack several in parallel.
    ///
    /// # Panics
    /// When a row has not `k` elements, or `to` is no block.
    pub fn pack_block<'w>(&self, block: usize, row: impl Fn(usize) -> &'w [u16], to: &mut [u16]) {
        assert_eq!(to.len(), self.block_len(), "a block has {} elements", self.block_len());
        to.fill(0);
        let lanes_len = 32 * 8;
        for tile in 0..ROWS / TILE {
            for g in 0..8 {
                // Rows 2 g and 2 g + 1 of the tile.
                for high in 0..2 {
                    let index = block * ROWS + tile * TILE + 2 * g + high;
                    if index >= self.n {
                        continue;
                    }
                    let row = row(index);
                    assert_eq!(
                        row.len(),
                        self.k,
                        "row {index} of the weight has {} elements, not {}",
                        row.len(),
                        self.k
                    );
                    for (quad, four) in row.chunks(4).enumerate() {
                        // Four neighbours belong to one lane of one step.
                        let (stage, in_stage) = (quad / 16, quad % 16);
                        let step = in_stage / 8 * 2 + in_stage % 2;
                        let lane = g * 4 + in_stage % 8 / 2;
                        let at = stage * STAGE_LEN + (tile * 4 + step) * lanes_len + lane * 8 + high * 2;
                        for (i, &element) in four.iter().enumerate() {
                            to[at + i / 2 * 4 + i % 2] = element;
                        }
                    }
                }
            }
        }
    }
}

/// Rows up to which a kernel for few of them is taken.
const FEW_MOST: usize = 256;
/// Tiles of 8 rows of x in a block, for few rows, with the stages in shared memory: as many as let three blocks onto a multiprocessor,
/// or two of the last.
const FEW: [(usize, usize); 7] = [(1, 4), (2, 4), (3, 3), (4, 3), (6, 3), (8, 3), (16, 3)];
/// Tiles of 8 rows of x of one of the four warps beside each other, for many rows, with the stages in shared memory.
const MANY: [(usize, usize); 2] = [(4, 4), (8, 2)];
/// What 16 inputs of such a block are taken to cost, in cycles: see `linear.cu`.
const MANY_CYCLES: [usize; 2] = [256, 416];
/// Multiprocessors that the choice is made for.
const MULTIPROCESSORS: usize = 132;

/// Which kernel; never a matter of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The place in [`FEW`].
    Few(usize),
    /// The place in [`MANY`].
    Many(usize),
}

impl Way {
    fn of(shape: LinearShape, m: usize) -> Way {
        if let Some(few) = FEW.iter().position(|&(tiles, _)| m <= 8 * tiles) {
            return Way::Few(few);
        }
        if m <= FEW_MOST {
            return Way::Few(FEW.len() - 1); // the weights go by twice, the second time out of L2
        }
        let blocks = |many: usize| m.div_ceil(MANY[many].0 * 32) * shape.row_blocks();
        let cost = |many: &usize| blocks(*many).div_ceil(MULTIPROCESSORS) * MANY_CYCLES[*many];
        Way::Many((0..MANY.len()).min_by_key(cost).unwrap_or(0))
    }

    /// Every one of them.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Way> {
        (0..FEW.len()).map(Way::Few).chain((0..MANY.len()).map(Way::Many)).collect()
    }

    /// Number of partial sums that [`Output::Parts`] receives.
    pub(super) fn parts(self, shape: LinearShape) -> usize {
        match self {
            Way::Few(_) => shape.splits(),
            Way::Many(_) => 1,
        }
    }

    fn kernel(self, element: Element) -> &'static str {
        const FEW_KERNELS: [[&str; 2]; FEW.len()] = [
            ["linear_bf16_few1", "linear_f16_few1"],
            ["linear_bf16_few2", "linear_f16_few2"],
            ["linear_bf16_few3", "linear_f16_few3"],
            ["linear_bf16_few4", "linear_f16_few4"],
            ["linear_bf16_few6", "linear_f16_few6"],
            ["linear_bf16_few8", "linear_f16_few8"],
            ["linear_bf16_few16", "linear_f16_few16"],
        ];
        match self {
            Way::Few(few) => element.of(FEW_KERNELS[few][0], FEW_KERNELS[few][1]),
            Way::Many(0) => element.of("linear_bf16_many4", "linear_f16_many4"),
            Way::Many(_) => element.of("linear_bf16_many8", "linear_f16_many8"),
        }
    }
}

parameters! {
    struct LinearParameters {
        x: Address,
        w: Address,
        y: Address,
        partials: Address,
        arrivals: Address,
        m: u32,
        n: u32,
        k: u32,
        x_stride: u32,
        splits: u32,
        output: u32,
    }
}

/// y = x W^T for `m` rows of `x` `[m, k]` and the packed weight `w`; how many parts there are with [`Output::Parts`], else 1.
///
/// Where launches overlap, weights are read before the launch before this one has ended: it must not be what wrote them.
///
/// # Panics
/// When `k` is no multiple of 8, `n` is odd where gates and ups alternate, or a span is too short.
pub fn linear(
    gpu: &Gpu,
    element: Element,
    shape: LinearShape,
    w: Span,
    x: Span,
    m: usize,
    output: Output,
    scratch: LinearScratch,
) -> Result<usize> {
    linear_by(Way::of(shape, m), gpu, element, shape, w, x, m, output, scratch)
}

pub(super) fn linear_by(
    way: Way,
    gpu: &Gpu,
    element: Element,
    shape: LinearShape,
    w: Span,
    x: Span,
    m: usize,
    output: Output,
    scratch: LinearScratch,
) -> Result<usize> {
    let LinearShape { n, k } = shape;
    assert!(n > 0 && k > 0 && k.is_multiple_of(8), "k is a multiple of 8, not {k}, and n not {n}");
    assert!(u32::try_from(m.max(n).max(k)).is_ok(), "{m} rows of a weight {shape:?} are more than the kernels count");
    let splits = shape.splits();
    let parts = way.parts(shape);
    if m == 0 {
        return Ok(parts);
    }
    let (kind, y, partials) = match output {
        Output::Parts(y) => (0, Address::NONE, y.of::<f32>(parts * m * n, "the parts")),
        Output::Rounded(y) => (1, y.of::<u16>(m * n, "the rounded sums"), Address::NONE),
        Output::Wide(y) => (2, y.of::<f32>(m * n, "the sums"), Address::NONE),
        Output::SwiGlu(y) => {
            assert!(n.is_multiple_of(2), "gates and ups alternate, so {n} rows are one too many");
            (3, y.of::<u16>(m * n / 2, "silu(gate) * up"), Address::NONE)
        }
    };
    let (tiles, stages) = match way {
        Way::Few(few) => FEW[few],
        Way::Many(many) => (4 * MANY[many].0, MANY[many].1),
    };
    let x_blocks = m.div_ceil(tiles * 8);
    let mut parameters = LinearParameters {
        x: x.of::<u16>(m * k, "x"),
        w: w.of::<u16>(shape.packed_len(), "the packed weight"),
        y,
        partials,
        arrivals: Address::NONE,
        m: m as u32,
        n: n as u32,
        k: k as u32,
        x_stride: k as u32,
        splits: splits as u32,
        output: kind,
    };
    if parts > 1 && kind != 0 {
        parameters.partials = scratch.partials.of::<f32>(parts * m * n, "the scratch of a linear layer");
        parameters.arrivals =
            scratch.arrivals.of::<u32>(x_blocks * shape.row_blocks(), "the arrivals of a linear layer");
    }
    let (grid, threads) = match way {
        Way::Few(_) => ([shape.row_blocks(), splits, x_blocks], 128),
        Way::Many(_) => ([x_blocks, shape.row_blocks(), 1], 256),
    };
    let totals = if matches!(way, Way::Many(_)) { tiles * 8 * ROWS * 4 } else { 0 };
    let shared = stages * (STAGE_LEN * 2 + tiles * 8 * STAGE * 2) + totals;
    gpu.launch(way.kernel(element), grid, threads, shared, &parameters)?;
    Ok(parts)
}
