//! Compiles the CUDA kernels of `cuda/` where the feature `cuda` is on, each source to a fat binary: machine code for compute capability
//! 9.0 (H100, H200) and PTX for what comes after it. Nothing is done otherwise.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

/// As for the emulated device's compiler: products and sums are contracted only where `fmaf` says so.
const FLAGS: &[&str] = &["-std=c++17", "-O3", "-fmad=false", "-Xptxas", "-O3"];
const TARGETS: &[&str] = &["-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_90,code=compute_90"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    let nvcc = find_nvcc();
    let (major, minor) = version(&nvcc);

    let mut sources: Vec<PathBuf> = fs::read_dir("cuda")
        .expect("the kernels are in cuda/")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "cu"))
        .collect();
    sources.sort();
    let mut modules = String::new();
    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).max(1);
    for some in sources.chunks(threads) {
        let started: Vec<_> = some.iter().map(|source| compile(&nvcc, source, &out)).collect();
        for (source, (binary, child)) in some.iter().zip(started) {
            let output = child.wait_with_output().unwrap_or_else(|error| stop(&format!("{}: {error}", nvcc.display())));
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                stop(&format!("{} could not be compiled by {}:\n{text}", source.display(), nvcc.display()));
            }
            let name = source.file_name().unwrap_or_default().to_string_lossy();
            modules += &format!("    ({name:?}, include_bytes!({:?})),\n", binary.display().to_string());
        }
    }
    let text = format!(
        "pub const TOOLKIT: (i32, i32) = ({major}, {minor});\npub const MODULES: &[(&str, &[u8])] = &[\n{modules}];\n"
    );
    fs::write(out.join("modules.rs"), text).expect("the build's folder can be written");
}

fn compile(nvcc: &Path, source: &Path, out: &Path) -> (PathBuf, std::process::Child) {
    let binary = out.join(source.with_extension("fatbin").file_name().unwrap_or_default());
    let child = Command::new(nvcc)
        .args(FLAGS)
        .args(TARGETS)
        .arg("-fatbin")
        .arg(source)
        .arg("-o")
        .arg(&binary)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| stop(&format!("{}: {error}", nvcc.display())));
    (binary, child)
}

fn stop(what: &str) -> ! {
    for line in what.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}

fn find_nvcc() -> PathBuf {
    if let Some(named) = env::var_os("NVCC").filter(|name| !name.is_empty()) {
        return named.into();
    }
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let homes = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|home| PathBuf::from(home).join("bin"));
    let usual = [PathBuf::from("/usr/local/cuda/bin")];
    let found =
        on_path.into_iter().chain(homes).chain(usual).map(|folder| folder.join("nvcc")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        stop(
            "the feature `cuda` needs NVIDIA's compiler nvcc, which was not found.\n\
             Install the CUDA toolkit 12.4 or later (https://developer.nvidia.com/cuda-downloads) and put its bin folder on the PATH, \
             or name the compiler: NVCC=/path/to/nvcc.\n\
             Without the feature everything runs on the CPU.",
        )
    })
}

/// The toolkit's version, out of a line like `Cuda compilation tools, release 13.0, V13.0.88`.
fn version(nvcc: &Path) -> (u32, u32) {
    let output = Command::new(nvcc).arg("--version").output();
    let text = match &output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => stop(&format!("{} cannot be run: {error}", nvcc.display())),
    };
    let number = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    let parsed = number.and_then(|number| {
        let (major, minor) = number.trim().split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    match parsed {
        Some(version) if version >= (12, 4) => version,
        Some((major, minor)) => {
            stop(&format!("{} is of CUDA {major}.{minor}; 12.4 is the oldest that will do", nvcc.display()))
        }
        None => stop(&format!("{} --version does not say which CUDA it is of:\n{text}", nvcc.display())),
    }
}
