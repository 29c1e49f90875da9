//! Utility of an agreement: the sum of an agent's values of its items times gamma^(round - 1); 0 without a deal.

use super::protocol::{Allocation, End};

/// Undiscounted value of an agent's items.
pub fn worth(values: &[f64], allocation: &Allocation, agent: usize) -> f64 {
    allocation.share(agent).into_iter().filter_map(|item| values.get(item)).sum()
}

/// Discount factor of a round, counted from 1.
pub fn discount(gamma: f64, round: usize) -> f64 {
    gamma.powi(i32::try_from(round.saturating_sub(1)).unwrap_or(i32::MAX))
}

/// Utility of each agent.
pub fn utilities(values: &[Vec<f64>], end: &End, gamma: f64) -> Vec<f64> {
    let left = discount(gamma, end.round);
    let utility = |(agent, values): (usize, &Vec<f64>)| {
        end.deal.as_ref().map_or(0.0, |deal| worth(values, &deal.allocation, agent) * left)
    };
    values.iter().enumerate().map(utility).collect()
}

#[cfg(test)]
mod tests {
    use super::super::protocol::{Proposal, Rules};
    use super::*;

    fn end(round: usize, owners: Option<&[usize]>) -> End {
        let rules = Rules { agents: 2, items: 3, max_rounds: 10 };
        let deal = owners.map(|owners| Proposal {
            number: 1,
            by: 0,
            allocation: Allocation::of_owners(owners.to_vec(), rules).unwrap(),
        });
        End { round, deal }
    }

    #[test]
    fn a_deal_is_worth_its_items_less_the_discount_of_its_round() {
        let values = [vec![50.0, 30.0, 20.0], vec![10.0, 25.0, 65.0]];
        assert_eq!(utilities(&values, &end(1, Some(&[0, 0, 1])), 0.9), [80.0, 65.0]);
        assert_eq!(utilities(&values, &end(3, Some(&[0, 0, 1])), 0.9), [80.0 * (0.9 * 0.9), 65.0 * (0.9 * 0.9)]);
        assert_eq!(utilities(&values, &end(10, Some(&[1, 1, 1])), 1.0), [0.0, 100.0]);
    }

    #[test]
    fn no_deal_is_worth_nothing() {
        assert_eq!(utilities(&[vec![50.0, 50.0, 0.0], vec![100.0, 0.0, 0.0]], &end(10, None), 0.9), [0.0, 0.0]);
    }

    #[test]
    fn the_first_round_costs_nothing_whatever_gamma_is() {
        for gamma in [0.0, 0.5, 1.0] {
            assert_eq!(discount(gamma, 1), 1.0);
        }
        assert_eq!(discount(0.9, 2), 0.9);
    }
}
