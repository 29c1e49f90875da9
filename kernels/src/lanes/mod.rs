//! Sixteen f32 lanes: the one vocabulary every kernel is written in, with one implementation for each instruction set.
//!
//! A kernel is a struct that implements [`Kernel`] once, generic over [`Lanes`]; [`Isa::run`] compiles it for each
//! instruction set and picks one at run time. Every operation here is defined lane by lane as one correctly rounded
//! IEEE-754 operation (or a fixed tree of them), so that all implementations give the same bits for finite numbers.

mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::isa::Isa;

/// Lanes in one vector, on every instruction set.
pub(crate) const LANES: usize = 16;

/// A piece of work that is compiled once for each instruction set.
pub(crate) trait Kernel {
    type Out;

    /// Does the work with the vectors of `V`.
    ///
    /// Implementations and everything they call must be `#[inline(always)]`: the instructions of `V` can only be
    /// emitted once the code sits inside a function that enables them.
    ///
    /// # Safety
    /// The CPU has the instructions of `V`, and the pointers the kernel holds are valid as it documents.
    unsafe fn run<V: Lanes>(self) -> Self::Out;
}

impl Isa {
    /// Runs `kernel` with this tier's instructions.
    ///
    /// # Safety
    /// The pointers the kernel holds are valid as it documents. (That the CPU has the instructions is kept by
    /// `Isa`: every caller gets its value from `Isa::active` or `Isa::available`.)
    #[inline]
    pub(crate) unsafe fn run<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: the tier is available on this CPU; the rest is the caller's promise.
        unsafe {
            match self {
                Isa::Portable => portable::Portable::enter(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::Avx2::enter(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => avx512::Avx512::enter(kernel),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => neon::Neon::enter(kernel),
                #[allow(unreachable_patterns)]
                other => unreachable!("{other:?} does not exist on this architecture"),
            }
        }
    }
}

/// Sixteen f32 values in registers.
///
/// # Safety
/// Every method needs the CPU to have the implementation's instructions; the ones that take a pointer need it to be
/// valid for the lanes they touch. Whole vectors and the rows of a transpose need no alignment.
pub(crate) trait Lanes: Copy {
    /// Whether there are enough registers for 24 accumulators of sixteen lanes.
    const WIDE: bool;

    /// Calls `kernel` inside a function compiled for these instructions: a real call, the border of a kernel.
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` lanes from memory, zero in the others; memory beyond `count` is not touched.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count` lanes; memory beyond them is not touched.
    unsafe fn store_first(self, to: *mut f32, count: usize);

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// `addend - self * factor`, rounded once.
    unsafe fn fnma(self, factor: Self, addend: Self) -> Self;
    /// `if self > other { self } else { other }`: a NaN in either place gives `other`.
    unsafe fn max(self, other: Self) -> Self;
    /// `if self < other { self } else { other }`: a NaN in either place gives `other`.
    unsafe fn min(self, other: Self) -> Self;
    /// Lanes `from..to` of `self`, `fill` in the others.
    unsafe fn keep(self, from: usize, to: usize, fill: f32) -> Self;
    /// `self * 2^exponent` rounded once; `exponent` holds whole numbers in -160..=130, `self` is in 0.5..2.
    unsafe fn scale_by_power_of_two(self, exponent: Self) -> Self;

    /// Sum over the tree lane i + lane i+8, then +4, +2, +1.
    unsafe fn sum(self) -> f32;
    /// Maximum over the tree lane i, lane i+8, then +4, +2, +1.
    unsafe fn maximum(self) -> f32;

    /// Sixteen pairs of bf16, each in one u32 with the odd element in the upper half, widened to (odd, even).
    unsafe fn load_bf16_pairs(from: *const u32) -> (Self, Self);
    /// The first elements of sixteen pairs of bf16 that were loaded as they lie, widened.
    unsafe fn bf16_even(self) -> Self;
    /// The second elements.
    unsafe fn bf16_odd(self) -> Self;

    /// Transposes a 16 x 16 tile: element `i` of row `j` goes to `to + i * to_stride + j`.
    unsafe fn transpose(rows: &[*const f32; LANES], to: *mut f32, to_stride: usize);

    /// Asks for the cache line at `at`; any address is allowed. Streams from memory are prefetched twice: `FAR_BYTES` ahead with
    /// `prefetch_far`, and `NEAR_BYTES` ahead with this.
    unsafe fn prefetch(at: *const u8);
    /// The same as far as the second cache only: more of such requests can be on their way.
    unsafe fn prefetch_far(at: *const u8);
}

/// Prefetch distance of streams from memory into the second-level cache.
pub(crate) const FAR_BYTES: usize = 8 << 10;
/// Prefetch distance from the second-level into the first-level cache.
pub(crate) const NEAR_BYTES: usize = 1 << 10;

/// e^x in every lane.
///
/// x = n ln 2 + r with |r| <= ln(2)/2 (Cody and Waite's two-part reduction, n by adding 1.5 * 2^23), then
/// e^r = 1 + r + r^2 q(r), q a minimax polynomial of degree 4 (relative error 3.7e-9), then times 2^n rounded once.
/// At most 1 ulp from e^x (tested), subnormal results included; 0 below -104, infinity above 88.73; NaN stays NaN.
///
/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn exp<V: Lanes>(x: V) -> V {
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = std::f32::consts::LN_2;
    const LN_2_LOW: f32 = -1.904_654_3e-9;
    // SAFETY: the caller's promise.
    unsafe {
        // The constant comes first: this order lets a NaN through.
        let x = V::splat(-104.0).max(x);
        let x = V::splat(89.0).min(x);
        let n = x.fma(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND)).sub(V::splat(ROUND));
        let r = n.fnma(V::splat(LN_2_HIGH), x);
        let r = n.fnma(V::splat(LN_2_LOW), r);
        let q = V::splat(1.381_454_06e-3);
        let q = q.fma(r, V::splat(8.368_745_45e-3));
        let q = q.fma(r, V::splat(4.166_838_9e-2));
        let q = q.fma(r, V::splat(0.166_665_211));
        let q = q.fma(r, V::splat(0.499_999_94));
        let tail = q.mul(r).fma(r, r);
        tail.add(V::splat(1.0)).scale_by_power_of_two(n)
    }
}

/// Sum of `a[i] * b[i]`: element i belongs to lane i mod 16 of accumulator (i / 16) mod 4; each lane is one FMA chain;
/// the accumulators are added as (0 + 1) + (2 + 3) and the lanes by [`Lanes::sum`].
///
/// # Safety
/// The CPU has the instructions of `V`; `a` and `b` are valid for `len` elements.
#[inline(always)]
pub(crate) unsafe fn dot<V: Lanes>(a: *const f32, b: *const f32, len: usize) -> f32 {
    // SAFETY: every offset below is under len, the rest is the caller's promise.
    unsafe {
        let mut acc = [V::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * LANES <= len {
            for (j, acc) in acc.iter_mut().enumerate() {
                let at = i + j * LANES;
                *acc = V::load(a.add(at)).fma(V::load(b.add(at)), *acc);
            }
            i += 4 * LANES;
        }
        for acc in &mut acc {
            if i < len {
                let count = LANES.min(len - i);
                let x = V::load_first(a.add(i), count);
                *acc = x.fma(V::load_first(b.add(i), count), *acc);
                i += LANES;
            }
        }
        acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum()
    }
}

#[cfg(test)]
mod tests;
