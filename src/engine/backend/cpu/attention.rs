//! Attention of one layer: rotates q and k, writes k and v to each sequence's pages, attends over them.

use tiltmeter_kernels::{AttentionJob, AttentionShape, KvPage, KvWrite, PageShape, Pool, attention, write_kv};

use super::ops::RopeTable;
use crate::{backend::Batch, kv_cache::PagedCache};

/// Attention of one block over the cached keys and values of each sequence.
pub struct Attention<'a, 'b> {
    pub layer: usize,
    pub shape: AttentionShape,
    pub rope: &'a RopeTable,
    pub batch: &'a Batch,
    pub caches: &'a mut [&'b mut PagedCache],
    pub pool: &'a Pool,
}

impl Attention<'_, '_> {
    /// Rotates q and k, stores k and v, attends. q and out: `[rows, n_heads * head_dim]`, k and v: `[rows, n_kv_heads * head_dim]`.
    pub fn forward(&mut self, q: &mut [f32], k: &mut [f32], v: &[f32], out: &mut [f32]) {
        let AttentionShape { n_heads, pages: PageShape { n_kv_heads, .. }, .. } = self.shape;
        let positions = &self.batch.positions;
        self.rope.rotate(q, positions, n_heads, self.pool);
        self.rope.rotate(k, positions, n_kv_heads, self.pool);
        self.attend(q, k, v, out);
    }

    fn attend(&mut self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let AttentionShape { n_heads, pages: PageShape { n_kv_heads, head_dim, .. }, .. } = self.shape;
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let layer = self.layer;
        let mut writes: Vec<KvWrite> = Vec::with_capacity(self.batch.sequences.len());
        let mut row = 0;
        // The caches stand in the order of the sequences, so that each is lent once.
        let mut caches = self.caches.iter_mut().enumerate();
        for rows in &self.batch.sequences {
            let kv = row * kv_width..(row + rows.len) * kv_width;
            let (_, cache) = caches.find(|(at, _)| *at == rows.cache).expect("caches in the order of their sequences");
            writes.extend(cache.writes(layer, rows.first, &k[kv.clone()], &v[kv], kv_width));
            row += rows.len;
        }
        write_kv(&self.shape.pages, &mut writes, self.pool);
        drop(writes);
        let pages: Vec<(usize, Vec<&KvPage>)> =
            self.batch.sequences.iter().map(|rows| self.caches[rows.cache].pages(layer)).collect();
        let (mut q, mut out) = (q, out);
        let mut jobs = Vec::with_capacity(pages.len());
        for (rows, (first_page, pages)) in self.batch.sequences.iter().zip(&pages) {
            let (q_rows, q_rest) = q.split_at(rows.len * q_width);
            let (out_rows, out_rest) = out.split_at_mut(rows.len * q_width);
            (q, out) = (q_rest, out_rest);
            jobs.push(AttentionJob { q: q_rows, out: out_rows, first_pos: rows.first, pages, first_page: *first_page });
        }
        attention(&self.shape, &mut jobs, self.pool);
    }
}
