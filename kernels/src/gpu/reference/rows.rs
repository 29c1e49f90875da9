//! References of [`crate::gpu::rows`].
//!
//! Must not know: models, engine.

/// Rows of `table` `[vocab, width]`; zeros for an id outside it.
pub fn embed(table: &[f32], ids: &[u32], width: usize) -> Vec<f32> {
    let zeros = vec![0.0; width];
    ids.iter().flat_map(|&id| table.chunks_exact(width).nth(id as usize).unwrap_or(&zeros).to_vec()).collect()
}
