//! Kernels that work along a row: RMS norm, gated activation, dot product.
//!
//! - RMS norm (Zhang and Sennrich 2019): out = x / sqrt(mean(x^2) + eps) * weight.
//! - SwiGLU (Shazeer 2020): gate = silu(gate) * up, silu(g) = g / (1 + e^-g).
//!
//! Sums run along fixed lanes (element i in chain i mod 64) and end in a fixed tree.

use std::ops::Range;

use crate::isa::Isa;
use crate::lanes::{self, Kernel, LANES, Lanes};
use crate::pool::{Pool, Shares};

/// Elements below which a task is not worth another thread.
const TASK_ELEMENTS: usize = 8192;

/// RMS norm of each row of `d` elements, `d` being the weight's length: `out = x / sqrt(mean(x^2) + eps) * weight`.
///
/// `x` and `out` are `[rows, d]`. For a norm over each head, `d` is the head's size and a row is one head of one token.
///
/// # Panics
/// When `out` is not as long as `x`, or `x` no whole number of rows.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], pool: &Pool) {
    rms_norm_on::<false>(Isa::active(), x, weight, eps, out, pool);
}

/// Adds the RMS norm of `x` to `sum`.
///
/// # Panics
/// As [`rms_norm`].
pub fn add_rms_norm(x: &[f32], weight: &[f32], eps: f32, sum: &mut [f32], pool: &Pool) {
    rms_norm_on::<true>(Isa::active(), x, weight, eps, sum, pool);
}

pub(crate) fn rms_norm_on<const ADD: bool>(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
    pool: &Pool,
) {
    assert_eq!(out.len(), x.len(), "out has the shape of x");
    if x.is_empty() {
        return;
    }
    let d = weight.len();
    assert!(d > 0 && x.len().is_multiple_of(d), "x is [rows, d], d = {d}, but has {}", x.len());
    by_tasks(TASK_ELEMENTS.div_ceil(d) * d, out, pool, |range, out| {
        let work = RmsNorm::<ADD> { x: &x[range], weight, eps, out };
        // SAFETY: the kernel holds slices.
        unsafe { isa.run(work) }
    });
}

/// Calls `task` with each `len` elements of `out`, and which they are.
fn by_tasks(len: usize, out: &mut [f32], pool: &Pool, task: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    let whole = out.len();
    let out = Shares::new(out);
    pool.run(whole.div_ceil(len), |index| {
        let range = index * len..whole.min((index + 1) * len);
        // SAFETY: each task has a range of its own.
        let out = unsafe { out.range(range.start, range.len()) };
        task(range, out);
    });
}

struct RmsNorm<'a, const ADD: bool> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl<const ADD: bool> Kernel for RmsNorm<'_, ADD> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let d = self.weight.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            // SAFETY: all offsets are under d.
            unsafe {
                let square = lanes::dot::<V>(x.as_ptr(), x.as_ptr(), d);
                let scale = V::splat(1.0 / (square / d as f32 + self.eps).sqrt());
                let mut i = 0;
                while i + LANES <= d {
                    let normal = V::load(x.as_ptr().add(i)).mul(scale);
                    let mut value = normal.mul(V::load(self.weight.as_ptr().add(i)));
                    let to = out.as_mut_ptr().add(i);
                    if ADD {
                        value = V::load(to).add(value);
                    }
                    value.store(to);
                    i += LANES;
                }
                if i < d {
                    let normal = V::load_first(x.as_ptr().add(i), d - i).mul(scale);
                    let mut value = normal.mul(V::load_first(self.weight.as_ptr().add(i), d - i));
                    let to = out.as_mut_ptr().add(i);
                    if ADD {
                        value = V::load_first(to, d - i).add(value);
                    }
                    value.store_first(to, d - i);
                }
            }
        }
    }
}

/// Adds `x` to `sum`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn add(x: &[f32], sum: &mut [f32], pool: &Pool) {
    assert_eq!(x.len(), sum.len(), "the sum has the shape of x");
    by_tasks(TASK_ELEMENTS, sum, pool, |range, sum| {
        for (sum, x) in sum.iter_mut().zip(&x[range]) {
            *sum += x;
        }
    });
}

/// The gated activation `gate = silu(gate) * up`, element by element and in place.
///
/// # Panics
/// When the lengths differ.
pub fn swiglu(gate: &mut [f32], up: &[f32], pool: &Pool) {
    swiglu_on(Isa::active(), gate, up, pool);
}

pub(crate) fn swiglu_on(isa: Isa, gate: &mut [f32], up: &[f32], pool: &Pool) {
    assert_eq!(gate.len(), up.len(), "gate and up have the same shape");
    by_tasks(TASK_ELEMENTS, gate, pool, |range, gate| {
        let work = SwiGlu { gate, up: &up[range] };
        // SAFETY: the kernel holds slices.
        unsafe { isa.run(work) }
    });
}

struct SwiGlu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SwiGlu<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let len = self.gate.len();
        // SAFETY: all offsets are under len.
        unsafe {
            let mut i = 0;
            while i < len {
                let count = LANES.min(len - i);
                let (gate, up) = (self.gate.as_mut_ptr().add(i), self.up.as_ptr().add(i));
                if count == LANES {
                    silu_times(V::load(gate), V::load(up)).store(gate);
                } else {
                    let up = V::load_first(up, count);
                    silu_times(V::load_first(gate, count), up).store_first(gate, count);
                }
                i += LANES;
            }
        }
    }
}

/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn silu_times<V: Lanes>(gate: V, up: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let e = lanes::exp(V::splat(0.0).sub(gate));
        gate.div(e.add(V::splat(1.0))).mul(up)
    }
}

/// The dot product of `a` and `b` in f32, in a fixed order: the same bits on every instruction set.
///
/// # Panics
/// When the lengths differ.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_on(Isa::active(), a, b)
}

pub(crate) fn dot_on(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "a dot product takes vectors of the same length");
    // SAFETY: the kernel holds slices of the same length.
    unsafe { isa.run(Dot { a, b }) }
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> f32 {
        // SAFETY: both slices have this length.
        unsafe { lanes::dot::<V>(self.a.as_ptr(), self.b.as_ptr(), self.a.len()) }
    }
}

#[cfg(test)]
mod tests;
