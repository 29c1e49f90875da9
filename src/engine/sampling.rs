//! Samples the next token: temperature, then top-k, top-p and min-p, each on the tokens that the previous one kept, then the inverse of the
//! cumulative distribution in token order at one counter-based uniform. Temperature 0 is the argmax.
//! The result depends only on logits, parameters and counter.

use crate::philox::uniform;
use tiltmeter_model::{Sampling, SeedKey};

/// The token drawn for position `index` of a reply.
///
/// `logits`: `[vocab]`. Ties go to the lowest id. A row with NaN or +∞ is `None`: what computed it has overflowed, and nothing could be
/// drawn honestly. −∞ excludes a token.
pub fn sample(logits: &[f32], sampling: &Sampling, seed: SeedKey, index: u64) -> Option<u32> {
    let (mut arg_max, mut top) = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x.is_nan() || x == f32::INFINITY {
            return None;
        }
        if x > top {
            (arg_max, top) = (i, x);
        }
    }
    if top == f32::NEG_INFINITY {
        return None;
    }
    if sampling.temperature <= 0.0 {
        return Some(arg_max as u32);
    }
    // Unnormalised probabilities; f64 so that the cumulative sum of a 100k vocabulary keeps its tail.
    let weight = |x: f32| (f64::from(x - top) / sampling.temperature).exp();
    let mut weights: Vec<f64> = logits.iter().map(|&x| weight(x)).collect();
    restrict(&mut weights, sampling);
    let total: f64 = weights.iter().sum();
    let threshold = uniform(seed.key, seed.stream, index) * total;
    let mut cumulative = 0.0;
    let mut last = arg_max;
    for (id, &w) in weights.iter().enumerate() {
        if w > 0.0 {
            cumulative += w;
            last = id;
            if cumulative > threshold {
                break;
            }
        }
    }
    Some(last as u32)
}

/// Sets the weight of every token outside the filters to 0. Tokens tied with the last one kept stay.
fn restrict(weights: &mut [f64], sampling: &Sampling) {
    let top_p = sampling.top_p.filter(|&p| p < 1.0);
    if sampling.top_k.is_none() && top_p.is_none() && sampling.min_p.is_none() {
        return;
    }
    let mut sorted: Vec<f64> = weights.iter().copied().filter(|&w| w > 0.0).collect();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    if let Some(k) = sampling.top_k.filter(|&k| k > 0 && k < sorted.len()) {
        let floor = sorted[k - 1];
        sorted.retain(|&w| w >= floor);
    }
    if let Some(p) = top_p {
        let target = p * sorted.iter().sum::<f64>();
        let mut cumulative = 0.0;
        // The smallest set whose mass reaches p; at least one token.
        let kept = sorted.iter().position(|&w| {
            cumulative += w;
            cumulative >= target
        });
        sorted.truncate(kept.map_or(sorted.len(), |last| last + 1));
    }
    let mut floor = sorted.last().copied().unwrap_or(0.0);
    if let Some(min_p) = sampling.min_p {
        floor = floor.max(min_p * sorted[0]);
    }
    for w in weights {
        if *w < floor {
            *w = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64) -> Sampling {
        Sampling { temperature, ..Sampling::default() }
    }

    fn frequencies(logits: &[f32], sampling: &Sampling, n: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for i in 0..n {
            counts[sample(logits, sampling, SeedKey { key: 7, stream: 1 }, i).unwrap() as usize] += 1.0 / n as f64;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_best() {
        assert_eq!(sample(&[0.0, 2.0, 2.0], &sampling(0.0), SeedKey::default(), 0), Some(1));
    }

    #[test]
    fn nothing_finite_is_no_token() {
        assert_eq!(sample(&[f32::NAN, f32::NAN], &sampling(1.0), SeedKey::default(), 0), None);
        assert_eq!(sample(&[f32::NAN, f32::INFINITY], &sampling(0.0), SeedKey::default(), 0), None);
        assert_eq!(sample(&[f32::NAN, 1.0], &sampling(1.0), SeedKey::default(), 0), None);
        assert_eq!(sample(&[f32::NEG_INFINITY, 1.0], &sampling(1.0), SeedKey::default(), 0), Some(1));
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [1.0f32, 0.0, -1.0, 2.0];
        let t = 0.7;
        let z: f64 = logits.iter().map(|&x| (f64::from(x) / t).exp()).sum();
        for (f, &x) in frequencies(&logits, &sampling(t), 200_000).iter().zip(&logits) {
            assert!((f - (f64::from(x) / t).exp() / z).abs() < 0.005);
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.15f32.ln(), 0.1f32.ln()];
        let kept = |s: Sampling| frequencies(&logits, &s, 20_000).iter().filter(|&&f| f > 0.0).count();
        assert_eq!(kept(Sampling { top_k: Some(2), ..sampling(1.0) }), 2);
        assert_eq!(kept(Sampling { top_p: Some(0.8), ..sampling(1.0) }), 3);
        assert_eq!(kept(Sampling { top_p: Some(0.4), ..sampling(1.0) }), 1);
        assert_eq!(kept(Sampling { min_p: Some(0.4), ..sampling(1.0) }), 2);
        assert_eq!(kept(sampling(1.0)), 4);
    }
}
