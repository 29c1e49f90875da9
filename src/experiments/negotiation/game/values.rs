//! Private values of two agents: vectors v >= 0 over the items, each of sum 100, drawn from a seed, whose cosine similarity is exactly
//! the competition level c.
//!
//! Two positive unit vectors p, q are drawn (entries 0.1 + Exp(1)), with cosine k = p·q. Both are then moved by the same rule, so
//! that neither agent is favoured, along a path inside the orthant v >= 0, so that nothing is clipped. The point of the path with
//! cosine c has a closed form:
//!
//! - c >= k, towards each other in the plane of p and q: with angles f = arccos k and t = arccos c, p' = (sin((f+t)/2) p +
//!   sin((f-t)/2) q) / sin f and q' likewise with p and q exchanged (spherical interpolation, Shoemake 1985). The angle between
//!   them is t, and as 0 <= t <= f both weights are >= 0.
//! - c < k, away from each other: A is the set of items that p values at least as highly as q does, B the rest. With s in [0, 1], p'
//!   is p with its entries in B times s, and q' is q with its entries in A times s. With P_A the sum of p² over A, P_B, Q_A, Q_B
//!   likewise, cos² = s² k² / ((P_A + s² P_B)(Q_B + s² Q_A)), which is c² where z = s² solves c² P_B Q_A z² + (c² (P_A Q_A +
//!   P_B Q_B) - k²) z + c² P_A Q_B = 0. As P_A Q_B >= P_B Q_A, the cosine grows with s on [0, 1], from 0 to k, and the smaller root
//!   is the one.
//!
//! Scaling each vector to the sum 100 does not change the cosine.

use std::f64::consts::FRAC_PI_2;

use tiltmeter_model::problem::Problem;

/// Sum of an agent's values.
pub const TOTAL_VALUE: f64 = 100.0;

/// Values of two agents.
///
/// # Errors
/// Fewer than 2 items, or a level outside [0, 1].
pub fn pair(items: usize, level: f64, seed: u64) -> Result<[Vec<f64>; 2], Problem> {
    if items < 2 || !(0.0..=1.0).contains(&level) {
        return Err(Problem::new(format!(
            "no two value vectors over {items} items have the cosine similarity {level}"
        ))
        .hint("use at least 2 items and competition levels from 0 to 1"));
    }
    let mut state = seed;
    let mut draw = || unit((0..items).map(|_| 0.1 - uniform(&mut state).ln()).collect());
    let (p, q) = (draw(), draw());
    let [p, q] = if level >= dot(&p, &q) { closer(&p, &q, level) } else { apart(&p, &q, level) };
    Ok([p, q].map(|v| {
        let sum: f64 = v.iter().sum();
        v.into_iter().map(|x| x / sum * TOTAL_VALUE).collect()
    }))
}

/// Cosine similarity; 0 where a vector is zero.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

fn closer(p: &[f64], q: &[f64], level: f64) -> [Vec<f64>; 2] {
    // From the chord, which is accurate for a cosine near 1.
    let chord: f64 = p.iter().zip(q).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let between = 2.0 * (chord / 2.0).min(1.0).asin();
    let wanted = level.acos().min(between);
    let (own, other) = if between > 1e-9 {
        (((between + wanted) / 2.0).sin(), ((between - wanted) / 2.0).sin())
    } else {
        // The directions are equal to double precision.
        (1.0, 1.0)
    };
    debug_assert!(between <= FRAC_PI_2 + 1e-9);
    let mix = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| own * a + other * b).collect();
    [mix(p, q), mix(q, p)]
}

fn apart(p: &[f64], q: &[f64], level: f64) -> [Vec<f64>; 2] {
    let mut mine: Vec<bool> = p.iter().zip(q).map(|(a, b)| a >= b).collect();
    // Each of two unit vectors exceeds the other somewhere; if rounding hides it, take the closest item.
    let gap = |i: &usize| p[*i] - q[*i];
    let least = (0..p.len()).min_by(|i, j| gap(i).total_cmp(&gap(j)));
    if let Some(least) = least.filter(|_| mine.iter().all(|mine| *mine)) {
        mine[least] = false;
    }
    let sum =
        |v: &[f64], side: bool| -> f64 { v.iter().zip(&mine).filter(|(_, m)| **m == side).map(|(x, _)| x * x).sum() };
    let (p_a, p_b, q_a, q_b) = (sum(p, true), sum(p, false), sum(q, true), sum(q, false));
    let (k2, c2) = (dot(p, q).powi(2), level * level);
    let (a, b, c) = (c2 * p_b * q_a, c2 * (p_a * q_a + p_b * q_b) - k2, c2 * p_a * q_b);
    // The smaller root in the form without cancellation: b < 0.
    let root = 2.0 * c / (-b + (b * b - 4.0 * a * c).max(0.0).sqrt());
    let scale = root.clamp(0.0, 1.0).sqrt();
    let shrunk = |v: &[f64], side: bool| {
        v.iter().zip(&mine).map(|(x, mine)| if *mine == side { x * scale } else { *x }).collect()
    };
    [shrunk(p, false), shrunk(q, true)]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(v: Vec<f64>) -> Vec<f64> {
    let norm = dot(&v, &v).sqrt();
    v.into_iter().map(|x| x / norm).collect()
}

/// Uniform in (0, 1], by SplitMix64 (Steele, Lea, Flood 2014).
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(items: usize, level: f64, seed: u64) {
        let [p, q] = pair(items, level, seed).unwrap();
        let error = (cosine(&p, &q) - level).abs();
        assert!(error <= 1e-6, "items {items}, level {level}, seed {seed}: off by {error}");
        for v in [&p, &q] {
            assert_eq!(v.len(), items);
            assert!((v.iter().sum::<f64>() - TOTAL_VALUE).abs() <= 1e-9, "{v:?}");
            assert!(v.iter().all(|x| *x >= 0.0 && x.is_finite()), "{v:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn the_level_is_exact_and_no_value_is_negative(items in 2_usize..=16, level in 0.0..=1.0_f64, seed: u64) {
            check(items, level, seed);
        }
    }

    #[test]
    fn extreme_levels_are_exact_for_many_seeds() {
        let tenths = (0..=10).map(|tenth| f64::from(tenth) / 10.0);
        for level in tenths.chain([1e-300, 1e-12, 1e-6, 1.0 - 1e-6, 1.0 - 1e-12, 1.0 - f64::EPSILON]) {
            for items in [2, 3, 5, 16] {
                (0..200).for_each(|seed| check(items, level, seed));
            }
        }
    }

    #[test]
    fn at_level_0_no_item_has_value_for_both() {
        let [p, q] = pair(5, 0.0, 42).unwrap();
        assert!(p.iter().zip(&q).all(|(a, b)| *a == 0.0 || *b == 0.0), "{p:?} {q:?}");
        assert!(p.iter().any(|x| *x > 0.0) && q.iter().any(|x| *x > 0.0));
    }

    #[test]
    fn at_level_1_the_values_are_equal() {
        for seed in 0..100 {
            let [p, q] = pair(5, 1.0, seed).unwrap();
            assert_eq!(p, q);
        }
    }

    #[test]
    fn values_are_a_function_of_the_seed() {
        assert_eq!(pair(5, 0.3, 42).unwrap(), pair(5, 0.3, 42).unwrap());
        assert_ne!(pair(5, 0.3, 42).unwrap(), pair(5, 0.3, 43).unwrap());
    }

    #[test]
    fn the_construction_favours_neither_agent() {
        // The largest share of an agent's values that falls on one item, on average over seeds.
        for level in [0.1, 0.5, 0.9] {
            let peak = |agent: usize| -> f64 {
                let peaks =
                    (0..2000).map(|seed| pair(5, level, seed).unwrap()[agent].iter().copied().fold(0.0, f64::max));
                peaks.sum::<f64>() / 2000.0
            };
            assert!((peak(0) - peak(1)).abs() < 1.5, "level {level}: {} and {}", peak(0), peak(1));
        }
    }

    #[test]
    fn impossible_sizes_and_levels_are_refused() {
        for (items, level) in [(0, 0.5), (1, 0.5), (5, -0.1), (5, 1.1), (5, f64::NAN)] {
            assert!(pair(items, level, 1).is_err(), "{items} {level}");
        }
    }
}
