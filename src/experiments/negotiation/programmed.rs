//! Programmed bargainers, which need no language model. They reply in the format that models are asked for and use only what an agent
//! knows: its own values and the public events.
//!
//! In round r of R an agent demands at least the share a(r) = b + (o - b)(1 - t^(1/e)) of its own values, with t = (r - 1) / (R - 1)
//! (t = 1 if R = 1), opening demand o and lowest demand b = 0.8 / n for n agents: the time-dependent tactics of Faratin, Sierra and
//! Jennings (1998); e < 1 concedes late. Of all sets of items worth at least a(r) to it, it claims the one with the fewest items in the
//! latest claims of others, then the fewest items, then the greatest value. Each other item goes to the agent that claimed it last,
//! unclaimed items to the others in turn. It accepts every proposal worth at least a(r) to it.

use super::game::utility::worth;
use super::game::{Allocation, Event, Game, Phase, Rules, TOTAL_VALUE, Turn, names};
use crate::config::Bargaining;

/// Tolerance of rounding when a set is compared with a demand.
const SLACK: f64 = 1e-9;

/// The reply of a strategy.
pub fn reply(strategy: Bargaining, game: &Game, turn: Turn, values: &[f64]) -> String {
    let rules = game.rules();
    let demand = demand(strategy, turn.round, rules);
    match turn.phase {
        Phase::Discussion => match strategy {
            Bargaining::Greedy => "I will not sell cheaply. Make me a good offer.".to_owned(),
            Bargaining::Fair | Bargaining::Conceder => {
                let dearest = (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]));
                let dearest = dearest.map(names::item).unwrap_or_default();
                format!("The {dearest} means most to me. Let us find something that suits us all.")
            }
        },
        Phase::Thinking | Phase::Reflection => format!("I accept nothing that is worth less than {demand:.2} to me."),
        Phase::Proposal => {
            let allocation = proposal(game, turn.agent, values, demand);
            let share = |agent: usize| {
                let items = (0..allocation.len()).filter(|item| allocation[*item] == agent);
                (names::agent(agent), items.map(names::item).collect::<Vec<_>>().into())
            };
            let shares: serde_json::Map<String, serde_json::Value> = (0..rules.agents).map(share).collect();
            serde_json::json!({"allocation": shares, "reasoning": format!("It is worth at least {demand:.2} to me.")})
                .to_string()
        }
        Phase::Voting => {
            let vote = |allocation: &Allocation| {
                if worth(values, allocation, turn.agent) >= demand - SLACK { "accept" } else { "reject" }
            };
            let votes = game.proposals().iter().map(|p| (p.number.to_string(), vote(&p.allocation).into()));
            let votes: serde_json::Map<String, serde_json::Value> = votes.collect();
            serde_json::json!({"votes": votes, "reasoning": format!("I demand {demand:.2}.")}).to_string()
        }
    }
}

/// Least acceptable value, in points of the agent's own values.
pub fn demand(strategy: Bargaining, round: usize, rules: Rules) -> f64 {
    let agents = rules.agents.max(1) as f64;
    let lowest = 0.8 / agents;
    let (opening, exponent) = match strategy {
        Bargaining::Fair => (1.0 / agents, 1.0),
        Bargaining::Greedy => (1.0, 0.5),
        Bargaining::Conceder => (1.0, 2.0),
    };
    let passed = match rules.max_rounds {
        0 | 1 => 1.0,
        rounds => (round.saturating_sub(1) as f64 / (rounds - 1) as f64).min(1.0),
    };
    TOTAL_VALUE * (lowest + (opening - lowest) * (1.0 - passed.powf(1.0 / exponent)))
}

/// Agent of each item.
fn proposal(game: &Game, agent: usize, values: &[f64], demand: f64) -> Vec<usize> {
    let rules = game.rules();
    let claims = claims(game, agent);
    let items = values.len().min(names::MAX_ITEMS);
    let own = |set: u32| (0..items).filter(move |item| set >> item & 1 == 1);
    let worth = |set: u32| -> f64 { own(set).map(|item| values[item]).sum() };
    let wanted = |set: u32| own(set).filter(|item| claims[*item].is_some()).count();
    let good = (0_u32..1 << items).filter(|set| worth(*set) >= demand - SLACK);
    let key = |set: u32| (wanted(set), set.count_ones());
    let best = good.min_by(|a, b| key(*a).cmp(&key(*b)).then(worth(*b).total_cmp(&worth(*a))));
    // All items together are worth 100, so there always is such a set.
    let best = best.unwrap_or((1 << items) - 1);
    let others: Vec<usize> = (0..rules.agents).filter(|other| *other != agent).collect();
    let mut turns = others.iter().cycle();
    (0..values.len())
        .map(|item| match claims[item] {
            _ if item >= items || best >> item & 1 == 1 => agent,
            Some(other) => other,
            None => turns.next().copied().unwrap_or(agent),
        })
        .collect()
}

/// For each item, the other agent that claims it in its latest valid proposal.
fn claims(game: &Game, agent: usize) -> Vec<Option<usize>> {
    let mut claims = vec![None; game.rules().items];
    let mut done: Vec<usize> = Vec::new();
    for event in game.record().iter().rev() {
        let Event::Enumerated { proposals, .. } = event else { continue };
        for proposal in proposals.iter().filter(|p| p.by != agent) {
            if done.contains(&proposal.by) {
                continue;
            }
            done.push(proposal.by);
            for item in proposal.allocation.share(proposal.by) {
                claims[item].get_or_insert(proposal.by);
            }
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::super::game::{End, Move, utility::utilities, values::pair};
    use super::super::replies;
    use super::*;

    fn played(how: [Bargaining; 2], values: &[Vec<f64>], max_rounds: usize) -> (End, Game) {
        let rules = Rules { agents: 2, items: values[0].len(), max_rounds };
        let mut game = Game::new(rules);
        while let Some(turn) = game.turn() {
            let text = reply(how[turn.agent], &game, turn, &values[turn.agent]);
            game.play(match turn.phase {
                Phase::Discussion => Move::Speak(text),
                Phase::Thinking | Phase::Reflection => Move::Think,
                Phase::Proposal => Move::Propose(replies::proposal(&text, rules)),
                Phase::Voting => Move::Vote(replies::ballot(&text, game.proposals().len())),
            })
            .unwrap();
        }
        (game.end().unwrap().clone(), game)
    }

    #[test]
    fn demands_fall_from_the_opening_to_the_lowest() {
        let rules = Rules { agents: 2, items: 5, max_rounds: 11 };
        for (how, opening) in [(Bargaining::Fair, 50.0), (Bargaining::Greedy, 100.0), (Bargaining::Conceder, 100.0)] {
            assert!((demand(how, 1, rules) - opening).abs() < 1e-9);
            assert!((demand(how, 11, rules) - 40.0).abs() < 1e-9);
            assert!((1..11).all(|round| demand(how, round, rules) >= demand(how, round + 1, rules)));
        }
        assert!(demand(Bargaining::Greedy, 6, rules) > demand(Bargaining::Conceder, 6, rules));
        assert!((demand(Bargaining::Greedy, 1, Rules { max_rounds: 1, ..rules }) - 40.0).abs() < 1e-9);
    }

    #[test]
    fn every_reply_is_readable_and_no_deal_is_below_the_demand() {
        let all = [Bargaining::Fair, Bargaining::Greedy, Bargaining::Conceder];
        for seed in 0..50 {
            for level in [0.0, 0.5, 1.0] {
                let values = pair(5, level, seed).unwrap();
                for how in all.iter().flat_map(|a| all.iter().map(move |b| [*a, *b])) {
                    let (end, game) = played(how, &values, 10);
                    assert_eq!((game.invalid_proposals(), game.missing_votes()), (&[0, 0][..], &[0, 0][..]));
                    for (agent, utility) in utilities(&values, &end, 1.0).iter().enumerate() {
                        let lowest = demand(how[agent], end.round, game.rules());
                        assert!(end.deal.is_none() || *utility >= lowest - 1e-6, "{how:?} {utility} < {lowest}");
                    }
                }
            }
        }
    }

    #[test]
    fn greedy_beats_fair_and_fair_agrees_with_fair_in_round_1() {
        let (mut greedy, mut fair, mut deals, mut first) = (0.0, 0.0, 0, 0);
        for seed in 0..200 {
            let values = pair(5, 0.9, seed).unwrap();
            let (end, _) = played([Bargaining::Fair, Bargaining::Greedy], &values, 10);
            let got = utilities(&values, &end, 1.0);
            deals += usize::from(end.deal.is_some());
            (fair, greedy) = (fair + got[0], greedy + got[1]);
            let (end, _) = played([Bargaining::Fair, Bargaining::Fair], &pair(5, 0.1, seed).unwrap(), 10);
            first += usize::from(end.deal.is_some_and(|_| end.round == 1));
        }
        assert!(deals > 150, "{deals} deals");
        assert!(greedy > fair, "{greedy} and {fair}");
        assert!(first > 150, "{first} agree in the first round where they want different things");
    }
}
