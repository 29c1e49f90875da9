//! The sixteen lanes as four 128-bit registers of 64-bit Arm.
//!
//! Maxima are a comparison and a selection, because Arm's own maximum treats NaN unlike the other sets.

use std::arch::aarch64::*;

use super::{Kernel, LANES, Lanes};

/// Lanes 0..4, 4..8, 8..12 and 12..16; every 64-bit Arm CPU has the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

/// One instruction on all quarters.
macro_rules! all {
    ($instruction:ident, $($v:expr),*) => {
        Neon($instruction($($v.0),*), $instruction($($v.1),*), $instruction($($v.2),*), $instruction($($v.3),*))
    };
}

/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

/// 2^n in every lane for n in -126..=127.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn power_of_two(n: int32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))) }
}

/// `value * 2^exponent` in two steps: 2^exponent itself may not be representable. The first product is exact, so only
/// the second one rounds.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn scale(value: float32x4_t, exponent: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let n = vcvtq_s32_f32(exponent);
        let half = vshrq_n_s32::<1>(n);
        let scaled = vmulq_f32(value, power_of_two(half));
        vmulq_f32(scaled, power_of_two(vsubq_s32(n, half)))
    }
}

// SAFETY of every block below: every 64-bit Arm CPU has NEON, and pointers are valid for the lanes touched, by the
// contract of `Lanes`.
impl Lanes for Neon {
    const WIDE: bool = false;

    #[inline(never)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        let v = unsafe { vdupq_n_f32(value) };
        Neon(v, v, v, v)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Neon(vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        // SAFETY: see above.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count.min(LANES));
            Self::load(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
            vst1q_f32(to.add(8), self.2);
            vst1q_f32(to.add(12), self.3);
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0; LANES];
        // SAFETY: see above.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count.min(LANES));
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(vaddq_f32, self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(vsubq_f32, self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(vmulq_f32, self, other) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(vdivq_f32, self, other) }
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(vfmaq_f32, addend, self, factor) }
    }

    #[inline(always)]
    unsafe fn fnma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(vfmsq_f32, addend, self, factor) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(larger, self, other) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(smaller, self, other) }
    }

    #[inline(always)]
    unsafe fn keep(self, from: usize, to: usize, fill: f32) -> Self {
        let mut lanes = [0.0; LANES];
        // SAFETY: see above.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (i, lane) in lanes.iter_mut().enumerate() {
                if i < from || i >= to {
                    *lane = fill;
                }
            }
            Self::load(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, exponent: Self) -> Self {
        // SAFETY: see above.
        unsafe { all!(scale, self, exponent) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = vaddq_f32(vaddq_f32(self.0, self.2), vaddq_f32(self.1, self.3));
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = larger(larger(self.0, self.2), larger(self.1, self.3));
            let v = [vgetq_lane_f32::<0>(v), vgetq_lane_f32::<1>(v), vgetq_lane_f32::<2>(v), vgetq_lane_f32::<3>(v)];
            let max = |a, b| if a > b { a } else { b };
            max(max(v[0], v[2]), max(v[1], v[3]))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u32) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let pairs = |i: usize| vld1q_u32(from.add(4 * i));
            let upper = vdupq_n_u32(0xffff_0000);
            let odd = |i| vreinterpretq_f32_u32(vandq_u32(pairs(i), upper));
            let even = |i| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs(i)));
            (Neon(odd(0), odd(1), odd(2), odd(3)), Neon(even(0), even(1), even(2), even(3)))
        }
    }

    #[inline(always)]
    unsafe fn bf16_even(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let even = |v| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_f32(v)));
            Neon(even(self.0), even(self.1), even(self.2), even(self.3))
        }
    }

    #[inline(always)]
    unsafe fn bf16_odd(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let upper = vdupq_n_u32(0xffff_0000);
            let odd = |v| vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), upper));
            Neon(odd(self.0), odd(self.1), odd(self.2), odd(self.3))
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; LANES], to: *mut f32, to_stride: usize) {
        // SAFETY: see above.
        unsafe {
            for row in (0..LANES).step_by(4) {
                for column in (0..LANES).step_by(4) {
                    let load = |j: usize| vld1q_f32(rows[row + j].add(column));
                    let low = vtrnq_f32(load(0), load(1));
                    let high = vtrnq_f32(load(2), load(3));
                    let to = to.add(column * to_stride + row);
                    let out = [
                        vcombine_f32(vget_low_f32(low.0), vget_low_f32(high.0)),
                        vcombine_f32(vget_low_f32(low.1), vget_low_f32(high.1)),
                        vcombine_f32(vget_high_f32(low.0), vget_high_f32(high.0)),
                        vcombine_f32(vget_high_f32(low.1), vget_high_f32(high.1)),
                    ];
                    for (i, v) in out.into_iter().enumerate() {
                        vst1q_f32(to.add(i * to_stride), v);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {
        // The intrinsic is not stable; the CPUs at hand follow the streams by themselves.
    }

    #[inline(always)]
    unsafe fn prefetch_far(_at: *const u8) {}
}
