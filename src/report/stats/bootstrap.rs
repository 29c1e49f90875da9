//! The bootstrap-t interval of a difference of means, resampling whole samples (the clusters) within each group.
//!
//! t* = (D* - D) / se*, interval [D - t*_(0.975) se, D - t*_(0.025) se] (Efron 1979; Hall 1988), se as in Welch's test.
//! Resampling one number per sample is resampling whole conversations, as that number depends on its conversation alone.
//! With missing cells it also depends on the turn means of its group, which are treated as known.

use super::draw::Draws;
use super::moments;
use tiltmeter_model::problem::Problem;

/// With fewer samples, resamples without any variance are common.
const MIN_SAMPLES: usize = 5;

/// 95 % bootstrap-t interval of mean(a) - mean(b) from `draws` resamples; `None` for fewer than 5 samples in a group, for
/// fewer than 199 resamples, or if nothing varies. Errors on NaN or infinity and on empty groups.
pub fn bootstrap_t_interval(a: &[f64], b: &[f64], draws: u32, seed: u64) -> Result<Option<[f64; 2]>, Problem> {
    let diff = moments::mean(a)? - moments::mean(b)?;
    if a.len() < MIN_SAMPLES || b.len() < MIN_SAMPLES || draws < 199 {
        return Ok(None);
    }
    let share = |x: &[f64]| Ok::<f64, Problem>(moments::variance(x, 1)?.unwrap_or(0.0) / x.len() as f64);
    let se2 = share(a)? + share(b)?;
    if se2 == 0.0 {
        return Ok(None);
    }
    let mut stream = Draws::new(seed);
    let mut quotients: Vec<f64> = (0..draws)
        .map(|_| {
            let (mean_a, share_a) = resample(a, &mut stream);
            let (mean_b, share_b) = resample(b, &mut stream);
            let shift = mean_a - mean_b - diff;
            // A resample of identical values: infinite on its side, which widens the interval.
            if share_a + share_b > 1e-12 * se2 {
                shift / (share_a + share_b).sqrt()
            } else {
                shift.signum() * f64::INFINITY
            }
        })
        .collect();
    quotients.sort_by(f64::total_cmp);
    let tail = ((f64::from(draws) + 1.0) * 0.025) as usize;
    let (low, high) = (quotients[tail - 1], quotients[quotients.len() - tail]);
    let se = se2.sqrt();
    Ok((low.is_finite() && high.is_finite()).then_some([diff - high * se, diff - low * se]))
}

/// Mean and variance / n of a resample of `values`.
fn resample(values: &[f64], stream: &mut Draws) -> (f64, f64) {
    let origin = values[0];
    let (mut sum, mut squares) = (0.0, 0.0);
    let n = values.len() as f64;
    for _ in values {
        let x = values[stream.below(values.len())] - origin;
        sum += x;
        squares += x * x;
    }
    let mean = sum / n;
    let variance = ((squares - sum * mean) / (n - 1.0)).max(0.0);
    (origin + mean, variance / n)
}
