//! Mean, variance, standard error of the mean and the t interval of a slice.
//!
//! sem = sd / sqrt(n), sd^2 = sum (x - mean)^2 / (n - ddof). `ddof` (0 or 1) is a choice of description and touches
//! only the `sem` that is shown; intervals and tests always use the unbiased variance (ddof 1).

use super::student;
use tiltmeter_model::problem::Problem;

/// A variance below this share of the squared size of the data is rounding noise of identical values.
const ROUNDING: f64 = 1e-24;

/// Summary of independent values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Number of values.
    pub n: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation with the asked-for ddof; `None` for one value.
    pub sd: Option<f64>,
    /// Standard error of the mean with the asked-for ddof; `None` for one value.
    pub sem: Option<f64>,
    /// 95 % t interval of the mean (always ddof 1); `None` for one value.
    pub ci95: Option<[f64; 2]>,
}

/// Arithmetic mean. Errors on an empty slice and on NaN or infinity.
pub fn mean(values: &[f64]) -> Result<f64, Problem> {
    check(values)?;
    // Around the first value, so that a large common offset costs no digits.
    let origin = values[0];
    Ok(origin + values.iter().map(|x| x - origin).sum::<f64>() / values.len() as f64)
}

/// Variance with divisor `n - ddof`; `None` for fewer than two values, whatever `ddof`.
/// Errors on an empty slice, on NaN or infinity, and on a `ddof` other than 0 or 1.
pub fn variance(values: &[f64], ddof: u8) -> Result<Option<f64>, Problem> {
    if ddof > 1 {
        return Err(Problem::new(format!("ddof is {ddof}")).hint("use 1 (unbiased) or 0 (population formula)"));
    }
    let centre = mean(values)?;
    if values.len() < 2 {
        return Ok(None);
    }
    let squares: f64 = values.iter().map(|x| (x - centre) * (x - centre)).sum();
    let variance = squares / (values.len() - ddof as usize) as f64;
    let size = values.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
    if !variance.is_finite() {
        return Err(Problem::new("values are too large to square").hint("check the unit of the measurements"));
    }
    Ok(Some(if variance <= ROUNDING * size * size { 0.0 } else { variance }))
}

/// Standard error of the mean; `None` for one value. Errors as `variance`.
pub fn sem(values: &[f64], ddof: u8) -> Result<Option<f64>, Problem> {
    Ok(variance(values, ddof)?.map(|v| (v / values.len() as f64).sqrt()))
}

/// Mean, spread and 95 % t interval of independent values. Errors as `variance`.
pub fn summarise(values: &[f64], ddof: u8) -> Result<Summary, Problem> {
    let n = values.len();
    let mean = mean(values)?;
    let sd = variance(values, ddof)?.map(f64::sqrt);
    let sem = sd.map(|sd| sd / (n as f64).sqrt());
    let ci95 = self::sem(values, 1)?.map(|sem| {
        let half = student::quantile(0.975, (n - 1) as f64) * sem;
        [mean - half, mean + half]
    });
    Ok(Summary { n, mean, sd, sem, ci95 })
}

fn check(values: &[f64]) -> Result<(), Problem> {
    if values.is_empty() {
        return Err(Problem::new("there are no values to summarise"));
    }
    match values.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Problem::new(format!("value {at} (from 0) is {}", values[at]))
            .hint("write null for a cell without a measurement")),
        None => Ok(()),
    }
}
