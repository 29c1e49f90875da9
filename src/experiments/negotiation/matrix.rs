//! The matrix of a sweep: its cells in listed order, their names, and the number of each run.
//!
//! A run's number has mixed radix digits: ((((repetition · O + order) · W + weak) · S + strong) · L + level), with O orders, W weak and
//! S strong bargainers, L levels. With one order and one repetition this is 100·weak + 10·strong + level for a sweep of 3 x 10 x 10.
//! A run's seed is the base seed plus its number.

use serde::{Deserialize, Serialize};

use crate::config::SpeakingOrder;

/// One repetition of one cell plays one game.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// Labels of the weak bargainers, in listed order; likewise the strong.
    pub weak: Vec<String>,
    pub strong: Vec<String>,
    pub levels: Vec<f64>,
    /// One or both.
    pub orders: Vec<SpeakingOrder>,
    pub repetitions: usize,
    /// Base seed.
    pub seed: u64,
}

/// A pair of bargainers: a condition of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub label: String,
    /// Names of its cells.
    pub cells: Vec<String>,
}

/// Indices into the lists of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub order: usize,
    pub weak: usize,
    pub strong: usize,
    pub level: usize,
}

/// Parts of a cell's name; no label contains the first of them.
const BETWEEN: &str = "_vs_";
const BEFORE_LEVEL: &str = "_comp_";
const STRONG_FIRST: &str = "_strong_first";

/// Name of an order in results and in the experiment file.
pub fn order_name(order: SpeakingOrder) -> &'static str {
    match order {
        SpeakingOrder::WeakFirst => "weak_first",
        SpeakingOrder::StrongFirst => "strong_first",
    }
}

/// A level in names: `0.1`, `1.0`.
pub fn level_name(level: f64) -> String {
    format!("{level:?}")
}

impl Matrix {
    /// Every cell, in the order of their numbers.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for order in 0..self.orders.len() {
            for weak in 0..self.weak.len() {
                for strong in 0..self.strong.len() {
                    cells.extend((0..self.levels.len()).map(|level| Cell { order, weak, strong, level }));
                }
            }
        }
        cells
    }

    pub fn total_runs(&self) -> usize {
        let sides = self.weak.len().saturating_mul(self.strong.len()).saturating_mul(self.levels.len());
        sides.saturating_mul(self.orders.len()).saturating_mul(self.repetitions)
    }

    /// The number of a run.
    pub fn index(&self, cell: Cell, repetition: usize) -> usize {
        let digits = [
            (self.orders.len(), cell.order),
            (self.weak.len(), cell.weak),
            (self.strong.len(), cell.strong),
            (self.levels.len(), cell.level),
        ];
        digits.into_iter().fold(repetition, |index, (radix, digit)| index * radix + digit)
    }

    /// Cell and repetition of a run's number.
    pub fn run(&self, index: usize) -> Option<(Cell, usize)> {
        if index >= self.total_runs() {
            return None;
        }
        let mut rest = index;
        let mut digit = |radix: usize| {
            let digit = rest % radix.max(1);
            rest /= radix.max(1);
            digit
        };
        let (level, strong, weak) = (digit(self.levels.len()), digit(self.strong.len()), digit(self.weak.len()));
        let order = digit(self.orders.len());
        Some((Cell { order, weak, strong, level }, rest))
    }

    pub fn seed(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }

    pub fn order(&self, cell: Cell) -> SpeakingOrder {
        self.orders.get(cell.order).copied().unwrap_or_default()
    }

    pub fn level(&self, cell: Cell) -> f64 {
        self.levels.get(cell.level).copied().unwrap_or_default()
    }

    /// `gpt-4o_vs_o3`
    pub fn pair(&self, cell: Cell) -> String {
        let name = |names: &[String], index: usize| names.get(index).cloned().unwrap_or_default();
        format!("{}{BETWEEN}{}", name(&self.weak, cell.weak), name(&self.strong, cell.strong))
    }

    /// `gpt-4o_vs_o3_comp_0.1`, followed by `_strong_first` if the strong bargainer speaks first; safe as a file name.
    pub fn name(&self, cell: Cell) -> String {
        let order = match self.order(cell) {
            SpeakingOrder::WeakFirst => "",
            SpeakingOrder::StrongFirst => STRONG_FIRST,
        };
        format!("{}{BEFORE_LEVEL}{}{order}", self.pair(cell), level_name(self.level(cell)))
    }

    /// The cell with this name.
    pub fn find(&self, name: &str) -> Option<Cell> {
        let (rest, order) = match name.strip_suffix(STRONG_FIRST) {
            Some(rest) => (rest, SpeakingOrder::StrongFirst),
            None => (name, SpeakingOrder::WeakFirst),
        };
        let (pair, level) = rest.rsplit_once(BEFORE_LEVEL)?;
        let (weak, strong) = pair.split_once(BETWEEN)?;
        Some(Cell {
            order: self.orders.iter().position(|known| *known == order)?,
            weak: self.weak.iter().position(|known| known == weak)?,
            strong: self.strong.iter().position(|known| known == strong)?,
            level: self.levels.iter().position(|known| level_name(*known) == level)?,
        })
    }

    /// All pairs with their cells over levels and orders, in listed order.
    pub fn pairs(&self) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        for cell in self.cells() {
            let label = self.pair(cell);
            match pairs.iter_mut().find(|known| known.label == label) {
                Some(pair) => pair.cells.push(self.name(cell)),
                None => pairs.push(Pair { label, cells: vec![self.name(cell)] }),
            }
        }
        pairs
    }

    /// Folder of a cell's results, below the run folder: `gpt-4o_vs_o3/comp_0.1`.
    pub fn folder(&self, cell: Cell) -> String {
        format!("{}/comp_{}", self.pair(cell), level_name(self.level(cell)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sweep(orders: &[SpeakingOrder], repetitions: usize) -> Matrix {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        Matrix {
            weak: names("gpt-4o claude-3-opus gemini-1-5-pro"),
            strong: names(
                "gemini-2-0-flash gemini-2-5-flash gemini-2-5-pro claude-3-5-haiku claude-4-sonnet claude-4-opus o3-mini o4-mini \
                 o3 chatgpt-5",
            ),
            levels: (1..=10).map(|tenth| f64::from(tenth) / 10.0).collect(),
            orders: orders.to_vec(),
            repetitions,
            seed: 42,
        }
    }

    #[test]
    fn the_sweep_has_300_runs_numbered_as_the_guide_says() {
        let matrix = sweep(&[SpeakingOrder::WeakFirst], 1);
        let cells = matrix.cells();
        assert_eq!((cells.len(), matrix.total_runs()), (300, 300));
        for (i, cell) in cells.iter().enumerate() {
            assert_eq!(matrix.index(*cell, 0), i);
            assert_eq!(matrix.index(*cell, 0), 100 * cell.weak + 10 * cell.strong + cell.level);
            assert_eq!(matrix.seed(i), 42 + i as u64);
            assert_eq!(matrix.run(i), Some((*cell, 0)));
            assert_eq!(matrix.find(&matrix.name(*cell)), Some(*cell));
        }
        assert_eq!(matrix.folder(cells[0]), "gpt-4o_vs_gemini-2-0-flash/comp_0.1");
        assert_eq!(matrix.name(cells[299]), "gemini-1-5-pro_vs_chatgpt-5_comp_1.0");
        let folders: BTreeSet<String> = cells.iter().map(|cell| matrix.folder(*cell)).collect();
        assert_eq!(folders.len(), 300);
        assert_eq!(matrix.run(300), None);
    }

    #[test]
    fn both_orders_and_repetitions_keep_the_numbers_of_the_plain_sweep() {
        let both = sweep(&[SpeakingOrder::WeakFirst, SpeakingOrder::StrongFirst], 3);
        assert_eq!((both.cells().len(), both.total_runs()), (600, 1800));
        let plain = sweep(&[SpeakingOrder::WeakFirst], 1);
        for cell in plain.cells() {
            assert_eq!(both.index(cell, 0), plain.index(cell, 0));
            assert_eq!(both.name(cell), plain.name(cell));
        }
        let mut seen = BTreeSet::new();
        for (cell, repetition) in both.cells().into_iter().flat_map(|cell| (0..3).map(move |r| (cell, r))) {
            let index = both.index(cell, repetition);
            assert!(index < 1800 && seen.insert(index));
            assert_eq!(both.run(index), Some((cell, repetition)));
        }
    }

    #[test]
    fn no_two_cells_share_a_name() {
        let matrix = sweep(&[SpeakingOrder::WeakFirst, SpeakingOrder::StrongFirst], 1);
        let names: BTreeSet<String> = matrix.cells().into_iter().map(|cell| matrix.name(cell)).collect();
        assert_eq!(names.len(), 600);
        assert!(matrix.cells().into_iter().all(|cell| matrix.find(&matrix.name(cell)) == Some(cell)));
        for strange in ["", "gpt-4o_vs_o3", "gpt-4o_vs_o3_comp_0.15", "gpt-4o_vs_nobody_comp_0.1", "a_comp_0.1"] {
            assert_eq!(matrix.find(strange), None, "{strange}");
        }
        assert!(names.iter().all(|name| name.len() <= 120));
    }
}
