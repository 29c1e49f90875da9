//! What a linear layer promises: close to f64, and the same bits however it is called.

use half::{bf16, f16};

use super::*;
use crate::reference;
use crate::testing::{Numbers, bits};

/// Shapes `[n_out, k_in]`: full panels, ragged ends, odd inputs, more than one block of inputs.
const SHAPES: [(usize, usize); 9] =
    [(32, 256), (64, 64), (1, 1), (33, 7), (95, 129), (160, 257), (130, 300), (257, 512), (40, 777)];

#[test]
fn close_to_the_exact_product() {
    let pool = Pool::new(2);
    let mut numbers = Numbers::new(1);
    for (n, k) in SHAPES {
        let (x, w) = (numbers.normal(5 * k), numbers.normal(n * k));
        let mut y = vec![f32::NAN; 5 * n];
        PackedLinear::from_f32(&w, n, k).forward(&x, &mut y, 5, &pool);
        let exact = reference::linear(&x, &w, n, k);
        let absolute = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<_>>();
        let size = reference::linear(&absolute(&x), &absolute(&w), n, k);
        for ((&y, exact), size) in y.iter().zip(exact).zip(size) {
            let error = (f64::from(y) - exact).abs() / size;
            assert!(error < 5e-7, "[{n}, {k}]: {error:e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_on_every_tier_and_any_threads() {
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(2);
    for (n, k) in SHAPES {
        let w: Vec<bf16> = numbers.normal(n * k).into_iter().map(bf16::from_f32).collect();
        let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
        let layers = [PackedLinear::from_bf16(&w, n, k), PackedLinear::from_f32(&wide, n, k)];
        let x = numbers.normal(100 * k);
        let mut expected = vec![0.0; 100 * n];
        for (x, y) in x.chunks(k).zip(expected.chunks_mut(n)) {
            layers[0].forward_on(Isa::Portable, x, y, 1, &pools[0]);
        }
        for isa in Isa::alike() {
            for m in (1..=25).chain([48, 64, 100]) {
                for pool in &pools {
                    for layer in &layers {
                        // The last m rows: another place in the batch than in the single calls.
                        let mut y = vec![f32::NAN; m * n];
                        layer.forward_on(isa, &x[(100 - m) * k..], &mut y, m, pool);
                        let expected = &expected[(100 - m) * n..];
                        assert_eq!(bits(&y), bits(expected), "{layer:?} {isa:?} m = {m} {pool:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_beyond_what_is_packed_at_a_time_have_the_same_bits() {
    let (n, k, m) = (48, 9000, 130);
    let pool = Pool::new(2);
    let mut numbers = Numbers::new(3);
    let layer = PackedLinear::from_f32(&numbers.normal(n * k), n, k);
    let x = numbers.normal(m * k);
    let (mut y, mut single) = (vec![0.0; m * n], vec![0.0; n]);
    layer.forward(&x, &mut y, m, &pool);
    for row in [0, 47, 48, 56, 57, 129] {
        layer.forward(&x[row * k..(row + 1) * k], &mut single, 1, &pool);
        assert_eq!(bits(&y[row * n..(row + 1) * n]), bits(&single));
    }
}

#[test]
fn a_bad_neighbour_stays_in_its_row() {
    let (n, k) = (40, 65);
    let pool = Pool::new(1);
    let mut numbers = Numbers::new(4);
    let layer = PackedLinear::from_f32(&numbers.normal(n * k), n, k);
    let mut x = numbers.normal(3 * k);
    let (mut clean, mut y) = (vec![0.0; 3 * n], vec![0.0; 3 * n]);
    layer.forward(&x, &mut clean, 3, &pool);
    x[k..2 * k].fill(f32::INFINITY);
    layer.forward(&x, &mut y, 3, &pool);
    assert_eq!(bits(&y[..n]), bits(&clean[..n]));
    assert_eq!(bits(&y[2 * n..]), bits(&clean[2 * n..]));
}

#[test]
fn f16_is_widened_exactly_and_sizes_are_told() {
    let (n, k) = (3, 5);
    let w: Vec<f16> = Numbers::new(5).normal(n * k).into_iter().map(f16::from_f32).collect();
    let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
    let x: Vec<f32> = (0..k).map(|i| i as f32).collect();
    let pool = Pool::new(1);
    let (a, b) = (PackedLinear::from_f16(&w, n, k), PackedLinear::from_f32(&wide, n, k));
    let (mut ya, mut yb) = (vec![0.0; n], vec![0.0; n]);
    a.forward(&x, &mut ya, 1, &pool);
    b.forward(&x, &mut yb, 1, &pool);
    assert_eq!(bits(&ya), bits(&yb));
    // One panel of 32 outputs and six inputs.
    assert_eq!((a.n_out(), a.k_in(), a.bytes()), (n, k, 32 * 6 * 4));
}

#[test]
fn nothing_times_nothing_is_nothing() {
    let pool = Pool::new(1);
    PackedLinear::from_f32(&[], 0, 4).forward(&[1.0; 8], &mut [], 2, &pool);
    let mut y = [1.0; 2];
    PackedLinear::from_f32(&[], 2, 0).forward(&[], &mut y, 1, &pool);
    assert_eq!(y, [0.0; 2]);
    PackedLinear::from_f32(&[1.0; 8], 2, 4).forward(&[], &mut [], 0, &pool);
}

#[test]
#[should_panic(expected = "x is [m, k_in] = [2, 4]")]
fn a_wrong_length_is_refused() {
    let pool = Pool::new(1);
    PackedLinear::from_f32(&[0.0; 8], 2, 4).forward(&[0.0; 7], &mut [0.0; 4], 2, &pool);
}

/// The tile instruction's sum, one number at a time.
fn on_tiles(x: &[f32], w: &[bf16]) -> f32 {
    let upper = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
    let at = |v: &[f32], i: usize| v.get(i).copied().unwrap_or(0.0);
    let w: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
    let mut y = 0.0;
    for first in (0..x.len()).step_by(32) {
        let mut rest = x.to_vec();
        for _ in 0..3 {
            let part: Vec<f32> = rest.iter().map(|&x| upper(x)).collect();
            rest.iter_mut().zip(&part).for_each(|(rest, part)| *rest -= part);
            let chain = |odd: usize| {
                (first + odd..first + 32).step_by(2).fold(0.0, |sum, i| at(&part, i).mul_add(at(&w, i), sum))
            };
            y += chain(0) + chain(1);
        }
        assert!(rest.iter().all(|&x| x == 0.0));
    }
    y
}

#[test]
fn tiles_add_as_they_promise_in_every_batch_and_with_any_threads() {
    if !Isa::available().contains(&Isa::Amx) {
        println!("this machine has no AMX tiles: nothing was compared");
        return;
    }
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(6);
    for (n, k) in SHAPES.into_iter().chain([(200, 600)]) {
        let w: Vec<bf16> = numbers.normal(n * k).into_iter().map(bf16::from_f32).collect();
        let layer = PackedLinear::from_bf16(&w, n, k);
        let mut x = numbers.normal(100 * k);
        // The first forty rows are bf16 already.
        x[..40 * k].iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        let expected: Vec<f32> = x.chunks(k).flat_map(|x| w.chunks(k).map(|w| on_tiles(x, w))).collect();
        for m in (1..=17).chain([31, 32, 48, 64, 100]) {
            for pool in &pools {
                let from = (100 - m) / 2;
                let mut y = vec![f32::NAN; m * n];
                layer.forward_on(Isa::Amx, &x[from * k..(from + m) * k], &mut y, m, pool);
                assert_eq!(bits(&y), bits(&expected[from * n..(from + m) * n]), "{layer:?} m = {m} {pool:?}");
            }
        }
    }
    let (n, k, m) = (70, 100, 1100);
    let w: Vec<bf16> = numbers.normal(n * k).into_iter().map(bf16::from_f32).collect();
    let x = numbers.normal(m * k);
    let mut y = vec![f32::NAN; m * n];
    PackedLinear::from_bf16(&w, n, k).forward_on(Isa::Amx, &x, &mut y, m, &pools[1]);
    for (i, &y) in y.iter().enumerate().step_by(997) {
        assert_eq!(y, on_tiles(&x[i / n * k..][..k], &w[i % n * k..][..k]));
    }
}
