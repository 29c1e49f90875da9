//! The driver without a GPU: the kernels of `kernels/cuda`, compiled by this computer's C++ compiler, on the emulated device of
//! `kernels/cuda/emulated`. For tests: slow, exact, and strict about what a GPU would let pass (memory between allocations,
//! alignment, uninitialised shared memory, threads that miss a barrier).

pub(super) mod library;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use self::library::{Library, library};
use super::{Address, Driver, Gpu, GpuError, Launch, Result};

/// Written before and behind each allocation, and looked at when it is freed.
const ZONE: u8 = 0xa5;
const ZONE_BYTES: usize = 256;

/// In which order the threads of a block take their turns. A kernel whose result depends on it has a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    InOrder,
    Backwards,
    /// One permutation for each number.
    Shuffled(u32),
}

/// An emulated device.
pub struct Emulated {
    library: &'static Library,
    total: usize,
    turns: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Address -> bytes.
    allocations: BTreeMap<u64, usize>,
    used: usize,
    recording: Option<Vec<Work>>,
    graphs: BTreeMap<u64, Vec<Work>>,
    marks: BTreeMap<u64, Instant>,
    last: u64,
    launches: u64,
}

/// What can be recorded.
#[derive(Clone)]
enum Work {
    Launch { kernel: &'static str, grid: [u32; 3], threads: u32, shared_bytes: u32, parameters: Vec<u8> },
    Copy { from: Address, to: Address, bytes: usize },
    Zero { at: Address, bytes: usize },
}

impl Emulated {
    /// A device with so much memory. Compiles the kernels where that was not yet done.
    pub fn open(total: usize) -> Result<Arc<Self>> {
        let library = library().as_ref().map_err(|error| GpuError::Unavailable {
            what: format!("the emulated GPU could not be built: {error}"),
            hint: "install a C++ compiler (on Debian: apt-get install g++), or name one in CXX".into(),
        })?;
        Ok(Arc::new(Emulated { library, total, turns: AtomicU32::new(0), state: Mutex::default() }))
    }

    /// A device with 1 GiB, ready for use.
    ///
    /// # Panics
    /// When there is no C++ compiler.
    pub fn gpu() -> Gpu {
        match Self::open(1 << 30) {
            Ok(driver) => Gpu::new(driver),
            Err(error) => panic!("{error}"),
        }
    }

    /// From the next launch on.
    pub fn set_turns(&self, turns: Turns) {
        let number = match turns {
            Turns::InOrder => 0,
            Turns::Backwards => 1,
            Turns::Shuffled(number) => number.saturating_add(2),
        };
        self.turns.store(number, Ordering::Relaxed);
    }

    /// How many kernels ran so far.
    pub fn launches(&self) -> u64 {
        self.state().launches
    }

    /// The names of all kernels.
    pub fn kernels(&self) -> Vec<String> {
        self.library.kernels()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Does it now, or records it.
    fn submit(&self, work: Work) -> Result<()> {
        let mut state = self.state();
        match &mut state.recording {
            Some(recording) => {
                recording.push(work);
                Ok(())
            }
            None => self.perform(&mut state, &work),
        }
    }

    fn perform(&self, state: &mut State, work: &Work) -> Result<()> {
        match work {
            Work::Launch { kernel, grid, threads, shared_bytes, parameters } => {
                state.launches += 1;
                let turns = self.turns.load(Ordering::Relaxed);
                self.library
                    .launch(kernel, *grid, *threads, *shared_bytes, parameters, turns)
                    .map_err(|what| GpuError::Failed { what })
            }
            Work::Copy { from, to, bytes } => {
                state.check(*from, *bytes)?;
                state.check(*to, *bytes)?;
                // SAFETY: both are inside an allocation of this device.
                unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, *bytes) };
                Ok(())
            }
            Work::Zero { at, bytes } => {
                state.check(*at, *bytes)?;
                // SAFETY: inside an allocation of this device.
                unsafe { std::ptr::write_bytes(at.0 as *mut u8, 0, *bytes) };
                Ok(())
            }
        }
    }
}

fn failed<T>(what: impl Into<String>) -> Result<T> {
    Err(GpuError::Failed { what: what.into() })
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// All of it must be inside one allocation.
    fn check(&self, at: Address, bytes: usize) -> Result<()> {
        let known = self.allocations.range(..=at.0).next_back();
        match known {
            Some((begin, length)) if at.0 + bytes as u64 <= begin + *length as u64 => Ok(()),
            _ => failed(format!("{bytes} bytes at {:#x} are not inside any allocation", at.0)),
        }
    }

    /// What a GPU refuses while it records.
    fn not_recording(&self, what: &str) -> Result<()> {
        if self.recording.is_some() { failed(format!("{what} while a graph is recorded")) } else { Ok(()) }
    }
}

impl Driver for Emulated {
    fn name(&self) -> String {
        "emulated".into()
    }

    fn multiprocessors(&self) -> usize {
        132
    }

    fn memory(&self) -> Result<(usize, usize)> {
        Ok((self.total - self.state().used, self.total))
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        let mut state = self.state();
        state.not_recording("memory is asked for")?;
        if bytes > self.total - state.used {
            return Err(GpuError::OutOfMemory { asked: bytes, free: self.total - state.used });
        }
        let Some(memory) = self.library.alloc(bytes, ZONE_BYTES, ZONE) else {
            return failed(format!("this computer has no room for {bytes} bytes"));
        };
        state.used += bytes;
        state.allocations.insert(memory as u64, bytes);
        Ok(Address(memory as u64))
    }

    fn free(&self, address: Address) {
        let mut state = self.state();
        let bytes = state.allocations.remove(&address.0).expect("what is freed was allocated");
        state.used -= bytes;
        let stray = self.library.free(address.0 as *mut u8, bytes, ZONE_BYTES, ZONE);
        drop(state);
        assert!(!stray || std::thread::panicking(), "a kernel wrote beside an allocation of {bytes} bytes");
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        let state = self.state();
        state.not_recording("memory is written")?;
        state.check(to, bytes.len())?;
        // SAFETY: inside an allocation of this device.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        let state = self.state();
        state.not_recording("memory is read")?;
        state.check(from, bytes.len())?;
        // SAFETY: inside an allocation of this device.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.submit(Work::Copy { from, to, bytes })
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.submit(Work::Zero { at, bytes })
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let Launch { kernel, grid, threads, shared_bytes, parameters } = *launch;
        self.submit(Work::Launch { kernel, grid, threads, shared_bytes, parameters: parameters.to_vec() })
    }

    fn host_alloc(&self, bytes: usize) -> Result<*mut u8> {
        match self.library.alloc(bytes, ZONE_BYTES, ZONE) {
            Some(memory) => {
                self.state().allocations.insert(memory as u64, bytes);
                Ok(memory)
            }
            None => failed(format!("this computer has no room for {bytes} bytes")),
        }
    }

    fn host_free(&self, at: *mut u8) {
        let bytes = self.state().allocations.remove(&(at as u64)).expect("what is freed was allocated");
        let stray = self.library.free(at, bytes, ZONE_BYTES, ZONE);
        assert!(!stray || std::thread::panicking(), "something was written beside {bytes} bytes of host memory");
    }

    unsafe fn write_later(&self, to: Address, from: *const u8, bytes: usize) -> Result<()> {
        self.submit(Work::Copy { from: Address(from as u64), to, bytes })
    }

    unsafe fn read_later(&self, from: Address, to: *mut u8, bytes: usize) -> Result<()> {
        self.submit(Work::Copy { from, to: Address(to as u64), bytes })
    }

    fn mark(&self) -> Result<u64> {
        let mut state = self.state();
        state.not_recording("a mark is set")?;
        let id = state.next();
        state.marks.insert(id, Instant::now());
        Ok(id)
    }

    fn wait(&self, mark: u64) -> Result<()> {
        let state = self.state();
        state.not_recording("a mark is waited for")?;
        if state.marks.contains_key(&mark) { Ok(()) } else { failed("an unknown mark is waited for") }
    }

    fn milliseconds(&self, from: u64, to: u64) -> Result<f32> {
        let state = self.state();
        let (Some(from), Some(to)) = (state.marks.get(&from), state.marks.get(&to)) else {
            return failed("the time between unknown marks is asked for");
        };
        Ok(to.duration_since(*from).as_secs_f32() * 1000.0)
    }

    fn forget_mark(&self, mark: u64) {
        self.state().marks.remove(&mark);
    }

    fn synchronize(&self) -> Result<()> {
        self.state().not_recording("the device is waited for")
    }

    fn begin_capture(&self) -> Result<()> {
        let mut state = self.state();
        state.not_recording("another recording is begun")?;
        state.recording = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<u64> {
        let mut state = self.state();
        let Some(work) = state.recording.take() else { return failed("no recording was begun") };
        let id = state.next();
        state.graphs.insert(id, work);
        Ok(id)
    }

    fn replay(&self, graph: u64) -> Result<()> {
        let mut state = self.state();
        state.not_recording("a graph is replayed")?;
        let Some(work) = state.graphs.get(&graph).cloned() else { return failed("an unknown graph is replayed") };
        work.iter().try_for_each(|work| self.perform(&mut state, work))
    }

    fn forget_graph(&self, graph: u64) {
        self.state().graphs.remove(&graph);
    }
}
