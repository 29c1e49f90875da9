//! Memory of a device that frees itself, parts of it, and host memory that the device copies from and to by itself.

use std::marker::PhantomData;

use super::{Address, Gpu, Mark, Plain, Result};

/// Memory of a device; freed when dropped.
pub struct Memory {
    address: Address,
    bytes: usize,
    gpu: Gpu,
}

impl Memory {
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        // An empty allocation is one of a byte, so that it has an address.
        let address = gpu.driver().alloc(bytes.max(1))?;
        Ok(Memory { address, bytes, gpu: gpu.clone() })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn address(&self) -> Address {
        self.address
    }

    pub fn all(&self) -> Span<'_> {
        Span { address: self.address, bytes: self.bytes, gpu: &self.gpu, of: PhantomData }
    }

    /// `count` numbers after the first `skip`.
    ///
    /// # Panics
    /// When they are not all inside.
    pub fn part<T: Plain>(&self, skip: usize, count: usize) -> Span<'_> {
        self.all().part::<T>(skip, count)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.gpu.driver().free(self.address);
    }
}

/// A part of a [`Memory`]. It is an address, not a borrow: kernels in order may both write to it.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    address: Address,
    bytes: usize,
    gpu: &'a Gpu,
    of: PhantomData<&'a Memory>,
}

impl<'a> Span<'a> {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// # Panics
    /// When they are not all inside.
    pub fn part<T: Plain>(&self, skip: usize, count: usize) -> Span<'a> {
        let (skip, bytes) = (skip * size_of::<T>(), count * size_of::<T>());
        assert!(skip + bytes <= self.bytes, "{bytes} bytes after {skip} of {}", self.bytes);
        Span { address: self.address.plus(skip), bytes, ..*self }
    }

    /// The address, for a kernel that touches `count` numbers from here on.
    ///
    /// # Panics
    /// When there are fewer, or the address is not a multiple of 16, which kernels read at once.
    pub fn of<T: Plain>(&self, count: usize, what: &str) -> Address {
        let needed = count * size_of::<T>();
        assert!(needed <= self.bytes, "{what}: {} bytes are there, {needed} are needed", self.bytes);
        assert!(self.address.0.is_multiple_of(16), "{what} begins at {:#x}, no multiple of 16", self.address.0);
        self.address
    }

    /// As [`of`](Self::of), for a kernel that reads one number at a time.
    ///
    /// # Panics
    /// When there are fewer, or the address is not that of a number.
    pub fn of_any<T: Plain>(&self, count: usize, what: &str) -> Address {
        let needed = count * size_of::<T>();
        assert!(needed <= self.bytes, "{what}: {} bytes are there, {needed} are needed", self.bytes);
        assert!(self.address.0.is_multiple_of(size_of::<T>() as u64), "{what} begins at {:#x}", self.address.0);
        self.address
    }

    /// # Panics
    /// When there is no room for them.
    pub fn write<T: Plain>(&self, numbers: &[T]) -> Result<()> {
        let bytes = T::bytes_of(numbers);
        assert!(bytes.len() <= self.bytes, "{} bytes into {}", bytes.len(), self.bytes);
        self.gpu.driver().write(self.address, bytes)
    }

    /// # Panics
    /// When there are not so many.
    pub fn read<T: Plain>(&self, count: usize) -> Result<Vec<T>> {
        let mut numbers = vec![T::zero(); count];
        let bytes = T::bytes_of_mut(&mut numbers);
        assert!(bytes.len() <= self.bytes, "{} bytes out of {}", bytes.len(), self.bytes);
        self.gpu.driver().read(self.address, bytes)?;
        Ok(numbers)
    }

    pub fn zero(&self) -> Result<()> {
        self.gpu.driver().zero(self.address, self.bytes)
    }

    /// Copies all of it to `to`, which is as long and elsewhere.
    ///
    /// # Panics
    /// When the lengths differ, or the two overlap.
    pub fn copy_to(&self, to: Span) -> Result<()> {
        assert_eq!(self.bytes, to.bytes, "source and destination of a copy differ in length");
        let apart = self.address.plus(self.bytes) <= to.address || to.address.plus(to.bytes) <= self.address;
        assert!(apart || self.bytes == 0, "a copy lies elsewhere");
        self.gpu.driver().copy(self.address, to.address, self.bytes)
    }
}

/// Host memory for asynchronous copies: fill it, [`send`](Self::send) it, and go on; or
/// [`fetch`](Self::fetch), go on, and [`wait`](Self::wait) when the numbers are needed.
pub struct Staging {
    memory: *mut u8,
    bytes: usize,
    /// Reached when the copy under way is done.
    done: Option<Mark>,
    gpu: Gpu,
}

// SAFETY: the memory belongs to this value alone, and the device accesses it only while `done` is set, when no host code does.
unsafe impl Send for Staging {}

impl Staging {
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        let memory = gpu.driver().host_alloc(bytes.max(1))?;
        Ok(Staging { memory, bytes, done: None, gpu: gpu.clone() })
    }

    /// Returns when the copy under way is done.
    pub fn wait(&mut self) -> Result<()> {
        self.done.take().map_or(Ok(()), |done| done.wait())
    }

    /// Waits, and shows what was fetched or last put here.
    ///
    /// # Panics
    /// When there are not so many numbers.
    pub fn numbers<T: Plain>(&mut self, count: usize) -> Result<&mut [T]> {
        self.wait()?;
        assert!(count * size_of::<T>() <= self.bytes, "{count} numbers in {} bytes", self.bytes);
        // SAFETY: the memory is aligned to 16 at least and holds this many; it was zeroed when it was made, all bits are numbers,
        // nothing is under way, and it is borrowed as long as the slice.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.memory.cast(), count) })
    }

    /// Copies the first bytes of this to all of `to`, after all work submitted so far.
    ///
    /// # Panics
    /// When `to` is longer than this.
    pub fn send(&mut self, to: Span) -> Result<()> {
        self.wait()?;
        assert!(to.bytes <= self.bytes, "{} bytes from {}", to.bytes, self.bytes);
        // SAFETY: the memory lives until the copy is done, and until then no host code can reach it: see `done`.
        unsafe { self.gpu.driver().write_later(to.address, self.memory, to.bytes)? };
        self.under_way()
    }

    /// Copies all of `from` here, after all work submitted so far.
    ///
    /// # Panics
    /// When `from` is longer than this.
    pub fn fetch(&mut self, from: Span) -> Result<()> {
        self.wait()?;
        assert!(from.bytes <= self.bytes, "{} bytes into {}", from.bytes, self.bytes);
        // SAFETY: as in `send`.
        unsafe { self.gpu.driver().read_later(from.address, self.memory, from.bytes)? };
        self.under_way()
    }

    fn under_way(&mut self) -> Result<()> {
        match self.gpu.mark() {
            Ok(mark) => self.done = Some(mark),
            // Without a mark only waiting for everything is safe.
            Err(error) => return self.gpu.synchronize().and(Err(error)),
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A device that cannot tell when it is done keeps the memory.
        if self.wait().is_ok() {
            self.gpu.driver().host_free(self.memory);
        }
    }
}
