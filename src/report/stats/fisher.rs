//! Fisher's exact test of independence for any number of rows and columns (Freeman & Halton 1951).
//!
//! Given the margins, P(table) = prod row_i! prod column_j! / (n! prod x_ij!). p is the sum of P over all tables with these margins
//! that are no likelier than the observed one. The tables are walked column by column. A branch is not walked where bounds on the
//! likeliest and the least likely of its tables settle it as a whole (the idea of Mehta & Patel's network algorithm, 1983):
//! then it counts with its whole probability, which the sum of prod 1 / x_ij! over tables = n! / (prod row_i! prod column_j!)
//! gives in closed form, or not at all. The bounds: a factorial product is least where a sum is spread evenly, greatest where it is
//! heaped up as far as the other margin allows.
//!
//! Where that is too much work, B random tables with the same margins are drawn instead by shuffling, and
//! p = (1 + k) / (B + 1), k of them being no likelier than the observed one (Phipson & Smyth 2010).

use super::counts::Counts;
use super::draw::Draws;

/// Cells visited before the walk is given up; a count of work and not of time, so that the method is the same on every machine.
const WORK: u64 = 2_000_000;

/// Beyond this total neither the walk nor the draws are affordable, and a chi-square test is as good.
const LARGEST_TOTAL: u64 = 100_000;

/// Logarithms of probabilities that agree to this are ties, and ties count as no likelier (as in R's `fisher.test`).
const TIE: f64 = 1e-7;

/// Result of Fisher's test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fisher {
    /// Two-sided p value; `None` if there are too many tables to enumerate and `draws` is 0, or if the total exceeds 100,000.
    pub p: Option<f64>,
    /// Whether all tables were enumerated; otherwise `p` is a Monte Carlo estimate.
    pub exact: bool,
    /// Random tables drawn for `p`; 0 if it is exact or `None`.
    pub draws: u32,
}

/// Fisher's test; `None` unless two rows and two columns are not empty. If there are too many tables to enumerate, `draws` random
/// tables (seeded by `seed`) give a Monte Carlo p value; with 0 there is none.
pub fn fisher(counts: &Counts, draws: u32, seed: u64) -> Option<Fisher> {
    if !counts.is_testable() {
        return None;
    }
    if counts.total > LARGEST_TOTAL {
        return Some(Fisher { p: None, exact: false, draws: 0 });
    }
    let factorials = Factorials::up_to(counts.total);
    let observed = counts.cells.iter().flatten().map(|&count| -factorials.ln(count)).sum::<f64>();
    if let Some(p) = Walk::new(counts, &factorials, observed).p() {
        return Some(Fisher { p: Some(p), exact: true, draws: 0 });
    }
    let p = (draws > 0).then(|| drawn(counts, &factorials, observed, draws, seed));
    Some(Fisher { p, exact: false, draws })
}

/// ln k! for every k up to a total.
struct Factorials(Vec<f64>);

impl Factorials {
    fn up_to(total: u64) -> Self {
        let mut sum = 0.0;
        let term = |k: u64| {
            sum += (k.max(1) as f64).ln();
            sum
        };
        Self((0..=total).map(term).collect())
    }

    fn ln(&self, k: u64) -> f64 {
        self.0[k as usize]
    }

    /// ln of the least product of factorials of `parts` numbers that add up to `sum`.
    fn spread(&self, sum: u64, parts: usize) -> f64 {
        let (each, more) = (sum / parts as u64, sum % parts as u64);
        more as f64 * self.ln(each + 1) + (parts as u64 - more) as f64 * self.ln(each)
    }

    /// ln of the greatest product of factorials of numbers that add up to `sum`, each at most its cap; `caps` fall.
    fn heaped(&self, mut sum: u64, caps: &[u64]) -> f64 {
        let mut product = 0.0;
        for &cap in caps {
            let part = sum.min(cap);
            product += self.ln(part);
            sum -= part;
            if sum == 0 {
                break;
            }
        }
        product
    }
}

/// The sum over all tables. Weights are ln of prod 1 / x_ij!, before the margins' constant.
struct Walk<'a> {
    factorials: &'a Factorials,
    /// Column sums, falling: with the large ones settled first the bounds are tight early.
    columns: Vec<u64>,
    /// What is left of the row sums.
    left: Vec<u64>,
    /// Tables up to this weight count.
    threshold: f64,
    /// ln of the sum of all weights.
    all: f64,
    work: u64,
    p: f64,
}

impl<'a> Walk<'a> {
    fn new(counts: &Counts, factorials: &'a Factorials, observed: f64) -> Self {
        // The shorter side as rows: there are fewer ways to fill a column.
        let (mut left, mut columns) = (counts.rows.clone(), counts.columns.clone());
        if left.len() > columns.len() {
            std::mem::swap(&mut left, &mut columns);
        }
        columns.sort_unstable_by(|a, b| b.cmp(a));
        let mut walk = Self { factorials, columns, left, threshold: observed + TIE, all: 0.0, work: 0, p: 0.0 };
        walk.all = walk.mass(0);
        walk
    }

    /// `None` if it is too much work.
    fn p(mut self) -> Option<f64> {
        self.column(0, 0.0)?;
        Some(self.p.min(1.0))
    }

    /// ln of the summed weights of all ways to fill the columns from `from` on.
    fn mass(&self, from: usize) -> f64 {
        let ln = |&k: &u64| self.factorials.ln(k);
        let total: u64 = self.left.iter().sum();
        ln(&total) - self.left.iter().map(ln).sum::<f64>() - self.columns[from..].iter().map(ln).sum::<f64>()
    }

    /// Bounds of the weight of any way to fill the columns from `from` on.
    fn bounds(&self, from: usize) -> (f64, f64) {
        let columns = &self.columns[from..];
        let mut left = self.left.clone();
        left.sort_unstable_by(|a, b| b.cmp(a));
        let sides = [(columns, left.as_slice()), (left.as_slice(), columns)];
        let greatest = sides.map(|(sums, caps)| sums.iter().map(|&sum| self.factorials.heaped(sum, caps)).sum::<f64>());
        let least =
            sides.map(|(sums, caps)| sums.iter().map(|&sum| self.factorials.spread(sum, caps.len())).sum::<f64>());
        (-greatest[0].min(greatest[1]), -least[0].max(least[1]))
    }

    fn column(&mut self, column: usize, weight: f64) -> Option<()> {
        let (low, high) = self.bounds(column);
        if weight + high <= self.threshold {
            self.p += (weight + self.mass(column) - self.all).exp();
            return Some(());
        }
        if weight + low > self.threshold {
            return Some(());
        }
        if column + 1 == self.columns.len() {
            // One way is left, and rounding kept the bounds from meeting.
            let last = weight - self.left.iter().map(|&count| self.factorials.ln(count)).sum::<f64>();
            if last <= self.threshold {
                self.p += (last - self.all).exp();
            }
            return Some(());
        }
        self.cell(column, 0, self.columns[column], weight)
    }

    /// All counts of the cell at `row` of `column`, of which `open` is still to be placed in this row or below.
    fn cell(&mut self, column: usize, row: usize, open: u64, weight: f64) -> Option<()> {
        self.work += 1;
        if self.work > WORK {
            return None;
        }
        let below: u64 = self.left[row + 1..].iter().sum();
        let here = self.left[row];
        for count in open.saturating_sub(below)..=open.min(here) {
            self.left[row] = here - count;
            let weight = weight - self.factorials.ln(count);
            let walked = if row + 1 == self.left.len() {
                self.column(column + 1, weight)
            } else {
                self.cell(column, row + 1, open - count, weight)
            };
            self.left[row] = here;
            walked?;
        }
        Some(())
    }
}

fn drawn(counts: &Counts, factorials: &Factorials, observed: f64, draws: u32, seed: u64) -> f64 {
    let columns = counts.columns.len();
    // Every observation by its column, dealt to the rows anew each time; the largest row takes what is left.
    let each = counts.columns.iter().enumerate().flat_map(|(column, &sum)| (0..sum).map(move |_| column));
    let mut items: Vec<usize> = each.collect();
    let mut rows: Vec<usize> = counts.rows.iter().map(|&sum| sum as usize).collect();
    rows.sort_unstable();
    let dealt = items.len() - rows.last().copied().unwrap_or(0);
    let mut stream = Draws::new(seed);
    let mut cells = vec![0_u64; columns];
    let mut extreme = 0_u64;
    for _ in 0..draws {
        stream.choose(&mut items, dealt);
        let (mut first, mut weight) = (0, 0.0);
        for &sum in &rows {
            cells.fill(0);
            for &column in &items[first..first + sum] {
                cells[column] += 1;
            }
            weight -= cells.iter().map(|&count| factorials.ln(count)).sum::<f64>();
            first += sum;
        }
        extreme += u64::from(weight <= observed + TIE);
    }
    (1 + extreme) as f64 / (u64::from(draws) + 1) as f64
}
