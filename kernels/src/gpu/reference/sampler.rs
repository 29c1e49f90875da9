//! The draw of [`crate::gpu::sampler`] written plainly: the same whole-number weights, sorted instead of searched.

use crate::gpu::sampler::SamplerRow;

/// Ten rounds of Philox4x32 (Salmon et al. 2011); the 53 uppermost bits of the first two words.
pub fn philox53(key: u64, stream: u64, index: u64) -> u64 {
    let words = |x: u64| [x as u32, (x >> 32) as u32];
    let ([i0, i1], [s0, s1], [mut k0, mut k1]) = (words(index), words(stream), words(key));
    let mut c = [i0, i1, s0, s1];
    for _ in 0..10 {
        let a = 0xD251_1F53 * u64::from(c[0]);
        let b = 0xCD9E_8D57 * u64::from(c[2]);
        c = [(b >> 32) as u32 ^ c[1] ^ k0, b as u32, (a >> 32) as u32 ^ c[3] ^ k1, a as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    (u64::from(c[0]) << 32 | u64::from(c[1])) >> 11
}

/// e^x times 2^43, to the nearest whole number; no better than f64 is.
fn weight(x: f64) -> u64 {
    if x < -31.0 { 0 } else { (x.exp() * (1u64 << 43) as f64 + 0.5) as u64 }
}

/// The token drawn, if any could be.
pub fn draw(logits: &[f32], row: &SamplerRow) -> Option<u32> {
    let better = |best: Option<(usize, f32)>, (i, &x): (usize, &f32)| match best {
        Some((_, top)) if x <= top || x.is_nan() => best,
        None if x.is_nan() => None,
        _ => Some((i, x)),
    };
    let (arg_max, top) = logits.iter().enumerate().fold(None, better).filter(|(_, x)| x.is_finite())?;
    if row.temperature <= 0.0 {
        return Some(arg_max as u32);
    }
    // (distance, weight) of the candidates, the best first.
    let distance = |x: f32| top - x;
    let log = |x: f32| -f64::from(distance(x)) / row.temperature;
    let mut sorted: Vec<(f32, u64)> =
        logits.iter().filter(|x| distance(**x) < f32::INFINITY).map(|&x| (distance(x), weight(log(x)))).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    if row.top_k > 0 && (row.top_k as usize) < sorted.len() {
        let last = sorted[row.top_k as usize - 1].0;
        sorted.retain(|&(distance, _)| distance <= last);
    }
    if row.top_p < 1.0 {
        let total: u64 = sorted.iter().map(|&(_, w)| w).sum();
        let target = ((row.top_p * total as f64).ceil() as u64).max(1);
        let mut sum = 0;
        let reached = sorted.iter().find(|&&(_, w)| {
            sum += w;
            sum >= target
        });
        let last = reached.map_or(f32::INFINITY, |&(distance, _)| distance);
        sorted.retain(|&(distance, _)| distance <= last);
    }
    let last = sorted.last().map_or(0.0, |&(distance, _)| distance);
    let kept = |&x: &f32| {
        let within = distance(x) <= last && log(x).exp() >= row.min_p;
        if within { weight(log(x)) } else { 0 }
    };
    let total: u64 = logits.iter().map(kept).sum();
    let threshold = ((u128::from(philox53(row.key, row.stream, row.index)) * u128::from(total)) >> 53) as u64;
    let mut sum = 0;
    let found = logits.iter().position(|x| {
        sum += kept(x);
        sum > threshold
    });
    found.map(|id| id as u32)
}
