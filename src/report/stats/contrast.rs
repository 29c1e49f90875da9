//! Comparison of two groups of independent samples: Welch's t test and Hedges' g.
//!
//! t = D / se with D = mean(a) - mean(b), se^2 = v_a/n_a + v_b/n_b, with Satterthwaite's df (Welch 1947)
//! df = se^4 / ((v_a/n_a)^2/(n_a - 1) + (v_b/n_b)^2/(n_b - 1)).
//! g = J D / s_p, s_p^2 = ((n_a-1) v_a + (n_b-1) v_b) / m, m = n_a + n_b - 2,
//! J = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)), the exact small-sample correction (Hedges 1981).

use statrs::function::gamma::ln_gamma;

use super::{moments, student};
use tiltmeter_model::problem::Problem;

/// Result of Welch's test. Every field but `diff` is `None` if neither group varies: identical samples (at temperature 0, for example)
/// carry no information about chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Welch {
    /// mean(a) - mean(b), in the unit of the data.
    pub diff: f64,
    /// Standard error of `diff`.
    pub se: Option<f64>,
    /// diff / se.
    pub t: Option<f64>,
    /// Satterthwaite's approximate degrees of freedom.
    pub df: Option<f64>,
    /// Two-sided p value.
    pub p: Option<f64>,
    /// 95 % interval of `diff`.
    pub ci95: Option<[f64; 2]>,
    /// Standardised difference, corrected for small samples.
    pub hedges_g: Option<f64>,
}

/// Welch's two-sided t test of mean(a) = mean(b), groups of any two sizes. Errors on NaN or infinity and on groups of fewer than two values.
pub fn welch(a: &[f64], b: &[f64]) -> Result<Welch, Problem> {
    let diff = moments::mean(a)? - moments::mean(b)?;
    let (Some(variance_a), Some(variance_b)) = (moments::variance(a, 1)?, moments::variance(b, 1)?) else {
        return Err(Problem::new(format!("a comparison of {} with {} samples", a.len(), b.len()))
            .hint("a test needs at least two samples in each condition"));
    };
    let (n_a, n_b) = (a.len() as f64, b.len() as f64);
    let (share_a, share_b) = (variance_a / n_a, variance_b / n_b);
    let se2 = share_a + share_b;
    if se2 == 0.0 {
        return Ok(Welch { diff, se: None, t: None, df: None, p: None, ci95: None, hedges_g: None });
    }
    let se = se2.sqrt();
    let t = diff / se;
    // In shares of se2, so that squares of very small variances do not vanish.
    let (part_a, part_b) = (share_a / se2, share_b / se2);
    let df = 1.0 / (part_a * part_a / (n_a - 1.0) + part_b * part_b / (n_b - 1.0));
    let half = student::quantile(0.975, df) * se;
    let freedom = n_a + n_b - 2.0;
    let pooled = (((n_a - 1.0) * variance_a + (n_b - 1.0) * variance_b) / freedom).sqrt();
    Ok(Welch {
        diff,
        se: Some(se),
        t: Some(t),
        df: Some(df),
        p: Some(student::two_sided_p(t, df)),
        ci95: Some([diff - half, diff + half]),
        hedges_g: Some(small_sample_correction(freedom) * diff / pooled),
    })
}

fn small_sample_correction(freedom: f64) -> f64 {
    let half = freedom / 2.0;
    (ln_gamma(half) - ln_gamma(half - 0.5)).exp() / half.sqrt()
}
