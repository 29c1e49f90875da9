//! Prompts of agents: a briefing with the rules and the agent's own values, then before each turn the new public events and the task.
//! An agent sees every public event word for word except its own statements, which are already in its conversation. Values and private
//! replies are never shown to other agents.

use serde_json::{Map, Value, json};

use super::game::{Event, Game, Phase, Proposal, Rules, Turn, names};

/// The system message of an agent.
pub fn briefing(rules: Rules, gamma: f64, agent: usize, values: &[f64]) -> String {
    let others: Vec<String> = (0..rules.agents).filter(|other| *other != agent).map(names::agent).collect();
    let worth: String =
        values.iter().enumerate().map(|(i, value)| format!("- {}: {value:.2}\n", names::item(i))).collect();
    let discount = if gamma < 1.0 {
        format!(
            "Time costs. An agreement in round 1 is worth its full value; with every further round everything is worth {gamma} times \
             what it was worth in the round before."
        )
    } else {
        "Time costs nothing: an agreement is worth the same in every round.".to_owned()
    };
    format!(
        "You are {name}, and you bargain with {others} over {items} items. Your aim is to end with as much value as you can.\n\
\n\
What each item is worth to you, out of 100 in all:\n\
{worth}\
Nobody else knows these numbers, and you do not know the numbers of others: they value the items in their own way. You may say \
of your values what you like, or nothing.\n\
\n\
There are at most {rounds} rounds. A round goes like this:\n\
1. Discussion: each agent speaks once, heard by all.\n\
2. Thinking: each agent thinks in private.\n\
3. Proposals: each agent proposes who gets which item. Every item goes to exactly one agent; a proposal that leaves an item over or \
gives one away twice is invalid. When all are in, the valid ones are numbered and shown to all.\n\
4. Votes: each agent votes in private on every proposal, its own too. A proposal that all accept is the agreement; of several, the one \
with the lowest number.\n\
If nothing is agreed, each agent reflects in private, and the next round begins. {discount} Without an agreement by the end of \
round {rounds} everybody gets 0.\n\
\n\
What you say in the discussion is public. What you write when thinking or reflecting is seen by nobody else.",
        name = names::agent(agent),
        others = others.join(" and "),
        items = rules.items,
        rounds = rules.max_rounds,
    )
}

/// All texts with neutral values, for the plan: a changed text is another experiment.
pub fn all(rules: Rules, gamma: f64) -> Value {
    let game = Game::new(rules);
    let phases = [Phase::Discussion, Phase::Thinking, Phase::Proposal, Phase::Voting, Phase::Reflection];
    let task = |phase: Phase| (phase.name().to_owned(), task(&game, Turn { round: 1, phase, agent: 0 }).into());
    let tasks: Map<String, Value> = phases.into_iter().map(task).collect();
    json!({"briefing": briefing(rules, gamma, 0, &vec![0.0; rules.items]), "tasks": tasks})
}

/// The user message before a turn: the public events after the first `seen`, then the task.
pub fn message(game: &Game, turn: Turn, seen: usize) -> String {
    let events = game.record().iter().skip(seen).filter_map(|event| describe(event, turn.agent, game.rules().agents));
    events.chain([task(game, turn)]).collect::<Vec<_>>().join("\n\n")
}

/// An event as an agent sees it; `None` for the agent's own statement.
fn describe(event: &Event, agent: usize, agents: usize) -> Option<String> {
    match event {
        Event::Statement { by, .. } if *by == agent => None,
        Event::Statement { round, by, text } if text.trim().is_empty() => {
            Some(format!("[Round {round}, discussion] {} says nothing.", names::agent(*by)))
        }
        Event::Statement { round, by, text } => {
            Some(format!("[Round {round}, discussion] {}: {text}", names::agent(*by)))
        }
        Event::Enumerated { round, proposals, invalid } => {
            let mut lines = vec![format!("[Round {round}, proposals]")];
            lines.extend(proposals.iter().map(|proposal| terms(proposal, agents)));
            lines.extend(invalid.iter().map(|(by, why)| {
                format!("The proposal of {} is invalid and does not count: {}.", names::agent(*by), why.0)
            }));
            Some(lines.join("\n"))
        }
        Event::Tabulated { round, accepts, agreed } => {
            let mut lines = vec![format!("[Round {round}, votes]")];
            let line = |(i, n): (usize, &usize)| format!("Proposal {}: accepted by {n}.", i + 1);
            lines.extend(accepts.iter().enumerate().map(line));
            lines.push(match agreed {
                Some(number) => format!("Proposal {number} is agreed."),
                None if accepts.is_empty() => "There was no valid proposal to vote on.".to_owned(),
                None => "Nothing is agreed.".to_owned(),
            });
            Some(lines.join("\n"))
        }
    }
}

/// `Proposal 2, by Beta: Alpha gets Anchor; Beta gets Basket, Candle`.
fn terms(proposal: &Proposal, agents: usize) -> String {
    let gets =
        |agent: usize| format!("{} gets {}", names::agent(agent), names::items(&proposal.allocation.share(agent)));
    let all: Vec<String> = (0..agents).map(gets).collect();
    format!("Proposal {}, by {}: {}.", proposal.number, names::agent(proposal.by), all.join("; "))
}

/// The task of a turn.
fn task(game: &Game, turn: Turn) -> String {
    let Rules { agents, items, max_rounds } = game.rules();
    let heading = format!("[Round {} of {max_rounds}, {}]", turn.round, turn.phase.name());
    let text = match turn.phase {
        Phase::Discussion => "Speak to the others, in a few sentences.".to_owned(),
        Phase::Thinking => "Think in private, in a few sentences: what do the others want, and what will you propose?".to_owned(),
        Phase::Proposal => {
            let shares: Vec<String> = (0..agents).map(|agent| format!("\"{}\": [\"…\"]", names::agent(agent))).collect();
            let all: Vec<usize> = (0..items).collect();
            format!(
                "Propose who gets which of {}. Answer with one JSON object and nothing else: {{\"allocation\": {{{}}}, \
                 \"reasoning\": \"…\"}}. The reasoning is seen by nobody else.",
                names::items(&all),
                shares.join(", ")
            )
        }
        Phase::Voting => {
            let votes = |p: &Proposal| format!("\"{}\": \"accept\" or \"reject\"", p.number);
            let votes: Vec<String> = game.proposals().iter().map(votes).collect();
            format!(
                "Vote on every proposal. Answer with one JSON object and nothing else: {{\"votes\": {{{}}}, \"reasoning\": \"…\"}}. \
                 Your votes are seen by nobody else; how many accepted each proposal is.",
                votes.join(", ")
            )
        }
        Phase::Reflection => {
            "Nothing was agreed. Reflect in private, in a few sentences: what will you do differently in the next round?".to_owned()
        }
    };
    format!("{heading} {text}")
}

#[cfg(test)]
mod tests {
    use super::super::game::{Allocation, Invalid, Move};
    use super::*;

    const RULES: Rules = Rules { agents: 2, items: 3, max_rounds: 2 };

    fn allocation(owners: &[usize]) -> Allocation {
        Allocation::of_owners(owners.to_vec(), RULES).unwrap()
    }

    #[test]
    fn a_briefing_holds_the_agents_own_values() {
        let text = briefing(RULES, 0.9, 1, &[12.5, 0.0, 87.5]);
        assert!(text.starts_with("You are Beta, and you bargain with Alpha over 3 items."));
        assert!(text.contains("- Anchor: 12.50\n- Basket: 0.00\n- Candle: 87.50\n"));
        assert!(text.contains("worth 0.9 times"));
        assert!(briefing(RULES, 1.0, 0, &[]).contains("Time costs nothing"));
    }

    #[test]
    fn every_public_event_reaches_every_agent_once() {
        let mut game = Game::new(RULES);
        let mut seen = [0, 0];
        let mut read = [String::new(), String::new()];
        let mut say = 0;
        while let Some(turn) = game.turn() {
            read[turn.agent] += &message(&game, turn, seen[turn.agent]);
            seen[turn.agent] = game.record().len();
            game.play(match turn.phase {
                Phase::Discussion => {
                    say += 1;
                    Move::Speak(format!("words-{say}-of-{}", turn.agent))
                }
                Phase::Thinking | Phase::Reflection => Move::Think,
                Phase::Proposal if turn.agent == 0 => Move::Propose(Ok(allocation(&[0, 0, 1]))),
                Phase::Proposal => Move::Propose(Err(Invalid("it leaves items over".to_owned()))),
                Phase::Voting => Move::Vote(vec![Some(turn.agent == 0)]),
            })
            .unwrap();
        }
        for (agent, read) in read.iter().enumerate() {
            for said in 1..=say {
                let by = (said + 1) % 2;
                let times = read.matches(&format!("words-{said}-of-{by}")).count();
                assert_eq!(times, usize::from(by != agent), "statement {said} to agent {agent}");
            }
            for line in [
                "Proposal 1, by Alpha: Alpha gets Anchor, Basket; Beta gets Candle.",
                "The proposal of Beta is invalid and does not count: it leaves items over.",
            ] {
                assert_eq!(read.matches(line).count(), 2, "{line}\n{read}");
            }
            assert_eq!(
                read.matches("Proposal 1: accepted by 1.\nNothing is agreed.").count(),
                1,
                "the last round's count ends it"
            );
        }
    }
}
