//! References of [`crate::gpu::rows`]. All numbers are wide here; two-byte ones have their values.

use super::round;
use crate::gpu::Element;

/// Rows of `table` `[vocab, width]`; zeros for an id outside it.
pub fn embed(table: &[f32], ids: &[u32], width: usize) -> Vec<f32> {
    let zeros = vec![0.0; width];
    ids.iter().flat_map(|&id| table.chunks_exact(width).nth(id as usize).unwrap_or(&zeros).to_vec()).collect()
}

/// The sum over the splits of `[splits, rows * width]`.
pub fn sum_parts(parts: &[f32], splits: usize) -> Vec<f64> {
    let size = parts.len() / splits;
    (0..size).map(|i| (0..splits).map(|s| f64::from(parts[s * size + i])).sum()).collect()
}

/// x / sqrt(mean(x^2) + eps) * weight for one row; rounded before the weight too if an element is given.
pub fn rms_norm(x: &[f64], weight: &[f32], eps: f32, round_first: Option<Element>) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    let normal = |x: f64| round_first.map_or(x * scale, |element| f64::from(round(element, x * scale)));
    x.iter().zip(weight).map(|(&x, &w)| normal(x) * f64::from(w)).collect()
}

/// What a row becomes at the end of a sublayer.
pub struct Finished {
    pub residual: Vec<f64>,
    /// Before it is rounded.
    pub next: Vec<f64>,
    pub dots: Vec<f64>,
}

/// One row: `parts` is the sum of the product's parts, `post` and `next` a weight and an eps each, `steering` a vector and a strength.
pub fn finish(
    element: Element,
    residual: &[f32],
    parts: Option<&[f64]>,
    post: Option<(&[f32], f32)>,
    steering: Option<(&[f32], f32)>,
    next: Option<(&[f32], f32)>,
    round_first: bool,
    axes: &[f32],
    of_next: bool,
) -> Finished {
    let mut h: Vec<f64> = residual.iter().map(|&x| f64::from(x)).collect();
    if let Some(parts) = parts {
        let out = post.map_or_else(|| parts.to_vec(), |(weight, eps)| rms_norm(parts, weight, eps, None));
        h.iter_mut().zip(out).for_each(|(h, x)| *h += x);
    }
    if let Some((vector, strength)) = steering {
        h.iter_mut().zip(vector).for_each(|(h, &v)| *h += f64::from(strength) * f64::from(v));
    }
    let next = next.map_or_else(|| h.clone(), |(w, eps)| rms_norm(&h, w, eps, round_first.then_some(element)));
    let compared = if of_next { &next } else { &h };
    let dot = |axis: &[f32]| axis.iter().zip(compared).map(|(&a, h)| f64::from(a) * h).sum();
    let dots = axes.chunks_exact(h.len()).map(dot).collect();
    Finished { residual: h, next, dots }
}

/// One row of q or k (`angles`: cos and sin of its position) or of v (none), normed over its whole width where there is a weight.
pub fn place(x: &[f64], norm: Option<(&[f32], f32)>, angles: Option<(&[f32], &[f32])>, head_dim: usize) -> Vec<f64> {
    let mut x = norm.map_or_else(|| x.to_vec(), |(weight, eps)| rms_norm(x, weight, eps, None));
    let half = head_dim / 2;
    if let Some((cos, sin)) = angles {
        for head in x.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * c - b * s;
                head[i + half] = b * c + a * s;
            }
        }
    }
    x
}
