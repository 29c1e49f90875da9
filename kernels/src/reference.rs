//! The kernels written plainly in f64: what the fast ones are held to, and what to read first.

/// y = x W^T for `x` `[m, k_in]` and `w` `[n_out, k_in]`; the result is `[m, n_out]`.
pub fn linear(x: &[f32], w: &[f32], n_out: usize, k_in: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(k_in) {
        for w in w.chunks_exact(k_in).take(n_out) {
            y.push(dot(x, w));
        }
    }
    y
}

/// Sum of `a[i] * b[i]`.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum()
}

/// Each row of `d` elements divided by its root mean square, times `weight`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, d: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks_exact(d) {
        let mean = dot(x, x) / d as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        out.extend(x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * scale * f64::from(w)));
    }
    out
}

/// silu(gate) * up.
pub fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f64> {
    let silu = |g: f64| g / (1.0 + (-g).exp());
    gate.iter().zip(up).map(|(&g, &u)| silu(f64::from(g)) * f64::from(u)).collect()
}

/// The heads of `x` `[tokens, n_heads * head_dim]` turned to their positions; `cos` and `sin` are
/// `[max_pos, head_dim / 2]`.
pub fn rope(x: &[f32], positions: &[u32], head_dim: usize, cos: &[f32], sin: &[f32]) -> Vec<f64> {
    let half = head_dim / 2;
    let width = x.len() / positions.len();
    let mut out = vec![0.0; x.len()];
    for (t, &position) in positions.iter().enumerate() {
        for head in (t * width..(t + 1) * width).step_by(head_dim) {
            for i in 0..half {
                let cos = f64::from(cos[position as usize * half + i]);
                let sin = f64::from(sin[position as usize * half + i]);
                let (a, b) = (f64::from(x[head + i]), f64::from(x[head + half + i]));
                out[head + i] = a * cos - b * sin;
                out[head + half + i] = b * cos + a * sin;
            }
        }
    }
    out
}

/// One head of one query over the keys and values it sees, each `[keys, head_dim]`.
pub fn attend(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f64> {
    let dim = q.len();
    let scores: Vec<f64> = keys.chunks_exact(dim).map(|k| dot(q, k) * f64::from(scale)).collect();
    let max = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; dim];
    for (weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
        for (out, &value) in out.iter_mut().zip(value) {
            *out += weight / sum * f64::from(value);
        }
    }
    out
}
