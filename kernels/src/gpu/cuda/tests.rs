//! What opening a GPU says where there is none. On a machine with one, the check script of tests/gpu has more.
//!
//! Must not know: models, engine.

use super::*;

#[test]
fn a_gpu_that_is_not_there_is_one_clear_error() {
    let count = Cuda::count();
    let Err(error) = Cuda::open(count) else { panic!("GPU {count} of {count} was opened") };
    let GpuError::Unavailable { what, hint } = &error else { panic!("{error}") };
    assert!(what.contains("driver") || what.contains("GPU"), "{error}");
    assert!(hint.contains("nvidia-smi") || hint.contains("driver") || hint.contains("LD_LIBRARY_PATH"), "{error}");
    assert!(!what.contains('\n') && error.to_string().lines().count() == 2, "{error}");
}
