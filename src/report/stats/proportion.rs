//! Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4), without continuity
//! correction. With p = k / n: (p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n).
//!
//! Unlike p ± z √(p (1 - p) / n) it stays within 0 and 1 and has a width where k is 0 or n.

use statrs::function::erf::erf_inv;

/// Interval of the share that `successes` of `n` stand for, as [low, high] between 0 and 1, at a two-sided `confidence` between
/// 0 and 1. `None` without observations, for more successes than observations and for a confidence that is none.
pub fn wilson(successes: u64, n: u64, confidence: f64) -> Option<[f64; 2]> {
    if n == 0 || successes > n || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let z = std::f64::consts::SQRT_2 * erf_inv(confidence);
    let (k, n_all) = (successes as f64, n as f64);
    let share = k / n_all;
    let centre = share + z * z / (2.0 * n_all);
    let half = z * (share * (1.0 - share) / n_all + z * z / (4.0 * n_all * n_all)).sqrt();
    let scale = 1.0 + z * z / n_all;
    // At the ends the formula gives 0 and 1 but for rounding.
    let low = if successes == 0 { 0.0 } else { (centre - half) / scale };
    let high = if successes == n { 1.0 } else { (centre + half) / scale };
    Some([low, high])
}
