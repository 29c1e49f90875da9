//! Power of the two-sided two-sample t test and its inverse, the minimum detectable effect.
//!
//! With n samples in each of two groups with standard deviation sd, T is noncentral t with df = 2n - 2 and noncentrality
//! d = effect / (sd sqrt(2/n)). Power = P(|T| > c), c the central t's (1 - alpha/2) quantile. As T = (Z + d) / sqrt(V/df),
//! V chi-squared, power = E_V[ Phi(d - c sqrt(V/df)) + Phi(-d - c sqrt(V/df)) ], here by Simpson's rule over
//! u = sqrt(V/df), whose density is proportional to u^(df-1) exp(-df u^2 / 2).

use statrs::function::erf::erfc;

use super::student;
use tiltmeter_model::problem::Problem;

const STEPS: usize = 2000;

/// Probability that the test at level `alpha` rejects when the true difference is `effect`. `sd` and `effect` share a
/// unit. Errors unless sd > 0, n >= 2, 0 < alpha < 1.
pub fn power(effect: f64, sd: f64, n: usize, alpha: f64) -> Result<f64, Problem> {
    check(sd, n, alpha)?;
    if !effect.is_finite() {
        return Err(Problem::new(format!("an effect of {effect}")));
    }
    Ok(rejection(effect.abs() / (sd * (2.0 / n as f64).sqrt()), n, alpha))
}

/// The difference of means that the test at level `alpha` finds with probability `power`, for `n` samples in each of two
/// groups whose samples have standard deviation `sd`; in the unit of `sd`. Errors as `power`, and unless alpha < power < 1.
pub fn minimum_detectable_effect(sd: f64, n: usize, power: f64, alpha: f64) -> Result<f64, Problem> {
    check(sd, n, alpha)?;
    if !(power > alpha && power < 1.0) {
        return Err(Problem::new(format!("a power of {power}")).hint("choose a power between alpha and 1, say 0.8"));
    }
    let (mut low, mut high) = (0.0, 1.0);
    while rejection(high, n, alpha) < power {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if rejection(middle, n, alpha) < power { low = middle } else { high = middle }
    }
    Ok(0.5 * (low + high) * sd * (2.0 / n as f64).sqrt())
}

fn rejection(noncentrality: f64, n: usize, alpha: f64) -> f64 {
    let df = (2 * n - 2) as f64;
    let critical = student::quantile(1.0 - alpha / 2.0, df);
    // u has mean about 1 and standard deviation about 1/sqrt(2 df); the mode of its density is at or below 1.
    let reach = 12.0 / (2.0 * df).sqrt();
    let (low, high) = ((1.0 - reach).max(0.0), 1.0 + reach);
    let step = (high - low) / STEPS as f64;
    let (mut mass, mut rejected) = (0.0, 0.0);
    for i in 0..=STEPS {
        let u = low + step * i as f64;
        let simpson = if i == 0 || i == STEPS { 1.0 } else { [2.0, 4.0][i % 2] };
        // Divided by its value at 1, so that it neither overflows nor vanishes; `mass` then divides the constant out.
        let log_density = if u > 0.0 {
            (df - 1.0) * u.ln() - df * (u * u - 1.0) / 2.0
        } else if df > 1.0 {
            f64::NEG_INFINITY
        } else {
            df / 2.0
        };
        let weight = simpson * log_density.exp();
        mass += weight;
        rejected += weight * (normal(noncentrality - critical * u) + normal(-noncentrality - critical * u));
    }
    rejected / mass
}

fn normal(z: f64) -> f64 {
    0.5 * erfc(-z / std::f64::consts::SQRT_2)
}

fn check(sd: f64, n: usize, alpha: f64) -> Result<(), Problem> {
    if !(sd.is_finite() && sd > 0.0) {
        return Err(Problem::new(format!("a standard deviation of {sd}")));
    }
    if n < 2 {
        return Err(Problem::new(format!("{n} samples in each group")).hint("a test needs at least two"));
    }
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(Problem::new(format!("a level of {alpha}")).hint("choose a level between 0 and 1, say 0.05"));
    }
    Ok(())
}
