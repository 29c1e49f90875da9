//! Rotary positions (Su et al. 2021) in the half-split convention: element i of a head turns with element i + half.
//!
//! (a, b) -> (a cos - b sin, b cos + a sin), each as one product and one fused multiply-add.

use crate::isa::Isa;
use crate::lanes::{Kernel, LANES, Lanes};
use crate::pool::{Pool, Shares};

/// Elements below which a task is not worth another thread.
const TASK_ELEMENTS: usize = 16_384;

/// Turns every head of `x` `[tokens, n_heads * head_dim]` in place to its token's position.
///
/// `positions` is `[tokens]`; `cos` and `sin` are tables `[max_pos, head_dim / 2]`.
///
/// # Panics
/// When `head_dim` is odd, the lengths do not fit, or a position is outside the tables.
pub fn rope(x: &mut [f32], positions: &[u32], n_heads: usize, head_dim: usize, cos: &[f32], sin: &[f32], pool: &Pool) {
    rope_on(Isa::active(), x, positions, n_heads, head_dim, cos, sin, pool);
}

pub(crate) fn rope_on(
    isa: Isa,
    x: &mut [f32],
    positions: &[u32],
    n_heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
    pool: &Pool,
) {
    let width = n_heads * head_dim;
    assert_eq!(head_dim % 2, 0, "a head is turned by halves");
    assert_eq!(x.len(), positions.len() * width, "x is [tokens, n_heads * head_dim]");
    assert_eq!(cos.len(), sin.len(), "cos and sin are tables of the same shape");
    if x.is_empty() {
        return;
    }
    let half = head_dim / 2;
    let max = positions.iter().max().map_or(0, |&p| p as usize);
    assert!((max + 1) * half <= cos.len(), "position {max} is outside the rotary tables");
    let tokens = TASK_ELEMENTS.div_ceil(width);
    let count = positions.len();
    let x = Shares::new(x);
    pool.run(count.div_ceil(tokens), |task| {
        let start = task * tokens;
        let positions = &positions[start..count.min(start + tokens)];
        // SAFETY: each task has tokens of its own.
        let x = unsafe { x.range(start * width, positions.len() * width) };
        let work = Rope { x, positions, n_heads, half, cos, sin };
        // SAFETY: the kernel holds slices whose lengths were checked.
        unsafe { isa.run(work) }
    });
}

struct Rope<'a> {
    x: &'a mut [f32],
    positions: &'a [u32],
    n_heads: usize,
    half: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Rope<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let half = self.half;
        let rows = self.x.chunks_exact_mut(self.n_heads * 2 * half);
        for (row, &position) in rows.zip(self.positions) {
            let table = position as usize * half..(position as usize + 1) * half;
            let (cos, sin) = (self.cos[table.clone()].as_ptr(), self.sin[table].as_ptr());
            for head in row.chunks_exact_mut(2 * half) {
                // SAFETY: all offsets are under half, on slices of half and 2 half.
                unsafe {
                    let low = head.as_mut_ptr();
                    let high = low.add(half);
                    let mut i = 0;
                    while i + LANES <= half {
                        let (cos, sin) = (V::load(cos.add(i)), V::load(sin.add(i)));
                        let (a, b) = (V::load(low.add(i)), V::load(high.add(i)));
                        b.fnma(sin, a.mul(cos)).store(low.add(i));
                        a.fma(sin, b.mul(cos)).store(high.add(i));
                        i += LANES;
                    }
                    if i < half {
                        let n = half - i;
                        let cos = V::load_first(cos.add(i), n);
                        let sin = V::load_first(sin.add(i), n);
                        let a = V::load_first(low.add(i), n);
                        let b = V::load_first(high.add(i), n);
                        b.fnma(sin, a.mul(cos)).store_first(low.add(i), n);
                        a.fma(sin, b.mul(cos)).store_first(high.add(i), n);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
