//! Speed of attention in the shape of the bench model (12 layers, 12 heads of 64): decoding over keys and values that come from
//! memory, since calls go through all layers in turn as a model does, and prefill, which is bound by arithmetic.
//!
//! `cargo bench --bench attention -- [threads] [prefill]`; `TILTMETER_ISA` chooses the instruction set.

use std::time::{Duration, Instant};

use tiltmeter_kernels::{
    AttentionJob, AttentionShape, Isa, KvPage, KvPages, KvType, KvWrite, PageShape, Pool, attention, machine, write_kv,
};

const LAYERS: usize = 12;
const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const PAGE_LEN: usize = 32;
const WINDOW: usize = 512;
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
    println!("| kv | rows | position | window | ms | GB/s | of read | GFLOP/s | of peak | writing, ms |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for kv in [KvType::F32, KvType::Bf16] {
        let line = |cache: &mut Cache, first_pos: usize, tokens: usize, window: Option<usize>| {
            let (seconds, writing) = cache.time(first_pos, tokens, window, &pool);
            let sequences = cache.layers[0].len();
            let seen = |position: usize| window.map_or(position + 1, |window| window.min(position + 1));
            // Decoding reads its keys once; a prompt's are read from memory once and for many rows.
            let keys = sequences * if tokens == 1 { seen(first_pos) } else { tokens };
            let pairs = sequences * (first_pos..first_pos + tokens).map(seen).sum::<usize>();
            let bytes = (2 * keys * HEADS * HEAD_DIM * kv.bytes()) as f64 / seconds;
            let flops = (4 * pairs * HEADS * HEAD_DIM) as f64 / seconds;
            println!(
                "| {} | {sequences} x {tokens} | {first_pos} | {} | {:.3} | {:.1} | {:.0} % | {:.0} | {:.0} % | {:.3} |",
                kv.name(),
                window.map_or("none".to_owned(), |window| window.to_string()),
                1e3 * seconds,
                1e-9 * bytes,
                100.0 * bytes / read,
                1e-9 * flops,
                100.0 * flops / peak,
                1e3 * writing,
            );
        };
        let contexts = if std::env::args().any(|argument| argument == "prefill") { &[][..] } else { &[512, 1500] };
        for &context in contexts {
            for batch in [1, 4, 16] {
                let mut cache = Cache::new(kv, batch, context);
                line(&mut cache, context - 1, 1, None);
                if context > WINDOW {
                    line(&mut cache, context - 1, 1, Some(WINDOW));
                }
            }
        }
        let mut cache = Cache::new(kv, 1, 512);
        line(&mut cache, 0, 512, None);
        line(&mut cache, 0, 512, Some(WINDOW / 2));
    }
}

/// Pages by layer and sequence.
struct Cache {
    shape: PageShape,
    layers: Vec<Vec<Vec<KvPage>>>,
}

impl Cache {
    /// Filled as prompts are, in turns of 256 positions.
    fn new(kv: KvType, sequences: usize, positions: usize) -> Self {
        let shape = PageShape { n_kv_heads: HEADS, head_dim: HEAD_DIM, page_len: PAGE_LEN, kv };
        let mut all = KvPages::new(shape);
        let numbers: Vec<f32> =
            (0..2 * PAGE_LEN * HEADS * HEAD_DIM).map(|i| (i * 31 % 1021) as f32 / 1021.0 - 0.5).collect();
        let (k, v) = numbers.split_at(PAGE_LEN * HEADS * HEAD_DIM);
        let pool = Pool::new(1);
        let mut layers: Vec<Vec<Vec<KvPage>>> = Vec::new();
        layers.resize_with(LAYERS, || (0..sequences).map(|_| Vec::new()).collect());
        let pages = positions.div_ceil(PAGE_LEN);
        for sequence in 0..sequences {
            for first in (0..pages).step_by(256 / PAGE_LEN) {
                for layer in &mut layers {
                    for _ in first..pages.min(first + 256 / PAGE_LEN) {
                        let mut page = all.take();
                        write_kv(&shape, &mut [KvWrite { page: &mut page, slot: 0, k, v }], &pool);
                        layer[sequence].push(page);
                    }
                }
            }
        }
        Cache { shape, layers }
    }

    /// Seconds of attention in one layer, and of writing the keys and values of its rows before; the best of many, gone through in turn:
    /// what else runs on the machine does not count.
    fn time(&mut self, first_pos: usize, tokens: usize, window: Option<usize>, pool: &Pool) -> (f64, f64) {
        let shape = AttentionShape { n_heads: HEADS, pages: self.shape, scale: 0.125, window };
        let width = HEADS * HEAD_DIM;
        let sequences = self.layers[0].len();
        let q: Vec<f32> = (0..tokens * width).map(|i| ((i * 7) % 509) as f32 / 509.0 - 0.5).collect();
        let mut out = vec![0.0; sequences * tokens * width];
        let (mut best, mut best_writing) = (f64::INFINITY, f64::INFINITY);
        let until = Instant::now() + TIME_PER_LINE;
        while Instant::now() < until {
            for layer in &mut self.layers {
                let mut writes: Vec<KvWrite> = layer
                    .iter_mut()
                    .flat_map(|pages| {
                        let pages = pages.iter_mut().enumerate().skip(first_pos / PAGE_LEN);
                        pages.map(|(number, page)| {
                            let from = first_pos.max(number * PAGE_LEN);
                            let to = (first_pos + tokens).min((number + 1) * PAGE_LEN);
                            let rows = &q[(from - first_pos) * width..(to - first_pos) * width];
                            KvWrite { page, slot: from % PAGE_LEN, k: rows, v: rows }
                        })
                    })
                    .collect();
                let began = Instant::now();
                write_kv(&shape.pages, &mut writes, pool);
                best_writing = best_writing.min(began.elapsed().as_secs_f64());
                drop(writes);
                let pages: Vec<Vec<&KvPage>> = layer.iter().map(|pages| pages.iter().collect()).collect();
                let mut jobs: Vec<AttentionJob> = out
                    .chunks_exact_mut(tokens * width)
                    .zip(&pages)
                    .map(|(out, pages)| AttentionJob { q: &q, out, first_pos, pages, first_page: 0 })
                    .collect();
                let began = Instant::now();
                attention(&shape, &mut jobs, pool);
                best = best.min(began.elapsed().as_secs_f64());
            }
        }
        (best, best_writing)
    }
}
