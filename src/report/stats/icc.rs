//! The intraclass correlation of cells within samples, and the design effect.
//!
//! Turn means are removed first: r_st = x_st - xbar_t. Then one-way ANOVA over samples,
//! MSB = sum_s k_s rbar_s^2 / (n - 1),  MSW = sum_st (r_st - rbar_s)^2 / (N - n - (T - 1)),
//! ICC = (MSB - MSW) / (MSB + (k0 - 1) MSW),  k0 = (N - sum k_s^2 / N) / (n - 1),
//! for n samples, k_s cells of sample s, N cells, T turns. The T - 1 freedoms that the turn means took are taken from
//! MSW; for complete data this is ICC(3,1) of Shrout & Fleiss (1979). A negative value is kept: it is an estimate.
//! Design effect = 1 + (N/n - 1) ICC (Kish 1965): the factor by which treating cells as independent understates the
//! variance of the mean.

use super::grid::Grid;

/// Intraclass correlation of cells within samples, turn means removed; `None` for fewer than two samples or turns, or if
/// nothing varies.
pub fn icc(grid: &Grid) -> Option<f64> {
    let means = grid.turn_means();
    let rows: Vec<Vec<f64>> = grid
        .rows()
        .iter()
        .map(|row| row.iter().zip(&means).filter_map(|(x, m)| Some((*x)? - (*m)?)).collect::<Vec<f64>>())
        .filter(|row| !row.is_empty())
        .collect();
    let turns = means.iter().flatten().count();
    let n = rows.len();
    let cells: usize = rows.iter().map(Vec::len).sum();
    if n < 2 || turns < 2 || cells < n + turns {
        return None;
    }
    let (mut between, mut within, mut size2) = (0.0, 0.0, 0.0);
    for row in &rows {
        let k = row.len() as f64;
        let mean = row.iter().sum::<f64>() / k;
        between += k * mean * mean;
        within += row.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>();
        size2 += k * k;
    }
    let between = between / (n - 1) as f64;
    let within = within / (cells - n - (turns - 1)) as f64;
    let k0 = (cells as f64 - size2 / cells as f64) / (n - 1) as f64;
    let total = between + (k0 - 1.0) * within;
    let size = means.iter().flatten().fold(0.0_f64, |size, m| size.max(m.abs()));
    // Identical samples leave rounding noise, not variance.
    (total > 1e-24 * size * size).then(|| (between - within) / total)
}

/// 1 + (k - 1) icc, k the mean number of cells of a sample that has any.
pub fn design_effect(grid: &Grid, icc: f64) -> f64 {
    let cells: usize = grid.rows().iter().map(|row| row.iter().flatten().count()).sum();
    1.0 + (cells as f64 / grid.live_samples().max(1) as f64 - 1.0) * icc
}
