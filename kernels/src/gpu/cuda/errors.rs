//! CUDA's errors in words.

use std::ffi::CStr;
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

use crate::gpu::{GpuError, Result};

pub(super) fn failed(what: String) -> GpuError {
    GpuError::Failed { what }
}

pub(super) fn unavailable(what: String, hint: &str) -> GpuError {
    GpuError::Unavailable { what, hint: hint.into() }
}

/// The name of an error and the driver's description.
fn describe(code: CUresult) -> String {
    let text = |ask: unsafe fn(CUresult, *mut *const std::ffi::c_char) -> CUresult| {
        let mut text = ptr::null();
        // SAFETY: the driver points it to a text that stays, or leaves it.
        unsafe {
            ask(code, &raw mut text);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", code as u32));
    match text(sys::cuGetErrorString) {
        Some(meaning) => format!("{name} ({meaning})"),
        None => name,
    }
}

/// What a call on an open device returned. Errors of kernels show in a later call: they name the call that met them.
pub(super) fn check(call: &str, code: CUresult) -> Result<()> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(failed(format!("the GPU failed at {call}: {}", describe(code)))),
    }
}

/// What a call returned by which a device is opened.
pub(super) fn opening(call: &str, code: CUresult) -> Result<()> {
    let (what, hint) = match code {
        CUresult::CUDA_SUCCESS => return Ok(()),
        CUresult::CUDA_ERROR_NO_DEVICE => (
            "there is no NVIDIA GPU that the driver can see".to_string(),
            "CUDA_VISIBLE_DEVICES may hide it; `nvidia-smi -L` lists them",
        ),
        CUresult::CUDA_ERROR_STUB_LIBRARY => (
            "the libcuda.so.1 that was found is the toolkit's stub, which is for linking only".to_string(),
            "take the folder with `stubs` out of LD_LIBRARY_PATH",
        ),
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => (
            format!("the NVIDIA driver's parts do not fit together: {}", describe(code)),
            "after an update of the driver the machine must be started anew",
        ),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => (
            "the GPU has no room to be opened".to_string(),
            "`nvidia-smi` lists the processes that use it; choose another GPU, or wait",
        ),
        code => (
            format!("the GPU cannot be opened: {call}: {}", describe(code)),
            "`nvidia-smi` shows whether the driver is in order",
        ),
    };
    Err(unavailable(what, hint))
}
