//! Weights per turn: the mean over turns, the slope over turns, late minus early.
//!
//! slope: w_t = (t - tbar) / sum (t - tbar)^2, ordinary least squares on the turn number; unit: measurement per turn.
//! late minus early: mean of the last third of the turns minus mean of the first third (k = max(1, T div 3) turns each).

/// 1/T at each usable turn, `None` elsewhere; `None` altogether if no turn is usable.
pub fn mean_weights(usable: &[bool]) -> Option<Vec<Option<f64>>> {
    let turns = usable.iter().filter(|&&u| u).count();
    (turns > 0).then(|| usable.iter().map(|&u| u.then(|| 1.0 / turns as f64)).collect())
}

/// Least-squares slope on the turn number over the usable turns (gaps keep their distance); `None` for fewer than two.
pub fn slope_weights(usable: &[bool]) -> Option<Vec<Option<f64>>> {
    let turns: Vec<f64> = (0..usable.len()).filter(|&t| usable[t]).map(|t| t as f64).collect();
    if turns.len() < 2 {
        return None;
    }
    let centre = turns.iter().sum::<f64>() / turns.len() as f64;
    let squares: f64 = turns.iter().map(|t| (t - centre) * (t - centre)).sum();
    Some((0..usable.len()).map(|t| usable[t].then(|| (t as f64 - centre) / squares)).collect())
}

/// +1/k at the last third of the usable turns, -1/k at the first third; the turns between are left out. `None` for
/// fewer than two usable turns.
pub fn late_minus_early_weights(usable: &[bool]) -> Option<Vec<Option<f64>>> {
    let turns: Vec<usize> = (0..usable.len()).filter(|&t| usable[t]).collect();
    if turns.len() < 2 {
        return None;
    }
    let third = (turns.len() / 3).max(1);
    let mut weights = vec![None; usable.len()];
    for &turn in &turns[..third] {
        weights[turn] = Some(-1.0 / third as f64);
    }
    for &turn in &turns[turns.len() - third..] {
        weights[turn] = Some(1.0 / third as f64);
    }
    Some(weights)
}
