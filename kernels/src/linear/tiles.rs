//! The tile instructions of AMX, which Rust has no functions for: eight registers of 16 rows of 64 bytes. Sums are in tiles 0 to 3, the
//! others hold x and weights; what they hold lasts from one function here to the next, since no other code uses them.

use std::arch::asm;
use std::arch::x86_64::*;

use super::PANEL;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Inputs of a tile.
pub(super) const STEP: usize = 32;
/// The upper, middle and lower part of x.
pub(super) const PARTS: usize = 3;
/// Bytes of a tile.
const TILE_BYTES: usize = 2 * ROWS * STEP;
/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Clears the sums.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn zero() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack)) }
}

/// Reads the four tiles of sums, one after the other.
///
/// # Safety
/// Tiles are configured; `sums` is valid for them.
#[inline(always)]
pub(super) unsafe fn load(sums: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm0, [{sums} + {row}*1]",
            "tileloadd tmm1, [{sums} + {row}*1 + 1024]",
            "tileloadd tmm2, [{sums} + {row}*1 + 2048]",
            "tileloadd tmm3, [{sums} + {row}*1 + 3072]",
            sums = in(reg) sums, row = in(reg) 4 * ROWS, options(nostack, readonly)
        );
    }
}

/// Writes the four tiles of sums to their `places`, rows `row_len` apart.
///
/// # Safety
/// Tiles are configured; `to` is valid for them.
#[inline(always)]
pub(super) unsafe fn store(to: *mut f32, row_len: usize, places: [usize; 4]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{a} + {row}*1], tmm0",
            "tilestored [{b} + {row}*1], tmm1",
            "tilestored [{c} + {row}*1], tmm2",
            "tilestored [{d} + {row}*1], tmm3",
            a = in(reg) to.add(places[0]), b = in(reg) to.add(places[1]),
            c = in(reg) to.add(places[2]), d = in(reg) to.add(places[3]),
            row = in(reg) 4 * row_len, options(nostack)
        );
    }
}

/// Asks for `lines` cache lines.
#[inline(always)]
pub(super) fn ask<const HINT: i32>(from: *const u8, lines: usize) {
    for line in 0..lines {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<HINT>(from.wrapping_add(LINE * line).cast()) }
    }
}

/// Adds the product of one step, a block of rows times two panels, to the four tiles of sums, for the upper part of x or all three.
///
/// # Safety
/// Tiles are configured; `x` is valid for its parts' tiles, `left` and `right` for sixteen pairs of a panel each.
#[inline(always)]
pub(super) unsafe fn multiply_row<const COUNT: usize>(x: *const f32, left: *const u32, right: *const u32) {
    // SAFETY: the caller's promise. No other code uses the tile registers, so what they hold lasts from one block of
    // assembly to the next.
    unsafe {
        if COUNT == 1 {
            asm!(
                "tileloadd tmm4, [{x} + {x_row}*1]",
                "tileloadd tmm7, [{left} + {w_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tileloadd tmm7, [{left} + {w_row}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1 + 64]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                x = in(reg) x, left = in(reg) left, right = in(reg) right,
                x_row = in(reg) 2 * STEP, w_row = in(reg) 4 * PANEL, options(nostack, readonly)
            );
        } else {
            asm!(
                "tileloadd tmm4, [{x} + {x_row}*1]",
                "tileloadd tmm5, [{x} + {x_row}*1 + 1024]",
                "tileloadd tmm6, [{x} + {x_row}*1 + 2048]",
                "tileloadd tmm7, [{left} + {w_row}*1]",
                "tdpbf16ps tmm0, tmm4, tmm7",
                "tdpbf16ps tmm0, tmm5, tmm7",
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tileloadd tmm7, [{left} + {w_row}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm1, tmm5, tmm7",
                "tdpbf16ps tmm1, tmm6, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm7",
                "tdpbf16ps tmm2, tmm6, tmm7",
                "tileloadd tmm7, [{right} + {w_row}*1 + 64]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tdpbf16ps tmm3, tmm6, tmm7",
                x = in(reg) x, left = in(reg) left, right = in(reg) right,
                x_row = in(reg) 2 * STEP, w_row = in(reg) 4 * PANEL, options(nostack, readonly)
            );
        }
    }
}

/// Adds the product of one step, a block of rows times one panel, or that and the next block if there are `BLOCKS` = 2 of them, to the
/// first two tiles of sums, or all four, for the first `COUNT` parts of x.
///
/// # Safety
/// Tiles are configured; `x` is valid for the parts of these blocks of rows, `w` for sixteen pairs of a panel.
#[inline(always)]
pub(super) unsafe fn multiply_panel<const BLOCKS: usize, const COUNT: usize>(x: *const f32, w: *const u32) {
    // SAFETY: the caller's promise; as above.
    unsafe {
        asm!(
            "tileloadd tmm4, [{w} + {row}*1]",
            "tileloadd tmm5, [{w} + {row}*1 + 64]",
            w = in(reg) w, row = in(reg) 4 * PANEL, options(nostack, readonly)
        );
        for part in 0..COUNT {
            let (x, row) = (x.cast::<u8>().add(part * TILE_BYTES), 2 * STEP);
            asm!(
                "tileloadd tmm6, [{x} + {row}*1]",
                "tdpbf16ps tmm0, tmm6, tmm4",
                "tdpbf16ps tmm1, tmm6, tmm5",
                x = in(reg) x, row = in(reg) row, options(nostack, readonly)
            );
            if BLOCKS == 2 {
                asm!(
                    "tileloadd tmm7, [{x} + {row}*1]",
                    "tdpbf16ps tmm2, tmm7, tmm4",
                    "tdpbf16ps tmm3, tmm7, tmm5",
                    x = in(reg) x.add(PARTS * TILE_BYTES), row = in(reg) row, options(nostack, readonly)
                );
            }
        }
    }
}

/// Sets this thread's tiles, 64 bytes a row: sums (0 to 3) and x (4 to 6) of `rows` rows, weights (7, or 4 and 5 for whole blocks of
/// rows) of sixteen pairs.
///
/// # Safety
/// Tiles are permitted.
pub(super) unsafe fn configure(rows: usize) {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    configuration.row_bytes[..8].fill(64);
    configuration.rows[..8].fill(ROWS as u8);
    configuration.rows[..7].fill(rows as u8);
    // SAFETY: the caller's promise; the configuration is laid out as the instruction reads it.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly)) }
}

/// Leaves the tiles, so that a switch of threads need not save them.
///
/// # Safety
/// Tiles are permitted.
pub(super) unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack)) }
}
