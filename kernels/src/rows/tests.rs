//! What the kernels along a row promise: close to f64, and the same bits on every tier and any threads.

use super::*;
use crate::reference;
use crate::testing::{Numbers, bits};

const LENGTHS: [usize; 10] = [1, 7, 16, 31, 64, 100, 128, 768, 2048, 5003];

#[test]
fn dot_is_close_and_the_same_on_every_tier() {
    let mut numbers = Numbers::new(1);
    for len in LENGTHS {
        let (a, b) = (numbers.normal(len), numbers.normal(len));
        let expected = dot(&a, &b);
        let error = (f64::from(expected) - reference::dot(&a, &b)).abs();
        assert!(error < 3e-7 * len as f64, "{len}: {error:e}");
        for isa in Isa::available() {
            assert_eq!(dot_on(isa, &a, &b).to_bits(), expected.to_bits(), "{len} {isa:?}");
        }
    }
    assert_eq!(dot(&[], &[]), 0.0);
}

#[test]
fn rms_norm_is_close_and_a_row_has_the_same_bits_anywhere() {
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(2);
    for d in LENGTHS {
        let (x, weight) = (numbers.normal(50 * d), numbers.normal(d));
        let exact = reference::rms_norm(&x, &weight, 1e-6, d);
        let mut single = vec![0.0; 50 * d];
        for (x, out) in x.chunks(d).zip(single.chunks_mut(d)) {
            rms_norm_on::<false>(Isa::Portable, x, &weight, 1e-6, out, &pools[0]);
        }
        for (&out, exact) in single.iter().zip(exact) {
            let error = (f64::from(out) - exact).abs();
            assert!(error < 1e-6 * exact.abs(), "{d}: {error:e} of {exact}");
        }
        for isa in Isa::available() {
            for pool in &pools {
                let mut out = vec![f32::NAN; 50 * d];
                rms_norm_on::<false>(isa, &x, &weight, 1e-6, &mut out, pool);
                assert!(bits(&out) == bits(&single), "{d} {isa:?} {pool:?}");
                let mut sum = x.clone();
                rms_norm_on::<true>(isa, &x, &weight, 1e-6, &mut sum, pool);
                let mut added = x.clone();
                add(&single, &mut added, pool);
                assert!(bits(&sum) == bits(&added), "added: {d} {isa:?} {pool:?}");
            }
        }
    }
}

#[test]
fn swiglu_is_close_and_the_same_everywhere() {
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(3);
    for len in [0, 1, 15, 16, 1000, 50_001] {
        let gate: Vec<f32> = numbers.normal(len).iter().map(|g| g * 10.0).collect();
        let up = numbers.normal(len);
        let mut expected = gate.clone();
        swiglu(&mut expected, &up, &pools[0]);
        for (&out, exact) in expected.iter().zip(reference::swiglu(&gate, &up)) {
            let error = (f64::from(out) - exact).abs();
            assert!(error <= 5e-7 * exact.abs(), "{error:e} of {exact}");
        }
        for isa in Isa::available() {
            for pool in &pools {
                let mut out = gate.clone();
                swiglu_on(isa, &mut out, &up, pool);
                assert!(bits(&out) == bits(&expected), "{len} {isa:?} {pool:?}");
            }
        }
    }
}

#[test]
fn silu_has_the_right_ends() {
    let mut out = [-200.0, 0.0, 200.0];
    swiglu(&mut out, &[1.0; 3], &Pool::new(1));
    assert_eq!(out, [0.0, 0.0, 200.0]);
}
