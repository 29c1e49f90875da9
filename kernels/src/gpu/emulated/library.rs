//! Compiles the kernels for the emulated device into a shared library, each source once as long as it does not change, and calls it.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{CString, c_char, c_int, c_void};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{fs, io};

type LaunchFn =
    unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *const c_void, usize, u32, *mut c_char, usize) -> c_int;
type KernelsFn = unsafe extern "C" fn(*mut c_char, usize) -> usize;
type AllocFn = unsafe extern "C" fn(usize, usize, u8) -> *mut u8;
type FreeFn = unsafe extern "C" fn(*mut u8, usize, usize, u8) -> c_int;

/// The compiled kernels.
pub(super) struct Library {
    launch: LaunchFn,
    kernels: KernelsFn,
    alloc: AllocFn,
    free: FreeFn,
}

impl Library {
    pub(super) fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        parameters: &[u8],
        turns: u32,
    ) -> Result<(), String> {
        let name = CString::new(kernel).map_err(|error| error.to_string())?;
        let mut message = [0u8; 1024];
        // The block is copied so that it is aligned as the kernel's struct may want it.
        let mut block = vec![0u64; parameters.len().div_ceil(8)];
        // SAFETY: the block has at least as many bytes; the library writes a text that ends in 0 into `message`; what the kernel
        // does with the addresses in its parameters is checked by guard pages around every allocation.
        let failed = unsafe {
            std::ptr::copy_nonoverlapping(parameters.as_ptr(), block.as_mut_ptr().cast(), parameters.len());
            (self.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                threads,
                shared_bytes,
                block.as_ptr().cast(),
                parameters.len(),
                turns,
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        let text = message.split(|&byte| byte == 0).next().unwrap_or_default();
        Err(String::from_utf8_lossy(text).into_owned())
    }

    pub(super) fn kernels(&self) -> Vec<String> {
        let mut names = vec![0u8; 1 << 16];
        // SAFETY: the library writes at most the length it is given.
        let length = unsafe { (self.kernels)(names.as_mut_ptr().cast(), names.len()) };
        String::from_utf8_lossy(&names[..length.min(names.len())]).lines().map(String::from).collect()
    }

    /// Zeroed memory that ends (but for the last 15 bytes) at a page that cannot be touched, with `zone` bytes around it.
    pub(super) fn alloc(&self, bytes: usize, zone_bytes: usize, zone: u8) -> Option<*mut u8> {
        // SAFETY: any size is fine.
        let memory = unsafe { (self.alloc)(bytes, zone_bytes, zone) };
        (!memory.is_null()).then_some(memory)
    }

    /// Whether something was written beside it.
    pub(super) fn free(&self, memory: *mut u8, bytes: usize, zone_bytes: usize, zone: u8) -> bool {
        // SAFETY: the caller's `memory` came from `alloc` with the same numbers.
        unsafe { (self.free)(memory, bytes, zone_bytes, zone) != 0 }
    }
}

pub(super) fn library() -> &'static Result<Library, String> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(|| path().clone().and_then(|path| open(&path)))
}

/// Where the library is; it is made where it is not there yet.
pub(in crate::gpu) fn path() -> &'static Result<PathBuf, String> {
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PATH.get_or_init(build)
}

fn open(path: &Path) -> Result<Library, String> {
    let say = |error: libloading::Error| format!("{}: {error}", path.display());
    // SAFETY: it is our own library; it registers its kernels and a signal handler when loaded, and stays loaded.
    unsafe {
        let library = Box::leak(Box::new(libloading::Library::new(path).map_err(say)?));
        Ok(Library {
            launch: *library.get(b"emulated_launch\0").map_err(say)?,
            kernels: *library.get(b"emulated_kernels\0").map_err(say)?,
            alloc: *library.get(b"emulated_alloc\0").map_err(say)?,
            free: *library.get(b"emulated_free\0").map_err(say)?,
        })
    }
}

/// No contraction, as for nvcc; -O2 and no assumptions that a GPU compiler does not make; a misaligned access traps.
const FLAGS: &[&str] = &[
    "-x",
    "c++",
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-DEMULATED",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fsanitize=alignment",
    "-fsanitize-undefined-trap-on-error",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-c",
];

fn build() -> Result<PathBuf, String> {
    let folder = PathBuf::from(env!("OUT_DIR")).join("emulated");
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let say = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    fs::create_dir_all(&folder).map_err(say(&folder))?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());

    let (mut units, mut headers) = (Vec::new(), Vec::new());
    for folder in [sources.clone(), sources.join("emulated")] {
        for entry in fs::read_dir(&folder).map_err(say(&folder))? {
            let path = entry.map_err(say(&folder))?.path();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("cu" | "cpp") => units.push(path),
                Some("cuh" | "h") => headers.push(path),
                _ => {}
            }
        }
    }
    units.sort();
    headers.sort();
    let mut common = DefaultHasher::new();
    (compiler.as_str(), FLAGS).hash(&mut common);
    for header in &headers {
        fs::read(header).map_err(say(header))?.hash(&mut common);
    }

    let mut whole = DefaultHasher::new();
    let mut objects = Vec::new();
    let mut missing = Vec::new();
    for unit in &units {
        let mut hasher = common.clone();
        fs::read(unit).map_err(say(unit))?.hash(&mut hasher);
        let hash = hasher.finish();
        hash.hash(&mut whole);
        let stem = unit.file_stem().unwrap_or_default().to_string_lossy();
        let object = folder.join(format!("{stem}-{hash:016x}.o"));
        if !object.exists() {
            missing.push((unit.clone(), object.clone()));
        }
        objects.push(object);
    }
    let path = folder.join(format!("kernels-{:016x}.so", whole.finish()));
    if path.exists() {
        return Ok(path);
    }

    // Others may be building the same: each writes a file of its own and puts it in place whole.
    let own = |path: &Path| path.with_extension(format!("{}.part", std::process::id()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    for some in missing.chunks(threads) {
        let started: Vec<_> = some
            .iter()
            .map(|(unit, object)| {
                let part = own(object);
                let child = Command::new(&compiler)
                    .args(FLAGS)
                    .arg(unit)
                    .arg("-o")
                    .arg(&part)
                    .stderr(std::process::Stdio::piped())
                    .spawn();
                (object, part, child)
            })
            .collect();
        for (object, part, child) in started {
            let output =
                child.and_then(|child| child.wait_with_output()).map_err(|error| format!("{compiler}: {error}"))?;
            if !output.status.success() {
                return Err(format!("{compiler} failed:\n{}", String::from_utf8_lossy(&output.stderr)));
            }
            fs::rename(&part, object).map_err(say(object))?;
        }
    }
    let part = own(&path);
    let output = Command::new(&compiler)
        .args(["-shared", "-o"])
        .arg(&part)
        .args(&objects)
        .output()
        .map_err(|error| format!("{compiler}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{compiler} failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&part, &path).map_err(say(&path))?;
    Ok(path)
}
