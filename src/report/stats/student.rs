//! Student's t distribution: two-sided tail probability and quantile.
//!
//! P(|T| > t) = I_{df / (df + t^2)}(df / 2, 1 / 2), the regularised incomplete beta function (Abramowitz & Stegun
//! 26.7.1). Written this way a p value of 1e-20 keeps its digits, where 1 - cdf would be 0.

use statrs::function::beta::beta_reg;

/// P(|T| > |t|) for `df` degrees of freedom (any positive number, whole or not). An infinite `t` gives 0.
pub fn two_sided_p(t: f64, df: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    beta_reg(df / 2.0, 0.5, df / (df + t * t))
}

/// The `t` with P(T <= t) = `probability`, for `df` degrees of freedom; accurate to about 1e-12 of its size.
pub fn quantile(probability: f64, df: f64) -> f64 {
    if probability == 0.5 {
        return 0.0;
    }
    if probability < 0.5 {
        return -quantile(1.0 - probability, df);
    }
    // Bisection on a monotone function: slower than a series, and cannot go astray.
    let tail = 2.0 * (1.0 - probability);
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while two_sided_p(high, df) > tail {
        low = high;
        high *= 2.0;
        if high > 1e150 {
            return f64::INFINITY;
        }
    }
    while high - low > 1e-14 * high {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if two_sided_p(middle, df) > tail { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
