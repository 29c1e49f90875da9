//! Holm's step-down correction for multiplicity (Holm 1979): with p sorted upwards, adjusted p_(i) = max_{j<=i} min(1, (m-j+1) p_(j)).

/// Adjusted p values, in the order given. `None` (no test) and numbers outside [0, 1] give `None` and do not count in m.
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(f64, usize)> = p_values
        .iter()
        .enumerate()
        .filter_map(|(i, p)| p.filter(|p| (0.0..=1.0).contains(p)).map(|p| (p, i)))
        .collect();
    order.sort_by(|x, y| x.0.total_cmp(&y.0));
    let mut adjusted = vec![None; p_values.len()];
    let mut floor = 0.0_f64;
    for (rank, &(p, index)) in order.iter().enumerate() {
        floor = floor.max(((order.len() - rank) as f64 * p).min(1.0));
        adjusted[index] = Some(floor);
    }
    adjusted
}
