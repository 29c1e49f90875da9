//! The GPU kernels on the emulated device, each against its reference.

use super::emulated::{Emulated, Turns};
use super::{Element, Gpu, Plain, reference};
use crate::testing::Numbers;

mod machine;
mod rows;
mod linear;
mod attention;
mod sampler;
mod speed;

const ELEMENTS: [Element; 2] = [Element::Bf16, Element::F16];

/// The device that is tested: the emulated one or, where TILTMETER_TEST_GPU has its number, a GPU (in a build with CUDA).
fn device() -> (Tested, Gpu) {
    match std::env::var("TILTMETER_TEST_GPU") {
        Err(_) => {
            let emulated = Emulated::open(1 << 30).unwrap_or_else(|error| panic!("{error}"));
            (Tested(Some(emulated.clone())), Gpu::new(emulated))
        }
        #[cfg(feature = "cuda")]
        Ok(number) => {
            let number = number.parse().expect("TILTMETER_TEST_GPU is the number of a GPU");
            (Tested(None), Gpu::new(super::cuda::Cuda::open(number).unwrap_or_else(|error| panic!("{error}"))))
        }
        #[cfg(not(feature = "cuda"))]
        Ok(_) => panic!("TILTMETER_TEST_GPU is set, and these tests were built without CUDA"),
    }
}

fn gpu() -> Gpu {
    device().1
}

fn is_emulated(gpu: &Gpu) -> bool {
    gpu.driver().name() == "emulated"
}

/// Requests that a GPU must refuse.
struct Tested(Option<std::sync::Arc<Emulated>>);

impl Tested {
    /// On the emulated device the threads take their turns in this order from now on; a GPU has an order of its own.
    fn set_turns(&self, turns: Turns) {
        if let Some(emulated) = &self.0 {
            emulated.set_turns(turns);
        }
    }
}

/// A device for tests of the emulated device itself; there is none while a GPU is tested.
fn emulated() -> Option<Gpu> {
    let (tested, gpu) = device();
    if tested.0.is_none() {
        println!("not a test of a GPU: nothing was done");
    }
    tested.0.map(|_| gpu)
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
