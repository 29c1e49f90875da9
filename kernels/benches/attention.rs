//! Speed of attention in the shape of the bench model (12 layers, 12 heads of 64): decoding over keys and values that come from
//! memory, since calls go through all layers in turn as a model does, and prefill, which is bound by arithmetic.
//!
//! `cargo bench --bench attention -- [threads]`; `TILTMETER_ISA` chooses the instruction set.
//!
//! Must not know: models, engine.

use std::time::{Duration, Instant};

use tiltmeter_kernels::{AttentionJob, AttentionShape, Isa, Pool, Slab, Slabs, attention, machine};

const LAYERS: usize = 12;
const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const PAGE_LEN: usize = 32;
const TIME_PER_LINE: Duration = Duration::from_millis(700);
const MACHINE_TIME: Duration = Duration::from_millis(800);

fn main() {
    // Cargo passes `--bench` as well.
    let threads = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let pool = Pool::new(threads);
    let read = machine::read_bandwidth(&pool, MACHINE_TIME);
    let peak = machine::fma_peak(&pool, MACHINE_TIME);
    println!(
        "{LAYERS} layers of {HEADS} heads of {HEAD_DIM}, {threads} threads, {}: reads {:.1} GB/s, {:.0} GFLOP/s at best\n",
        Isa::active().name(),
        1e-9 * read,
        1e-9 * peak
    );
    println!("| rows | position | window | ms | GB/s | of read | GFLOP/s | of peak |");
    println!("|---|---|---|---|---|---|---|---|");
    for context in [512, 1500] {
        for batch in [1, 4, 16] {
            let mut cache = Cache::new(batch, context);
            for window in [None, Some(512)].into_iter().filter(|window| window.is_none_or(|w| w < context)) {
                let seconds = cache.time(context - 1, 1, window, &pool);
                let seen = window.map_or(context, |window| window.min(context));
                line(&format!("{batch} x 1"), context, window, batch * seen, batch * seen, seconds, read, peak);
            }
        }
    }
    for window in [None, Some(256)] {
        let mut cache = Cache::new(1, 512);
        let seconds = cache.time(0, 512, window, &pool);
        let pairs = (1..=512).map(|seen| window.map_or(seen, |window| window.min(seen))).sum();
        line("1 x 512", 0, window, 512, pairs, seconds, read, peak);
    }
}

/// A layer's time: `keys` are read once, `pairs` of a query and a key are worked on, in every head.
fn line(
    rows: &str,
    position: usize,
    window: Option<usize>,
    keys: usize,
    pairs: usize,
    seconds: f64,
    read: f64,
    peak: f64,
) {
    let bytes = (2 * keys * HEADS * HEAD_DIM * size_of::<f32>()) as f64 / seconds;
    let flops = (4 * pairs * HEADS * HEAD_DIM) as f64 / seconds;
    println!(
        "| {rows} | {position} | {} | {:.3} | {:.1} | {:.0} % | {:.0} | {:.0} % |",
        window.map_or("none".to_owned(), |window| window.to_string()),
        1e3 * seconds,
        1e-9 * bytes,
        100.0 * bytes / read,
        1e-9 * flops,
        100.0 * flops / peak
    );
}

/// Pages of keys and of values, by sequence and layer.
struct Cache {
    layers: Vec<Vec<(Vec<Slab>, Vec<Slab>)>>,
}

impl Cache {
    /// Filled as prompts are, in turns of 256 positions.
    fn new(sequences: usize, positions: usize) -> Self {
        let len = HEADS * HEAD_DIM * PAGE_LEN;
        let mut slabs = Slabs::new(len);
        let mut filled = |n: usize| {
            let mut slab = slabs.take();
            slab.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 31 + n * 17) % 1021) as f32 / 1021.0 - 0.5);
            slab
        };
        let mut layers: Vec<Vec<(Vec<Slab>, Vec<Slab>)>> = Vec::new();
        layers.resize_with(LAYERS, || (0..sequences).map(|_| Default::default()).collect());
        let pages = positions.div_ceil(PAGE_LEN);
        for sequence in 0..sequences {
            for first in (0..pages).step_by(256 / PAGE_LEN) {
                for layer in &mut layers {
                    for page in first..pages.min(first + 256 / PAGE_LEN) {
                        layer[sequence].0.push(filled(page));
                        layer[sequence].1.push(filled(page + 1));
                    }
                }
            }
        }
        Cache { layers }
    }

    /// Seconds of one layer, the best of many, gone through in turn: what else runs on the machine does not count.
    fn time(&mut self, first_pos: usize, tokens: usize, window: Option<usize>, pool: &Pool) -> f64 {
        let shape = AttentionShape {
            n_heads: HEADS,
            n_kv_heads: HEADS,
            head_dim: HEAD_DIM,
            page_len: PAGE_LEN,
            scale: 0.125,
            window,
        };
        let width = tokens * HEADS * HEAD_DIM;
        let sequences = self.layers[0].len();
        let q: Vec<f32> = (0..width).map(|i| ((i * 7) % 509) as f32 / 509.0 - 0.5).collect();
        let mut out = vec![0.0; sequences * width];
        let views: Vec<Vec<(Vec<&[f32]>, Vec<&[f32]>)>> = self
            .layers
            .iter()
            .map(|layer| {
                fn slices(slabs: &[Slab]) -> Vec<&[f32]> {
                    slabs.iter().map(|slab| &slab[..]).collect()
                }
                layer.iter().map(|(k, v)| (slices(k), slices(v))).collect()
            })
            .collect();
        let mut best = f64::INFINITY;
        let until = Instant::now() + TIME_PER_LINE;
        while Instant::now() < until {
            for layer in &views {
                let mut jobs: Vec<AttentionJob> = out
                    .chunks_exact_mut(width)
                    .zip(layer)
                    .map(|(out, (k, v))| AttentionJob { q: &q, out, first_pos, k_pages: k, v_pages: v, first_page: 0 })
                    .collect();
                let began = Instant::now();
                attention(&shape, &mut jobs, pool);
                best = best.min(began.elapsed().as_secs_f64());
            }
        }
        best
    }
}
