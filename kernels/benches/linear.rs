//! Speed of the linear layer at [2048 -> 8192] with weights that come from memory: calls go round several copies,
//! together larger than the caches.
//!
//! `cargo bench --bench linear -- [threads]`; `TILTMETER_ISA` chooses the instruction set.
//!
//! Must not know: models, engine.

use std::time::{Duration, Instant};

use half::bf16;
use tiltmeter_kernels::{Isa, PackedLinear, Pool};

const N_OUT: usize = 8192;
const K_IN: usize = 2048;
const COPIES_BYTES: usize = 400 << 20;
const TIME_PER_ROW_COUNT: Duration = Duration::from_millis(1500);

fn main() {
    // Cargo passes `--bench` as well.
    let threads = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let pool = Pool::new(threads);
    let isa = Isa::active().name();
    println!("[{K_IN} -> {N_OUT}], {threads} threads, {isa}; best and median of many calls\n");
    println!("| weights | m | GFLOP/s | median | weights GB/s |");
    println!("|---|---|---|---|---|");
    let w: Vec<f32> = (0..N_OUT * K_IN).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    table("bf16", || PackedLinear::from_bf16(&narrow, N_OUT, K_IN), &pool);
    table("f32", || PackedLinear::from_f32(&w, N_OUT, K_IN), &pool);
}

fn table(kind: &str, layer: impl Fn() -> PackedLinear, pool: &Pool) {
    let mut layers = vec![layer()];
    while layers.len() * layers[0].bytes() < COPIES_BYTES {
        layers.push(layer());
    }
    for m in [1, 2, 4, 8, 16, 48, 512] {
        let x: Vec<f32> = (0..m * K_IN).map(|i| (i % 127) as f32 / 127.0 - 0.5).collect();
        let mut y = vec![0.0; m * N_OUT];
        let mut times = Vec::new();
        let start = Instant::now();
        for layer in layers.iter().cycle() {
            let before = Instant::now();
            layer.forward(&x, &mut y, m, pool);
            times.push(before.elapsed().as_secs_f64());
            if start.elapsed() > TIME_PER_ROW_COUNT && times.len() > 5 {
                break;
            }
        }
        times.sort_by(f64::total_cmp);
        let gflop = 2e-9 * (m * N_OUT * K_IN) as f64;
        let (best, median) = (times[0], times[times.len() / 2]);
        let bandwidth = 1e-9 * layers[0].bytes() as f64 / best;
        println!("| {kind} | {m} | {:.0} | {:.0} | {bandwidth:.1} |", gflop / best, gflop / median);
    }
}
