//! Aligned memory: blocks for weights and for keys and values, and scratch space that each thread keeps.

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

/// Memory from the system: zeros, aligned to a cache line. From 2 MiB on it is whole huge pages and asks to be in them, which saves the
/// kernels that stream through it most of their address translation; untouched parts take no memory.
struct Region {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region owns its memory; the blocks control access to it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize) -> Self {
        let bytes = if bytes < HUGE_PAGE { bytes } else { bytes.next_multiple_of(HUGE_PAGE) };
        let layout = Self::layout(bytes);
        // SAFETY: no region is empty.
        let start = unsafe { if bytes < HUGE_PAGE { alloc_zeroed(layout) } else { pages::take(layout) } };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Region { start, bytes }
    }

    fn layout(bytes: usize) -> Layout {
        let align = if bytes < HUGE_PAGE { CACHE_LINE } else { HUGE_PAGE };
        Layout::from_size_align(bytes, align).expect("a region fits in memory")
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let layout = Self::layout(self.bytes);
        // SAFETY: taken in `new` with the same layout.
        unsafe {
            if self.bytes < HUGE_PAGE {
                dealloc(self.start.as_ptr(), layout);
            } else {
                pages::give_back(self.start.as_ptr(), layout);
            }
        }
    }
}

/// A block of memory of its own: zeros, aligned to a cache line.
pub(crate) struct Block<T: Zero> {
    start: NonNull<T>,
    len: usize,
    /// What `start` points into; none for an empty block.
    _region: Option<Arc<Region>>,
}

// SAFETY: a block owns its part of the region like a Vec does, and holds the region.
unsafe impl<T: Zero + Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Zero + Sync> Sync for Block<T> {}

impl<T: Zero> Block<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Block { start: NonNull::dangling(), len, _region: None };
        }
        let region = Arc::new(Region::new(bytes_of::<T>(len)));
        Block { start: region.start.cast(), len, _region: Some(region) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

fn bytes_of<T>(len: usize) -> usize {
    len.checked_mul(size_of::<T>()).expect("a block fits in memory")
}

impl<T: Zero> Deref for Block<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the block owns `len` initialised elements, and no other block overlaps them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zero> DerefMut for Block<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the region is reached through its blocks alone, and this one is held exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zero> std::fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.bytes())
    }
}

/// Cuts blocks from regions that are much larger than they are, so that they are in huge pages too: what is read from many small
/// places is found faster. A region goes back to the system with its last block.
pub(crate) struct Arena {
    region: Option<Arc<Region>>,
    /// Bytes of the region that were handed out.
    used: usize,
}

const REGION_BYTES: usize = 32 * HUGE_PAGE;

impl Arena {
    pub(crate) const fn new() -> Self {
        Arena { region: None, used: 0 }
    }

    /// A block of `len` zeros.
    pub(crate) fn take<T: Zero>(&mut self, len: usize) -> Block<T> {
        let bytes = bytes_of::<T>(len).next_multiple_of(CACHE_LINE);
        if bytes == 0 || bytes > REGION_BYTES / 2 {
            return Block::zeroed(len);
        }
        let region = match self.region.take() {
            Some(region) if self.used + bytes <= region.bytes => region,
            _ => {
                self.used = 0;
                Arc::new(Region::new(REGION_BYTES))
            }
        };
        // SAFETY: the region has so many bytes left, by the lines above.
        let start = unsafe { region.start.add(self.used) }.cast();
        self.used += bytes;
        self.region = Some(Arc::clone(&region));
        Block { start, len, _region: Some(region) }
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} bytes of its region used)", self.used)
    }
}

/// Whole huge pages from the system.
#[cfg(target_os = "linux")]
mod pages {
    use std::alloc::Layout;
    use std::ffi::c_void;

    unsafe extern "C" {
        fn mmap(start: *mut c_void, len: usize, protection: i32, flags: i32, file: i32, offset: i64) -> *mut c_void;
        fn munmap(start: *mut c_void, len: usize) -> i32;
        fn madvise(start: *mut c_void, len: usize, advice: i32) -> i32;
    }

    /// Null where there is no memory.
    ///
    /// # Safety
    /// The layout is not empty.
    pub(super) unsafe fn take(layout: Layout) -> *mut u8 {
        const READ_WRITE: i32 = 1 | 2;
        const PRIVATE_ANONYMOUS: i32 = 0x02 | 0x20;
        const HUGE_PAGES: i32 = 14;
        let (len, align) = (layout.size(), layout.align());
        // SAFETY: new mappings only; what is beside the aligned part is given back at once. The advice's failure changes nothing but speed.
        unsafe {
            let start = mmap(std::ptr::null_mut(), len + align, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0).cast::<u8>();
            if start.addr() == usize::MAX {
                return std::ptr::null_mut();
            }
            let before = start.align_offset(align);
            if before > 0 {
                munmap(start.cast(), before);
            }
            munmap(start.add(before + len).cast(), align - before);
            let start = start.add(before);
            madvise(start.cast(), len, HUGE_PAGES);
            start
        }
    }

    /// # Safety
    /// `start` is from `take` with the same layout.
    pub(super) unsafe fn give_back(start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe {
            munmap(start.cast(), layout.size());
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod pages {
    use std::alloc::Layout;

    /// # Safety
    /// The layout is not empty.
    pub(super) unsafe fn take(layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { std::alloc::alloc_zeroed(layout) }
    }

    /// # Safety
    /// `start` is from `take` with the same layout.
    pub(super) unsafe fn give_back(start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { std::alloc::dealloc(start, layout) }
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
    fn an_arenas_blocks_do_not_overlap_and_outlive_it() {
        for len in [0, 1, 1000, REGION_BYTES / 16, REGION_BYTES] {
            let mut arena = Arena::new();
            let mut blocks: Vec<Block<u32>> = (0..5).map(|_| arena.take(len)).collect();
            drop(arena);
            for (i, block) in blocks.iter_mut().enumerate() {
                assert!(block.len() == len && block.iter().all(|&x| x == 0));
                assert_eq!(block.as_ptr() as usize % if len > 0 { CACHE_LINE } else { 4 }, 0);
                block.fill(i as u32 + 1);
            }
            for (i, block) in blocks.iter().enumerate() {
                assert!(block.iter().all(|&x| x == i as u32 + 1));
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
