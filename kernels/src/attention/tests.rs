//! What attention promises: close to f64, and the same bits however a sequence is cut into calls.
//!
//! Must not know: models, engine.

use super::*;
use crate::reference;
use crate::testing::{Numbers, bits};

/// A sequence's keys and values by position, and the pages made from them.
struct Cache {
    shape: AttentionShape,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

impl Cache {
    fn new(shape: AttentionShape, positions: usize, numbers: &mut Numbers) -> Self {
        let width = shape.n_kv_heads * shape.head_dim;
        let mut rows = || (0..positions).map(|_| numbers.normal(width)).collect();
        Cache { shape, k: rows(), v: rows() }
    }

    /// Pages with positions `..end`; what is beyond is garbage that nothing may let through. `keys`: a position's elements lie a page's
    /// length apart.
    fn pages(rows: &[Vec<f32>], shape: &AttentionShape, end: usize, keys: bool) -> Vec<Vec<f32>> {
        let (len, dim) = (shape.page_len, shape.head_dim);
        let mut pages = vec![vec![f32::NAN; shape.n_kv_heads * len * dim]; end.div_ceil(len)];
        for (position, row) in rows[..end].iter().enumerate() {
            for (head, row) in row.chunks_exact(dim).enumerate() {
                for (i, x) in row.iter().enumerate() {
                    let (slot, page) = (position % len, &mut pages[position / len]);
                    page[if keys { (head * dim + i) * len + slot } else { (head * len + slot) * dim + i }] = *x;
                }
            }
        }
        pages
    }

    /// Attention of the rows `q` from `first_pos` on, with pages that end with the last row and start, when there is
    /// a window, where the first row's window does.
    fn attend(&self, isa: Isa, q: &[f32], first_pos: usize, pool: &Pool) -> Vec<f32> {
        let shape = &self.shape;
        let tokens = q.len() / (shape.n_heads * shape.head_dim);
        let end = first_pos + tokens;
        let (k, v) = (Self::pages(&self.k, shape, end, true), Self::pages(&self.v, shape, end, false));
        let first_page = shape.first_seen(first_pos) / shape.page_len;
        let k: Vec<&[f32]> = k[first_page..].iter().map(|page| &page[..]).collect();
        let v: Vec<&[f32]> = v[first_page..].iter().map(|page| &page[..]).collect();
        let mut out = vec![f32::NAN; q.len()];
        let job = AttentionJob { q, out: &mut out, first_pos, k_pages: &k, v_pages: &v, first_page };
        attention_on(isa, shape, &mut [job], pool);
        out
    }

    fn reference(&self, q: &[f32], first_pos: usize) -> Vec<f64> {
        let shape = &self.shape;
        let dim = shape.head_dim;
        let mut out = Vec::new();
        for (i, q) in q.chunks_exact(dim).enumerate() {
            let (position, head) = (first_pos + i / shape.n_heads, i % shape.n_heads);
            let kv_head = head / (shape.n_heads / shape.n_kv_heads);
            let seen = shape.first_seen(position)..position + 1;
            let gather = |rows: &[Vec<f32>]| -> Vec<f32> {
                let rows = rows[seen.clone()].iter();
                rows.flat_map(|row| row[kv_head * dim..(kv_head + 1) * dim].to_vec()).collect()
            };
            out.extend(reference::attend(q, &gather(&self.k), &gather(&self.v), shape.scale));
        }
        out
    }
}

fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize, page_len: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { n_heads, n_kv_heads, head_dim, page_len, scale: 1.0 / (head_dim as f32).sqrt(), window }
}

fn shapes() -> Vec<AttentionShape> {
    vec![
        shape(2, 2, 64, 16, None),
        shape(4, 1, 32, 64, None),
        shape(6, 2, 96, 32, Some(50)),
        shape(2, 1, 128, 16, Some(1)),
        shape(3, 3, 8, 48, Some(64)),
        shape(8, 2, 40, 112, None),
        shape(7, 1, 24, 16, Some(130)),
        shape(1, 1, 256, 128, Some(65)),
        shape(60, 1, 16, 16, None),
    ]
}

#[test]
fn close_to_f64() {
    let pool = Pool::new(2);
    let mut numbers = Numbers::new(1);
    for shape in shapes() {
        let cache = Cache::new(shape, 200, &mut numbers);
        let q = numbers.normal(200 * shape.n_heads * shape.head_dim);
        let out = cache.attend(Isa::active(), &q, 0, &pool);
        for (&out, exact) in out.iter().zip(cache.reference(&q, 0)) {
            let error = (f64::from(out) - exact).abs();
            assert!(error < 2e-6, "{shape:?}: {error:e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_chunk_on_every_tier_and_any_threads() {
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(2);
    for shape in shapes() {
        let positions = 150;
        let cache = Cache::new(shape, positions, &mut numbers);
        let width = shape.n_heads * shape.head_dim;
        let q = numbers.normal(positions * width);
        let whole = cache.attend(Isa::Portable, &q, 0, &pools[0]);
        for isa in Isa::available() {
            for pool in &pools {
                for chunk in [1, 7, 64, positions] {
                    if chunk == 1 && (isa == Isa::Portable || pool.threads() == 5) {
                        continue;
                    }
                    for (i, q) in q.chunks(chunk * width).enumerate() {
                        let out = cache.attend(isa, q, i * chunk, pool);
                        let expected = &whole[i * chunk * width..][..q.len()];
                        assert!(bits(&out) == bits(expected), "{shape:?} {isa:?} {pool:?} chunk {i} of {chunk}");
                    }
                }
            }
        }
    }
}

#[test]
fn jobs_do_not_see_each_other() {
    let pool = Pool::new(2);
    let mut numbers = Numbers::new(3);
    let shape = shape(4, 2, 32, 16, Some(40));
    let width = shape.n_heads * shape.head_dim;
    // (first position, tokens) of sequences that decode and prefill together; one has nothing to do.
    let parts = [(0, 30), (99, 1), (50, 0), (63, 2), (10, 90)];
    let caches = parts.map(|_| Cache::new(shape, 110, &mut numbers));
    let qs = parts.map(|(_, tokens)| numbers.normal(tokens * width));
    let alone: Vec<_> = (0..parts.len()).map(|i| caches[i].attend(Isa::active(), &qs[i], parts[i].0, &pool)).collect();

    let k: Vec<Vec<Vec<f32>>> = caches.iter().map(|cache| Cache::pages(&cache.k, &shape, 110, true)).collect();
    let v: Vec<Vec<Vec<f32>>> = caches.iter().map(|cache| Cache::pages(&cache.v, &shape, 110, false)).collect();
    let k: Vec<Vec<&[f32]>> = k.iter().map(|p| p.iter().map(|p| &p[..]).collect()).collect();
    let v: Vec<Vec<&[f32]>> = v.iter().map(|p| p.iter().map(|p| &p[..]).collect()).collect();
    let mut outs: Vec<Vec<f32>> = qs.iter().map(|q| vec![f32::NAN; q.len()]).collect();
    let mut jobs: Vec<AttentionJob> = outs
        .iter_mut()
        .enumerate()
        .map(|(i, out)| AttentionJob {
            q: &qs[i],
            out,
            first_pos: parts[i].0,
            k_pages: &k[i],
            v_pages: &v[i],
            first_page: 0,
        })
        .collect();
    attention(&shape, &mut jobs, &pool);
    drop(jobs);
    for (out, alone) in outs.iter().zip(&alone) {
        assert_eq!(bits(out), bits(alone));
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = shape(1, 1, 16, 16, None);
    let mut numbers = Numbers::new(4);
    let cache = Cache::new(shape, 100, &mut numbers);
    let q: Vec<f32> = numbers.normal(100 * 16).iter().map(|q| q * 1000.0).collect();
    let out = cache.attend(Isa::active(), &q, 0, &Pool::new(1));
    for (&out, exact) in out.iter().zip(cache.reference(&q, 0)) {
        assert!((f64::from(out) - exact).abs() < 2e-3 * exact.abs().max(1.0));
    }
}

#[test]
#[should_panic(expected = "the rows see positions 0..33, the pages hold 0..32")]
fn a_missing_page_is_refused() {
    let shape = shape(1, 1, 8, 16, None);
    let page = [0.0; 16 * 8];
    let (q, mut out) = ([0.0; 8], [0.0; 8]);
    let job = AttentionJob {
        q: &q,
        out: &mut out,
        first_pos: 32,
        k_pages: &[&page, &page],
        v_pages: &[&page, &page],
        first_page: 0,
    };
    attention(&shape, &mut [job], &Pool::new(1));
}
