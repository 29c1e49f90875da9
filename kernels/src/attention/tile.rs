//! The two products inside attention, queries times keys and probabilities times values, as one micro-kernel:
//! a few rows times 16 to 64 columns, all sums in registers, one FMA chain each.
//!
//! Must not know: models, engine.

use crate::lanes::{Kernel, LANES, Lanes};

/// The most rows of a tile: 6 x 64 columns fill the 512-bit registers, 6 x 16 the narrower ones.
pub(super) const ROWS: usize = 6;

/// Sum over `steps` of `a` times `b`, for `rows` rows and `columns` columns.
///
/// Valid for: row r and step s of the factors at `a[r * A_ROW + s * A_STEP]`; step s of `b` at `b + s * b_stride`,
/// `columns` long; `out` `rows` rows of `columns`, `out_stride` apart.
pub(super) struct Product<const A_ROW: usize, const A_STEP: usize> {
    pub a: *const f32,
    pub b: *const f32,
    pub b_stride: usize,
    pub steps: usize,
    pub out: *mut f32,
    pub out_stride: usize,
    /// Whether the chains go on from what `out` holds; else they start at 0.
    pub go_on: bool,
}

impl<const A_ROW: usize, const A_STEP: usize> Product<A_ROW, A_STEP> {
    /// Does the product for `rows` <= 6 rows and `columns` columns, a multiple of 8.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`; the pointers are valid as documented.
    #[inline(always)]
    pub(super) unsafe fn run<V: Lanes>(&self, rows: usize, columns: usize) {
        // SAFETY: the caller's promise, for each part of the columns.
        unsafe {
            let mut c = 0;
            if V::WIDE || rows == 1 {
                while c + 4 * LANES <= columns {
                    self.part::<V, 4, LANES>(rows, c);
                    c += 4 * LANES;
                }
            }
            while (V::WIDE || rows == 1) && c + 2 * LANES <= columns {
                self.part::<V, 2, LANES>(rows, c);
                c += 2 * LANES;
            }
            while c + LANES <= columns {
                self.part::<V, 1, LANES>(rows, c);
                c += LANES;
            }
            if c < columns {
                self.part::<V, 1, 8>(rows, c);
            }
        }
    }

    #[inline(always)]
    unsafe fn part<V: Lanes, const C: usize, const N: usize>(&self, rows: usize, column: usize) {
        macro_rules! sized {
            ($rows:literal) => {
                V::enter(Tile::<$rows, C, N, A_ROW, A_STEP> {
                    a: self.a,
                    b: self.b.add(column),
                    b_stride: self.b_stride,
                    steps: self.steps,
                    out: self.out.add(column),
                    out_stride: self.out_stride,
                    go_on: self.go_on,
                })
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => sized!(1),
                2 => sized!(2),
                3 => sized!(3),
                4 => sized!(4),
                5 => sized!(5),
                6 => sized!(6),
                _ => unreachable!("no tile of {rows} rows"),
            }
        }
    }
}

/// `R` rows times `C` vectors of which `N` lanes count (16, or 8 at the end of a head).
struct Tile<const R: usize, const C: usize, const N: usize, const A_ROW: usize, const A_STEP: usize> {
    a: *const f32,
    b: *const f32,
    b_stride: usize,
    steps: usize,
    out: *mut f32,
    out_stride: usize,
    go_on: bool,
}

impl<const R: usize, const C: usize, const N: usize, const A_ROW: usize, const A_STEP: usize> Kernel
    for Tile<R, C, N, A_ROW, A_STEP>
{
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: the pointers are valid as `Product` documents.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            if self.go_on {
                for r in 0..R {
                    for c in 0..C {
                        let at = self.out.add(r * self.out_stride + c * LANES);
                        sums[r][c] = load::<V, N>(at);
                    }
                }
            }
            let mut a = self.a;
            let mut b = self.b;
            for _ in 0..self.steps {
                let mut v = [V::splat(0.0); C];
                for c in 0..C {
                    v[c] = load::<V, N>(b.add(c * LANES));
                }
                for r in 0..R {
                    let factor = V::splat(*a.add(r * A_ROW));
                    for c in 0..C {
                        sums[r][c] = factor.fma(v[c], sums[r][c]);
                    }
                }
                a = a.add(A_STEP);
                b = b.wrapping_add(self.b_stride);
            }
            for r in 0..R {
                for c in 0..C {
                    let at = self.out.add(r * self.out_stride + c * LANES);
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

/// # Safety
/// The CPU has the instructions of `V`; `from` is valid for `N` lanes.
#[inline(always)]
unsafe fn load<V: Lanes, const N: usize>(from: *const f32) -> V {
    // SAFETY: the caller's promise.
    unsafe { if N == LANES { V::load(from) } else { V::load_first(from, N) } }
}
