//! Speed of the linear layer at [2048 -> 8192] beside candle's, with weights that come from memory: calls go round several
//! copies, together larger than the caches. All contenders take turns, so that a machine that slows down slows all.
//!
//! `cargo bench --bench linear -- [threads] [--seconds S] [--json]`; `tests/peers/linear.sh` sets torch beside it. Candle takes as many
//! threads as `RAYON_NUM_THREADS` says, all cores without it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use half::bf16;
use serde_json::json;
use tiltmeter_kernels::{Isa, PackedLinear, Pool, machine};

const N_OUT: usize = 8192;
const K_IN: usize = 2048;
const COPIES_BYTES: usize = 1 << 30;
const ROWS: [usize; 7] = [1, 2, 4, 8, 16, 48, 512];
const ROUNDS: u32 = 5;

/// One way to compute the layer: a name, the bytes of its weights, and a call with the n-th copy of them.
struct Contender<'a> {
    name: String,
    bytes: usize,
    call: Box<dyn Fn(usize, usize) + 'a>,
    calls: usize,
    times: Vec<f64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<f64>().ok();
    let seconds = arguments.iter().position(|a| a == "--seconds").and_then(|i| arguments.get(i + 1)).and_then(number);
    let threads = arguments.first().and_then(number).map(|threads| threads as usize);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let slice = Duration::from_secs_f64(seconds.unwrap_or(1.5)) / ROUNDS;
    let pool = Pool::new(threads);
    let read = machine::read_bandwidth(&pool, Duration::from_millis(800));
    let peak = machine::fma_peak(&pool, Duration::from_millis(800));

    let w: Vec<f32> = (0..N_OUT * K_IN).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    let copies = |bytes: usize| COPIES_BYTES.div_ceil(bytes * N_OUT * K_IN);
    let in_bf16: Vec<_> = (0..copies(2)).map(|_| PackedLinear::from_bf16(&narrow, N_OUT, K_IN)).collect();
    let in_f32: Vec<_> = (0..copies(4)).map(|_| PackedLinear::from_f32(&w, N_OUT, K_IN)).collect();
    let candles: Vec<_> = (0..copies(4)).map(|_| matrix(&w, N_OUT).t().expect("two dimensions")).collect();
    let most = ROWS[ROWS.len() - 1];
    let x: Vec<f32> = (0..most * K_IN).map(|i| (i % 127) as f32 / 127.0 - 0.5).collect();
    let x_bf16: Vec<f32> = x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();

    // As the engine does: memory for y is there, and begins with a cache line. Candle makes it on each call.
    let mut room = vec![0.0; most * N_OUT + 16];
    let unaligned = room.as_ptr().align_offset(64);
    let y = RefCell::new(&mut room[unaligned..]);

    let mut contenders = Vec::new();
    for isa in Isa::available().into_iter().filter(|isa| isa.name() != "portable") {
        let (pool, in_bf16, y) = (&pool, &in_bf16, &y);
        for (kind, x) in [("f32", &x), ("bf16", &x_bf16)] {
            if kind == "bf16" && isa.name() != "amx" {
                // The other tiers' time does not depend on what the numbers are.
                continue;
            }
            contenders.push(contender(format!("bf16 weights, {kind} rows, {}", isa.name()), 2, move |copy, m| {
                let y = &mut y.borrow_mut()[..m * N_OUT];
                in_bf16[copy % in_bf16.len()].forward_on(isa, &x[..m * K_IN], y, m, pool);
                std::hint::black_box(y);
            }));
        }
    }
    contenders.push(contender(format!("f32 weights, {}", Isa::active().name()), 4, |copy, m| {
        let y = &mut y.borrow_mut()[..m * N_OUT];
        in_f32[copy % in_f32.len()].forward(&x[..m * K_IN], y, m, &pool);
        std::hint::black_box(y);
    }));
    contenders.push(contender("candle, f32".to_owned(), 4, |copy, m| {
        let rows = matrix(&x[..m * K_IN], m);
        std::hint::black_box(rows.matmul(&candles[copy % candles.len()]).expect("shapes fit"));
    }));

    let mut rows = Vec::new();
    for m in ROWS {
        for contender in &mut contenders {
            contender.times.clear();
        }
        for _ in 0..ROUNDS {
            for contender in &mut contenders {
                contender.run(m, slice);
            }
        }
        rows.extend(contenders.iter_mut().map(|contender| contender.row(m)));
    }
    if arguments.iter().any(|a| a == "--json") {
        println!("{}", json!({"threads": threads, "read_bytes_per_s": read, "peak_flops": peak, "rows": rows}));
    } else {
        print(&rows, threads, read, peak);
    }
}

fn contender<'a>(name: String, weight_bytes: usize, call: impl Fn(usize, usize) + 'a) -> Contender<'a> {
    let bytes = weight_bytes * N_OUT * K_IN;
    Contender { name, bytes, call: Box::new(call), calls: 0, times: Vec::new() }
}

fn matrix(values: &[f32], rows: usize) -> Tensor {
    Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).expect("the shape fits")
}

impl Contender<'_> {
    fn run(&mut self, m: usize, time: Duration) {
        let start = Instant::now();
        // The first call of a turn finds other things in the caches and the threads asleep.
        (self.call)(self.calls, m);
        let mut turns = 0;
        while start.elapsed() < time || turns < 2 {
            self.calls += 1;
            turns += 1;
            let before = Instant::now();
            (self.call)(self.calls, m);
            self.times.push(before.elapsed().as_secs_f64());
        }
    }

    fn row(&mut self, m: usize) -> serde_json::Value {
        self.times.sort_by(f64::total_cmp);
        let (best, median) = (self.times[0], self.times[self.times.len() / 2]);
        let flop = (2 * m * N_OUT * K_IN) as f64;
        json!({
            "name": self.name, "m": m, "best_flops": flop / best, "median_flops": flop / median,
            "weight_bytes_per_s": self.bytes as f64 / best,
        })
    }
}

fn print(rows: &[serde_json::Value], threads: usize, read: f64, peak: f64) {
    let number = |row: &serde_json::Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "[{K_IN} -> {N_OUT}], {threads} threads: reads {:.1} GB/s, {:.0} GFLOP/s at best\n",
        read / 1e9,
        peak / 1e9
    );
    println!("| | m | GFLOP/s, best | median | beside candle | of read | of peak |");
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        let candle = rows.iter().find(|other| other["m"] == row["m"] && other["name"] == "candle, f32");
        let candle = candle.map_or(f64::NAN, |candle| number(candle, "best_flops"));
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.0} % | {:.0} % |",
            row["name"].as_str().unwrap_or_default(),
            row["m"],
            number(row, "best_flops") / 1e9,
            number(row, "median_flops") / 1e9,
            number(row, "best_flops") / candle,
            100.0 * number(row, "weight_bytes_per_s") / read,
            100.0 * number(row, "best_flops") / peak,
        );
    }
}
