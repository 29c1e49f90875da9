//! The driver, tested without a GPU: the errors of opening a missing device, and the kernels through a
//! libcuda.so.1 that is the emulated device.

use std::process::{Command, Output};

use super::*;
use crate::gpu::emulated::library;

#[test]
fn a_gpu_that_is_not_there_is_one_clear_error() {
    let count = Cuda::count();
    let Err(error) = Cuda::open(count) else { panic!("GPU {count} of {count} was opened") };
    let GpuError::Unavailable { what, hint } = &error else { panic!("{error}") };
    assert!(what.contains("driver") || what.contains("GPU"), "{error}");
    assert!(hint.contains("nvidia-smi") || hint.contains("driver") || hint.contains("LD_LIBRARY_PATH"), "{error}");
    assert!(!what.contains('\n') && error.to_string().lines().count() == 2, "{error}");
}

/// Runs tests of this program in another process, whose driver is the emulated device.
fn with_emulated_driver(arguments: &[&str], version: &str) -> Output {
    let machine = library::path().as_ref().unwrap_or_else(|error| panic!("{error}"));
    let folder = machine.with_extension("driver");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        // Another test may have put it there.
        let _there_already = std::os::unix::fs::symlink(machine, folder.join(name));
        assert!(folder.join(name).exists());
    }
    Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .arg("--test-threads=1")
        .env("LD_LIBRARY_PATH", &folder)
        .env("TILTMETER_TEST_GPU", "0")
        .env("EMULATED_DRIVER_VERSION", version)
        .output()
        .unwrap()
}

#[test]
fn a_driver_is_told_the_right_things() {
    if std::env::var_os("TILTMETER_TEST_GPU").is_some() {
        println!("a GPU is tested: the emulated driver is not");
        return;
    }
    // Not all of them: every kind of call is among these.
    let output = with_emulated_driver(&["gpu::tests::machine::", "gpu::tests::rows::", "a_recorded_"], "13000");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("a_graph_is_what_was_recorded") && !text.contains(" 0 passed"), "{text}");
}

#[test]
fn a_driver_that_is_too_old_is_said_so() {
    if std::env::var_os("TILTMETER_TEST_GPU").is_some() {
        println!("a GPU is tested: the emulated driver is not");
        return;
    }
    let (major, _) = modules::TOOLKIT;
    let output =
        with_emulated_driver(&["--exact", "gpu::tests::machine::words_of_the_kernels_mean_what_ptx_says"], "11040");
    let text = String::from_utf8_lossy(&output.stdout);
    let expected =
        format!("the NVIDIA driver is too old: it is made for CUDA 11.4, and this program's kernels for CUDA {major}.");
    assert!(
        !output.status.success() && text.contains(&expected),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_kernel_that_fails_is_named_by_the_call_that_met_it() {
    let Ok(number) = std::env::var("TILTMETER_TEST_GPU") else {
        let name = "gpu::cuda::tests::a_kernel_that_fails_is_named_by_the_call_that_met_it";
        let output = with_emulated_driver(&["--exact", name], "13000");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    };
    let gpu = crate::gpu::Gpu::new(Cuda::open(number.parse().unwrap()).unwrap());
    let launch = |kernel, shared_bytes, parameters| {
        let launch = Launch { kernel, grid: [1, 1, 1], threads: 32, shared_bytes, parameters };
        gpu.driver().launch(&launch).unwrap_err().to_string()
    };
    assert_eq!(launch("nothing", 0, &[]), "there is no kernel nothing");
    assert_eq!(launch("proof_bf16", 0, &[0; 8]), "kernel proof_bf16 takes 56 bytes of parameters, not 8");
    assert!(launch("proof_bf16", 250_000, &[0; 56]).contains("asks for 250000 bytes of shared memory; the GPU has"));
    let (free, total) = gpu.driver().memory().unwrap();
    let Err(GpuError::OutOfMemory { asked, .. }) = gpu.alloc(total + 1) else { panic!("{free} of {total}") };
    assert_eq!(asked, total + 1);
}
