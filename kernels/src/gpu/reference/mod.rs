//! The GPU kernels written plainly: the same rounding points, sums in f64. What the fast ones are held to, and what to read first.

pub mod rows;
pub mod linear;
pub mod attention;
pub mod sampler;

use super::Element;

/// To the nearest number of this kind, ties to the even one.
pub fn round(element: Element, x: f64) -> f32 {
    match element {
        Element::Bf16 => half::bf16::from_f32(x as f32).to_f32(),
        Element::F16 => half::f16::from_f32(x as f32).to_f32(),
    }
}
