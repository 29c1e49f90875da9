//! The driver of a GPU: CUDA's driver API through cudarc, on one stream of the device's primary context, which is also the one
//! of every other user of the device in this process.
//!
//! The kernels come as fat binaries that `build.rs` made: machine code for compute capability 9.0 and PTX for what comes after it. All
//! of them are loaded when the device is opened, so that nothing is loaded while a graph is recorded.

mod driver;
mod errors;

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use self::errors::{check, failed, opening, unavailable};
use super::{Address, Driver, GpuError, Launch, Result};

/// Fat binaries of `kernels/cuda`, and the version of the toolkit that made them.
mod modules {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

/// What tests/gpu/typecheck/nvcc writes instead of kernels.
const STAND_IN: &[u8] = b"stand-in";

/// The environment's variable that lets launches overlap, programmatic dependent launch, read once when the device is opened.
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
    overlapped: bool,
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
    // SAFETY: the driver is loaded; the version may be queried before anything else.
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
                overlapped: std::env::var_os(OVERLAPPED).is_some(),
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
        // SAFETY: `open` made all of it and nothing uses it any more: every owner holds an `Arc` of `Gpu`.
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

#[cfg(test)]
mod tests;
