//! Tests of the game: order, secrecy, unanimity, and that no invalid proposal is agreed.

use proptest::prelude::*;

use super::super::utility::utilities;
use super::super::values::{TOTAL_VALUE, pair};
use super::*;

const RULES: Rules = Rules { agents: 2, items: 3, max_rounds: 2 };

fn split(owners: &[usize]) -> Move {
    Move::Propose(Ok(Allocation { owners: owners.to_vec() }))
}

fn invalid() -> Move {
    Move::Propose(Err(Invalid("no JSON".to_owned())))
}

/// Up to the first proposal of a round.
fn talk(game: &mut Game) {
    for agent in 0..game.rules().agents {
        game.play(Move::Speak(format!("I am {agent}"))).unwrap();
    }
    for _ in 0..game.rules().agents {
        game.play(Move::Think).unwrap();
    }
}

#[test]
fn a_round_goes_through_its_phases_in_order() {
    let mut game = Game::new(RULES);
    let mut seen = Vec::new();
    while let Some(turn) = game.turn() {
        seen.push((turn.round, turn.phase, turn.agent));
        game.play(match turn.phase {
            Phase::Discussion => Move::Speak("well".to_owned()),
            Phase::Thinking | Phase::Reflection => Move::Think,
            Phase::Proposal => split(&[0, 0, 1]),
            Phase::Voting => Move::Vote(vec![Some(false); 2]),
        })
        .unwrap();
    }
    use Phase::{Discussion, Proposal, Reflection, Thinking, Voting};
    let round = |n, phases: &[Phase]| phases.iter().flat_map(|p| [(n, *p, 0), (n, *p, 1)]).collect::<Vec<_>>();
    let mut expected = round(1, &[Discussion, Thinking, Proposal, Voting, Reflection]);
    expected.extend(round(2, &[Discussion, Thinking, Proposal, Voting]));
    assert_eq!(seen, expected, "nobody reflects when nothing follows");
    assert_eq!(game.end(), Some(&End { round: 2, deal: None }));
}

#[test]
fn proposals_stay_hidden_until_all_are_in() {
    let mut game = Game::new(RULES);
    talk(&mut game);
    let before = game.record().len();
    game.play(split(&[0, 0, 1])).unwrap();
    assert_eq!((game.record().len(), game.proposals().len()), (before, 0));
    game.play(split(&[0, 1, 1])).unwrap();
    assert_eq!(game.proposals().len(), 2);
    let Some(Event::Enumerated { proposals, .. }) = game.record().last() else { panic!("they are enumerated") };
    assert_eq!(proposals.iter().map(|p| (p.number, p.by)).collect::<Vec<_>>(), [(1, 0), (2, 1)]);
}

#[test]
fn all_must_accept_and_the_lowest_number_wins() {
    for (ballots, agreed) in [
        ([[Some(true), Some(true)], [Some(true), Some(true)]], Some(1)),
        ([[Some(true), Some(true)], [Some(false), Some(true)]], Some(2)),
        ([[Some(true), Some(false)], [Some(false), Some(true)]], None),
        ([[Some(true), None], [None, Some(true)]], None),
    ] {
        let mut game = Game::new(RULES);
        talk(&mut game);
        game.play(split(&[0, 0, 1])).unwrap();
        game.play(split(&[0, 1, 1])).unwrap();
        ballots.iter().for_each(|ballot| game.play(Move::Vote(ballot.to_vec())).unwrap());
        let Some(Event::Tabulated { agreed: found, .. }) = game.record().last() else { panic!("they are counted") };
        assert_eq!(*found, agreed);
        assert_eq!(game.end().and_then(|end| end.deal.as_ref()).map(|deal| deal.number), agreed);
        assert_eq!(game.turn().is_none(), agreed.is_some());
    }
}

#[test]
fn an_invalid_proposal_is_counted_has_no_number_and_cannot_be_accepted() {
    let mut game = Game::new(RULES);
    talk(&mut game);
    game.play(invalid()).unwrap();
    game.play(split(&[1, 1, 0])).unwrap();
    assert_eq!(game.invalid_proposals(), [1, 0]);
    assert_eq!(game.proposals().iter().map(|p| (p.number, p.by)).collect::<Vec<_>>(), [(1, 1)]);
    for _ in 0..2 {
        game.play(Move::Vote(vec![Some(true)])).unwrap();
    }
    assert_eq!(game.end().unwrap().deal.as_ref().unwrap().by, 1);
}

#[test]
fn a_round_without_a_valid_proposal_has_no_vote() {
    let mut game = Game::new(RULES);
    talk(&mut game);
    game.play(invalid()).unwrap();
    // Made under other rules: four items, and three agents.
    game.play(split(&[0, 1, 1, 0])).unwrap();
    assert_eq!(game.turn().unwrap().phase, Phase::Reflection);
    assert_eq!(game.invalid_proposals(), [1, 1]);
    let Some(Event::Tabulated { accepts, agreed: None, .. }) = game.record().last() else {
        panic!("nothing is agreed")
    };
    assert!(accepts.is_empty());
}

#[test]
fn a_move_of_another_phase_changes_nothing() {
    let mut game = Game::new(RULES);
    assert!(game.play(Move::Vote(vec![])).is_err());
    assert!(game.play(split(&[0, 0, 0])).is_err());
    assert_eq!(game.turn(), Some(Turn { round: 1, phase: Phase::Discussion, agent: 0 }));
    talk(&mut game);
    game.play(split(&[0, 0, 0])).unwrap();
    game.play(split(&[1, 1, 1])).unwrap();
    assert!(game.play(Move::Vote(vec![Some(true)])).is_err(), "one vote a proposal");
    assert!(game.play(Move::Vote(vec![Some(true), None, None])).is_err());
}

#[test]
fn only_partitions_are_allocations() {
    let shares = |shares: &[&[usize]]| {
        let shares: Vec<Vec<usize>> = shares.iter().map(|share| share.to_vec()).collect();
        Allocation::of_shares(&shares, RULES).map_err(|Invalid(why)| why)
    };
    assert_eq!(shares(&[&[2, 0], &[1]]).unwrap().owners(), [0, 1, 0]);
    assert_eq!(shares(&[&[0, 1, 2], &[]]).unwrap().share(1), [0_usize; 0]);
    assert!(shares(&[&[0, 1], &[]]).unwrap_err().contains("over"));
    assert!(shares(&[&[0, 1], &[1, 2]]).unwrap_err().contains("twice"));
    assert!(shares(&[&[0, 0, 1], &[2]]).unwrap_err().contains("twice"));
    assert!(shares(&[&[0, 1, 3], &[2]]).unwrap_err().contains("no item 4"));
    assert!(shares(&[&[0, 1, 2]]).unwrap_err().contains("1 shares"));
    assert!(shares(&[&[0], &[1], &[2]]).unwrap_err().contains("3 shares"));
    assert!(Allocation::of_owners(vec![0, 1, 2], RULES).is_err());
    assert!(Allocation::of_owners(vec![0, 1], RULES).is_err());
}

#[test]
fn more_than_two_agents_must_all_accept() {
    let rules = Rules { agents: 3, items: 3, max_rounds: 1 };
    for (votes, deal) in [([true, true, true], true), ([true, false, true], false)] {
        let mut game = Game::new(rules);
        talk(&mut game);
        game.play(split(&[0, 1, 2])).unwrap();
        game.play(invalid()).unwrap();
        game.play(invalid()).unwrap();
        votes.iter().for_each(|vote| game.play(Move::Vote(vec![Some(*vote)])).unwrap());
        assert_eq!(game.end().unwrap().deal.is_some(), deal);
    }
}

#[test]
fn a_game_that_cannot_be_played_is_over_at_once() {
    for rules in [Rules { agents: 0, ..RULES }, Rules { max_rounds: 0, ..RULES }] {
        let game = Game::new(rules);
        assert_eq!((game.turn(), game.end()), (None, Some(&End { round: 0, deal: None })));
    }
}

/// Anything an agent may hand in: partitions, what is none, ballots with holes.
#[derive(Clone, Debug)]
struct Handed {
    owners: Vec<usize>,
    readable: bool,
    votes: Vec<Option<bool>>,
}

fn handed() -> impl Strategy<Value = Handed> {
    let votes = prop::collection::vec(prop::option::weighted(0.9, prop::bool::weighted(0.7)), 4);
    (prop::collection::vec(0_usize..5, 0..8), prop::bool::weighted(0.9), votes)
        .prop_map(|(owners, readable, votes)| Handed { owners, readable, votes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_illegal_is_ever_agreed_and_nobody_gets_more_than_there_is(
        agents in 2_usize..=4, items in 2_usize..=6, max_rounds in 1_usize..=4, gamma in 0.0..=1.0_f64, level in 0.0..=1.0_f64,
        seed: u64, moves in prop::collection::vec(handed(), 40),
    ) {
        let rules = Rules { agents, items, max_rounds };
        let mut game = Game::new(rules);
        let mut moves = moves.into_iter().cycle();
        let mut ballots: Vec<Vec<Option<bool>>> = Vec::new();
        while let Some(turn) = game.turn() {
            let mut next = moves.next().unwrap();
            let played = match turn.phase {
                Phase::Discussion => Move::Speak(String::new()),
                Phase::Thinking | Phase::Reflection => Move::Think,
                Phase::Proposal if !next.readable => invalid(),
                Phase::Proposal => {
                    if turn.agent == 0 {
                        // Often enough something that can be agreed on.
                        next.owners = next.owners.into_iter().cycle().take(items).map(|owner| owner % agents).collect();
                    }
                    ballots.clear();
                    split(&next.owners)
                }
                Phase::Voting => {
                    let ballot: Vec<_> = next.votes.into_iter().cycle().take(game.proposals().len()).collect();
                    ballots.push(ballot.clone());
                    Move::Vote(ballot)
                }
            };
            game.play(played).unwrap();
        }
        let end = game.end().unwrap();
        prop_assert!(end.round <= max_rounds);
        let [p, q] = pair(items, level, seed).unwrap();
        let values: Vec<Vec<f64>> = [p, q].into_iter().cycle().take(agents).collect();
        let utilities = utilities(&values, end, gamma);
        prop_assert!(utilities.iter().all(|u| (0.0..=TOTAL_VALUE + 1e-9).contains(u)));
        match &end.deal {
            None => prop_assert!(utilities.iter().all(|u| *u == 0.0)),
            Some(deal) => {
                prop_assert_eq!(deal.allocation.owners().len(), items);
                prop_assert!(deal.allocation.owners().iter().all(|owner| *owner < agents));
                let shares: Vec<_> = (0..agents).map(|agent| deal.allocation.share(agent)).collect();
                prop_assert_eq!(Allocation::of_shares(&shares, rules).unwrap(), deal.allocation.clone());
                let accepted = |i: usize| ballots.iter().all(|ballot| ballot[i] == Some(true));
                prop_assert_eq!(ballots.len(), agents);
                prop_assert!(accepted(deal.number - 1), "unanimity");
                prop_assert!((0..deal.number - 1).all(|i| !accepted(i)), "the lowest number");
                for (agent, utility) in utilities.iter().enumerate() {
                    let got: f64 = deal.allocation.share(agent).iter().map(|item| values[agent][*item]).sum();
                    prop_assert!((utility - got * gamma.powi(end.round as i32 - 1)).abs() <= 1e-9);
                }
            }
        }
    }
}
