//! The GPU kernels on the emulated machine, each against its reference.
//!
//! Must not know: models, engine.

use super::emulated::{Emulated, Turns};
use super::{Element, Gpu, Plain, reference};
use crate::testing::Numbers;

mod rows;
mod linear;
mod attention;
mod speed;

const ELEMENTS: [Element; 2] = [Element::Bf16, Element::F16];

/// An emulated device, and a handle on it that can shuffle the threads' turns.
fn device() -> (std::sync::Arc<Emulated>, Gpu) {
    let emulated = Emulated::open(1 << 30).unwrap();
    (emulated.clone(), Gpu::new(emulated))
}

/// The device that is tested.
fn gpu() -> Gpu {
    Emulated::gpu()
}

fn is_emulated(gpu: &Gpu) -> bool {
    gpu.driver().name() == "emulated"
}

/// The bits of two-byte numbers, and what they say.
fn narrow(element: Element, numbers: &[f32]) -> (Vec<u16>, Vec<f32>) {
    let wide: Vec<f32> = numbers.iter().map(|&x| reference::round(element, f64::from(x))).collect();
    let bits = wide.iter().map(|&x| match element {
        Element::Bf16 => half::bf16::from_f32(x).to_bits(),
        Element::F16 => half::f16::from_f32(x).to_bits(),
    });
    (bits.collect(), wide)
}

fn widen(element: Element, bits: &[u16]) -> Vec<f32> {
    let one = |&bits: &u16| match element {
        Element::Bf16 => half::bf16::from_bits(bits).to_f32(),
        Element::F16 => half::f16::from_bits(bits).to_f32(),
    };
    bits.iter().map(one).collect()
}

/// Every number near its reference: `relative` of the reference's root mean square, or of the number itself where that is more.
#[track_caller]
fn assert_near(found: &[f32], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= relative * size.max(expected.abs()), "{what} [{i}]: {found}, not {expected}");
    }
}

/// Half a unit in the last place of a two-byte number, and what f32 sums add.
fn rounding(element: Element) -> f64 {
    match element {
        Element::Bf16 => 1.0 / 256.0,
        Element::F16 => 1.0 / 2048.0,
    }
}

/// Some numbers as bytes, to compare what must be the same bits.
fn raw<T: Plain>(numbers: &[T]) -> Vec<u8> {
    T::bytes_of(numbers).to_vec()
}
