//! Permutation tests: whole samples are permuted between two groups, and |t| is compared with the observed one.
//!
//! The statistic is Welch's t (studentized, which keeps the level under unequal variances; Janssen 1997). With B random
//! splits p = (1 + k) / (B + 1), k splits being at least as extreme (Phipson & Smyth 2010). If all splits are no more
//! than B + 1, every one is looked at instead and p = k / splits, the observed split among the k.
//! Over turns: Westfall & Young's (1993) step-down maxT. In every split each turn has its |t|; turns sorted by observed
//! |t| downwards, p_(i) = P(max_{j>=i} |t_(j)| >= observed |t_(i)|), made non-decreasing.

use super::contrast::welch;
use super::draw::Draws;
use super::grid::Grid;
use tiltmeter_model::problem::Problem;

/// Observed and recomputed statistics that agree up to rounding are ties, and ties count as extreme.
const TIE: f64 = 1.0 - 1e-9;

/// Result of a permutation test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Permutation {
    /// Two-sided p value; `None` when nothing varies, or no splits were asked for.
    pub p: Option<f64>,
    /// Splits evaluated.
    pub splits: u64,
    /// Whether every split was evaluated.
    pub exact: bool,
}

/// Permutation test of equal distribution of `a` and `b`, one number per sample. `draws` is the number of random splits;
/// 0 disables the test. Errors on NaN or infinity and on groups of fewer than two values.
pub fn permutation_test(a: &[f64], b: &[f64], draws: u32, seed: u64) -> Result<Permutation, Problem> {
    let table = |rows: &[f64]| Grid::new(rows.iter().map(|&x| vec![Some(x)]).collect());
    let (p, splits) = step_down(&table(a)?, &table(b)?, draws, seed)?;
    Ok(Permutation { p: p[0], splits: splits.count, exact: splits.exact })
}

/// Westfall-Young adjusted p values, one per turn; `None` for a turn where either group has fewer than two cells or
/// neither varies. Grids have the same number of turns. Errors as `permutation_test`.
pub fn max_t(a: &Grid, b: &Grid, draws: u32, seed: u64) -> Result<Vec<Option<f64>>, Problem> {
    Ok(step_down(a, b, draws, seed)?.0)
}

struct Splits {
    count: u64,
    exact: bool,
}

/// One row per sample of both groups; values are deviations from the joint turn mean, so that sums of squares keep digits.
struct Pool {
    turns: usize,
    values: Vec<f64>,
    squares: Vec<f64>,
    present: Vec<f64>,
    total: Sums,
    /// Sum of squares at a turn below which a group does not vary.
    noise: Vec<f64>,
}

#[derive(Clone)]
struct Sums {
    value: Vec<f64>,
    square: Vec<f64>,
    count: Vec<f64>,
}

impl Sums {
    fn zero(turns: usize) -> Self {
        Self { value: vec![0.0; turns], square: vec![0.0; turns], count: vec![0.0; turns] }
    }
}

impl Pool {
    fn new(a: &Grid, b: &Grid) -> Result<Self, Problem> {
        let turns = a.turns();
        let joint = Grid::new(a.rows().iter().chain(b.rows()).cloned().collect())?;
        let means = joint.turn_means();
        let cells = joint.samples() * turns;
        let mut pool = Self {
            turns,
            values: Vec::with_capacity(cells),
            squares: Vec::with_capacity(cells),
            present: Vec::with_capacity(cells),
            total: Sums::zero(turns),
            noise: vec![0.0; turns],
        };
        for row in joint.rows() {
            for (turn, cell) in row.iter().enumerate() {
                let value = cell.zip(means[turn]).map_or(0.0, |(x, mean)| x - mean);
                pool.values.push(value);
                pool.squares.push(value * value);
                pool.present.push(if cell.is_some() { 1.0 } else { 0.0 });
                pool.noise[turn] = f64::max(pool.noise[turn], 1e-24 * cell.unwrap_or(0.0).powi(2));
            }
        }
        let everyone: Vec<usize> = (0..joint.samples()).collect();
        let mut total = Sums::zero(turns);
        pool.sum(&everyone, &mut total);
        for turn in 0..turns {
            pool.noise[turn] = pool.noise[turn].max(1e-13 * total.square[turn]);
        }
        pool.total = total;
        Ok(pool)
    }

    fn sum(&self, group: &[usize], sums: &mut Sums) {
        let turns = self.turns;
        sums.value.fill(0.0);
        sums.square.fill(0.0);
        sums.count.fill(0.0);
        for &sample in group {
            let row = sample * turns..(sample + 1) * turns;
            let cells = self.values[row.clone()].iter().zip(&self.squares[row.clone()]).zip(&self.present[row]);
            let into = sums.value.iter_mut().zip(&mut sums.square).zip(&mut sums.count);
            for (((value, square), count), ((x, x2), one)) in into.zip(cells) {
                *value += x;
                *square += x2;
                *count += one;
            }
        }
    }

    /// |t| of `group` (its sums) against the rest, per turn. Too few cells: 0, never extreme. No variance within either
    /// group but a difference between them: infinite, always extreme, so that the p value errs upwards.
    fn statistics(&self, group: &Sums, t: &mut [f64]) {
        for turn in 0..self.turns {
            let (n_a, n_b) = (group.count[turn], self.total.count[turn] - group.count[turn]);
            if n_a < 2.0 || n_b < 2.0 {
                t[turn] = 0.0;
                continue;
            }
            let (sum_a, sum_b) = (group.value[turn], self.total.value[turn] - group.value[turn]);
            let (mean_a, mean_b) = (sum_a / n_a, sum_b / n_b);
            let squares_a = group.square[turn] - sum_a * mean_a;
            let squares_b = self.total.square[turn] - group.square[turn] - sum_b * mean_b;
            let vary = |squares: f64| if squares <= self.noise[turn] { 0.0 } else { squares };
            let se2 = vary(squares_a) / (n_a * (n_a - 1.0)) + vary(squares_b) / (n_b * (n_b - 1.0));
            let diff = (mean_a - mean_b).abs();
            t[turn] = if se2 > 0.0 {
                diff / se2.sqrt()
            } else if diff * diff <= self.noise[turn] {
                0.0
            } else {
                f64::INFINITY
            };
        }
    }
}

fn step_down(a: &Grid, b: &Grid, draws: u32, seed: u64) -> Result<(Vec<Option<f64>>, Splits), Problem> {
    let (n_a, n_b) = (a.samples(), b.samples());
    if n_a < 2 || n_b < 2 {
        return Err(Problem::new(format!("a comparison of {n_a} with {n_b} samples"))
            .hint("a test needs at least two samples in each condition"));
    }
    if a.turns() != b.turns() {
        return Err(Problem::new(format!("{} turns against {}", a.turns(), b.turns())));
    }
    let turns = a.turns();
    let pool = Pool::new(a, b)?;
    let mut sums = Sums::zero(turns);
    let first: Vec<usize> = (0..n_a).collect();
    pool.sum(&first, &mut sums);
    let mut observed = vec![0.0; turns];
    pool.statistics(&sums, &mut observed);

    // A turn that Welch's test cannot judge is not in the family.
    let mut family: Vec<usize> = (0..turns)
        .filter(|&turn| welch(&a.column(turn), &b.column(turn)).is_ok_and(|welch| welch.p.is_some()))
        .collect();
    family.sort_by(|&x, &y| observed[y].total_cmp(&observed[x]));
    if draws == 0 || family.is_empty() {
        return Ok((vec![None; turns], Splits { count: 0, exact: false }));
    }

    let mut extreme = vec![0u64; family.len()];
    let mut t = vec![0.0; turns];
    let mut evaluate = |group: &[usize]| {
        pool.sum(group, &mut sums);
        pool.statistics(&sums, &mut t);
        let mut largest = 0.0_f64;
        for (place, &turn) in family.iter().enumerate().rev() {
            largest = largest.max(t[turn]);
            if largest >= TIE * observed[turn] {
                extreme[place] += 1;
            }
        }
    };
    let splits = match all_splits(n_a + n_b, n_a).filter(|&all| all <= u64::from(draws) + 1) {
        Some(all) => {
            let mut group = first;
            loop {
                evaluate(&group);
                if !next_combination(&mut group, n_a + n_b) {
                    break;
                }
            }
            Splits { count: all, exact: true }
        }
        None => {
            let mut stream = Draws::new(seed);
            let mut items: Vec<usize> = (0..n_a + n_b).collect();
            for _ in 0..draws {
                stream.choose(&mut items, n_a);
                evaluate(&items[..n_a]);
            }
            Splits { count: u64::from(draws), exact: false }
        }
    };

    let mut p = vec![None; turns];
    let mut floor = 0.0_f64;
    for (place, &turn) in family.iter().enumerate() {
        let share = if splits.exact {
            extreme[place] as f64 / splits.count as f64
        } else {
            (1 + extreme[place]) as f64 / (splits.count + 1) as f64
        };
        floor = floor.max(share);
        p[turn] = Some(floor);
    }
    Ok((p, splits))
}

/// n choose k, or `None` beyond 2^63.
fn all_splits(n: usize, k: usize) -> Option<u64> {
    let mut all: u128 = 1;
    for i in 0..k.min(n - k) {
        all = all * (n - i) as u128 / (i + 1) as u128;
        if all > 1 << 63 {
            return None;
        }
    }
    Some(all as u64)
}

/// The next k of n in lexicographic order; false after the last.
fn next_combination(group: &mut [usize], n: usize) -> bool {
    let k = group.len();
    let Some(i) = (0..k).rev().find(|&i| group[i] < n - k + i) else { return false };
    group[i] += 1;
    for j in i + 1..k {
        group[j] = group[j - 1] + 1;
    }
    true
}
