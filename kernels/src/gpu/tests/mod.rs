//! The GPU kernels on the emulated machine, each against its reference.
//!
//! Must not know: models, engine.

use super::emulated::Emulated;
use super::{Element, Gpu};

mod rows;
