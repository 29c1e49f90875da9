//! What the lanes promise: every instruction set does exactly what the array does.

use super::*;
use crate::testing::{Numbers, bits};

/// e^x of a slice whose length is a multiple of sixteen.
struct Exp<'a>(&'a mut [f32]);

impl Kernel for Exp<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for x in self.0.as_chunks_mut::<LANES>().0 {
            // SAFETY: a chunk has sixteen elements.
            unsafe { exp(V::load(x.as_ptr())).store(x.as_mut_ptr()) }
        }
    }
}

fn exp_on(isa: Isa, x: &[f32]) -> Vec<f32> {
    let mut x = x.to_vec();
    // SAFETY: the kernel holds a slice.
    unsafe { isa.run(Exp(&mut x)) };
    x
}

/// Distance from `exact` in units of the last place of the f32 nearest to it.
fn ulps(value: f32, exact: f64) -> f64 {
    let nearest = (exact as f32).abs();
    let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
    (f64::from(value) - exact).abs() / unit
}

#[test]
fn exp_is_within_one_ulp_and_the_same_on_every_tier() {
    // Every 1009th float of both signs between 2^-30 and 104, in multiples of sixteen.
    let (low, high) = (2f32.powi(-30).to_bits(), 104f32.to_bits());
    let mut x: Vec<f32> =
        (low..high).step_by(1009).map(f32::from_bits).flat_map(|x| [x, -x]).filter(|&x| x < 88.72).collect();
    x.truncate(x.len() / LANES * LANES);
    let y = exp_on(Isa::active(), &x);
    let mut worst = 0f64;
    for (&x, &y) in x.iter().zip(&y) {
        worst = worst.max(ulps(y, f64::from(x).exp()));
    }
    assert!(worst < 1.0, "{worst} ulp");
    for isa in Isa::available() {
        assert_eq!(bits(&exp_on(isa, &x)), bits(&y), "{isa:?}");
    }
}

#[test]
fn exp_knows_its_ends() {
    let mut x = [0.0; LANES];
    x[1..9].copy_from_slice(&[-0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -104.0, -1e30, 88.73, 1e30]);
    for isa in Isa::available() {
        let y = exp_on(isa, &x);
        assert_eq!((y[0], y[1], y[2], y[3]), (1.0, 1.0, 0.0, f32::INFINITY));
        assert!(y[4].is_nan());
        assert_eq!((y[5], y[6], y[7], y[8]), (0.0, 0.0, f32::INFINITY, f32::INFINITY));
    }
}

/// Every other operation on `a` and `b`, sixteen elements each, one result after the other.
struct Operations<'a> {
    a: &'a [f32; 256],
    b: &'a [f32; LANES],
    out: &'a mut Vec<f32>,
}

impl Kernel for Operations<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let mut buffer = [0.0; 256];
        // SAFETY: all arrays have at least sixteen elements, the transposed one 256.
        unsafe {
            let (a, b) = (V::load(self.a.as_ptr()), V::load(self.b.as_ptr()));
            let mut push = |v: V| {
                v.store(buffer.as_mut_ptr());
                self.out.extend_from_slice(&buffer[..LANES]);
            };
            push(a.add(b));
            push(a.sub(b));
            push(a.mul(b));
            push(a.div(b));
            push(a.fma(b, a));
            push(a.fnma(b, b));
            push(a.max(b));
            push(a.min(b));
            push(V::splat(2.5));
            for count in 0..=LANES {
                push(V::load_first(self.b.as_ptr(), count));
                push(a.keep(count / 2, count, 7.0));
                let mut part = [3.0; LANES];
                b.store_first(part.as_mut_ptr(), count);
                push(V::load(part.as_ptr()));
            }
            let (odd, even) = V::load_bf16_pairs(self.b.as_ptr().cast());
            push(odd);
            push(even);
            push(b.bf16_odd());
            push(b.bf16_even());
            self.out.extend([a.sum(), a.maximum(), b.maximum()]);
            let rows = std::array::from_fn(|i| self.a[i * LANES..].as_ptr());
            V::transpose(&rows, buffer.as_mut_ptr(), LANES);
            self.out.extend(buffer);
        }
    }
}

#[test]
fn every_operation_is_the_same_on_every_tier() {
    let mut numbers = Numbers::new(7);
    for _ in 0..20 {
        let a: [f32; 256] = numbers.normal(256).try_into().expect("256 numbers");
        let b: [f32; LANES] = numbers.normal(LANES).try_into().expect("16 numbers");
        let on = |isa: Isa| {
            let mut out = Vec::new();
            let work = Operations { a: &a, b: &b, out: &mut out };
            // SAFETY: the kernel holds slices.
            unsafe { isa.run(work) };
            bits(&out)
        };
        let expected = on(Isa::Portable);
        assert_eq!(expected[0], (a[0] + b[0]).to_bits());
        for isa in Isa::available() {
            assert_eq!(on(isa), expected, "{isa:?}");
        }
    }
}
