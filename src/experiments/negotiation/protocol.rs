//! Owns the bargaining game as a pure state machine: whose turn it is, what may be done in it, and when it is over.
//!
//! A round goes: discussion (public, in order), private thinking, one proposal of each agent (hidden until all are in), enumeration of
//! the valid ones from 1 in the order of the agents, one private ballot of each agent over all of them, tabulation. A proposal that
//! every agent accepts, its author included, is agreed; of several the lowest number wins. Otherwise each agent reflects privately and
//! the next round begins, until `max_rounds`: after the last round nothing follows, so nobody reflects.
//!
//! A proposal is a partition of the items: every item goes to exactly one agent. What is none is invalid: it is counted, gets no number
//! and cannot be accepted. A vote that is missing or cannot be read accepts nothing.
//! Must not know: models, prompts, values.

use serde::{Deserialize, Serialize};

use tiltmeter_model::problem::Problem;

/// What the game is played for and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Two or more.
    pub agents: usize,
    pub items: usize,
    pub max_rounds: usize,
}

/// Who gets what: a partition by construction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allocation {
    /// The agent of every item.
    owners: Vec<usize>,
}

/// Why a proposal does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalid(pub String);

impl Allocation {
    /// From the agent of every item.
    pub fn of_owners(owners: Vec<usize>, rules: Rules) -> Result<Self, Invalid> {
        if owners.len() != rules.items {
            return Err(Invalid(format!("it divides {} items, and there are {}", owners.len(), rules.items)));
        }
        match owners.iter().find(|agent| **agent >= rules.agents) {
            Some(agent) => Err(Invalid(format!("there is no agent {}", agent + 1))),
            None => Ok(Self { owners }),
        }
    }

    /// From each agent's items.
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

    /// The agent that gets the item.
    pub fn owner(&self, item: usize) -> Option<usize> {
        self.owners.get(item).copied()
    }

    /// The agent of every item.
    pub fn owners(&self) -> &[usize] {
        &self.owners
    }

    /// What an agent gets.
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

/// Who does what now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// From 1.
    pub round: usize,
    pub phase: Phase,
    pub agent: usize,
}

/// What an agent does in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// In the discussion, reply_record by all.
    Say(String),
    /// In private: thinking and reflection leave no trace in the game.
    Ponder,
    Propose(Result<Allocation, Invalid>),
    /// One entry a proposal, in their order: accepted or not; `None`: nothing readable.
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
    Said {
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
    /// How many accepted each proposal, and the number of the agreed one.
    Tabulated {
        round: usize,
        accepts: Vec<usize>,
        agreed: Option<usize>,
    },
}

/// How the game ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The last round that was played.
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

    /// Who is next; `None` when the game is over.
    pub fn turn(&self) -> Option<Turn> {
        self.turn
    }

    /// What everybody knows.
    pub fn record(&self) -> &[Event] {
        &self.record
    }

    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The proposals of this round that can be voted on; none before they are enumerated.
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

    /// Votes that could not be read so far, by agent.
    pub fn missing_votes(&self) -> &[usize] {
        &self.missing_votes
    }

    /// What the next agent does. A move of another phase changes nothing and is an error.
    pub fn play(&mut self, played: Move) -> Result<(), Problem> {
        let turn = self.turn.ok_or_else(|| Problem::new("the game is over"))?;
        match (turn.phase, played) {
            (Phase::Discussion, Move::Say(text)) => {
                self.record.push(Event::Said { round: turn.round, by: turn.agent, text });
            }
            (Phase::Thinking | Phase::Reflection, Move::Ponder) => {}
            (Phase::Proposal, Move::Propose(Ok(allocation))) => {
                // Whoever made it may have had other rules in mind.
                match Allocation::of_owners(allocation.owners, self.rules) {
                    Ok(allocation) => {
                        let number = self.proposals.len() + 1;
                        self.proposals.push(Proposal { number, by: turn.agent, allocation });
                    }
                    Err(invalid) => self.refuse(turn.agent, invalid),
                }
            }
            (Phase::Proposal, Move::Propose(Err(invalid))) => self.refuse(turn.agent, invalid),
            (Phase::Voting, Move::Vote(ballot)) if ballot.len() == self.proposals.len() => {
                self.missing_votes[turn.agent] += ballot.iter().filter(|vote| vote.is_none()).count();
                self.ballots.push(ballot);
            }
            (phase, _) => return Err(Problem::new(format!("this is no move of the {} phase", phase.name()))),
        }
        let next = turn.agent + 1;
        if next < self.rules.agents {
            self.turn = Some(Turn { agent: next, ..turn });
        } else {
            self.conclude(turn);
        }
        Ok(())
    }

    fn refuse(&mut self, agent: usize, invalid: Invalid) {
        self.invalid_proposals[agent] += 1;
        self.invalid.push((agent, invalid));
    }

    /// After the last agent's turn in a phase.
    fn conclude(&mut self, Turn { round, phase, .. }: Turn) {
        match phase {
            Phase::Discussion => self.begin(round, Phase::Thinking),
            Phase::Thinking => self.begin(round, Phase::Proposal),
            Phase::Proposal => {
                let invalid = std::mem::take(&mut self.invalid);
                self.record.push(Event::Enumerated { round, proposals: self.proposals.clone(), invalid });
                match self.proposals.is_empty() {
                    // There is nothing to vote on.
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
