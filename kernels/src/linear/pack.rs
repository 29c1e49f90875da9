//! Packing: weights into panels, once at load; rows of x into blocks, on each call.
//!
//! A panel holds 32 outputs: f32 as `[k][32]`, bf16 as `[k/2][32]` u32 with the odd input in the upper half. Missing
//! inputs and outputs are zero. A block of `r` rows of x is `[k][r]`.

use std::sync::Mutex;

use half::bf16;

use super::PANEL;
use crate::isa::Isa;
use crate::lanes::{Kernel, LANES, Lanes};
use crate::memory::{Arena, Block, Zero};

pub(super) fn pack_f32(w: &[f32], n_out: usize, k_in: usize) -> Block<f32> {
    check(w.len(), n_out, k_in);
    let panel_len = k_in.next_multiple_of(2) * PANEL;
    let mut block = take(n_out.div_ceil(PANEL) * panel_len);
    for (panel, to) in block.chunks_exact_mut(panel_len.max(1)).enumerate() {
        let rows = &w[panel * PANEL * k_in..n_out.min((panel + 1) * PANEL) * k_in];
        let count = rows.len() / k_in;
        // SAFETY: `rows` holds `count` rows of k_in f32.
        let done = unsafe { transpose_tiles(rows.as_ptr().cast(), 4 * k_in, count, k_in, to) };
        for (j, row) in rows.chunks_exact(k_in).enumerate() {
            for k in done..k_in {
                to[k * PANEL + j] = row[k];
            }
        }
    }
    block
}

pub(super) fn pack_bf16(w: &[bf16], n_out: usize, k_in: usize) -> Block<u32> {
    check(w.len(), n_out, k_in);
    let pairs = k_in.div_ceil(2);
    let mut block = take::<u32>(n_out.div_ceil(PANEL) * pairs * PANEL);
    for (panel, to) in block.chunks_exact_mut((pairs * PANEL).max(1)).enumerate() {
        let rows = &w[panel * PANEL * k_in..n_out.min((panel + 1) * PANEL) * k_in];
        // On a little-endian machine a pair in memory is already the u32 we want.
        let done = if cfg!(target_endian = "little") {
            let count = rows.len() / k_in;
            let from = rows.as_ptr().cast();
            // SAFETY: u32 and f32 have the same size and alignment, and every bit pattern is a value of both; `rows`
            // holds `count` rows of k_in bf16.
            unsafe {
                let to = std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len());
                transpose_tiles(from, 2 * k_in, count, k_in / 2, to)
            }
        } else {
            0
        };
        for (j, row) in rows.chunks_exact(k_in).enumerate() {
            for pair in done..pairs {
                let even = u32::from(row[2 * pair].to_bits());
                let odd = row.get(2 * pair + 1).map_or(0, |w| w.to_bits());
                to[pair * PANEL + j] = even | u32::from(odd) << 16;
            }
        }
    }
    block
}

/// Memory for weights. The layers of a model lie side by side.
fn take<T: Zero>(len: usize) -> Block<T> {
    static WEIGHTS: Mutex<Arena> = Mutex::new(Arena::new());
    // Nothing can panic half-way through a change of the arena.
    WEIGHTS.lock().unwrap_or_else(|poison| poison.into_inner()).take(len)
}

fn check(len: usize, n_out: usize, k_in: usize) {
    assert_eq!(len, n_out * k_in, "w is [n_out, k_in] = [{n_out}, {k_in}]");
}

/// Transposes what fills whole 16 x 16 tiles of a panel and returns how many columns that is. A panel that is not full
/// is left to the caller.
///
/// # Safety
/// `rows` is valid for `count` rows, `row_bytes` apart, of `columns` columns of four bytes.
unsafe fn transpose_tiles(rows: *const u8, row_bytes: usize, count: usize, columns: usize, to: &mut [f32]) -> usize {
    let columns = columns / LANES * LANES;
    if count < PANEL || columns == 0 {
        return 0;
    }
    assert!(columns * PANEL <= to.len(), "a panel has room for its rows");
    let to = to.as_mut_ptr();
    let work = TransposePanel { rows, row_bytes, columns, to };
    // SAFETY: 32 rows by the caller's promise, room by the assertion.
    unsafe { Isa::active().run(work) };
    columns
}

/// A panel's 32 rows, `row_bytes` apart, to `to[column][32]`.
struct TransposePanel {
    rows: *const u8,
    row_bytes: usize,
    /// A multiple of 16.
    columns: usize,
    to: *mut f32,
}

impl Kernel for TransposePanel {
    type Out = ();

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        for column in (0..self.columns).step_by(LANES) {
            for j in [0, LANES] {
                // Rows are often a power of two apart and then share a few places of the cache, so each cache line is
                // read once, whole, before the tile is turned.
                let mut tile = [[0.0; LANES]; LANES];
                for (i, tile) in tile.iter_mut().enumerate() {
                    let at = (j + i) * self.row_bytes + 4 * column;
                    // SAFETY: 32 rows of `columns` columns, by the caller's promise; f32 moves keep all bits.
                    unsafe { V::load(self.rows.add(at).cast()).store(tile.as_mut_ptr()) }
                }
                let rows = std::array::from_fn(|i| tile[i].as_ptr());
                // SAFETY: `to` has room for `columns` columns, by the caller's promise.
                unsafe { V::transpose(&rows, self.to.add(column * PANEL + j), PANEL) }
            }
        }
    }
}

/// Packs `rows` rows of `k` inputs to `[k rounded up to even][rows]`.
pub(super) fn pack_rows(x: &[f32], k: usize, rows: usize, to: &mut [f32]) {
    macro_rules! with_constant_count {
        ($($count:literal)*) => {
            match rows {
                1 => to[..k].copy_from_slice(x),
                $($count => interleave::<$count>(x, k, to),)*
                _ => unreachable!("a block has at most 24 rows"),
            }
        };
    }
    with_constant_count!(2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
    to[k * rows..].fill(0.0);
}

fn interleave<const ROWS: usize>(x: &[f32], k: usize, to: &mut [f32]) {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &x[r * k..(r + 1) * k]);
    for (i, to) in to.as_chunks_mut::<ROWS>().0[..k].iter_mut().enumerate() {
        for r in 0..ROWS {
            to[r] = rows[r][i];
        }
    }
}
