//! Linear layers: against the exact order of sums, and that a row's bits are its own.

use super::*;
use crate::gpu::linear::{LinearScratch, LinearShape, Output, Way, linear, linear_by};
use crate::gpu::{Memory, Span};
use crate::testing::bits;

/// A weight on the device, and the numbers it was made of.
struct Weight {
    gpu: Gpu,
    shape: LinearShape,
    element: Element,
    packed: Memory,
    numbers: Vec<f32>,
}

/// Normal numbers that the element can hold.
fn random(element: Element, count: usize, seed: u64) -> Vec<f32> {
    narrow(element, &Numbers::new(seed).normal(count)).1
}

fn rounded(element: Element, numbers: &[f32]) -> Vec<f32> {
    narrow(element, numbers).1
}

impl Weight {
    fn new(gpu: &Gpu, element: Element, n: usize, k: usize) -> Weight {
        let shape = LinearShape { n, k };
        let numbers = random(element, n * k, (n * k) as u64);
        let (bits, _) = narrow(element, &numbers);
        let packed = gpu.upload(&shape.pack(|i| &bits[i * k..(i + 1) * k])).unwrap();
        Weight { gpu: gpu.clone(), shape, element, packed, numbers }
    }

    /// Runs with memory for exactly `m` rows; the outputs are read back as f32 whatever they are.
    fn run(&self, x: &[f32], m: usize, way: Option<Way>, kind: fn(Span) -> Output) -> Vec<f32> {
        let LinearShape { n, k } = self.shape;
        let x = self.gpu.upload(&narrow(self.element, &x[..m * k]).0).unwrap();
        let (partials, arrivals) = self.shape.scratch(m);
        let (partials, arrivals) = (self.gpu.alloc(partials * 4).unwrap(), self.gpu.alloc(arrivals * 4).unwrap());
        let scratch = LinearScratch { partials: partials.all(), arrivals: arrivals.all() };
        let probe = self.gpu.alloc(16).unwrap();
        let (wide, count) = match kind(probe.all()) {
            Output::Parts(_) => (true, way.map_or(self.shape.parts(m), |way| way.parts(self.shape)) * m * n),
            Output::Rounded(_) => (false, m * n),
            Output::Wide(_) => (true, m * n),
            Output::SwiGlu(_) => (false, m * n / 2),
        };
        let y = self.gpu.alloc(count * if wide { 4 } else { 2 }).unwrap();
        let (gpu, element, shape, w) = (&self.gpu, self.element, self.shape, self.packed.all());
        match way {
            Some(way) => linear_by(way, gpu, element, shape, w, x.all(), m, kind(y.all()), scratch).unwrap(),
            None => linear(gpu, element, shape, w, x.all(), m, kind(y.all()), scratch).unwrap(),
        };
        assert!(
            arrivals.all().read::<u32>(arrivals.bytes() / 4).unwrap().iter().all(|&n| n == 0),
            "arrivals are 0 again"
        );
        if wide {
            y.all().read::<f32>(count).unwrap()
        } else {
            widen(self.element, &y.all().read::<u16>(count).unwrap())
        }
    }
}

const PARTS: fn(Span) -> Output = |span| Output::Parts(span);
const ROUNDED: fn(Span) -> Output = |span| Output::Rounded(span);
const WIDE: fn(Span) -> Output = |span| Output::Wide(span);
const SWIGLU: fn(Span) -> Output = |span| Output::SwiGlu(span);

/// Shapes with 1, 2, 4 and 8 splits, with and without whole tiles, blocks and stages.
const SHAPES: [(usize, usize); 6] = [(16, 16), (150, 80), (33, 1048), (130, 2056), (24, 4160), (256, 64)];

#[test]
fn splits_lie_where_the_shape_says() {
    let splits = |n, k| LinearShape { n, k }.splits();
    assert_eq!(SHAPES.map(|(n, k)| splits(n, k)), [1, 1, 2, 4, 8, 1]);
    // Olmo-3-7B: qkv, o, gate and up, down, head.
    let olmo = [(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008), (100_278, 4096)];
    assert_eq!(olmo.map(|(n, k)| splits(n, k)), [4, 8, 2, 8, 1]);
}

#[test]
fn sums_are_those_of_the_stated_order() {
    let gpu = gpu();
    for (n, k) in SHAPES {
        let weight = Weight::new(&gpu, Element::Bf16, n, k);
        let m = 3;
        let x = random(Element::Bf16, m * k, 7);
        let parts = weight.run(&x, m, None, PARTS);
        let wanted = reference::linear::parts(weight.shape, &x, &weight.numbers);
        if is_emulated(&gpu) {
            assert_eq!(bits(&parts), bits(&wanted), "parts of {n} x {k}");
        }
        // A real tensor core rounds inside a step as it likes.
        for (part, wanted) in parts.iter().zip(&wanted) {
            assert!((part - wanted).abs() < 1e-5 * (k as f32).sqrt(), "part {part} of {n} x {k} is not {wanted}");
        }

        let sums = reference::linear::summed(&parts, weight.shape.splits());
        assert_eq!(bits(&weight.run(&x, m, None, WIDE)), bits(&sums), "sums of {n} x {k}");
        let round = rounded(Element::Bf16, &sums);
        assert_eq!(weight.run(&x, m, None, ROUNDED), round, "rounded sums of {n} x {k}");
        let exact = reference::linear::linear(weight.shape, &x, &weight.numbers);
        for (sum, exact) in sums.iter().zip(&exact) {
            assert!((f64::from(*sum) - exact).abs() < 1e-5 * (k as f64).sqrt(), "{sum} of {n} x {k} is not {exact}");
        }
        if n % 2 == 0 {
            let wanted = reference::linear::swiglu(Element::Bf16, &sums);
            for (got, wanted) in weight.run(&x, m, None, SWIGLU).iter().zip(&wanted) {
                // One unit of the last place: exp need not be the same to the last bit, and overflows where it is huge.
                assert!((got - wanted).abs() <= wanted.abs() / 128.0 + 1e-30, "{got} is not {wanted}");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_nor_on_the_kernel() {
    let gpu = gpu();
    for (element, n, k) in [(Element::Bf16, 33, 1048), (Element::F16, 150, 80), (Element::Bf16, 24, 4160)] {
        let weight = Weight::new(&gpu, element, n, k);
        let x = random(element, 70 * k, 3);
        let all = weight.run(&x, 70, Some(Way::Many(0)), WIDE);
        let counts: Vec<usize> = if k < 2000 { (1..=70).collect() } else { vec![1, 9, 40, 64, 70] };
        for m in counts {
            let got = weight.run(&x, m, None, WIDE);
            assert_eq!(bits(&got), bits(&all[..m * n]), "{m} rows of {n} x {k}");
        }
        for way in Way::all() {
            let got = weight.run(&x, 70, Some(way), WIDE);
            assert_eq!(bits(&got), bits(&all), "{way:?}");
            // From another place.
            let m = 11;
            let got = weight.run(&x[17 * k..], m, Some(way), ROUNDED);
            assert_eq!(got, rounded(element, &all[17 * n..(17 + m) * n]), "{way:?} from row 17 on");
        }
        let parts = weight.run(&x, 5, Some(Way::all()[0]), PARTS);
        let sums = reference::linear::summed(&parts, weight.shape.splits());
        assert_eq!(bits(&sums), bits(&all[..5 * n]), "the parts of few rows make the sums of many");
    }
}

#[test]
fn the_order_in_which_threads_run_does_not_show() {
    let (tested, gpu) = device();
    let weight = Weight::new(&gpu, Element::Bf16, 130, 2056);
    let x = random(Element::Bf16, 20 * 2056, 5);
    let wanted = weight.run(&x, 20, None, SWIGLU);
    for turns in [Turns::Backwards, Turns::Shuffled(1), Turns::Shuffled(2)] {
        tested.set_turns(turns);
        for way in [None, Some(Way::Many(0))] {
            assert_eq!(weight.run(&x, 20, way, SWIGLU), wanted, "{turns:?} {way:?}");
        }
    }
}

#[test]
fn a_weight_is_packed_as_the_kernel_reads_it() {
    let (n, k) = (150, 136);
    let shape = LinearShape { n, k };
    let weight: Vec<u16> = (0..n * k).map(|i| i as u16 + 1).collect();
    let packed = shape.pack(|i| &weight[i * k..(i + 1) * k]);
    assert_eq!(packed.len(), 2 * 3 * 128 * 64);
    let mut at = packed.iter();
    for block in 0..2 {
        for stage in 0..3 {
            for tile in 0..8 {
                for step in 0..4 {
                    for lane in 0..32 {
                        let low = block * 128 + tile * 16 + lane / 4 * 2;
                        let first = stage * 64 + step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
                        for (row, i) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)] {
                            let (row, i) = (low + row, first + i);
                            let wanted = if row < n && i < k { weight[row * k + i] } else { 0 };
                            assert_eq!(*at.next().unwrap(), wanted, "row {row}, input {i}");
                        }
                    }
                }
            }
        }
    }
}
