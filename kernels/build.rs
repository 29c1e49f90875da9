//! Compiles the CUDA kernels where the feature `cuda` is on; nothing is done otherwise.
//!
//! Must not know: models, engine.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
