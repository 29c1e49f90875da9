//! Measures of a game between two agents. Values v sum to 100 for each agent, utilities u are discounted, x is the point of
//! undiscounted values at the end: (v_1(S_1), v_2(S_2)) for a deal, (0, 0) without one.
//!
//! - Nash solutions: all allocations that maximise v_1(S_1) v_2(S_2) over the 2^m allocations (Nash 1950, disagreement point (0, 0)).
//! - share = u_i / (u_1 + u_2), independent of the discount; fair share = the share at the Nash solution, averaged over several.
//! - exploitation = strong share - fair share. Undefined without a deal: left out, never 0.
//! - utilitarian efficiency = (u_1 + u_2) / sum over the items of max(v_1, v_2); 0 without a deal.
//! - Nash distance = the least Euclidean distance from x to a Nash solution, in points of value.
//! - Pareto optimal: no allocation gives one agent more than x and the other no less.

use serde::{Deserialize, Serialize};

use super::protocol::End;
use super::utility::{discount, worth};

/// Smaller differences of value are rounding errors.
const TOLERANCE: f64 = 1e-9;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Discounted, by agent.
    pub utilities: [f64; 2],
    /// By agent; `None` without a deal, and for a deal worth 0 to both.
    pub shares: Option<[f64; 2]>,
    pub fair_shares: [f64; 2],
    pub utilitarian_efficiency: f64,
    pub nash_distance: f64,
    pub pareto_optimal: bool,
}

impl Measures {
    /// Share of an agent minus its fair share.
    pub fn exploitation_by(&self, agent: usize) -> Option<f64> {
        Some(self.shares?.get(agent)? - self.fair_shares.get(agent)?)
    }

    /// `values` has one vector an agent, over at most [`MAX_ITEMS`](super::names::MAX_ITEMS) items; all allocations are enumerated.
    pub fn of(values: &[Vec<f64>; 2], end: &End, gamma: f64) -> Self {
        let [p, q] = values;
        let point =
            end.deal.as_ref().map_or((0.0, 0.0), |deal| (worth(p, &deal.allocation, 0), worth(q, &deal.allocation, 1)));
        let left = if end.deal.is_some() { discount(gamma, end.round) } else { 0.0 };
        let utilities = [point.0 * left, point.1 * left];
        let total = point.0 + point.1;
        // From undiscounted values: the discount cancels, and gamma may be 0.
        let shares = (end.deal.is_some() && total > TOLERANCE).then(|| [point.0 / total, point.1 / total]);
        let solutions = nash(p, q);
        let share = |&(a, b): &(f64, f64)| if a + b > TOLERANCE { a / (a + b) } else { 0.5 };
        let fair = solutions.iter().map(share).sum::<f64>() / solutions.len().max(1) as f64;
        let distance = |&(a, b): &(f64, f64)| (a - point.0).hypot(b - point.1);
        let most: f64 = p.iter().zip(q).map(|(a, b)| a.max(*b)).sum();
        let better = |(a, b): (f64, f64)| {
            let no_less = a >= point.0 - TOLERANCE && b >= point.1 - TOLERANCE;
            no_less && (a > point.0 + TOLERANCE || b > point.1 + TOLERANCE)
        };
        Self {
            utilities,
            shares,
            fair_shares: [fair, 1.0 - fair],
            utilitarian_efficiency: if most > 0.0 { (utilities[0] + utilities[1]) / most } else { 0.0 },
            nash_distance: solutions.iter().map(distance).fold(f64::INFINITY, f64::min),
            pareto_optimal: !points(p, q).any(better),
        }
    }
}

/// Undiscounted values of both agents, over all allocations.
fn points<'a>(p: &'a [f64], q: &'a [f64]) -> impl Iterator<Item = (f64, f64)> + 'a {
    (0_u32..1 << p.len().min(16)).map(move |first| {
        let part = |v: &[f64], own: bool| -> f64 {
            v.iter().enumerate().filter(|(item, _)| (first >> item & 1 == 1) == own).map(|(_, value)| value).sum()
        };
        (part(p, true), part(q, false))
    })
}

/// Points with the greatest product.
fn nash(p: &[f64], q: &[f64]) -> Vec<(f64, f64)> {
    let best = points(p, q).map(|(a, b)| a * b).fold(0.0, f64::max);
    points(p, q).filter(|(a, b)| a * b >= best * (1.0 - TOLERANCE)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::protocol::{Allocation, Proposal, Rules};
    use super::super::values::pair;
    use super::*;

    fn end(round: usize, owners: &[usize]) -> End {
        let rules = Rules { agents: 2, items: owners.len(), max_rounds: 10 };
        let allocation = Allocation::of_owners(owners.to_vec(), rules).unwrap();
        End { round, deal: Some(Proposal { number: 1, by: 0, allocation }) }
    }

    const NO_DEAL: End = End { round: 10, deal: None };

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn opposite_wishes_by_hand() {
        let values = [vec![60.0, 40.0, 0.0], vec![0.0, 20.0, 80.0]];
        // The best for both: the first two items to the first agent, worth 100 and 80.
        let best = Measures::of(&values, &end(1, &[0, 0, 1]), 0.9);
        near(best.nash_distance, 0.0);
        near(best.utilitarian_efficiency, 1.0);
        near(best.exploitation_by(1).unwrap(), 0.0);
        assert!(best.pareto_optimal);
        near(best.fair_shares[0], 100.0 / 180.0);
        // One round later the second agent has taken the middle item too.
        let later = Measures::of(&values, &end(2, &[0, 1, 1]), 0.9);
        assert_eq!(later.utilities, [54.0, 90.0]);
        near(later.exploitation_by(1).unwrap(), 100.0 / 160.0 - 80.0 / 180.0);
        near(later.nash_distance, 40.0_f64.hypot(20.0));
        near(later.utilitarian_efficiency, 144.0 / 180.0);
        assert!(later.pareto_optimal);
        // Everybody gets what the other wants.
        let wasted = Measures::of(&values, &end(1, &[1, 1, 0]), 0.9);
        assert!(!wasted.pareto_optimal);
    }

    #[test]
    fn without_a_deal_there_is_no_exploitation_and_no_efficiency() {
        let none = Measures::of(&[vec![50.0, 50.0], vec![50.0, 50.0]], &NO_DEAL, 0.9);
        assert_eq!((none.utilities, none.shares), ([0.0, 0.0], None));
        assert_eq!((none.exploitation_by(1), none.utilitarian_efficiency, none.pareto_optimal), (None, 0.0, false));
        near(none.nash_distance, 50.0_f64.hypot(50.0));
    }

    #[test]
    fn of_solutions_that_are_as_good_none_is_preferred() {
        // Same values: 60 to one or to the other.
        let values = [vec![60.0, 40.0], vec![60.0, 40.0]];
        let deal = Measures::of(&values, &end(1, &[0, 1]), 0.9);
        near(deal.fair_shares[0], 0.5);
        near(deal.exploitation_by(0).unwrap(), 0.1);
        near(deal.exploitation_by(1).unwrap(), -0.1);
        near(deal.nash_distance, 0.0);
    }

    #[test]
    fn a_discount_of_everything_leaves_the_shares() {
        let deal = Measures::of(&[vec![60.0, 40.0], vec![60.0, 40.0]], &end(2, &[0, 1]), 0.0);
        assert_eq!(deal.utilities, [0.0, 0.0]);
        near(deal.shares.unwrap()[0], 0.6);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn measures_stay_within_their_bounds(items in 2_usize..=7, level in 0.0..=1.0_f64, seed: u64, owners: u32, round in 1_usize..10) {
            let values = pair(items, level, seed).unwrap();
            let owners: Vec<usize> = (0..items).map(|item| (owners >> item & 1) as usize).collect();
            let found = Measures::of(&values, &end(round, &owners), 0.9);
            prop_assert!((0.0..=1.0 + 1e-9).contains(&found.utilitarian_efficiency));
            prop_assert!((0.0..=142.0).contains(&found.nash_distance));
            prop_assert!((found.fair_shares[0] + found.fair_shares[1] - 1.0).abs() < 1e-12);
            if let Some(shares) = found.shares {
                prop_assert!((shares[0] + shares[1] - 1.0).abs() < 1e-9);
                let both = found.exploitation_by(0).unwrap() + found.exploitation_by(1).unwrap();
                prop_assert!(both.abs() < 1e-9, "what one has too much the other has too little");
            }
            if found.nash_distance < 1e-6 {
                prop_assert!(found.pareto_optimal, "the Nash solution is Pareto optimal");
            }
        }
    }
}
