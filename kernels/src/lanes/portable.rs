//! The sixteen lanes as an array: the definition the other instruction sets are held to, and the tier of any CPU.

use super::{Kernel, LANES, Lanes};

/// Sixteen lanes in an array; fused multiply-add through `f32::mul_add`.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn tree(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut v = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = f(v[i], v[i + half]);
            }
        }
        v[0]
    }
}

// SAFETY of every block below: pointers are valid for the lanes touched, by the contract of `Lanes`.
impl Lanes for Portable {
    const WIDE: bool = false;

    #[inline(never)]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Portable(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: see above.
        Portable(std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for i in 0..count.min(LANES) {
            // SAFETY: see above.
            unsafe { *to.add(i) = self.0[i] }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }

    #[inline(always)]
    unsafe fn fnma(self, factor: Self, addend: Self) -> Self {
        Portable(std::array::from_fn(|i| (-self.0[i]).mul_add(factor.0[i], addend.0[i])))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn keep(self, from: usize, to: usize, fill: f32) -> Self {
        Portable(std::array::from_fn(|i| if from <= i && i < to { self.0[i] } else { fill }))
    }

    #[inline(always)]
    unsafe fn scale_by_power_of_two(self, exponent: Self) -> Self {
        // In two steps: 2^exponent itself may not be representable. The first product is exact, so only the second
        // one rounds.
        Portable(std::array::from_fn(|i| {
            let n = exponent.0[i] as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
            self.0[i] * power(half) * power(n - half)
        }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.tree(|a, b| a + b)
    }

    #[inline(always)]
    unsafe fn maximum(self) -> f32 {
        self.tree(|a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u32) -> (Self, Self) {
        // SAFETY: see above.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        (
            Portable(pairs.map(|pair| f32::from_bits(pair & 0xffff_0000))),
            Portable(pairs.map(|pair| f32::from_bits(pair << 16))),
        )
    }

    #[inline(always)]
    unsafe fn bf16_even(self) -> Self {
        Portable(self.0.map(|pair| f32::from_bits(pair.to_bits() << 16)))
    }

    #[inline(always)]
    unsafe fn bf16_odd(self) -> Self {
        Portable(self.0.map(|pair| f32::from_bits(pair.to_bits() & 0xffff_0000)))
    }

    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; LANES], to: *mut f32, to_stride: usize) {
        for (j, row) in rows.iter().enumerate() {
            for i in 0..LANES {
                // SAFETY: see above.
                unsafe { to.add(i * to_stride + j).write(row.add(i).read_unaligned()) }
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_far(_at: *const u8) {}
}
