//! The two products inside attention, queries times keys and weights times values, as micro-kernels: a few rows times up to 64
//! columns, all sums in registers, one FMA chain each. They read keys and values as the pages hold them: f32, or with `BF16` pairs of
//! bf16 that are widened on the way.
//!
//! Whoever reads a line of a page asks for the line at the same place of the block that comes next, so that the memory is never idle.

use std::ops::Range;

use crate::lanes::{Kernel, LANES, Lanes, NEAR_BYTES};

/// The most rows of a tile: 6 x 64 columns fill the 512-bit registers, 6 x 16 the narrower ones.
pub(super) const ROWS: usize = 6;
/// Keys in a block; blocks start at absolute positions divisible by it.
pub(super) const KEYS: usize = 64;
/// Groups of sixteen keys in a block.
pub(super) const GROUPS: usize = KEYS / LANES;

/// How many vectors of columns go into a tile of `rows` rows when `left` are left.
#[inline(always)]
fn columns<V: Lanes>(rows: usize, left: usize) -> usize {
    match left {
        _ if !V::WIDE && rows > 1 => 1,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Calls a tile with its number of rows as a constant.
macro_rules! enter {
    ($rows:expr, $tile:ident, $columns:tt, $($rest:ident)*, $fields:tt) => {
        match $rows {
            1 => V::enter($tile::<1, $columns, $($rest),*> $fields),
            2 => V::enter($tile::<2, $columns, $($rest),*> $fields),
            3 => V::enter($tile::<3, $columns, $($rest),*> $fields),
            4 => V::enter($tile::<4, $columns, $($rest),*> $fields),
            5 => V::enter($tile::<5, $columns, $($rest),*> $fields),
            6 => V::enter($tile::<6, $columns, $($rest),*> $fields),
            rows => unreachable!("no tile of {rows} rows"),
        }
    };
}

/// Adds `R` factors, `stride` apart, times `columns` to the sums.
///
/// # Safety
/// The CPU has the instructions of `V`; the factors are there.
#[inline(always)]
unsafe fn add<V: Lanes, const R: usize, const C: usize>(
    sums: &mut [[V; C]; R],
    factors: *const f32,
    stride: usize,
    columns: [V; C],
) {
    for r in 0..R {
        // SAFETY: the caller's promise.
        unsafe {
            let factor = V::splat(*factors.add(r * stride));
            for c in 0..C {
                sums[r][c] = factor.fma(columns[c], sums[r][c]);
            }
        }
    }
}

/// Scores of some rows for groups of sixteen keys.
///
/// Valid for: queries `[dim][ROWS]`; the keys of a group `[dim / n][16]` words of n numbers; `out` rows of `KEYS` scores.
pub(super) struct Score<'a> {
    pub queries: *const f32,
    pub keys: &'a [*const u32; GROUPS],
    /// Keys that come next.
    pub ahead: Option<&'a [*const u32; GROUPS]>,
    pub dim: usize,
    pub out: *mut f32,
}

impl Score<'_> {
    /// For `rows` <= 6 rows and some of the groups.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the pointers are valid as documented.
    #[inline(always)]
    pub(super) unsafe fn run<V: Lanes, const BF16: bool>(&self, rows: usize, groups: Range<usize>) {
        let mut first = groups.start;
        while first < groups.end {
            let count = columns::<V>(rows, groups.end - first);
            // SAFETY: the caller's promise.
            unsafe {
                match count {
                    4 => enter!(rows, ScoreTile, 4, BF16, { score: self, first }),
                    2 => enter!(rows, ScoreTile, 2, BF16, { score: self, first }),
                    _ => enter!(rows, ScoreTile, 1, BF16, { score: self, first }),
                }
            }
            first += count;
        }
    }
}

/// `C` groups from `first` on.
struct ScoreTile<'a, const R: usize, const C: usize, const BF16: bool> {
    score: &'a Score<'a>,
    first: usize,
}

impl<const R: usize, const C: usize, const BF16: bool> Kernel for ScoreTile<'_, R, C, BF16> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let &Score { mut queries, keys, ahead, dim, out } = self.score;
        // SAFETY: the pointers are valid as `Score` documents.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            let per_word = if BF16 { 2 } else { 1 };
            for at in (0..dim / per_word * LANES).step_by(LANES) {
                let mut words = [V::splat(0.0); C];
                for c in 0..C {
                    let from = keys[self.first + c].add(at);
                    words[c] = V::load(from.cast());
                    if let Some(ahead) = ahead {
                        V::prefetch_far(ahead[self.first + c].wrapping_add(at).cast());
                        V::prefetch(from.cast::<u8>().wrapping_add(NEAR_BYTES));
                    }
                }
                if BF16 {
                    add(&mut sums, queries, 1, even(words));
                    add(&mut sums, queries.add(ROWS), 1, odd(words));
                } else {
                    add(&mut sums, queries, 1, words);
                }
                queries = queries.add(per_word * ROWS);
            }
            for r in 0..R {
                for c in 0..C {
                    sums[r][c].store(out.add(r * KEYS + (self.first + c) * LANES));
                }
            }
        }
    }
}

/// Sums of values, weighted, for some rows; they go on from what `out` holds.
///
/// Valid for: a row's weights for `keys` keys, rows `KEYS` apart; `values` `[keys / n][dim]` words of n numbers, the first of which
/// holds the first key; `out` rows of `dim`, `stride` apart.
pub(super) struct Values {
    pub weights: *const f32,
    pub values: *const u32,
    /// Values that come next.
    pub ahead: Option<*const u32>,
    pub keys: usize,
    /// Whether the first key is the second one of its word.
    pub from_odd: bool,
    pub dim: usize,
    pub out: *mut f32,
    pub stride: usize,
}

impl Values {
    /// For `rows` <= 6 rows.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the pointers are valid as documented.
    #[inline(always)]
    pub(super) unsafe fn run<V: Lanes, const BF16: bool>(&self, rows: usize) {
        let mut column = 0;
        while column + LANES <= self.dim {
            let count = columns::<V>(rows, (self.dim - column) / LANES);
            // SAFETY: the caller's promise.
            unsafe {
                match count {
                    4 => enter!(rows, ValuesTile, 4, LANES BF16, { values: self, column }),
                    2 => enter!(rows, ValuesTile, 2, LANES BF16, { values: self, column }),
                    _ => enter!(rows, ValuesTile, 1, LANES BF16, { values: self, column }),
                }
            }
            column += count * LANES;
        }
        if column < self.dim {
            // SAFETY: the caller's promise.
            unsafe { enter!(rows, ValuesTile, 1, HALF BF16, { values: self, column }) }
        }
    }
}

/// What is left of a head that is no multiple of sixteen.
const HALF: usize = LANES / 2;

/// `C` vectors from `column` on, of which `N` lanes count.
struct ValuesTile<'a, const R: usize, const C: usize, const N: usize, const BF16: bool> {
    values: &'a Values,
    column: usize,
}

impl<const R: usize, const C: usize, const N: usize, const BF16: bool> Kernel for ValuesTile<'_, R, C, N, BF16> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let &Values { mut weights, values, ahead, keys, from_odd, dim, out, stride } = self.values;
        let (mut values, out) = (values.wrapping_add(self.column), out.wrapping_add(self.column));
        let mut ahead = ahead.map(|ahead| ahead.wrapping_add(self.column));
        // SAFETY: the pointers are valid as `Values` documents.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = load::<V, N>(out.add(r * stride + c * LANES));
                }
            }
            let mut left = keys;
            if BF16 && from_odd && left > 0 {
                add(&mut sums, weights, KEYS, odd(words::<V, C, N>(values, ahead)));
                weights = weights.add(1);
                values = values.wrapping_add(dim);
                ahead = ahead.map(|ahead| ahead.wrapping_add(dim));
                left -= 1;
            }
            let per_word = if BF16 { 2 } else { 1 };
            while left >= per_word {
                let words = words::<V, C, N>(values, ahead);
                if BF16 {
                    add(&mut sums, weights, KEYS, even(words));
                    add(&mut sums, weights.add(1), KEYS, odd(words));
                } else {
                    add(&mut sums, weights, KEYS, words);
                }
                weights = weights.add(per_word);
                values = values.wrapping_add(dim);
                ahead = ahead.map(|ahead| ahead.wrapping_add(dim));
                left -= per_word;
            }
            if left > 0 {
                add(&mut sums, weights, KEYS, even(words::<V, C, N>(values, ahead)));
            }
            for r in 0..R {
                for c in 0..C {
                    let at = out.add(r * stride + c * LANES);
                    if N == LANES {
                        sums[r][c].store(at);
                    } else {
                        sums[r][c].store_first(at, N);
                    }
                }
            }
        }
    }
}

/// `C` vectors of which `N` lanes count, as they lie; asks for those that come next.
///
/// # Safety
/// The CPU has the instructions of `V`; `from` is valid for the lanes that count.
#[inline(always)]
unsafe fn words<V: Lanes, const C: usize, const N: usize>(from: *const u32, ahead: Option<*const u32>) -> [V; C] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = [V::splat(0.0); C];
        for c in 0..C {
            let from = from.add(c * LANES);
            words[c] = load::<V, N>(from.cast());
            if let Some(ahead) = ahead {
                V::prefetch_far(ahead.wrapping_add(c * LANES).cast());
                V::prefetch(from.cast::<u8>().wrapping_add(NEAR_BYTES));
            }
        }
        words
    }
}

/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn even<V: Lanes, const C: usize>(mut words: [V; C]) -> [V; C] {
    for word in &mut words {
        // SAFETY: the caller's promise.
        *word = unsafe { word.bf16_even() };
    }
    words
}

/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn odd<V: Lanes, const C: usize>(mut words: [V; C]) -> [V; C] {
    for word in &mut words {
        // SAFETY: the caller's promise.
        *word = unsafe { word.bf16_odd() };
    }
    words
}

/// # Safety
/// The CPU has the instructions of `V`; `from` is valid for `N` lanes.
#[inline(always)]
unsafe fn load<V: Lanes, const N: usize>(from: *const f32) -> V {
    // SAFETY: the caller's promise.
    unsafe { if N == LANES { V::load(from) } else { V::load_first(from, N) } }
}
