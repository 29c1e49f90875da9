//! The GPU kernels written plainly: the same rounding points, sums in f64. What the fast ones are held to, and what to read first.
//!
//! Must not know: models, engine.

pub mod rows;
pub mod linear;
pub mod attention;
