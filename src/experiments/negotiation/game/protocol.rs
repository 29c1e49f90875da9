//! The bargaining game as a pure state machine.
//!
//! A round consists of a public discussion, private thinking, one proposal by each agent (hidden until all are in), enumeration of
//! the valid ones from 1 in the order of the agents, one private ballot by each agent over all of them, and tabulation. A proposal that
//! every agent accepts, its author included, is agreed; of several, the one with the lowest number. Otherwise each agent reflects
//! privately and the next round begins. There is no reflection after round `max_rounds`.
//!
//! A proposal is a partition of the items: every item goes to exactly one agent. Any other proposal is invalid: it is counted, gets no
//! number and cannot be accepted. A missing or unreadable vote accepts nothing.

use serde::{Deserialize, Serialize};

use tiltmeter_model::problem::Problem;

/// Size and length of a game.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Two or more.
    pub agents: usize,
    pub items: usize,
    pub max_rounds: usize,
}

/// A partition of the items among the agents, by construction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allocation {
    /// Agent of each item.
    owners: Vec<usize>,
}

/// Why a proposal is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalid(pub String);

impl Allocation {
    /// From the agent of each item.
    pub fn of_owners(owners: Vec<usize>, rules: Rules) -> Result<Self, Invalid> {
        if owners.len() != rules.items {
            return Err(Invalid(format!("it divides {} items, and there are {}", owners.len(), rules.items)));
        }
        match owners.iter().find(|agent| **agent >= rules.agents) {
            Some(agent) => Err(Invalid(format!("there is no agent {}", agent + 1))),
            None => Ok(Self { owners }),
        }
    }

    /// From the items of each agent.
    pub fn of_shares(shares: &[Vec<usize>], rules: Rules) -> Result<Self, Invalid> {
        if shares.len() != rules.agents {
            return Err(Invalid(format!("it has {} shares for {} agents", shares.len(), rules.agents)));
        }
        let mut owners = vec![None; rules.items];
        for (agent, share) in shares.iter().enumerate() {
            for item in share {
                match owners.get_mut(*item) {
                    None => return Err(Invalid(format!("there is no item {}", item + 1))),
                    Some(Some(_)) => return Err(Invalid(format!("it gives item {} away twice", item + 1))),
                    Some(owner) => *owner = Some(agent),
                }
            }
        }
        let owners: Option<Vec<usize>> = owners.into_iter().collect();
        owners.map(|owners| Self { owners }).ok_or_else(|| Invalid("it leaves items over".to_owned()))
    }

    /// Agent of each item.
    pub fn owners(&self) -> &[usize] {
        &self.owners
    }

    /// Items of an agent.
    pub fn share(&self, agent: usize) -> Vec<usize> {
        self.owners.iter().enumerate().filter(|(_, owner)| **owner == agent).map(|(item, _)| item).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Discussion,
    Thinking,
    Proposal,
    Voting,
    Reflection,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Discussion => "discussion",
            Phase::Thinking => "thinking",
            Phase::Proposal => "proposal",
            Phase::Voting => "voting",
            Phase::Reflection => "reflection",
        }
    }
}

/// The agent to move and its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// From 1.
    pub round: usize,
    pub phase: Phase,
    pub agent: usize,
}

/// The move of an agent in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// A public statement in the discussion.
    Speak(String),
    /// Private thinking or reflection; it does not change the game.
    Think,
    Propose(Result<Allocation, Invalid>),
    /// One entry a proposal, in order; `None` is an unreadable vote.
    Vote(Vec<Option<bool>>),
}

/// A valid proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// From 1, within its round.
    pub number: usize,
    pub by: usize,
    pub allocation: Allocation,
}

/// An entry of the public record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Statement {
        round: usize,
        by: usize,
        text: String,
    },
    /// All proposals of a round at once.
    Enumerated {
        round: usize,
        proposals: Vec<Proposal>,
        invalid: Vec<(usize, Invalid)>,
    },
    /// Number of accepting agents for each proposal, and the number of the agreed one.
    Tabulated {
        round: usize,
        accepts: Vec<usize>,
        agreed: Option<usize>,
    },
}

/// Result of a game.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Last round played.
    pub round: usize,
    /// `None`: no deal.
    pub deal: Option<Proposal>,
}

/// A game under way.
#[derive(Clone, Debug)]
pub struct Game {
    rules: Rules,
    turn: Option<Turn>,
    proposals: Vec<Proposal>,
    invalid: Vec<(usize, Invalid)>,
    ballots: Vec<Vec<Option<bool>>>,
    record: Vec<Event>,
    end: Option<End>,
    /// By agent.
    invalid_proposals: Vec<usize>,
    missing_votes: Vec<usize>,
}

impl Game {
    pub fn new(rules: Rules) -> Self {
        let none = vec![0; rules.agents];
        let playable = rules.agents > 0 && rules.max_rounds > 0;
        Self {
            rules,
            turn: playable.then_some(Turn { round: 1, phase: Phase::Discussion, agent: 0 }),
            proposals: Vec::new(),
            invalid: Vec::new(),
            ballots: Vec::new(),
            record: Vec::new(),
            end: (!playable).then_some(End { round: 0, deal: None }),
            invalid_proposals: none.clone(),
            missing_votes: none,
        }
    }

    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The next turn; `None` when the game is over.
    pub fn turn(&self) -> Option<Turn> {
        self.turn
    }

    /// Public events so far.
    pub fn record(&self) -> &[Event] {
        &self.record
    }

    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Proposals to vote on in this round; empty before they are enumerated.
    pub fn proposals(&self) -> &[Proposal] {
        match self.turn {
            Some(Turn { phase: Phase::Voting, .. }) => &self.proposals,
            _ => &[],
        }
    }

    /// Invalid proposals so far, by agent.
    pub fn invalid_proposals(&self) -> &[usize] {
        &self.invalid_proposals
    }

    /// Unreadable votes so far, by agent.
    pub fn missing_votes(&self) -> &[usize] {
        &self.missing_votes
    }

    /// Applies the move of the agent whose turn it is.
    ///
    /// # Errors
    /// The game is over or the move belongs to another phase; the game is unchanged.
    pub fn play(&mut self, played: Move) -> Result<(), Problem> {
        let turn = self.turn.ok_or_else(|| Problem::new("the game is over"))?;
        match (turn.phase, played) {
            (Phase::Discussion, Move::Speak(text)) => {
                self.record.push(Event::Statement { round: turn.round, by: turn.agent, text });
            }
            (Phase::Thinking | Phase::Reflection, Move::Think) => {}
            (Phase::Proposal, Move::Propose(Ok(allocation))) => {
                // It may have been built with other rules.
                match Allocation::of_owners(allocation.owners, self.rules) {
                    Ok(allocation) => {
                        let number = self.proposals.len() + 1;
                        self.proposals.push(Proposal { number, by: turn.agent, allocation });
                    }
                    Err(invalid) => self.reject(turn.agent, invalid),
                }
            }
            (Phase::Proposal, Move::Propose(Err(invalid))) => self.reject(turn.agent, invalid),
            (Phase::Voting, Move::Vote(ballot)) if ballot.len() == self.proposals.len() => {
                self.missing_votes[turn.agent] += ballot.iter().filter(|vote| vote.is_none()).count();
                self.ballots.push(ballot);
            }
            (phase, _) => return Err(Problem::new(format!("the move does not belong to the {} phase", phase.name()))),
        }
        let next = turn.agent + 1;
        if next < self.rules.agents {
            self.turn = Some(Turn { agent: next, ..turn });
        } else {
            self.end_phase(turn);
        }
        Ok(())
    }

    fn reject(&mut self, agent: usize, invalid: Invalid) {
        self.invalid_proposals[agent] += 1;
        self.invalid.push((agent, invalid));
    }

    /// Ends a phase after its last agent.
    fn end_phase(&mut self, Turn { round, phase, .. }: Turn) {
        match phase {
            Phase::Discussion => self.begin(round, Phase::Thinking),
            Phase::Thinking => self.begin(round, Phase::Proposal),
            Phase::Proposal => {
                let invalid = std::mem::take(&mut self.invalid);
                self.record.push(Event::Enumerated { round, proposals: self.proposals.clone(), invalid });
                match self.proposals.is_empty() {
                    true => self.tabulate(round),
                    false => self.begin(round, Phase::Voting),
                }
            }
            Phase::Voting => self.tabulate(round),
            Phase::Reflection => self.begin(round + 1, Phase::Discussion),
        }
    }

    fn begin(&mut self, round: usize, phase: Phase) {
        self.turn = Some(Turn { round, phase, agent: 0 });
    }

    fn tabulate(&mut self, round: usize) {
        let (proposals, ballots) = (std::mem::take(&mut self.proposals), std::mem::take(&mut self.ballots));
        let accepted = |i: usize| ballots.iter().filter(|ballot| ballot[i] == Some(true)).count();
        let accepts: Vec<usize> = (0..proposals.len()).map(accepted).collect();
        let deal = proposals.into_iter().zip(&accepts).find(|(_, accepts)| **accepts == self.rules.agents);
        let deal = deal.map(|(proposal, _)| proposal);
        let agreed = deal.as_ref().map(|deal| deal.number);
        self.record.push(Event::Tabulated { round, accepts, agreed });
        if deal.is_some() || round >= self.rules.max_rounds {
            self.turn = None;
            self.end = Some(End { round, deal });
        } else {
            self.begin(round, Phase::Reflection);
        }
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
