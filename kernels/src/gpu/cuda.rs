//! The driver of a GPU: CUDA's driver interface by way of cudarc, on one stream of the device's primary context, which is also the one
//! of every other user of the device in this process.
//!
//! The kernels come as fat binaries that `build.rs` made: machine code for compute capability 9.0 and PTX for what comes after it. All
//! of them are loaded when the device is opened, so that nothing is loaded while a graph is recorded.

mod errors;

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys;

use self::errors::{check, failed, opening, unavailable};
use super::{Address, Driver, GpuError, Launch, Result};

/// Fat binaries of `kernels/cuda`, and the version of the toolkit that made them.
mod modules {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// What tests/gpu/typecheck/nvcc writes instead of kernels.
const STAND_IN: &[u8] = b"stand-in";

/// The environment's variable that lets launches overlap, see [`Cuda::set_overlapped`].
const OVERLAPPED: &str = "TILTMETER_OVERLAPPED";

/// A GPU.
pub struct Cuda {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, Function>,
    name: String,
    multiprocessors: usize,
    overlapped: AtomicBool,
}

struct Function {
    handle: sys::CUfunction,
    parameter_bytes: usize,
    most_shared_bytes: usize,
}

// SAFETY: contexts, streams, modules and functions of CUDA's driver may be used by any thread; each call makes the context current
// first (`enter`).
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

/// Whether CUDA's driver can be loaded. With candle's own CUDA the program is linked against it and does not start without.
fn driver_library() -> Result<()> {
    // SAFETY: loading the driver has no effect but that it is there.
    match unsafe { libloading::Library::new("libcuda.so.1") } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(unavailable(
            format!("there is no NVIDIA driver on this machine ({error})"),
            "install it, or work on a machine that has one: `nvidia-smi` lists its GPUs where the driver is in order",
        )),
    }
}

/// How many GPUs there are, or why none can be used.
fn initialised() -> Result<usize> {
    driver_library()?;
    let mut version: c_int = 0;
    // SAFETY: the driver is there; the version may be asked for before anything else.
    unsafe { check("cuDriverGetVersion", sys::cuDriverGetVersion(&raw mut version))? };
    let (major, minor) = modules::TOOLKIT;
    if version / 1000 < major {
        return Err(unavailable(
            format!(
                "the NVIDIA driver is too old: it is made for CUDA {}.{}, and this program's kernels for CUDA {major}.{minor}",
                version / 1000,
                version % 1000 / 10
            ),
            "install a newer driver (CUDA 13 needs 580 or later, CUDA 12 525), or build the program with an older CUDA toolkit",
        ));
    }
    let mut count: c_int = 0;
    // SAFETY: the driver is there.
    unsafe {
        opening("cuInit", sys::cuInit(0))?;
        opening("cuDeviceGetCount", sys::cuDeviceGetCount(&raw mut count))?;
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Cuda {
    /// How many GPUs there are; none where there is no driver.
    pub fn count() -> usize {
        initialised().unwrap_or(0)
    }

    /// The GPU of this number, counted from 0.
    pub fn open(number: usize) -> Result<Arc<Self>> {
        let count = initialised()?;
        if number >= count {
            return Err(unavailable(
                format!(
                    "there is no GPU {number}: {} here, counted from 0",
                    if count == 1 { "one is".into() } else { format!("{count} are") }
                ),
                "`nvidia-smi -L` lists them; CUDA_VISIBLE_DEVICES may hide some",
            ));
        }
        let mut device: sys::CUdevice = 0;
        let mut name = [0; 256];
        // SAFETY: the device exists, and the name has room for 256 bytes with its zero.
        unsafe {
            opening("cuDeviceGet", sys::cuDeviceGet(&raw mut device, number as c_int))?;
            opening("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
        }
        // SAFETY: it ends in a zero, because the last byte was never written.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        use sys::CUdevice_attribute_enum as Attribute;
        let attribute = |attribute| -> Result<usize> {
            let mut value: c_int = 0;
            // SAFETY: the device exists.
            unsafe { opening("cuDeviceGetAttribute", sys::cuDeviceGetAttribute(&raw mut value, attribute, device))? };
            Ok(usize::try_from(value).unwrap_or(0))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 9 {
            return Err(unavailable(
                format!(
                    "GPU {number} ({name}) has compute capability {major}.{minor}; the kernels need 9.0 (H100, H200) or later"
                ),
                "take another GPU",
            ));
        }
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let most_shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let (mut context, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the device exists. What was made is destroyed with `Cuda`, which is built at once so that no error leaves it behind.
        let mut cuda = unsafe {
            opening("cuDevicePrimaryCtxRetain", sys::cuDevicePrimaryCtxRetain(&raw mut context, device))?;
            let entered = opening("cuCtxSetCurrent", sys::cuCtxSetCurrent(context)).and_then(|()| {
                // 1: it does not wait for the default stream.
                opening("cuStreamCreate", sys::cuStreamCreate(&raw mut stream, 1))
            });
            if let Err(error) = entered {
                sys::cuDevicePrimaryCtxRelease_v2(device);
                return Err(error);
            }
            Cuda {
                device,
                context,
                stream,
                modules: Vec::new(),
                functions: HashMap::new(),
                name,
                multiprocessors,
                overlapped: AtomicBool::new(std::env::var_os(OVERLAPPED).is_some()),
            }
        };
        for (source, binary) in modules::MODULES {
            cuda.load(source, binary, most_shared)?;
        }
        Ok(Arc::new(cuda))
    }

    /// Loads all kernels of a fat binary, and lets each have as much shared memory as there is.
    fn load(&mut self, source: &str, binary: &[u8], most_shared: usize) -> Result<()> {
        // The driver wants it aligned.
        let mut aligned = vec![0u64; binary.len().div_ceil(8)];
        let mut module = ptr::null_mut();
        // SAFETY: the copy stays inside both; the image is whole, and the driver copies it.
        unsafe {
            ptr::copy_nonoverlapping(binary.as_ptr(), aligned.as_mut_ptr().cast(), binary.len());
            let code = sys::cuModuleLoadData(&raw mut module, aligned.as_ptr().cast());
            if code != sys::CUresult::CUDA_SUCCESS && binary.starts_with(STAND_IN) {
                let what = "this program was built for type checks: it has no kernels".into();
                return Err(unavailable(what, "build it with CUDA's own nvcc on the PATH"));
            }
            opening(source, code)?;
        }
        self.modules.push(module);
        let mut count: c_uint = 0;
        // SAFETY: the module was loaded; there is room for as many functions as it has; names live as long as their module.
        unsafe {
            opening(source, sys::cuModuleGetFunctionCount(&raw mut count, module))?;
            let mut handles = vec![ptr::null_mut(); count as usize];
            opening(source, sys::cuModuleEnumerateFunctions(handles.as_mut_ptr(), count, module))?;
            for handle in handles {
                let mut name = ptr::null();
                opening(source, sys::cuFuncGetName(&raw mut name, handle))?;
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                use sys::CUfunction_attribute_enum as Attribute;
                let (mut fixed, mut offset, mut parameter_bytes) = (0, 0, 0);
                opening(&name, sys::cuFuncLoad(handle))?;
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
                opening(&name, sys::cuFuncGetAttribute(&raw mut fixed, attribute, handle))?;
                opening(&name, sys::cuFuncGetParamInfo(handle, 0, &raw mut offset, &raw mut parameter_bytes))?;
                let most_shared_bytes = most_shared.saturating_sub(usize::try_from(fixed).unwrap_or(0));
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                opening(&name, sys::cuFuncSetAttribute(handle, attribute, most_shared_bytes as c_int))?;
                // As much shared memory and as little cache as can be, for each alike: several blocks of the streaming kernels
                // must fit, and a multiprocessor changes its split only between kernels that do not overlap.
                let attribute = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
                opening(&name, sys::cuFuncSetAttribute(handle, attribute, 100))?;
                self.functions.insert(name, Function { handle, parameter_bytes, most_shared_bytes });
            }
        }
        Ok(())
    }

    /// Lets each kernel begin before the one before it has ended (programmatic dependent launch); it waits where it says so. Off until
    /// it was measured; on from the start where TILTMETER_OVERLAPPED is set, so that every program can be measured with it.
    pub fn set_overlapped(&self, overlapped: bool) {
        self.overlapped.store(overlapped, Ordering::Relaxed);
    }

    /// The names of all kernels.
    pub fn kernels(&self) -> Vec<String> {
        let mut names: Vec<String> = self.functions.keys().cloned().collect();
        names.sort();
        names
    }

    /// Makes the context that of this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as this.
        unsafe { check("cuCtxSetCurrent", sys::cuCtxSetCurrent(self.context)) }
    }

    fn wait_for_stream(&self) -> Result<()> {
        // SAFETY: the stream lives as long as this.
        unsafe { check("cuStreamSynchronize", sys::cuStreamSynchronize(self.stream)) }
    }

    /// An error of a call that may have found no room.
    fn with_room(&self, what: &str, asked: usize, code: sys::CUresult) -> Result<()> {
        if code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let free = self.memory().map_or(0, |(free, _)| free);
            return Err(GpuError::OutOfMemory { asked, free });
        }
        check(what, code)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: all of it was made by `open` and is used by nobody any more: `Gpu` holds an `Arc` for everything that is its.
        unsafe {
            sys::cuCtxSetCurrent(self.context);
            sys::cuStreamSynchronize(self.stream);
            for &module in &self.modules {
                sys::cuModuleUnload(module);
            }
            sys::cuStreamDestroy_v2(self.stream);
            sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

impl Driver for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: a context is current.
        unsafe { check("cuMemGetInfo", sys::cuMemGetInfo_v2(&raw mut free, &raw mut total))? };
        Ok((free, total))
    }

    fn alloc(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: a context is current.
        self.with_room("cuMemAlloc", bytes, unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
        self.zero(Address(address), bytes).inspect_err(|_| self.free(Address(address)))?;
        Ok(Address(address))
    }

    fn free(&self, address: Address) {
        // An error here was one of work before, and its call has said so or will.
        if self.enter().is_ok() {
            // SAFETY: it came from `alloc`; the driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(address.0) };
        }
    }

    fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the bytes live until the stream was waited for.
        unsafe {
            let code = sys::cuMemcpyHtoDAsync_v2(to.0, bytes.as_ptr().cast(), bytes.len(), self.stream);
            check("cuMemcpyHtoDAsync", code)?;
        }
        self.wait_for_stream()
    }

    fn read(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the bytes live until the stream was waited for.
        unsafe {
            let code = sys::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), from.0, bytes.len(), self.stream);
            check("cuMemcpyDtoHAsync", code)?;
        }
        self.wait_for_stream()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: addresses of the device; a wrong one is the device's error.
        unsafe { check("cuMemcpyDtoDAsync", sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.stream)) }
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: as in `copy`.
        unsafe { check("cuMemsetD8Async", sys::cuMemsetD8Async(at.0, 0, bytes, self.stream)) }
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let name = launch.kernel;
        let function = self.functions.get(name).ok_or_else(|| failed(format!("there is no kernel {name}")))?;
        if function.parameter_bytes != launch.parameters.len() {
            let (given, wanted) = (launch.parameters.len(), function.parameter_bytes);
            return Err(failed(format!("kernel {name} takes {wanted} bytes of parameters, not {given}")));
        }
        if launch.shared_bytes as usize > function.most_shared_bytes {
            let (asked, most) = (launch.shared_bytes, function.most_shared_bytes);
            return Err(failed(format!("kernel {name} asks for {asked} bytes of shared memory; the GPU has {most}")));
        }
        self.enter()?;
        let mut parameters = [launch.parameters.as_ptr().cast_mut().cast::<c_void>()];
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let [x, y, z] = launch.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.overlapped.load(Ordering::Relaxed)),
        };
        // SAFETY: the block of parameters has the size that the kernel wants, and is copied before the call returns. What the kernel
        // does with the addresses in it is for the faces to answer, which check that each span holds what the kernel touches.
        unsafe {
            let code =
                sys::cuLaunchKernelEx(&raw const config, function.handle, parameters.as_mut_ptr(), ptr::null_mut());
            if code == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { check(&format!("kernel {name}"), code) }
        }
    }

    fn host_alloc(&self, bytes: usize) -> Result<*mut u8> {
        self.enter()?;
        let mut memory = ptr::null_mut();
        // SAFETY: a context is current; the memory has this many bytes.
        unsafe {
            check("cuMemHostAlloc", sys::cuMemHostAlloc(&raw mut memory, bytes, 0))?;
            ptr::write_bytes(memory.cast::<u8>(), 0, bytes);
        }
        Ok(memory.cast())
    }

    fn host_free(&self, at: *mut u8) {
        if self.enter().is_ok() {
            // SAFETY: it came from `host_alloc`.
            unsafe { sys::cuMemFreeHost(at.cast()) };
        }
    }

    unsafe fn write_later(&self, to: Address, from: *const u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { check("cuMemcpyHtoDAsync", sys::cuMemcpyHtoDAsync_v2(to.0, from.cast(), bytes, self.stream)) }
    }

    unsafe fn read_later(&self, from: Address, to: *mut u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { check("cuMemcpyDtoHAsync", sys::cuMemcpyDtoHAsync_v2(to.cast(), from.0, bytes, self.stream)) }
    }

    fn mark(&self) -> Result<u64> {
        self.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: a context is current. An event is known by its address.
        unsafe {
            check("cuEventCreate", sys::cuEventCreate(&raw mut event, 0))?;
            let recorded = check("cuEventRecord", sys::cuEventRecord(event, self.stream));
            recorded.inspect_err(|_| {
                sys::cuEventDestroy_v2(event);
            })?;
        }
        Ok(event as u64)
    }

    fn wait(&self, mark: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: a mark is an event that was not destroyed yet: `Mark` owns it.
        unsafe { check("cuEventSynchronize", sys::cuEventSynchronize(mark as sys::CUevent)) }
    }

    fn milliseconds(&self, from: u64, to: u64) -> Result<f32> {
        self.wait(to)?;
        // SAFETY: both are events that were recorded, and the later one was reached.
        let elapsed = unsafe { cudarc::driver::result::event::elapsed(from as sys::CUevent, to as sys::CUevent) };
        elapsed.or_else(|error| check("cuEventElapsedTime", error.0).map(|()| 0.0))
    }

    fn forget_mark(&self, mark: u64) {
        if self.enter().is_ok() {
            // SAFETY: as in `wait`; the driver keeps it until it was reached.
            unsafe { sys::cuEventDestroy_v2(mark as sys::CUevent) };
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        self.wait_for_stream()
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        unsafe { check("cuStreamBeginCapture", sys::cuStreamBeginCapture_v2(self.stream, mode)) }
    }

    fn end_capture(&self) -> Result<u64> {
        self.enter()?;
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the graph is the driver's own; what is instantiated does not need it any more. It is known by its address.
        unsafe {
            check("cuStreamEndCapture", sys::cuStreamEndCapture(self.stream, &raw mut graph))?;
            let code = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            self.with_room("cuGraphInstantiate", 0, code)?;
            check("cuGraphUpload", sys::cuGraphUpload(executable, self.stream))?;
        }
        Ok(executable as u64)
    }

    fn replay(&self, graph: u64) -> Result<()> {
        self.enter()?;
        // SAFETY: it was made by `end_capture` and not yet forgotten: `Graph` owns it.
        unsafe { check("cuGraphLaunch", sys::cuGraphLaunch(graph as sys::CUgraphExec, self.stream)) }
    }

    fn forget_graph(&self, graph: u64) {
        if self.enter().is_ok() {
            // SAFETY: as in `replay`; the driver waits for replays under way.
            unsafe { sys::cuGraphExecDestroy(graph as sys::CUgraphExec) };
        }
    }
}

#[cfg(test)]
mod tests;
