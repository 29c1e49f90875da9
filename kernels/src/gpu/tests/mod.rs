//! The GPU kernels on the emulated machine, each against its reference.
//!
//! Must not know: models, engine.

use super::emulated::{Emulated, Turns};
use super::{Element, Gpu};

mod rows;
mod linear;
mod attention;
