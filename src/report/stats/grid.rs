//! `Grid`: samples x turns with missing cells, and the reduction of a sample to the one number (score) that tests work on.
//!
//! A quantity of interest is a fixed weighting w of the turns (the mean: w_t = 1/T; a slope; late minus early). Its
//! estimate for a group is L = sum_t w_t xbar_t, where xbar_t is the mean of the cells that turn t has. The number of
//! sample s is
//!
//!   L_s = L + sum_{t in s} w_t (n / n_t) c_t (x_st - xbar_t),   c_t = sqrt(n_t (n - 1) / ((n_t - 1) n)),
//!
//! with n samples, of which n_t have a cell at turn t. Without holes this is exactly sum_t w_t x_st. With holes, the
//! mean over samples is still L (a sample that lost its low turns is not credited with a high mean, which is what the
//! plain mean over remaining cells would do) and sd(L_s)/sqrt(n) is the linearised, cluster-robust standard error of L
//! (Liang & Zeger 1986), c_t making each turn's share unbiased for its own variance. That holes are unrelated to the
//! missing values, given turn and condition, is an assumption that no arithmetic can remove: holes must be reported.

use super::moments;
use tiltmeter_model::problem::Problem;

/// Measurements of one group: samples x turns, `None` where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    cells: Vec<Vec<Option<f64>>>,
    turns: usize,
}

impl Grid {
    /// From rows of equal length, one per sample. Errors on no samples, no turns, rows of different length, NaN, infinity.
    pub fn new(cells: Vec<Vec<Option<f64>>>) -> Result<Self, Problem> {
        let Some(turns) = cells.first().map(Vec::len) else {
            return Err(Problem::new("there are no samples"));
        };
        if turns == 0 {
            return Err(Problem::new("sample 0 has no turns"));
        }
        for (sample, row) in cells.iter().enumerate() {
            if row.len() != turns {
                return Err(Problem::new(format!("sample {sample} has {} turns, sample 0 has {turns}", row.len()))
                    .hint("write null for turns without a measurement"));
            }
            if let Some(turn) = row.iter().position(|x| x.is_some_and(|x| !x.is_finite())) {
                return Err(Problem::new("a measurement is not a finite number")
                    .at(format!("sample {sample} (from 0), turn {} (from 1)", turn + 1))
                    .hint("write null for a cell without a measurement"));
            }
        }
        Ok(Self { cells, turns })
    }

    /// Number of rows, empty ones included.
    pub fn samples(&self) -> usize {
        self.cells.len()
    }

    /// Number of turns.
    pub fn turns(&self) -> usize {
        self.turns
    }

    /// The rows, samples x turns.
    pub fn rows(&self) -> &[Vec<Option<f64>>] {
        &self.cells
    }

    /// Cells that turn `turn` (from 0) has, in sample order.
    pub fn column(&self, turn: usize) -> Vec<f64> {
        self.cells.iter().filter_map(|row| row[turn]).collect()
    }

    /// Number of samples with at least one cell.
    pub fn live_samples(&self) -> usize {
        self.cells.iter().filter(|row| row.iter().any(Option::is_some)).count()
    }

    /// Mean over samples at each turn; `None` where no sample has a cell.
    pub fn turn_means(&self) -> Vec<Option<f64>> {
        (0..self.turns).map(|turn| moments::mean(&self.column(turn)).ok()).collect()
    }

    /// Standard error over samples at each turn; `None` where fewer than two samples have a cell.
    pub fn turn_sems(&self, ddof: u8) -> Result<Vec<Option<f64>>, Problem> {
        (0..self.turns)
            .map(|turn| {
                let column = self.column(turn);
                if column.is_empty() { Ok(None) } else { moments::sem(&column, ddof) }
            })
            .collect()
    }

    /// One number per sample that has a cell at a weighted turn: the L_s of the header. `weights` has one entry per turn,
    /// `None` for a turn that is left out. Errors if a weighted turn has fewer than two cells (one, if there is but one
    /// sample), see `usable_turns`.
    pub fn scores(&self, weights: &[Option<f64>]) -> Result<Vec<f64>, Problem> {
        if weights.len() != self.turns {
            return Err(Problem::new(format!("{} weights for {} turns", weights.len(), self.turns)));
        }
        let used = |row: &Vec<Option<f64>>| row.iter().zip(weights).any(|(x, w)| x.is_some() && w.is_some());
        let rows: Vec<&Vec<Option<f64>>> = self.cells.iter().filter(|row| used(row)).collect();
        let n = rows.len();
        if n == 0 {
            return Err(Problem::new("no sample has a cell at any turn that is compared")
                .hint("look at the statuses of the cells, or keep flagged cells"));
        }
        let mut scores = vec![0.0; n];
        for (turn, weight) in weights.iter().enumerate() {
            let Some(weight) = weight else { continue };
            let column = self.column(turn);
            let n_turn = column.len();
            if n_turn < n.min(2) {
                return Err(Problem::new(format!("turn {} has {n_turn} cells", turn + 1)).hint("leave the turn out"));
            }
            let mean = moments::mean(&column)?;
            let (n, n_turn) = (n as f64, n_turn as f64);
            // Exactly 1 without holes, so that complete data go through no rounding; also for a lone sample (0/0).
            let stretch =
                if n == n_turn { 1.0 } else { n / n_turn * (n_turn * (n - 1.0) / ((n_turn - 1.0) * n)).sqrt() };
            for (score, row) in scores.iter_mut().zip(&rows) {
                *score += weight * (mean + row[turn].map_or(0.0, |x| stretch * (x - mean)));
            }
        }
        Ok(scores)
    }
}

/// Turns at which every grid has at least two cells (one, for a grid of one sample): conditions are compared over these
/// turns and no others, so that no condition is judged on turns that another one does not have. Shorter grids count as
/// having no cells at the later turns; the answer is as long as the longest grid.
pub fn usable_turns(grids: &[&Grid]) -> Vec<bool> {
    let turns = grids.iter().map(|grid| grid.turns).max().unwrap_or(0);
    (0..turns)
        .map(|turn| {
            grids.iter().all(|grid| {
                let needed = grid.live_samples().clamp(1, 2);
                turn < grid.turns && grid.column(turn).len() >= needed
            })
        })
        .collect()
}

/// One number per sample for shuffling labels between two groups: the deviations from the *joint* turn means, weighted
/// as in `Grid::scores` with joint counts. Built without looking at the labels, so that a permutation test on them is
/// exact even with holes; without holes it differs from `scores` by a constant. Both grids have `weights.len()` turns.
pub fn pooled_scores(a: &Grid, b: &Grid, weights: &[Option<f64>]) -> Result<(Vec<f64>, Vec<f64>), Problem> {
    let rows: Vec<Vec<Option<f64>>> = a.cells.iter().chain(&b.cells).cloned().collect();
    let used = |row: &&Vec<Option<f64>>| row.iter().zip(weights).any(|(x, w)| x.is_some() && w.is_some());
    let split = a.cells.iter().filter(used).count();
    let mut scores = Grid::new(rows)?.scores(weights)?;
    let second = scores.split_off(split);
    Ok((scores, second))
}
