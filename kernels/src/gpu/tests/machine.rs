//! The device itself: the kernels' primitives match the PTX definition; graphs; copies; and the emulated device notices
//! what a GPU would let pass.

use super::*;
use crate::gpu::{Address, GpuError, Result};

parameters! {
    struct ProofParameters {
        a: Address,
        b: Address,
        b_turned: Address,
        product: Address,
        turned: Address,
        lanes: Address,
        rounded: Address,
    }
}

/// The words of common.cuh on a device, against plain arithmetic.
fn prove(gpu: &Gpu, element: Element) {
    let mut numbers = Numbers::new(3);
    let (a_bits, a) = narrow(element, &numbers.normal(256));
    let (b_bits, b) = narrow(element, &numbers.normal(128));
    let turned_bits: Vec<u16> = (0..128).map(|i| b_bits[i % 8 * 16 + i / 8]).collect();
    let on = |bits: &[u16]| gpu.upload(bits).unwrap();
    let (a_on, b_on, turned_on) = (on(&a_bits), on(&b_bits), on(&turned_bits));
    let (product, turned) = (gpu.alloc(512).unwrap(), gpu.alloc(512).unwrap());
    let (lanes, rounded) = (gpu.alloc(640).unwrap(), gpu.alloc(512).unwrap());
    let parameters = ProofParameters {
        a: a_on.address(),
        b: b_on.address(),
        b_turned: turned_on.address(),
        product: product.address(),
        turned: turned.address(),
        lanes: lanes.address(),
        rounded: rounded.address(),
    };
    gpu.launch(element.of("proof_bf16", "proof_f16"), [1, 1, 1], 32, 0, &parameters).unwrap();
    let product: Vec<f32> = product.all().read(128).unwrap();
    assert_eq!(raw(&product), raw(&turned.all().read::<f32>(128).unwrap()));
    let rounded: Vec<u16> = rounded.all().read(256).unwrap();
    for m in 0..16 {
        for n in 0..8 {
            let sum: f64 = (0..16).map(|k| f64::from(a[m * 16 + k]) * f64::from(b[n * 16 + k])).sum();
            let found = product[m * 8 + n];
            assert!((f64::from(found) - 1.0 - sum).abs() < 1e-5, "row {m} column {n}: {found}, not {}", sum + 1.0);
            let expected = narrow(element, &[found]).0[0];
            assert_eq!([rounded[m * 8 + n], rounded[128 + m * 8 + n]], [expected; 2]);
        }
    }
    let lanes: Vec<u32> = lanes.all().read(160).unwrap();
    for l in 0..32u32 {
        let expected = [
            l / 2 * 3,
            l ^ 5,
            l.checked_sub(3).unwrap_or(l),
            if l < 30 { l + 2 } else { l },
            (0..32).filter(|l| l % 3 == 0).map(|l| 1 << l).sum::<u32>() + 31 * 16,
        ];
        let found = [0, 32, 64, 96, 128].map(|part| lanes[part + l as usize]);
        assert_eq!(found, expected, "lane {l}");
    }
}

#[test]
fn words_of_the_kernels_mean_what_ptx_says() {
    for element in ELEMENTS {
        prove(&gpu(), element);
    }
}

#[test]
fn two_byte_numbers_are_rounded_to_the_nearest_even() {
    // Every f32 whose upper half says anything and whose lower bits are at, below and above a tie, through the kernel of embeddings'
    // inverse: the end of a sublayer with nothing to add.
    use crate::gpu::rows::{Finish, Next, finish};
    let gpu = gpu();
    let mut all = Vec::new();
    for upper in (0..0x8000u32).step_by(7) {
        for lower in [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff] {
            all.push(f32::from_bits(upper << 16 | lower));
            all.push(f32::from_bits(1 << 31 | upper << 16 | lower));
        }
    }
    all.resize(all.len().next_multiple_of(16), 0.0);
    let residual = gpu.upload(&all).unwrap();
    for element in ELEMENTS {
        let out = gpu.alloc(all.len() * 2).unwrap();
        let work = Finish {
            rows: all.len() / 16,
            width: 16,
            residual: residual.all(),
            partials: None,
            post: None,
            steering: None,
            dots: None,
            next: Some(Next { out: out.all(), norm: None, round_first: false }),
            sources: None,
        };
        finish(&gpu, element, &work).unwrap();
        for (x, found) in all.iter().zip(out.all().read::<u16>(all.len()).unwrap()) {
            let expected = match element {
                Element::Bf16 => half::bf16::from_f32(*x).to_bits(),
                Element::F16 => half::f16::from_f32(*x).to_bits(),
            };
            assert!(found == expected || x.is_nan(), "{x:e} ({:#x}) became {found:#x}, not {expected:#x}", x.to_bits());
        }
    }
}

parameters! {
    struct FaultParameters {
        out: Address,
        fault: u32,
        unused: u32,
    }
}

/// What comes of a fault, with a block of 64 threads and 64 bytes of dynamic shared memory.
fn run(gpu: &Gpu, fault: u32) -> Result<Vec<f32>> {
    let out = gpu.alloc(64 * 4)?;
    let parameters = FaultParameters { out: out.address(), fault, unused: 0 };
    gpu.launch("faults", [1, 1, 1], 64, 64, &parameters)?;
    out.all().read(64)
}

#[test]
fn faults_of_a_kernel_are_noticed() {
    let Some(gpu) = emulated() else { return };
    let backwards: Vec<f32> = (0..64).map(|t| (63 - t) as f32).collect();
    assert_eq!(run(&gpu, 0).unwrap(), backwards);
    for (fault, expected) in [
        (1, "no thread can go on: 32 of 64 have ended"),
        (2, "while thread"),
        (4, "16 bytes are read at"),
        (5, "outside a shared array of 256 bytes"),
        (7, "1 asynchronous copies were never waited for"),
        (8, "an asynchronous copy goes at 64 of dynamic shared memory, which has 64 bytes"),
        (11, "no thread can go on"),
        (12, "outside the 64 bytes of dynamic shared memory"),
    ] {
        let error = run(&gpu, fault).unwrap_err().to_string();
        assert!(error.contains("kernel faults, block (0, 0, 0)") && error.contains(expected), "{fault}: {error}");
        // And the machine is as good as before.
        assert_eq!(run(&gpu, 0).unwrap(), backwards, "after {fault}");
    }
    for fault in [3, 6] {
        assert!(run(&gpu, fault).unwrap()[0].is_nan(), "{fault}: uninitialised memory is NaN");
    }
}

#[test]
fn a_missing_barrier_shows_when_the_threads_take_their_turns_differently() {
    let (Tested(Some(tested)), gpu) = device() else { return };
    let bits = |numbers: Vec<f32>| raw(&numbers);
    let in_order = bits(run(&gpu, 10).unwrap());
    let whole = bits(run(&gpu, 0).unwrap());
    tested.set_turns(Turns::Backwards);
    assert_ne!(bits(run(&gpu, 10).unwrap()), in_order);
    tested.set_turns(Turns::Shuffled(3));
    assert_eq!(bits(run(&gpu, 0).unwrap()), whole);
}

#[test]
#[should_panic(expected = "a kernel wrote beside an allocation of 264 bytes")]
fn a_write_beside_an_allocation_is_noticed_when_it_is_freed() {
    let Some(gpu) = emulated() else { panic!("a kernel wrote beside an allocation of 264 bytes: not tried on a GPU") };
    // 64 numbers are the kernel's; there are two more, and then memory that belongs to no allocation.
    let out = gpu.alloc(66 * 4).unwrap();
    let parameters = FaultParameters { out: Address(out.address().0 + 8), fault: 9, unused: 0 };
    gpu.launch("faults", [1, 1, 1], 64, 64, &parameters).unwrap();
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let Some(gpu) = emulated() else { return };
    let out = gpu.alloc(256).unwrap();
    let parameters = FaultParameters { out: out.address(), fault: 0, unused: 0 };
    let try_with =
        |kernel, grid, threads, shared| gpu.launch(kernel, grid, threads, shared, &parameters).unwrap_err().to_string();
    assert!(try_with("nothing", [1, 1, 1], 64, 64).contains("there is none of this name"));
    assert!(try_with("faults", [1, 1, 1], 96, 64).contains("not made for blocks of this size"));
    assert!(try_with("faults", [1, 1, 1], 40, 64).contains("not made for blocks of this size"));
    assert!(try_with("faults", [0, 1, 1], 64, 64).contains("an impossible grid"));
    assert!(try_with("faults", [1, 1, 1], 64, 300_000).contains("more shared memory"));
    assert!(try_with("proof_bf16", [1, 1, 1], 32, 0).contains("a struct of another size"));
}

#[test]
fn memory_has_its_limits() {
    let Some(_) = emulated() else { return };
    let gpu = Gpu::new(Emulated::open(1000).unwrap());
    let held = gpu.alloc(600).unwrap();
    let Err(error) = gpu.alloc(401) else { panic!("there was no room") };
    assert_eq!(error, GpuError::OutOfMemory { asked: 401, free: 400 });
    assert_eq!(gpu.driver().memory().unwrap(), (400, 1000));
    drop(held);
    let again = gpu.alloc(1000).unwrap();
    assert_eq!(again.all().read::<u8>(1000).unwrap(), vec![0; 1000]);
    let beyond = gpu.driver().read(again.address().plus(1), &mut [0; 1000]);
    assert!(beyond.unwrap_err().to_string().contains("not inside any allocation"));
}

#[test]
fn a_graph_is_what_was_recorded_with_the_addresses_of_then() {
    let gpu = gpu();
    let (from, to) = (gpu.upload(&[1u32, 2, 3, 4]).unwrap(), gpu.alloc(16).unwrap());
    let graph = gpu.capture(|| from.all().copy_to(to.all())).unwrap();
    assert_eq!(to.all().read::<u32>(4).unwrap(), [0; 4]);
    from.all().write(&[5u32, 6, 7, 8]).unwrap();
    graph.replay().unwrap();
    assert_eq!(to.all().read::<u32>(4).unwrap(), [5, 6, 7, 8]);
    to.all().zero().unwrap();
    graph.replay().unwrap();
    assert_eq!(to.all().read::<u32>(4).unwrap(), [5, 6, 7, 8]);

    // Nothing that would stop the device or change its memory; and the next recording is as good as if it had not been tried.
    for outcome in [
        gpu.capture(|| gpu.alloc(16).map(drop)),
        gpu.capture(|| from.all().read::<u32>(1).map(drop)),
        gpu.capture(|| gpu.synchronize()),
    ] {
        assert!(matches!(outcome, Err(GpuError::Failed { .. })));
    }
    let graph = gpu.capture(|| to.part::<u32>(0, 2).zero()).unwrap();
    graph.replay().unwrap();
    assert_eq!(to.all().read::<u32>(4).unwrap(), [0, 0, 7, 8]);
}

#[test]
fn a_graph_of_memory_that_was_freed_is_noticed() {
    let Some(gpu) = emulated() else { return };
    let (from, to) = (gpu.upload(&[1u32, 2, 3, 4]).unwrap(), gpu.alloc(16).unwrap());
    let graph = gpu.capture(|| from.all().copy_to(to.all())).unwrap();
    for (what, outcome) in [
        ("memory is asked for", gpu.capture(|| gpu.alloc(16).map(drop))),
        ("memory is written", gpu.capture(|| from.all().write(&[1u32]))),
        ("the device is waited for", gpu.capture(|| gpu.synchronize())),
    ] {
        let Err(error) = outcome else { panic!("{what} while recording") };
        assert!(error.to_string().contains(what), "{error}");
    }
    drop(to);
    assert!(graph.replay().unwrap_err().to_string().contains("not inside any allocation"));
}

#[test]
fn staging_brings_numbers_without_anybody_waiting() {
    let gpu = gpu();
    let memory = gpu.alloc(16).unwrap();
    let mut staging = gpu.staging(32).unwrap();
    staging.numbers::<u32>(4).unwrap().copy_from_slice(&[4, 3, 2, 1]);
    staging.send(memory.all()).unwrap();
    assert_eq!(memory.all().read::<u32>(4).unwrap(), [4, 3, 2, 1]);
    memory.all().write(&[9u32, 8]).unwrap();
    staging.fetch(memory.part::<u32>(0, 3)).unwrap();
    assert_eq!(staging.numbers::<u32>(4).unwrap(), [9, 8, 2, 1]);
    let (begin, end) = (gpu.mark().unwrap(), gpu.mark().unwrap());
    end.wait().unwrap();
    assert!(end.milliseconds_since(&begin).unwrap() >= 0.0);
}
