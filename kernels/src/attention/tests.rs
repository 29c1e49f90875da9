//! What attention promises: close to f64, and the same bits however a sequence is cut into calls.

use half::bf16;

use super::*;
use crate::reference;
use crate::testing::{Numbers, bits};

/// A sequence's keys and values by position, and the pages made from them.
struct Cache {
    shape: AttentionShape,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Cache {
    fn new(shape: AttentionShape, positions: usize, numbers: &mut Numbers) -> Self {
        let width = shape.pages.n_kv_heads * shape.pages.head_dim;
        Cache { shape, k: numbers.normal(positions * width), v: numbers.normal(positions * width) }
    }

    /// Pages with positions `..end`, written `at_once` at a time; what is beyond is garbage that nothing may let through.
    fn pages(&self, isa: Isa, end: usize, at_once: usize, pool: &Pool) -> Vec<KvPage> {
        let shape = &self.shape.pages;
        let (len, width) = (shape.page_len, shape.n_kv_heads * shape.head_dim);
        let mut all = KvPages::new(*shape);
        let mut pages: Vec<KvPage> = (0..end.div_ceil(len)).map(|_| all.take()).collect();
        pages.iter_mut().for_each(|page| page.fill(0x7fc0_7fc1));
        let parts = (0..len).step_by(at_once).map(|slot| slot..len.min(slot + at_once));
        for slots in parts {
            let mut writes: Vec<KvWrite> = pages
                .iter_mut()
                .enumerate()
                .map(|(number, page)| {
                    let last = end.min(number * len + slots.end);
                    let rows = last.min(number * len + slots.start) * width..last * width;
                    KvWrite { page, slot: slots.start, k: &self.k[rows.clone()], v: &self.v[rows] }
                })
                .collect();
            page::write_kv_on(isa, shape, &mut writes, pool);
        }
        pages
    }

    /// Attention of the rows `q` from `first_pos` on, with pages that end with the last row and start, when there is
    /// a window, where the first row's window does.
    fn attend(&self, isa: Isa, q: &[f32], first_pos: usize, pool: &Pool) -> Vec<f32> {
        let shape = &self.shape;
        let tokens = q.len() / (shape.n_heads * shape.pages.head_dim);
        let pages = self.pages(isa, first_pos + tokens, shape.pages.page_len, pool);
        let first_page = shape.first_seen(first_pos) / shape.pages.page_len;
        let pages: Vec<&KvPage> = pages[first_page..].iter().collect();
        let mut out = vec![f32::NAN; q.len()];
        let job = AttentionJob { q, out: &mut out, first_pos, pages: &pages, first_page };
        attention_on(isa, shape, &mut [job], pool);
        out
    }

    fn reference(&self, q: &[f32], first_pos: usize) -> Vec<f64> {
        let shape = &self.shape;
        let PageShape { n_kv_heads, head_dim: dim, kv, .. } = shape.pages;
        let width = n_kv_heads * dim;
        let mut out = Vec::new();
        for (i, q) in q.chunks_exact(dim).enumerate() {
            let (position, head) = (first_pos + i / shape.n_heads, i % shape.n_heads);
            let kv_head = head / (shape.n_heads / n_kv_heads);
            let seen = shape.first_seen(position) * width..(position + 1) * width;
            let gather = |rows: &[f32]| -> Vec<f32> {
                let rows = rows[seen.clone()].chunks_exact(width);
                let own = rows.flat_map(|row| row[kv_head * dim..(kv_head + 1) * dim].to_vec());
                own.map(|x| if kv == KvType::Bf16 { bf16::from_f32(x).to_f32() } else { x }).collect()
            };
            out.extend(reference::attend(q, &gather(&self.k), &gather(&self.v), shape.scale));
        }
        out
    }
}

fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize, page_len: usize, window: Option<usize>) -> AttentionShape {
    let pages = PageShape { n_kv_heads, head_dim, page_len, kv: KvType::F32 };
    AttentionShape { n_heads, pages, scale: 1.0 / (head_dim as f32).sqrt(), window }
}

/// Every shape with both types of keys and values.
fn shapes() -> Vec<AttentionShape> {
    let shapes = [
        shape(2, 2, 64, 16, None),
        shape(4, 1, 32, 64, None),
        shape(6, 2, 96, 32, Some(50)),
        shape(2, 1, 128, 16, Some(1)),
        shape(3, 3, 8, 48, Some(64)),
        shape(8, 2, 40, 112, None),
        shape(7, 1, 24, 16, Some(130)),
        shape(1, 1, 256, 128, Some(65)),
        shape(60, 1, 16, 16, None),
        shape(7, 7, 32, 32, Some(33)),
    ];
    let narrow = shapes.map(|shape| narrow(&shape));
    [shapes, narrow].concat()
}

/// The same with keys and values in bf16.
fn narrow(shape: &AttentionShape) -> AttentionShape {
    AttentionShape { pages: PageShape { kv: KvType::Bf16, ..shape.pages }, ..*shape }
}

#[test]
fn close_to_f64() {
    let pool = Pool::new(2);
    let mut numbers = Numbers::new(1);
    for shape in shapes() {
        let cache = Cache::new(shape, 200, &mut numbers);
        let q = numbers.normal(200 * shape.n_heads * shape.pages.head_dim);
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
        let width = shape.n_heads * shape.pages.head_dim;
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
    for shape in [shape, narrow(&shape)] {
        let width = shape.n_heads * shape.pages.head_dim;
        // (first position, tokens) of sequences that decode and prefill together; one has nothing to do.
        let parts = [(0, 30), (99, 1), (50, 0), (63, 2), (10, 90)];
        let caches = parts.map(|_| Cache::new(shape, 110, &mut numbers));
        let qs = parts.map(|(_, tokens)| numbers.normal(tokens * width));
        let alone: Vec<_> =
            (0..parts.len()).map(|i| caches[i].attend(Isa::active(), &qs[i], parts[i].0, &pool)).collect();

        let pages = caches.each_ref().map(|cache| cache.pages(Isa::active(), 110, 16, &pool));
        let pages: Vec<Vec<&KvPage>> = pages.iter().map(|pages| pages.iter().collect()).collect();
        let mut outs: Vec<Vec<f32>> = qs.iter().map(|q| vec![f32::NAN; q.len()]).collect();
        let mut jobs: Vec<AttentionJob> = outs
            .iter_mut()
            .enumerate()
            .map(|(i, out)| AttentionJob { q: &qs[i], out, first_pos: parts[i].0, pages: &pages[i], first_page: 0 })
            .collect();
        attention(&shape, &mut jobs, &pool);
        drop(jobs);
        for (out, alone) in outs.iter().zip(&alone) {
            assert_eq!(bits(out), bits(alone));
        }
    }
}

#[test]
fn a_page_holds_the_same_whatever_was_written_at_once() {
    let pools = [1, 2, 5].map(Pool::new);
    let mut numbers = Numbers::new(5);
    for shape in shapes() {
        let cache = Cache::new(shape, 70, &mut numbers);
        let whole = cache.pages(Isa::Portable, 70, shape.pages.page_len, &pools[0]);
        for isa in Isa::available() {
            for (pool, at_once) in pools.iter().zip([1, 7, 16]) {
                let pages = cache.pages(isa, 70, at_once, pool);
                let same = pages.iter().zip(&whole).all(|(page, whole)| page.words() == whole.words());
                assert!(same, "{shape:?} {isa:?}, {at_once} at once");
            }
        }
    }
}

#[test]
fn numbers_are_rounded_to_the_nearest_bf16() {
    // Both sides of a tie, ties to even, the largest that stay finite, the smallest, what must stay what it is.
    let bits = [
        0x3f80_7fff,
        0x3f80_8000,
        0x3f80_8001,
        0x3f81_8000,
        0xbf81_8000,
        0x7f7f_7fff,
        0x7f7f_ffff,
        0x0000_8001,
        0x0000_0001,
        0x8000_0000,
        0x7f80_0000,
        0x7f80_0001,
        0x7fff_ffff,
        0xffff_ffff,
        0x4049_0fdb,
        0x0001_8000,
    ];
    let shape = PageShape { n_kv_heads: 1, head_dim: 16, page_len: 16, kv: KvType::Bf16 };
    let k = bits.map(f32::from_bits);
    for isa in Isa::available() {
        let mut page = KvPages::new(shape).take();
        let mut writes = [KvWrite { page: &mut page, slot: 5, k: &k, v: &k }];
        page::write_kv_on(isa, &shape, &mut writes, &Pool::new(1));
        for (i, x) in k.iter().enumerate() {
            let expected = u32::from(bf16::from_f32(*x).to_bits());
            let key = page.words()[i / 2 * 16 + 5] >> (16 * (i % 2)) & 0xffff;
            let value = page.words()[shape.values_at() + 2 * 16 + i] >> 16;
            assert_eq!((key, value), (expected, expected), "{isa:?}: {:#010x}", bits[i]);
        }
        assert_eq!(page.words()[5], 0x3f80_3f80);
        assert!(f32::from_bits(page.words()[5 + 6 * 16] & 0xffff_0000).is_nan());
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
    let mut pages = KvPages::new(shape.pages);
    let (first, second) = (pages.take(), pages.take());
    let (q, mut out) = ([0.0; 8], [0.0; 8]);
    let job = AttentionJob { q: &q, out: &mut out, first_pos: 32, pages: &[&first, &second], first_page: 0 };
    attention(&shape, &mut [job], &Pool::new(1));
}
