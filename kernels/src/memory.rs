//! Aligned memory: large blocks for weights, and scratch space that each thread keeps.
//!
//! Must not know: models, engine.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A type for which all bits zero is a value.
///
/// # Safety
/// All bits zero is a valid value of the type.
pub(crate) unsafe trait Zero: Copy {}
// SAFETY: integers and floats.
unsafe impl Zero for f32 {}
// SAFETY: as above.
unsafe impl Zero for u32 {}

/// A zeroed block, aligned to a cache line; from 2 MiB on aligned to huge pages and asking for them, which saves the
/// kernels that stream through weights most of their address translation.
pub(crate) struct Block<T: Zero> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: a block owns its memory like a Vec does.
unsafe impl<T: Zero + Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Zero + Sync> Sync for Block<T> {}

impl<T: Zero> Block<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Block { start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { allocate(layout) }) else { handle_alloc_error(layout) };
        Block { start: start.cast(), len }
    }

    fn layout(len: usize) -> Layout {
        let bytes = len.checked_mul(size_of::<T>()).expect("a block fits in memory");
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        Layout::from_size_align(bytes, align).expect("a block fits in memory")
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: Zero> Drop for Block<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl<T: Zero> Deref for Block<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the block owns `len` initialised elements.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zero> DerefMut for Block<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the block owns `len` initialised elements.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Hands out pieces of one length, cut from blocks large enough for huge pages: what is read from many small places is found faster.
#[derive(Debug)]
pub(crate) struct Slabs {
    len: usize,
    block: Arc<Block<u32>>,
    /// Pieces of the block that were handed out.
    used: usize,
}

/// A piece of memory of its own.
#[derive(Debug)]
pub(crate) struct Slab {
    start: NonNull<u32>,
    len: usize,
    /// What `start` points into.
    _block: Arc<Block<u32>>,
}

// SAFETY: a piece owns its part of the block like a Vec does, and holds the block alive.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

const SLAB_BYTES: usize = 4 * HUGE_PAGE;

impl Slabs {
    /// Pieces of `len` words.
    pub(crate) fn new(len: usize) -> Self {
        Slabs { len, block: Arc::new(Block::zeroed(0)), used: 0 }
    }

    /// The next piece: zeros.
    pub(crate) fn take(&mut self) -> Slab {
        if (self.used + 1) * self.len > self.block.len() {
            let pieces = (SLAB_BYTES / size_of::<u32>() / self.len.max(1)).max(1);
            (self.block, self.used) = (Arc::new(Block::zeroed(pieces * self.len)), 0);
        }
        // SAFETY: the block holds one more piece, by the lines above.
        let start = unsafe { self.block.start.add(self.used * self.len) };
        self.used += 1;
        Slab { start, len: self.len, _block: Arc::clone(&self.block) }
    }
}

impl Deref for Slab {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        // SAFETY: the piece lies in the block, and no other piece overlaps it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above; the block is reached through its pieces alone, and this one is held exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zero> std::fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.bytes())
    }
}

/// # Safety
/// The layout is not empty.
#[cfg(target_os = "linux")]
unsafe fn allocate(layout: Layout) -> *mut u8 {
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(start: *mut std::ffi::c_void, len: usize, advice: i32) -> i32;
    }
    if layout.align() < HUGE_PAGE {
        // SAFETY: the caller's promise.
        return unsafe { alloc_zeroed(layout) };
    }
    // The advice has to come before the first touch, and `alloc_zeroed` touches memory of this alignment.
    // SAFETY: the caller's promise; the advice covers the block alone, and its failure changes nothing but speed.
    unsafe {
        let start = std::alloc::alloc(layout);
        if !start.is_null() {
            madvise(start.cast(), layout.size(), MADV_HUGEPAGE);
            start.write_bytes(0, layout.size());
        }
        start
    }
}

/// # Safety
/// The layout is not empty.
#[cfg(not(target_os = "linux"))]
unsafe fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { alloc_zeroed(layout) }
}

/// Has the C library keep what is freed, up to some tens of MiB a piece, instead of handing it back to the system: the tensors
/// between two layers are as large as those of the layer before, and fresh pages cost a tenth of a prefill. Call it before
/// computing; it holds for the whole process.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const TRIM_THRESHOLD: i32 = -1;
        const MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // SAFETY: the calls change how freed memory is kept, nothing else; where they are refused, all stays as it was.
        unsafe {
            mallopt(MMAP_THRESHOLD, 32 << 20);
            mallopt(TRIM_THRESHOLD, 256 << 20);
        }
    }
}

thread_local! {
    /// Scratch blocks of this thread that are not in use.
    static FREE: RefCell<Vec<Block<f32>>> = const { RefCell::new(Vec::new()) };
}

/// f32 scratch space from the thread's own store, given back when dropped. Its contents are old but initialised.
pub(crate) struct Scratch(Option<Block<f32>>, usize);

impl Scratch {
    pub(crate) fn take(len: usize) -> Self {
        let kept = FREE.with_borrow_mut(|free| {
            let fits = free.iter().position(|block| block.len() >= len);
            fits.map(|i| free.swap_remove(i)).or_else(|| {
                // Grow instead of collecting ever more blocks.
                free.pop();
                None
            })
        });
        Scratch(Some(kept.unwrap_or_else(|| Block::zeroed(len))), len)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let block = self.0.take();
        // While the thread ends its store may be gone; then the block is simply freed.
        let _ = FREE.try_with(|free| free.borrow_mut().extend(block));
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0.as_deref().expect("held until dropped")[..self.1]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0.as_deref_mut().expect("held until dropped")[..self.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_zero() {
        for len in [0, 1, 1000, HUGE_PAGE / 4, HUGE_PAGE] {
            let block = Block::<f32>::zeroed(len);
            assert_eq!((block.len(), block.bytes()), (len, 4 * len));
            assert!(block.iter().all(|&x| x == 0.0));
            let align = if 4 * len >= HUGE_PAGE { HUGE_PAGE } else { 4 };
            assert_eq!(block.as_ptr() as usize % align, 0);
        }
    }

    #[test]
    fn slabs_do_not_overlap_and_outlive_what_they_came_from() {
        for len in [0, 1, 1000, SLAB_BYTES] {
            let mut slabs = Slabs::new(len);
            let mut pieces: Vec<Slab> = (0..5).map(|_| slabs.take()).collect();
            drop(slabs);
            for (i, piece) in pieces.iter_mut().enumerate() {
                assert!(piece.len() == len && piece.iter().all(|&x| x == 0));
                piece.fill(i as u32 + 1);
            }
            for (i, piece) in pieces.iter().enumerate() {
                assert!(piece.iter().all(|&x| x == i as u32 + 1));
            }
        }
    }

    #[test]
    fn scratch_is_reused() {
        let first = Scratch::take(5000).as_ptr();
        let (second, third) = (Scratch::take(100), Scratch::take(100));
        assert_eq!(second.as_ptr(), first);
        assert_ne!(third.as_ptr(), first);
        assert_eq!(second.len(), 100);
    }
}
