//! The interface between GPU kernels and their callers: memory, launches, graphs, errors.
//!
//! Kernels are CUDA C++ in `kernels/cuda`, written once. A [`Driver`] runs them: `cuda` on a GPU, `emulated` on this computer, where
//! the same sources are compiled by an ordinary C++ compiler. A [`Gpu`] is a driver with owned memory, graphs and staging; the
//! faces (`rows`, …) check shapes, work out the grid and launch. Work executes in submission order, on one stream.

use std::fmt;
use std::sync::Arc;

mod memory;
#[macro_use]
mod parameters;

pub mod rows;
pub mod linear;
pub mod attention;
pub mod sampler;

pub mod reference;

#[cfg(any(test, feature = "emulated"))]
pub mod emulated;

#[cfg(feature = "cuda")]
pub mod cuda;

#[cfg(test)]
mod tests;

pub use memory::{Memory, Span, Staging};
pub use parameters::{Parameters, Plain};

/// Where something lies in the memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// Nowhere: what an optional input of a kernel is when it is not given.
    pub const NONE: Address = Address(0);

    /// So many bytes further on.
    pub fn plus(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// The two-byte number that weights, keys, values and activations between kernels are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Bf16,
    F16,
}

impl Element {
    /// Of two kernels that differ in their element alone.
    pub fn of(self, bf16: &'static str, f16: &'static str) -> &'static str {
        match self {
            Element::Bf16 => bf16,
            Element::F16 => f16,
        }
    }
}

/// A kernel and all it is started with.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// Dynamic shared memory.
    pub shared_bytes: u32,
    /// The parameter block, see [`parameters!`].
    pub parameters: &'a [u8],
}

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuError {
    /// There is no room; nothing was changed.
    OutOfMemory { asked: usize, free: usize },
    /// No such device, no driver, a driver that is too old: nothing can run.
    Unavailable { what: String, hint: String },
    /// A call failed, or a kernel did; what ran since is lost.
    Failed { what: String },
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: &usize| *bytes as f64 / (1u64 << 30) as f64;
        match self {
            GpuError::OutOfMemory { asked, free } => {
                write!(f, "the device has no room for {:.3} GiB: {:.3} GiB are free", gib(asked), gib(free))
            }
            GpuError::Unavailable { what, hint } => write!(f, "{what}\nhint: {hint}"),
            GpuError::Failed { what } => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for GpuError {}

pub type Result<T> = std::result::Result<T, GpuError>;

/// What a device can do. All of it happens in the order of the calls; only [`read`](Driver::read), [`write`](Driver::write),
/// [`synchronize`](Driver::synchronize) and [`wait`](Driver::wait) make the caller wait. Identifiers are the driver's own; [`Gpu`]
/// owns them.
pub trait Driver: Send + Sync {
    /// What the device calls itself.
    fn name(&self) -> String;
    fn multiprocessors(&self) -> usize;
    /// Free bytes and all bytes.
    fn memory(&self) -> Result<(usize, usize)>;

    /// Zero-filled, aligned to 16 at least.
    fn alloc(&self, bytes: usize) -> Result<Address>;
    fn free(&self, address: Address);
    fn write(&self, to: Address, bytes: &[u8]) -> Result<()>;
    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()>;
    /// From one place of the device to another that does not overlap it.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()>;
    fn zero(&self, at: Address, bytes: usize) -> Result<()>;

    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Host memory that the device copies from and to by itself.
    fn host_alloc(&self, bytes: usize) -> Result<*mut u8>;
    fn host_free(&self, at: *mut u8);
    /// # Safety
    /// The host memory holds `bytes`, and it is neither written nor freed until the copy is done.
    unsafe fn write_later(&self, to: Address, from: *const u8, bytes: usize) -> Result<()>;
    /// # Safety
    /// The host memory holds `bytes`, and it is neither accessed nor freed until the copy is done.
    unsafe fn read_later(&self, from: Address, to: *mut u8, bytes: usize) -> Result<()>;

    /// A point in the order of the work, to wait for and to measure between.
    fn mark(&self) -> Result<u64>;
    fn wait(&self, mark: u64) -> Result<()>;
    fn milliseconds(&self, from: u64, to: u64) -> Result<f32>;
    fn forget_mark(&self, mark: u64);
    fn synchronize(&self) -> Result<()>;

    /// What is launched, copied or zeroed from now on is recorded, not done.
    fn begin_capture(&self) -> Result<()>;
    fn end_capture(&self) -> Result<u64>;
    fn replay(&self, graph: u64) -> Result<()>;
    fn forget_graph(&self, graph: u64);
}

/// A device, shared by all its users.
#[derive(Clone)]
pub struct Gpu(Arc<dyn Driver>);

impl Gpu {
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Gpu(driver)
    }

    pub fn driver(&self) -> &dyn Driver {
        &*self.0
    }

    /// Zero-filled memory of its own.
    pub fn alloc(&self, bytes: usize) -> Result<Memory> {
        Memory::new(self, bytes)
    }

    /// Memory that holds these numbers.
    pub fn upload<T: Plain>(&self, numbers: &[T]) -> Result<Memory> {
        let memory = self.alloc(size_of_val(numbers))?;
        memory.all().write(numbers)?;
        Ok(memory)
    }

    /// Host memory for asynchronous copies.
    pub fn staging(&self, bytes: usize) -> Result<Staging> {
        Staging::new(self, bytes)
    }

    pub fn launch<P: Parameters>(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        parameters: &P,
    ) -> Result<()> {
        let whole = |n: usize| u32::try_from(n).expect("a grid fits 32 bits");
        self.0.launch(&Launch {
            kernel,
            grid: grid.map(whole),
            threads: whole(threads),
            shared_bytes: whole(shared_bytes),
            parameters: parameters.bytes(),
        })
    }

    /// Records what `step` launches, to be done by one call as often as wanted. Nothing may be allocated, read, written or waited
    /// for in it; the addresses are those of now.
    pub fn capture(&self, step: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.0.begin_capture()?;
        let outcome = step();
        let id = self.0.end_capture();
        let graph = id.map(|id| Graph { id, gpu: self.clone() });
        outcome?; // why it failed, rather than that it cannot be ended; what was recorded is dropped
        graph
    }

    pub fn mark(&self) -> Result<Mark> {
        Ok(Mark { id: self.0.mark()?, gpu: self.clone() })
    }

    pub fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.0.name())
    }
}

/// Recorded work.
pub struct Graph {
    id: u64,
    gpu: Gpu,
}

impl Graph {
    pub fn replay(&self) -> Result<()> {
        self.gpu.0.replay(self.id)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.0.forget_graph(self.id);
    }
}

/// A point in the order of the work.
pub struct Mark {
    id: u64,
    gpu: Gpu,
}

impl Mark {
    /// Returns when all work before it is done.
    pub fn wait(&self) -> Result<()> {
        self.gpu.0.wait(self.id)
    }

    /// What the device did between an earlier mark and this one took so long.
    pub fn milliseconds_since(&self, earlier: &Mark) -> Result<f32> {
        self.gpu.0.milliseconds(earlier.id, self.id)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.gpu.0.forget_mark(self.id);
    }
}
