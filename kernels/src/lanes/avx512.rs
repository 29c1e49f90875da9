//! The sixteen lanes as one 512-bit register.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Lanes};

/// Sixteen lanes in one register; needs AVX-512F.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(LANES)) - 1) as __mmask16
}

/// Four elements of the rows `row`, `row + 4`, `row + 8` and `row + 12` as the quarters of one register.
///
/// # Safety
/// The CPU has AVX-512F; the rows are valid for elements `at..at + 4`.
#[inline(always)]
unsafe fn quarters(rows: &[*const f32; LANES], row: usize, at: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm512_castps128_ps512(_mm_loadu_ps(rows[row].add(at)));
        let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(rows[row + 4].add(at)));
        let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(rows[row + 8].add(at)));
        _mm512_insertf32x4::<3>(v, _mm_loadu_ps(rows[row + 12].add(at)))
    }
}

// SAFETY of every block below: the CPU has AVX-512F and pointers are valid for the lanes touched, by the contract of
// `Lanes`.
impl Lanes for Avx512 {
    const WIDE: bool = true;

    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: see above; masked lanes are not read.
        unsafe { Avx512(_mm512_maskz_loadu_ps(first(count), from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: see above; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn fnma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_fnmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn keep(self, from: usize, to: usize, fill: f32) -> Self {
        let kept = first(to) & !first(from);
        // SAFETY: see above.
        unsafe { Avx512(_mm512_mask_blend_ps(kept, _mm512_set1_ps(fill), self.0)) }
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, exponent: Self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_scalef_ps(self.0, exponent.0)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm512_castps_pd(self.0);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(v));
            let v = _mm256_add_ps(_mm512_castps512_ps256(self.0), high);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm512_castps_pd(self.0);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(v));
            let v = _mm256_max_ps(_mm512_castps512_ps256(self.0), high);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u32) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let even = _mm512_slli_epi32::<16>(pairs);
            (Avx512(_mm512_castsi512_ps(odd)), Avx512(_mm512_castsi512_ps(even)))
        }
    }

    #[inline(always)]
    unsafe fn bf16_even(self) -> Self {
        // SAFETY: see above.
        unsafe { Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0)))) }
    }

    #[inline(always)]
    unsafe fn bf16_odd(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            Avx512(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), upper)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; LANES], to: *mut f32, to_stride: usize) {
        // SAFETY: see above.
        unsafe {
            // Four columns at a time: rows j, j+4, j+8, j+12 are gathered as the four quarters of one register by
            // loads alone, which leaves a 4 x 4 transpose inside each quarter.
            for column in [0, 4, 8, 12] {
                let a = quarters(rows, 0, column);
                let b = quarters(rows, 1, column);
                let c = quarters(rows, 2, column);
                let d = quarters(rows, 3, column);
                let ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                let cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                let out = [
                    _mm512_unpacklo_pd(ab_low, cd_low),
                    _mm512_unpackhi_pd(ab_low, cd_low),
                    _mm512_unpacklo_pd(ab_high, cd_high),
                    _mm512_unpackhi_pd(ab_high, cd_high),
                ];
                for (i, v) in out.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((column + i) * to_stride), _mm512_castpd_ps(v));
                }
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
