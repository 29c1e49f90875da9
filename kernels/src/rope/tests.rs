//! What the rotation promises: close to f64, and the same bits on every tier and any threads.

use super::*;
use crate::reference;
use crate::testing::{Numbers, bits};

#[test]
fn close_and_the_same_everywhere() {
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(1);
    for (n_heads, head_dim) in [(1, 2), (3, 8), (2, 24), (4, 64), (2, 96), (5, 128), (1, 256)] {
        let (half, max, tokens) = (head_dim / 2, 300, 70);
        let angles: Vec<f64> = (0..max * half)
            .map(|i| {
                let (position, i) = (i / half, i % half);
                position as f64 * 10_000f64.powf(-(i as f64) / half as f64)
            })
            .collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        let positions: Vec<u32> = (0..tokens).map(|_| numbers.below(max) as u32).collect();
        let x = numbers.normal(tokens * n_heads * head_dim);
        let exact = reference::rope(&x, &positions, head_dim, &cos, &sin);
        let mut expected = x.clone();
        rope(&mut expected, &positions, n_heads, head_dim, &cos, &sin, &pools[0]);
        for (&out, exact) in expected.iter().zip(exact) {
            assert!((f64::from(out) - exact).abs() < 1e-6);
        }
        for isa in Isa::available() {
            for pool in &pools {
                let mut out = x.clone();
                rope_on(isa, &mut out, &positions, n_heads, head_dim, &cos, &sin, pool);
                assert!(bits(&out) == bits(&expected), "{head_dim} {isa:?} {pool:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "position 4 is outside the rotary tables")]
fn a_position_beyond_the_tables_is_refused() {
    rope(&mut [0.0; 2], &[4], 1, 2, &[0.0; 4], &[0.0; 4], &Pool::new(1));
}
