//! References of [`crate::gpu::attention`].

/// The keys (or values) that one head of one query sees, from pages `[page][kv_heads][32][dim]`.
pub fn seen(
    pages: &[f32],
    table: &[u32],
    kv_heads: usize,
    dim: usize,
    kv_head: usize,
    positions: std::ops::Range<usize>,
) -> Vec<f32> {
    let row = |position: usize| {
        let page = table[position / 32] as usize;
        let at = ((page * kv_heads + kv_head) * 32 + position % 32) * dim;
        &pages[at..at + dim]
    };
    positions.flat_map(row).copied().collect()
}

/// One head of one query over what it sees, in f64.
pub fn attend(q: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f64> {
    crate::reference::attend(q, keys, values, scale)
}
