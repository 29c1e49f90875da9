//! What works along a row: embeddings, the end of a sublayer, and q, k and v on their way into pages.

use super::*;
use crate::gpu::rows::{self, ABSENT, Dots, Finish, Next, Norm, PAGE_POSITIONS, Pages, Place, Steering};
use crate::gpu::{Memory, Result};

#[test]
fn tokens_become_their_embeddings() {
    let gpu = gpu();
    for element in ELEMENTS {
        for (vocab, width) in [(3, 16), (50, 48), (7, 4096)] {
            let mut numbers = Numbers::new(vocab as u64);
            let (bits, table) = narrow(element, &numbers.normal(vocab * width));
            let ids: Vec<u32> = (0..5).map(|_| numbers.below(vocab) as u32).chain([vocab as u32, ABSENT]).collect();
            let (table_on, ids_on) = (gpu.upload(&bits).unwrap(), gpu.upload(&ids).unwrap());
            let residual = gpu.alloc(ids.len() * width * 4).unwrap();
            let (table_on, ids_on, out) = (table_on.all(), ids_on.all(), residual.all());
            rows::embed(&gpu, element, table_on, ids_on, out, ids.len(), width, vocab).unwrap();
            let found = out.read::<f32>(ids.len() * width).unwrap();
            assert_eq!(found, reference::rows::embed(&table, &ids, width));
        }
    }
}

/// The end of a sublayer with every option set.
struct Case {
    element: Element,
    width: usize,
    splits: usize,
    /// The weight of the norm of what comes out, of what goes on.
    post: bool,
    next_norm: bool,
    round_first: bool,
    axes: usize,
    of_next: bool,
    steered: bool,
}

/// One row's inputs.
#[derive(Clone)]
struct Row {
    residual: Vec<f32>,
    parts: Vec<Vec<f32>>,
    which: u32,
    scale: f32,
}

struct Shared {
    post: (Vec<u16>, Vec<f32>),
    next: (Vec<u16>, Vec<f32>),
    axes: Vec<f32>,
    vectors: Vec<f32>,
}

const EPS: f32 = 1e-5;
const VECTORS: usize = 2;

impl Case {
    fn shared(&self, numbers: &mut Numbers) -> Shared {
        Shared {
            post: narrow(self.element, &numbers.normal(self.width)),
            next: narrow(self.element, &numbers.normal(self.width)),
            axes: numbers.normal(self.axes * self.width),
            vectors: numbers.normal(VECTORS * self.width),
        }
    }

    fn row(&self, numbers: &mut Numbers) -> Row {
        Row {
            residual: numbers.normal(self.width),
            parts: (0..self.splits).map(|_| numbers.normal(self.width)).collect(),
            which: [0, 1, ABSENT][numbers.below(3)],
            scale: numbers.normal(1)[0],
        }
    }

    /// Residual, next input and dot products of all rows.
    fn run(&self, gpu: &Gpu, shared: &Shared, rows: &[Row]) -> Result<(Vec<f32>, Vec<u16>, Vec<f32>)> {
        let (count, width) = (rows.len(), self.width);
        let on = |numbers: Vec<f32>| gpu.upload(&numbers);
        let residual = on(rows.iter().flat_map(|row| row.residual.clone()).collect())?;
        let parts = (0..self.splits).flat_map(|s| rows.iter().flat_map(move |row| row.parts[s].clone())).collect();
        let parts = on(parts)?;
        let (post, next) = (gpu.upload(&shared.post.0)?, gpu.upload(&shared.next.0)?);
        let (axes, vectors) = (gpu.upload(&shared.axes)?, gpu.upload(&shared.vectors)?);
        let which = gpu.upload(&rows.iter().map(|row| row.which).collect::<Vec<_>>())?;
        let scale = on(rows.iter().map(|row| row.scale).collect())?;
        let out = gpu.alloc(count * width * 2)?;
        let stride = self.axes + 3;
        let dots = gpu.upload(&vec![-1.0f32; count * stride])?;
        fn norm(weight: &Memory, is: bool) -> Option<Norm<'_>> {
            is.then(|| Norm { weight: weight.all(), eps: EPS })
        }
        let work = Finish {
            rows: count,
            width,
            residual: residual.all(),
            partials: (self.splits > 0).then(|| (parts.all(), self.splits)),
            post: norm(&post, self.post),
            steering: self.steered.then(|| Steering { vectors: vectors.all(), which: which.all(), scale: scale.all() }),
            dots: Some(Dots { axes: axes.all(), count: self.axes, out: dots.all(), stride, of_next: self.of_next }),
            next: Some(Next { out: out.all(), norm: norm(&next, self.next_norm), round_first: self.round_first }),
            sources: None,
        };
        rows::finish(gpu, self.element, &work)?;
        let dots: Vec<f32> = dots.all().read(count * stride)?;
        for row in dots.chunks_exact(stride) {
            assert_eq!(row[self.axes..], [-1.0; 3], "what lies between the rows is not touched");
        }
        let dots = dots.chunks_exact(stride).flat_map(|row| row[..self.axes].to_vec()).collect();
        Ok((residual.all().read(count * width)?, out.all().read(count * width)?, dots))
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, element) in ELEMENTS.into_iter().enumerate() {
        for (width, splits) in [(16, 1), (48, 3), (64, 0), (272, 2), (1040, 1), (4112, 4)] {
            let olmo = Case {
                element,
                width,
                splits,
                post: splits > 0,
                next_norm: false,
                round_first: false,
                axes: 3 + i,
                of_next: false,
                steered: true,
            };
            let llama = Case { post: false, next_norm: true, round_first: true, axes: 9 * i, of_next: true, ..olmo };
            cases.extend([Case { steered: i == 1, ..olmo }, llama]);
        }
    }
    cases
}

#[test]
fn a_sublayer_ends_as_the_reference_says() {
    let (_, gpu) = device();
    for (seed, case) in cases().iter().enumerate() {
        let mut numbers = Numbers::new(seed as u64);
        let shared = case.shared(&mut numbers);
        let rows: Vec<Row> = (0..3).map(|_| case.row(&mut numbers)).collect();
        let (residual, next, dots) = case.run(&gpu, &shared, &rows).unwrap();
        let next = widen(case.element, &next);
        for (r, row) in rows.iter().enumerate() {
            let parts: Vec<f32> = row.parts.concat();
            let parts = (case.splits > 0).then(|| reference::rows::sum_parts(&parts, case.splits));
            let vector = shared.vectors.chunks_exact(case.width).nth(row.which as usize);
            let expected = reference::rows::finish(
                case.element,
                &row.residual,
                parts.as_deref(),
                case.post.then_some((&shared.post.1[..], EPS)),
                vector.filter(|_| case.steered).map(|vector| (vector, row.scale)),
                case.next_norm.then_some((&shared.next.1[..], EPS)),
                case.round_first,
                &shared.axes,
                case.of_next,
            );
            let of_row = |all: &[f32]| all[r * case.width..(r + 1) * case.width].to_vec();
            let what = format!("{:?} width {} splits {} row {r}", case.element, case.width, case.splits);
            assert_near(&of_row(&residual), &expected.residual, 1e-6, &format!("{what}: residual"));
            // Where the norm is rounded first, a value near a tie may go either way: one unit more.
            let unit = rounding(case.element) * if case.round_first { 3.0 } else { 1.0 };
            let by_size: Vec<f64> = expected.next.iter().map(|x| x.abs()).collect();
            for (i, (found, expected)) in of_row(&next).iter().zip(&expected.next).enumerate() {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= unit * by_size[i] + 1e-6, "{what}: next [{i}]: {found}, not {expected}");
            }
            let of_row = &dots[r * case.axes..(r + 1) * case.axes];
            let unit = if case.of_next && case.round_first { rounding(case.element) } else { 2e-6 };
            let size = (case.width as f64).sqrt();
            for (i, (found, expected)) in of_row.iter().zip(&expected.dots).enumerate() {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= unit * size * 4.0, "{what}: axis {i}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn the_end_of_a_sublayer_does_not_depend_on_other_rows_nor_on_the_threads_turns() {
    let (tested, gpu) = device();
    for (seed, case) in cases().iter().enumerate().filter(|(_, case)| case.width < 2000) {
        let mut numbers = Numbers::new(100 + seed as u64);
        let shared = case.shared(&mut numbers);
        let rows: Vec<Row> = (0..5).map(|_| case.row(&mut numbers)).collect();
        let (residual, next, dots) = case.run(&gpu, &shared, &rows).unwrap();
        for (r, row) in rows.iter().enumerate() {
            tested.set_turns([Turns::Backwards, Turns::Shuffled(seed as u32)][r % 2]);
            let alone = case.run(&gpu, &shared, std::slice::from_ref(row)).unwrap();
            let part = r * case.width..(r + 1) * case.width;
            assert_eq!(raw(&alone.0), raw(&residual[part.clone()]));
            assert_eq!(raw(&alone.1), raw(&next[part]));
            assert_eq!(raw(&alone.2), raw(&dots[r * case.axes..(r + 1) * case.axes]));
            tested.set_turns(Turns::InOrder);
        }
    }
}

#[test]
fn an_axis_gives_the_same_bits_alone_and_among_others() {
    let (_, gpu) = device();
    let all = Case { axes: 7, ..cases().remove(6) };
    let mut numbers = Numbers::new(4);
    let shared = all.shared(&mut numbers);
    let rows: Vec<Row> = (0..2).map(|_| all.row(&mut numbers)).collect();
    let (_, _, dots) = all.run(&gpu, &shared, &rows).unwrap();
    for axis in 0..7 {
        let one = Case { axes: 1, ..cases().remove(6) };
        let axes = shared.axes[axis * all.width..(axis + 1) * all.width].to_vec();
        let shared =
            Shared { axes, post: shared.post.clone(), next: shared.next.clone(), vectors: shared.vectors.clone() };
        let (_, _, alone) = one.run(&gpu, &shared, &rows).unwrap();
        assert_eq!(raw(&alone), raw(&[dots[axis], dots[7 + axis]]));
    }
}

#[test]
fn rows_are_gathered_for_the_logits() {
    let (_, gpu) = device();
    let (width, element) = (48, Element::Bf16);
    let mut numbers = Numbers::new(1);
    let residual = numbers.normal(6 * width);
    let (bits, weight) = narrow(element, &numbers.normal(width));
    let (residual_on, weight_on) = (gpu.upload(&residual).unwrap(), gpu.upload(&bits).unwrap());
    let sources = [5u32, 0, 5];
    let sources_on = gpu.upload(&sources).unwrap();
    let out = gpu.alloc(3 * width * 2).unwrap();
    let norm = Some(Norm { weight: weight_on.all(), eps: EPS });
    let work = Finish {
        rows: 3,
        width,
        residual: residual_on.all(),
        partials: None,
        post: None,
        steering: None,
        dots: None,
        next: Some(Next { out: out.all(), norm, round_first: false }),
        sources: Some(sources_on.all()),
    };
    rows::finish(&gpu, element, &work).unwrap();
    let found = widen(element, &out.all().read::<u16>(3 * width).unwrap());
    for (r, &source) in sources.iter().enumerate() {
        let row: Vec<f64> = residual[source as usize * width..][..width].iter().map(|&x| f64::from(x)).collect();
        let expected = reference::rows::rms_norm(&row, &weight, EPS, None);
        assert_near(&found[r * width..][..width], &expected, rounding(element), "gathered");
    }
    assert_eq!(residual_on.all().read::<f32>(6 * width).unwrap(), residual);
}

/// q, k and v of some tokens.
struct Heads {
    element: Element,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    splits: usize,
    normed: bool,
}

/// The norms' weights, as bits and wide, and the tables of angles.
struct Weights {
    q_bits: Vec<u16>,
    k_bits: Vec<u16>,
    q: Vec<f32>,
    k: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

const POSITIONS: usize = 100;
const TABLE: usize = 4;
const PAGES: usize = 9;

impl Heads {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// q, and all pages of k and of v.
    fn run(&self, gpu: &Gpu, weights: &Weights, rows: &[(Vec<Vec<f32>>, u32, u32)], tables: &[u32]) -> [Vec<u16>; 3] {
        let count = rows.len();
        let parts: Vec<f32> =
            (0..self.splits).flat_map(|s| rows.iter().flat_map(move |row| row.0[s].clone())).collect();
        let parts = gpu.upload(&parts).unwrap();
        let (q_weight, k_weight) = (gpu.upload(&weights.q_bits).unwrap(), gpu.upload(&weights.k_bits).unwrap());
        let (cos, sin) = (gpu.upload(&weights.cos).unwrap(), gpu.upload(&weights.sin).unwrap());
        let positions = gpu.upload(&rows.iter().map(|row| row.1).collect::<Vec<_>>()).unwrap();
        let sequences = gpu.upload(&rows.iter().map(|row| row.2).collect::<Vec<_>>()).unwrap();
        let tables = gpu.upload(tables).unwrap();
        let page = self.kv_heads * PAGE_POSITIONS * self.head_dim;
        let stride = page + 32;
        let size = (PAGES - 1) * stride + page;
        let (keys, values) = (gpu.alloc(size * 2).unwrap(), gpu.alloc(size * 2).unwrap());
        let q = gpu.alloc(count * self.heads * self.head_dim * 2).unwrap();
        let norms =
            self.normed.then(|| (Norm { weight: q_weight.all(), eps: EPS }, Norm { weight: k_weight.all(), eps: EPS }));
        let work = Place {
            rows: count,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            partials: (parts.all(), self.splits),
            norms,
            cos: cos.all(),
            sin: sin.all(),
            positions_end: POSITIONS,
            positions: positions.all(),
            sequences: sequences.all(),
            tables: tables.all(),
            tables_stride: TABLE,
            pages: Pages { keys: keys.all(), values: values.all(), stride, count: PAGES },
            q: q.all(),
        };
        rows::place(gpu, self.element, &work).unwrap();
        let read = |memory: &Memory| memory.all().read::<u16>(memory.bytes() / 2).unwrap();
        [read(&q), read(&keys), read(&values)]
    }

    fn weights(&self, numbers: &mut Numbers) -> Weights {
        let (q_bits, q) = narrow(self.element, &numbers.normal(self.heads * self.head_dim));
        let (k_bits, k) = narrow(self.element, &numbers.normal(self.kv_heads * self.head_dim));
        let angles: Vec<f32> = numbers.normal(POSITIONS * self.head_dim / 2);
        let cos = angles.iter().map(|x| x.cos()).collect();
        let sin = angles.iter().map(|x| x.sin()).collect();
        Weights { q_bits, k_bits, q, k, cos, sin }
    }
}

#[test]
fn q_k_and_v_come_to_their_places() {
    let (tested, gpu) = device();
    let shapes = [(4, 4, 16, 2), (6, 2, 32, 1), (2, 1, 64, 3), (3, 3, 96, 1), (8, 2, 128, 4), (36, 36, 128, 1)];
    for (i, (heads, kv_heads, head_dim, splits)) in shapes.into_iter().enumerate() {
        let case = Heads { element: ELEMENTS[i % 2], heads, kv_heads, head_dim, splits, normed: i % 3 != 1 };
        let mut numbers = Numbers::new(i as u64);
        let weights = case.weights(&mut numbers);
        // Two sequences with pages of their own; a row without a sequence; a position without an angle; a missing page.
        let tables = [3, 0, 7, ABSENT, 1, 8, 2, 5];
        let places = [(0, 0), (31, 1), (32, 0), (95, 1), (70, ABSENT), (POSITIONS as u32, 1), (96, 0)];
        let rows: Vec<_> = places
            .map(|(position, sequence)| {
                ((0..splits).map(|_| numbers.normal(case.width())).collect::<Vec<_>>(), position, sequence)
            })
            .to_vec();
        let [q, keys, values] = case.run(&gpu, &weights, &rows, &tables);

        let (q_width, kv_width, half) = (heads * head_dim, kv_heads * head_dim, head_dim / 2);
        let page = kv_width * PAGE_POSITIONS;
        let mut expected_pages = [vec![0.0f64; keys.len()], vec![0.0f64; keys.len()]];
        for (r, (parts, position, sequence)) in rows.iter().enumerate() {
            let x = reference::rows::sum_parts(&parts.concat(), splits);
            let at = *position as usize;
            let q_found = widen(case.element, &q[r * q_width..][..q_width]);
            if at >= POSITIONS {
                assert!(q_found.iter().all(|x| x.is_nan()), "a position without an angle has no result");
                continue;
            }
            let angles = Some((&weights.cos[at * half..][..half], &weights.sin[at * half..][..half]));
            let norm = |weight| case.normed.then_some((weight, EPS));
            let q = reference::rows::place(&x[..q_width], norm(&weights.q[..]), angles, head_dim);
            assert_near(&q_found, &q, rounding(case.element), "q");
            let page_of = (*sequence != ABSENT).then(|| tables[*sequence as usize * TABLE + at / 32]);
            let Some(number) = page_of.filter(|&page| page != ABSENT) else { continue };
            let k = reference::rows::place(&x[q_width..][..kv_width], norm(&weights.k[..]), angles, head_dim);
            let v = x[q_width + kv_width..].to_vec();
            for (pages, row) in expected_pages.iter_mut().zip([k, v]) {
                for (head, row) in row.chunks_exact(head_dim).enumerate() {
                    let begin = number as usize * (page + 32) + (head * PAGE_POSITIONS + at % 32) * head_dim;
                    pages[begin..begin + head_dim].copy_from_slice(row);
                }
            }
        }
        // Unwritten memory is still zero.
        for (found, expected) in [&keys, &values].into_iter().zip(&expected_pages) {
            let found = widen(case.element, found);
            for (found, &expected) in found.iter().zip(expected) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= rounding(case.element) * expected.abs() + 1e-6, "{found}, not {expected}");
            }
        }

        // Alone, and with the threads in another order.
        for (r, row) in rows.iter().enumerate() {
            tested.set_turns(Turns::Shuffled(r as u32));
            let [alone, ..] = case.run(&gpu, &weights, std::slice::from_ref(row), &tables);
            assert_eq!(alone, q[r * q_width..][..q_width], "q of row {r} alone");
            tested.set_turns(Turns::InOrder);
        }
        let mut backwards = rows.clone();
        backwards.reverse();
        let [_, keys_again, values_again] = case.run(&gpu, &weights, &backwards, &tables);
        assert_eq!((keys, values), (keys_again, values_again), "pages do not depend on the order of the rows");
    }
}
