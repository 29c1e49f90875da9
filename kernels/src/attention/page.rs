//! The pages that keys and values are kept in: where each of them lies, and how they are written.
//!
//! A page holds `page_len` positions. Each of its heads is one piece of memory, all keys and then all values, in words of 32 bits. A
//! word is one f32, or two bf16 that follow one another in the sum they are for: elements 2i and 2i + 1 of a key, and one element of the
//! values at two positions, the first in the lower half. With n numbers in a word:
//!
//! ```text
//! keys   [page_len / 16][head_dim / n][16]     sixteen keys are scored at once
//! values [page_len / n][head_dim]              a position's value is added at once
//! ```

use half::bf16;

use crate::isa::Isa;
use crate::lanes::{Kernel, LANES, Lanes};
use crate::memory::{Arena, Block};
use crate::pool::{Pool, Shares};

/// What keys and values are kept as. All sums are f32, whatever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// As they were computed.
    F32,
    /// Rounded to the nearest when they are written, ties to even.
    Bf16,
}

impl KvType {
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        size_of::<u32>() / self.per_word()
    }

    /// Numbers in a word.
    pub(super) fn per_word(self) -> usize {
        match self {
            KvType::F32 => 1,
            KvType::Bf16 => 2,
        }
    }
}

/// What all pages of a cache have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head; a multiple of 8, at most 256.
    pub head_dim: usize,
    /// Positions in a page; a multiple of 16.
    pub page_len: usize,
    pub kv: KvType,
}

impl PageShape {
    /// Bytes of a page, keys and values together.
    pub fn bytes(&self) -> usize {
        self.words() * size_of::<u32>()
    }

    /// Words of a page.
    pub(super) fn words(&self) -> usize {
        self.n_kv_heads * self.head_words()
    }

    /// Words of a head in a page.
    pub(super) fn head_words(&self) -> usize {
        2 * self.values_at()
    }

    /// Words of a head before its values.
    pub(super) fn values_at(&self) -> usize {
        self.page_len * self.head_dim / self.kv.per_word()
    }

    pub(super) fn check(&self) {
        assert!(
            self.head_dim.is_multiple_of(8) && (8..=256).contains(&self.head_dim),
            "head_dim is a multiple of 8 up to 256, not {}",
            self.head_dim
        );
        assert!(
            self.page_len > 0 && self.page_len.is_multiple_of(LANES),
            "a page holds a multiple of {LANES} positions, not {}",
            self.page_len
        );
    }
}

/// Makes pages.
#[derive(Debug)]
pub struct KvPages {
    shape: PageShape,
    memory: Arena,
}

/// Keys and values of `page_len` positions.
#[derive(Debug)]
pub struct KvPage(Block<u32>);

impl KvPages {
    /// # Panics
    /// When the shape is impossible.
    pub fn new(shape: PageShape) -> Self {
        shape.check();
        KvPages { shape, memory: Arena::new() }
    }

    pub fn shape(&self) -> &PageShape {
        &self.shape
    }

    /// A new page.
    pub fn take(&mut self) -> KvPage {
        KvPage(self.memory.take(self.shape.words()))
    }
}

impl KvPage {
    /// Takes over what `other`, a page of the same shape, holds.
    pub fn copy_from(&mut self, other: &KvPage) {
        self.0.copy_from_slice(&other.0);
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn fill(&mut self, word: u32) {
        self.0.fill(word);
    }
}

/// Keys and values to be written to consecutive positions of one page.
#[derive(Debug)]
pub struct KvWrite<'a> {
    pub page: &'a mut KvPage,
    /// The first position's place in the page.
    pub slot: usize,
    /// `[positions, n_kv_heads * head_dim]`.
    pub k: &'a [f32],
    pub v: &'a [f32],
}

/// Does all writes.
///
/// # Panics
/// When a page is not of this shape, or a write does not fit into its page.
pub fn write_kv(shape: &PageShape, writes: &mut [KvWrite], pool: &Pool) {
    write_kv_on(Isa::active(), shape, writes, pool);
}

pub(crate) fn write_kv_on(isa: Isa, shape: &PageShape, writes: &mut [KvWrite], pool: &Pool) {
    let width = shape.n_kv_heads * shape.head_dim;
    for write in writes.iter() {
        assert_eq!(write.page.0.len(), shape.words(), "the page has the shape of the call");
        assert_eq!(write.k.len(), write.v.len(), "as many values as keys");
        assert_eq!(write.k.len() % width, 0, "k is [positions, n_kv_heads * head_dim]");
        assert!(write.slot + write.k.len() / width <= shape.page_len, "the positions are of one page");
    }
    let count = writes.len();
    let writes = Shares::new(writes);
    pool.run(count, |index| {
        // SAFETY: each task has a write of its own.
        let write = unsafe { &mut writes.range(index, 1)[0] };
        // SAFETY: the kernel holds slices.
        unsafe { isa.run(Write { shape, write }) }
    });
}

struct Write<'a, 'b> {
    shape: &'a PageShape,
    write: &'a mut KvWrite<'b>,
}

impl Kernel for Write<'_, '_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let KvWrite { page, slot, k, v } = self.write;
        let (dim, values_at) = (self.shape.head_dim, self.shape.values_at());
        let width = self.shape.n_kv_heads * dim;
        let rows = k.chunks_exact(width).zip(v.chunks_exact(width));
        for (slot, (k, v)) in (*slot..).zip(rows) {
            let heads = page.0.chunks_exact_mut(self.shape.head_words());
            for (head, (k, v)) in heads.zip(k.chunks_exact(dim).zip(v.chunks_exact(dim))) {
                let (keys, values) = head.split_at_mut(values_at);
                match self.shape.kv {
                    KvType::F32 => {
                        let keys = keys[slot / LANES * LANES * dim..].iter_mut().skip(slot % LANES).step_by(LANES);
                        keys.zip(k).for_each(|(to, k)| *to = k.to_bits());
                        let values = &mut values[slot * dim..][..dim];
                        values.iter_mut().zip(v).for_each(|(to, v)| *to = v.to_bits());
                    }
                    KvType::Bf16 => {
                        let keys = keys[slot / LANES * LANES * dim / 2..].iter_mut().skip(slot % LANES).step_by(LANES);
                        let pairs = k.as_chunks::<2>().0;
                        keys.zip(pairs).for_each(|(to, [even, odd])| *to = narrow(*even) | narrow(*odd) << 16);
                        let values = &mut values[slot / 2 * dim..][..dim];
                        let shift = 16 * (slot % 2);
                        let kept = 0xffff_0000 >> shift;
                        values.iter_mut().zip(v).for_each(|(to, v)| *to = *to & kept | narrow(*v) << shift);
                    }
                }
            }
        }
    }
}

/// The bits of `x` as bf16.
#[inline(always)]
fn narrow(x: f32) -> u32 {
    bf16::from_f32(x).to_bits().into()
}
