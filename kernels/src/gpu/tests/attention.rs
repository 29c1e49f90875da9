//! Attention: decoding and prefill against the reference, and that a row's bits are its own whichever computes it.

use super::*;
use crate::gpu::Memory;
use crate::gpu::attention::{self, AttentionScratch, AttentionShape, Pages, Reach, Sequences};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Decode,
    /// Every block does all chunks of its rows.
    DecodeInFewBlocks,
    Prefill,
}

/// A sequence: its tokens begin at `start`.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    start: usize,
    tokens: usize,
}

/// Pages full of NaN but for the keys and values that the sequences' rows may see.
struct World {
    gpu: Gpu,
    element: Element,
    shape: AttentionShape,
    sequences: Vec<Sequence>,
    first_rows: Vec<usize>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    tables: Vec<Vec<u32>>,
    k_pages: Memory,
    v_pages: Memory,
    pages: usize,
}

/// The value of rows that were never written.
const UNTOUCHED: u16 = 0x1234;

impl World {
    fn new(gpu: &Gpu, element: Element, shape: AttentionShape, sequences: &[Sequence]) -> World {
        let mut numbers = Numbers::new(shape.head_dim as u64 + shape.heads as u64);
        let rows: usize = sequences.iter().map(|s| s.tokens).sum();
        let q: Vec<f32> = numbers.normal(rows * shape.heads * shape.head_dim).iter().map(|x| 2.0 * x).collect();
        let (_, q) = narrow(element, &q);

        // Pages in a random order, and one more that belongs to no sequence.
        let held: usize = sequences.iter().map(|s| (s.start + s.tokens).div_ceil(32)).sum();
        let mut free: Vec<u32> = (0..=held as u32).collect();
        for left in (1..free.len()).rev() {
            free.swap(left, numbers.below(left + 1));
        }
        let nobodys = free.pop().unwrap();
        let page_len = shape.page_len();
        let (mut k, mut v) = (vec![f32::NAN; (held + 1) * page_len], vec![f32::NAN; (held + 1) * page_len]);
        let mut tables = Vec::new();
        for sequence in sequences {
            let end = sequence.start + sequence.tokens;
            let first_seen = shape.window.map_or(0, |window| (sequence.start + 1).saturating_sub(window));
            let mut table = Vec::new();
            for number in 0..end.div_ceil(32) {
                let page = if (number + 1) * 32 <= first_seen { nobodys } else { free.pop().unwrap() };
                table.push(page);
                for position in (number * 32).max(first_seen)..(number * 32 + 32).min(end) {
                    for head in 0..shape.kv_heads {
                        let at = ((page as usize * shape.kv_heads + head) * 32 + position % 32) * shape.head_dim;
                        for pages in [&mut k, &mut v] {
                            let (_, row) = narrow(element, &numbers.normal(shape.head_dim));
                            pages[at..at + shape.head_dim].copy_from_slice(&row);
                        }
                    }
                }
            }
            tables.push(table);
        }
        let first_rows = sequences
            .iter()
            .scan(0, |next, s| {
                let first = *next;
                *next += s.tokens;
                Some(first)
            })
            .collect();
        let on_device = |numbers: &[f32]| gpu.upload(&narrow(element, numbers).0).unwrap();
        let (k_pages, v_pages) = (on_device(&k), on_device(&v));
        World {
            gpu: gpu.clone(),
            element,
            shape,
            sequences: sequences.to_vec(),
            first_rows,
            q,
            k,
            v,
            tables,
            k_pages,
            v_pages,
            pages: held + 1,
        }
    }

    fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn rows(&self) -> usize {
        self.q.len() / self.width()
    }

    /// The bits of all rows, when only those sequences run, each `(index, tokens to skip, tokens)`, in a launch made for `more`
    /// tokens and keys more than they need. Rows beyond the batch must stay unchanged.
    fn run(&self, way: Way, chosen: &[(usize, usize, usize)], more: usize) -> Vec<u16> {
        let upload = |numbers: Vec<usize>| {
            self.gpu.upload(&numbers.into_iter().map(|n| n as u32).collect::<Vec<u32>>()).unwrap()
        };
        let reach = Reach {
            rows: self.rows(),
            tokens: chosen.iter().map(|c| c.2).max().unwrap_or(0) + more,
            keys: chosen.iter().map(|&(i, skip, n)| self.sequences[i].start + skip + n).max().unwrap_or(0) + more,
        };
        let table_stride = reach.keys.div_ceil(32);
        let mut table = vec![u32::MAX; chosen.len() * table_stride];
        for (at, &(i, skip, tokens)) in chosen.iter().enumerate() {
            let held = (self.sequences[i].start + skip + tokens).div_ceil(32);
            table[at * table_stride..][..held].copy_from_slice(&self.tables[i][..held]);
        }
        let first_row = upload(chosen.iter().map(|&(i, skip, _)| self.first_rows[i] + skip).collect());
        let tokens = upload(chosen.iter().map(|&(_, _, tokens)| tokens).collect());
        let start = upload(chosen.iter().map(|&(i, skip, _)| self.sequences[i].start + skip).collect());
        let table = self.gpu.upload(&table).unwrap();
        let sequences = Sequences {
            count: chosen.len(),
            first_row: first_row.all(),
            tokens: tokens.all(),
            start: start.all(),
            table: table.all(),
            table_stride,
        };
        let pages =
            Pages { k: self.k_pages.all(), v: self.v_pages.all(), count: self.pages, stride: self.shape.page_len() };
        let q = self.gpu.upload(&narrow(self.element, &self.q).0).unwrap();
        let out = self.gpu.upload(&vec![UNTOUCHED; self.q.len()]).unwrap();
        let (gpu, element, shape) = (&self.gpu, self.element, &self.shape);
        match way {
            Way::Decode | Way::DecodeInFewBlocks => {
                let (partials, states) = shape.scratch(reach);
                let (partials, states) = (gpu.alloc(partials * 4).unwrap(), gpu.alloc(states * 4).unwrap());
                partials.all().write(&vec![f32::NAN; partials.bytes() / 4]).unwrap();
                states.all().write(&vec![f32::NAN; states.bytes() / 4]).unwrap();
                let scratch = AttentionScratch { partials: partials.all(), states: states.all() };
                let (q, out) = (q.all(), out.all());
                if way == Way::Decode {
                    attention::decode(gpu, element, shape, pages, sequences, reach, q, out, scratch).unwrap();
                } else {
                    attention::decode_by(1, gpu, element, shape, pages, sequences, reach, q, out, scratch).unwrap();
                }
            }
            Way::Prefill => {
                attention::prefill(gpu, element, shape, pages, sequences, reach, q.all(), out.all()).unwrap();
            }
        }
        out.all().read::<u16>(self.q.len()).unwrap()
    }

    fn everybody(&self) -> Vec<(usize, usize, usize)> {
        self.sequences.iter().enumerate().map(|(i, s)| (i, 0, s.tokens)).collect()
    }

    fn row<'a>(&self, bits: &'a [u16], sequence: usize, token: usize) -> &'a [u16] {
        &bits[(self.first_rows[sequence] + token) * self.width()..][..self.width()]
    }

    /// Relative L2 distance of all rows to the reference.
    fn distance(&self, bits: &[u16]) -> f64 {
        let AttentionShape { heads, kv_heads, head_dim, window, scale } = self.shape;
        let (mut off, mut all) = (0.0, 0.0);
        for (i, sequence) in self.sequences.iter().enumerate() {
            for token in 0..sequence.tokens {
                let position = sequence.start + token;
                let seen = window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1;
                for head in 0..heads {
                    let at = (self.first_rows[i] + token) * self.width() + head * head_dim;
                    let rows = |pages: &[f32]| {
                        let kv_head = head / (heads / kv_heads);
                        reference::attention::seen(pages, &self.tables[i], kv_heads, head_dim, kv_head, seen.clone())
                    };
                    let q = &self.q[at..at + head_dim];
                    let wanted = reference::attention::attend(q, &rows(&self.k), &rows(&self.v), scale);
                    for (wanted, got) in wanted.iter().zip(widen(self.element, &bits[at..at + head_dim])) {
                        off += (f64::from(got) - wanted).powi(2);
                        all += wanted.powi(2);
                    }
                }
            }
        }
        (off / all).sqrt()
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, window, scale: 1.0 / (head_dim as f32).sqrt() }
}

fn sequences(all: &[(usize, usize)]) -> Vec<Sequence> {
    all.iter().map(|&(start, tokens)| Sequence { start, tokens }).collect()
}

#[test]
fn all_shapes_agree_with_the_reference_and_decoding_with_prefill() {
    let gpu = gpu();
    let ragged = sequences(&[(0, 1), (0, 8), (31, 1), (32, 2), (5, 0), (63, 3), (255, 3), (300, 5)]);
    for (element, heads, kv_heads, head_dim, window) in [
        (Element::Bf16, 2, 2, 16, None),
        (Element::Bf16, 4, 2, 16, Some(40)),
        (Element::Bf16, 3, 1, 32, Some(1)),
        (Element::F16, 4, 4, 32, None),
        (Element::Bf16, 8, 1, 64, Some(64)),
        (Element::F16, 2, 1, 64, Some(257)),
        (Element::Bf16, 1, 1, 96, Some(33)),
        (Element::Bf16, 2, 2, 128, None),
        (Element::Bf16, 4, 1, 128, Some(256)),
    ] {
        let world = World::new(&gpu, element, shape(heads, kv_heads, head_dim, window), &ragged);
        let decoded = world.run(Way::Decode, &world.everybody(), 0);
        let distance = world.distance(&decoded);
        assert!(distance < 4e-3, "{:?}: {distance:.5} from the reference", world.shape);
        let prefilled = world.run(Way::Prefill, &world.everybody(), 0);
        assert_eq!(decoded, prefilled, "{:?}", world.shape);
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_nor_on_the_launch() {
    let gpu = gpu();
    for (heads, kv_heads, head_dim, window) in
        [(2, 1, 32, None), (1, 1, 16, Some(300)), (6, 2, 16, Some(50)), (8, 1, 16, Some(64))]
    {
        // With a window of 64 the third token of the last one is the first that does not see the chunk before 256.
        let all = sequences(&[(250, 8), (511, 3), (0, 4), (640, 8), (317, 8)]);
        let world = World::new(&gpu, Element::Bf16, shape(heads, kv_heads, head_dim, window), &all);
        let together = world.run(Way::Decode, &world.everybody(), 0);
        assert!(!together.contains(&UNTOUCHED));
        for way in [Way::Decode, Way::DecodeInFewBlocks, Way::Prefill] {
            assert_eq!(world.run(way, &world.everybody(), 700), together, "a launch made for more: {way:?}");
            let mut backwards = world.everybody();
            backwards.reverse();
            assert_eq!(world.run(way, &backwards, 3), together, "in another order: {way:?}");
            for (i, sequence) in all.iter().enumerate() {
                for (skip, tokens) in [(0, sequence.tokens), (1, 1), (sequence.tokens - 1, 1), (1, 2)] {
                    let alone = world.run(way, &[(i, skip, tokens)], 0);
                    for token in skip..skip + tokens {
                        let case = format!("token {token} of {sequence:?} among {tokens}: {way:?}");
                        assert_eq!(world.row(&alone, i, token), world.row(&together, i, token), "{case}");
                    }
                    let own = tokens * world.width();
                    let left = alone.iter().filter(|&&bits| bits == UNTOUCHED).count();
                    assert_eq!(left, alone.len() - own, "rows of others are left alone");
                }
            }
        }
    }
}

#[test]
fn a_prompt_is_prefilled_as_it_would_be_decoded() {
    let gpu = gpu();
    for window in [None, Some(100)] {
        let all = sequences(&[(0, 330), (17, 140)]);
        let world = World::new(&gpu, Element::Bf16, shape(2, 1, 16, window), &all);
        let prefilled = world.run(Way::Prefill, &world.everybody(), 0);
        assert!(world.distance(&prefilled) < 4e-3);
        for (i, sequence) in all.iter().enumerate() {
            for first in (0..sequence.tokens).step_by(8) {
                let tokens = 8.min(sequence.tokens - first);
                let decoded = world.run(Way::Decode, &[(i, first, tokens)], 0);
                for token in first..first + tokens {
                    let case = format!("token {token} of {sequence:?}, window {window:?}");
                    assert_eq!(world.row(&decoded, i, token), world.row(&prefilled, i, token), "{case}");
                }
            }
            // In chunks that do not end where pages do; decoding can do many rows too.
            for (way, skip, tokens) in [(Way::Prefill, 0, 47), (Way::Prefill, 47, 65), (Way::Decode, 30, 70)] {
                let chunk = world.run(way, &[(i, skip, tokens)], 0);
                for token in skip..skip + tokens {
                    assert_eq!(world.row(&chunk, i, token), world.row(&prefilled, i, token), "{token} of {sequence:?}");
                }
            }
        }
    }
}

#[test]
fn the_order_in_which_threads_run_does_not_show() {
    let (tested, gpu) = device();
    let all = sequences(&[(250, 3), (40, 8)]);
    let world = World::new(&gpu, Element::Bf16, shape(4, 2, 64, Some(200)), &all);
    let wanted = world.run(Way::Decode, &world.everybody(), 0);
    for turns in [Turns::Backwards, Turns::Shuffled(1), Turns::Shuffled(2)] {
        tested.set_turns(turns);
        for way in [Way::Decode, Way::Prefill] {
            assert_eq!(world.run(way, &world.everybody(), 0), wanted, "{turns:?} {way:?}");
        }
    }
}

#[test]
fn a_recorded_launch_stays_valid_while_sequences_grow() {
    let gpu = gpu();
    for window in [None, Some(70)] {
        let shape = shape(2, 2, 16, window);
        let world = World::new(&gpu, Element::Bf16, shape, &sequences(&[(290, 1), (40, 1)]));
        let reach = Reach { rows: 2, tokens: 1, keys: 320 };
        let [first_row, tokens, start] = [&[0u32, 1], &[0, 0], &[0, 0]].map(|numbers| gpu.upload(numbers).unwrap());
        let mut entries = world.tables.concat(); // of ten pages and of two
        entries.resize(20, u32::MAX);
        let table = gpu.upload(&entries).unwrap();
        let sequences = Sequences {
            count: 2,
            first_row: first_row.all(),
            tokens: tokens.all(),
            start: start.all(),
            table: table.all(),
            table_stride: 10,
        };
        let pages =
            Pages { k: world.k_pages.all(), v: world.v_pages.all(), count: world.pages, stride: shape.page_len() };
        let (partials, states) = shape.scratch(reach);
        let (partials, states) = (gpu.alloc(partials * 4).unwrap(), gpu.alloc(states * 4).unwrap());
        let scratch = AttentionScratch { partials: partials.all(), states: states.all() };
        let q = gpu.upload(&narrow(Element::Bf16, &world.q).0).unwrap();
        let out = gpu.alloc(world.q.len() * 2).unwrap();
        let step = gpu
            .capture(|| {
                let (q, out) = (q.all(), out.all());
                attention::decode(&gpu, Element::Bf16, &shape, pages, sequences, reach, q, out, scratch)
            })
            .unwrap();
        // Nobody, then one of them, then both.
        step.replay().unwrap();
        assert!(out.all().read::<u16>(world.q.len()).unwrap().iter().all(|&bits| bits == 0));
        let wanted = world.run(Way::Decode, &world.everybody(), 0);
        for count in [1, 2] {
            tokens.all().write(&[1, u32::from(count == 2)]).unwrap();
            start.all().write(&[290u32, 40]).unwrap();
            step.replay().unwrap();
            let got = out.all().read::<u16>(world.q.len()).unwrap();
            for i in 0..count {
                assert_eq!(world.row(&got, i, 0), world.row(&wanted, i, 0), "sequence {i}, window {window:?}");
            }
        }
    }
}

#[test]
fn slots_hold_every_chunk_that_can_be_seen() {
    for window in [1, 2, 100, 255, 256, 257, 4096] {
        for tokens in [1, 2, 8] {
            let shape = shape(1, 1, 16, Some(window));
            let slots = shape.slots(Reach { rows: 8, tokens, keys: 1 << 20 });
            let needed =
                (0..600usize).map(|start| (start + 5000 + tokens - 1) / 256 - (start + 5001 - window) / 256 + 1);
            assert_eq!(slots.max(2), needed.max().unwrap().max(2), "window {window}, {tokens} tokens");
        }
    }
}
