//! The sixteen lanes as two 256-bit registers.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Lanes};

/// Lanes 0..8 and 8..16; needs AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// All bits set in the lanes `from..to` of sixteen, as two registers.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn mask(from: usize, to: usize) -> (__m256i, __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
        let from = _mm256_set1_epi32(from.min(LANES) as i32 - 1);
        let to = _mm256_set1_epi32(to.min(LANES) as i32);
        (
            _mm256_and_si256(_mm256_cmpgt_epi32(low, from), _mm256_cmpgt_epi32(to, low)),
            _mm256_and_si256(_mm256_cmpgt_epi32(high, from), _mm256_cmpgt_epi32(to, high)),
        )
    }
}

/// Four elements of two rows as the halves of one register.
///
/// # Safety
/// The CPU has AVX2; both rows are valid for elements `at..at + 4`.
#[inline(always)]
unsafe fn halves(low: *const f32, high: *const f32, at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_castps128_ps256(_mm_loadu_ps(low.add(at)));
        _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(high.add(at)))
    }
}

/// Transposes the 8 x 8 tile at column `column` of `rows`.
///
/// # Safety
/// The CPU has AVX2; the rows are valid for columns `column..column + 8`, `to` for eight rows of eight.
#[inline(always)]
unsafe fn transpose_8x8(rows: &[*const f32], column: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        // Rows j and j+4 are joined by loads, which leaves a 4 x 4 transpose inside each half.
        for column_4 in [0, 4] {
            let at = column + column_4;
            let a = halves(rows[0], rows[4], at);
            let b = halves(rows[1], rows[5], at);
            let c = halves(rows[2], rows[6], at);
            let d = halves(rows[3], rows[7], at);
            let ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
            let cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
            let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
            let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
            let out = [
                _mm256_unpacklo_pd(ab_low, cd_low),
                _mm256_unpackhi_pd(ab_low, cd_low),
                _mm256_unpacklo_pd(ab_high, cd_high),
                _mm256_unpackhi_pd(ab_high, cd_high),
            ];
            for (i, v) in out.into_iter().enumerate() {
                _mm256_storeu_ps(to.add((column_4 + i) * to_stride), _mm256_castpd_ps(v));
            }
        }
    }
}

/// One instruction on both halves.
macro_rules! both {
    ($instruction:ident, $a:expr, $b:expr) => {
        Avx2($instruction($a.0, $b.0), $instruction($a.1, $b.1))
    };
}

/// 2^n in every lane for n in -126..=127.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn power_of_two(n: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// `value * 2^exponent` in two steps: 2^exponent itself may not be representable. The first product is exact, so only
/// the second one rounds.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn scale(value: __m256, exponent: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let n = _mm256_cvttps_epi32(exponent);
        let half = _mm256_srai_epi32::<1>(n);
        let scaled = _mm256_mul_ps(value, power_of_two(half));
        _mm256_mul_ps(scaled, power_of_two(_mm256_sub_epi32(n, half)))
    }
}

// SAFETY of every block below: the CPU has AVX2 and FMA and pointers are valid for the lanes touched, by the contract
// of `Lanes`.
impl Lanes for Avx2 {
    const WIDE: bool = false;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        let v = unsafe { _mm256_set1_ps(value) };
        Avx2(v, v)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: see above; masked lanes are not read, and wrapping_add does not claim that they exist.
        unsafe {
            let (low, high) = mask(0, count);
            Avx2(_mm256_maskload_ps(from, low), _mm256_maskload_ps(from.wrapping_add(8), high))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: see above; masked lanes are not written, and wrapping_add does not claim that they exist.
        unsafe {
            let (low, high) = mask(0, count);
            _mm256_maskstore_ps(to, low, self.0);
            _mm256_maskstore_ps(to.wrapping_add(8), high, self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(_mm256_add_ps, self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(_mm256_sub_ps, self, other) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(_mm256_mul_ps, self, other) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(_mm256_div_ps, self, other) }
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)) }
    }

    #[inline(always)]
    unsafe fn fnma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx2(_mm256_fnmadd_ps(self.0, factor.0, addend.0), _mm256_fnmadd_ps(self.1, factor.1, addend.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(_mm256_max_ps, self, other) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(_mm256_min_ps, self, other) }
    }

    #[inline(always)]
    unsafe fn keep(self, from: usize, to: usize, fill: f32) -> Self {
        // SAFETY: see above.
        unsafe {
            let (low, high) = mask(from, to);
            let fill = _mm256_set1_ps(fill);
            Avx2(
                _mm256_blendv_ps(fill, self.0, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(fill, self.1, _mm256_castsi256_ps(high)),
            )
        }
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, exponent: Self) -> Self {
        // SAFETY: see above.
        unsafe { both!(scale, self, exponent) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_add_ps(self.0, self.1);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_max_ps(self.0, self.1);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u32) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let low = _mm256_loadu_si256(from.cast());
            let high = _mm256_loadu_si256(from.add(8).cast());
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let odd_low = _mm256_castsi256_ps(_mm256_and_si256(low, upper));
            let odd_high = _mm256_castsi256_ps(_mm256_and_si256(high, upper));
            let even_low = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low));
            let even_high = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high));
            (Avx2(odd_low, odd_high), Avx2(even_low, even_high))
        }
    }

    #[inline(always)]
    unsafe fn bf16_even(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let even = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(v)));
            Avx2(even(self.0), even(self.1))
        }
    }

    #[inline(always)]
    unsafe fn bf16_odd(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let upper = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
            Avx2(_mm256_and_ps(self.0, upper), _mm256_and_ps(self.1, upper))
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; LANES], to: *mut f32, to_stride: usize) {
        // SAFETY: see above.
        unsafe {
            for column in [0, 8] {
                let to = to.add(column * to_stride);
                transpose_8x8(&rows[..8], column, to, to_stride);
                transpose_8x8(&rows[8..], column, to.add(8), to_stride);
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_far(at: *const u8) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}
