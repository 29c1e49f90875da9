//! A game with one conversation an agent: before its turn an agent gets one message with the new public events and its task, and its
//! reply becomes a move. User and assistant messages alternate, as chat templates require.

use super::game::{Allocation, Game, Invalid, Move, Phase, Rules, Turn};
use super::{prompts, replies};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Role};

/// Replaces an empty reply in a conversation; most models refuse an empty message.
const EMPTY_REPLY: &str = "(no answer)";

/// The parsed content of a reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedReply {
    pub allocation: Option<Allocation>,
    /// Reason why the proposal is invalid.
    pub invalid: Option<String>,
    pub votes: Option<Vec<Option<bool>>>,
}

pub struct Dialogue {
    pub game: Game,
    /// By agent: number of public events it has seen.
    seen: Vec<usize>,
    conversations: Vec<Vec<Message>>,
}

impl Dialogue {
    /// `values` holds each agent's values of the items.
    pub fn new(rules: Rules, gamma: f64, values: &[Vec<f64>]) -> Self {
        let briefing = |(agent, values): (usize, &Vec<f64>)| {
            vec![Message::new(Role::System, prompts::briefing(rules, gamma, agent, values))]
        };
        let conversations: Vec<Vec<Message>> = values.iter().enumerate().map(briefing).collect();
        Self { game: Game::new(rules), seen: vec![0; conversations.len()], conversations }
    }

    /// Adds the message for a turn to the agent's conversation and returns the conversation.
    pub fn prompt(&mut self, turn: Turn) -> &[Message] {
        let text = prompts::message(&self.game, turn, self.seen[turn.agent]);
        self.seen[turn.agent] = self.game.record().len();
        let conversation = &mut self.conversations[turn.agent];
        conversation.push(Message::new(Role::User, text));
        conversation
    }

    /// Parses a reply and applies it to the game.
    ///
    /// # Errors
    /// It is not this agent's turn.
    pub fn apply(&mut self, turn: Turn, reply: &str) -> Result<ParsedReply, Problem> {
        let content = if reply.trim().is_empty() { EMPTY_REPLY } else { reply };
        self.conversations[turn.agent].push(Message::new(Role::Assistant, content));
        let mut parsed = ParsedReply::default();
        let played = match turn.phase {
            Phase::Discussion => Move::Speak(reply.to_owned()),
            Phase::Thinking | Phase::Reflection => Move::Think,
            Phase::Proposal => {
                let proposal = replies::proposal(reply, self.game.rules());
                match &proposal {
                    Ok(allocation) => parsed.allocation = Some(allocation.clone()),
                    Err(Invalid(reason)) => parsed.invalid = Some(reason.clone()),
                }
                Move::Propose(proposal)
            }
            Phase::Voting => {
                let votes = replies::ballot(reply, self.game.proposals().len());
                parsed.votes = Some(votes.clone());
                Move::Vote(votes)
            }
        };
        self.game.play(played)?;
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_alternate_and_no_message_is_empty() {
        let rules = Rules { agents: 2, items: 2, max_rounds: 2 };
        let mut dialogue = Dialogue::new(rules, 0.9, &[vec![50.0, 50.0], vec![30.0, 70.0]]);
        while let Some(turn) = dialogue.game.turn() {
            let messages = dialogue.prompt(turn).to_vec();
            assert_eq!(messages[0].role, Role::System);
            for (i, message) in messages[1..].iter().enumerate() {
                assert_eq!(message.role, if i % 2 == 0 { Role::User } else { Role::Assistant });
                assert!(!message.content.is_empty());
            }
            dialogue.apply(turn, "").unwrap();
        }
        assert_eq!(dialogue.game.invalid_proposals(), [2, 2]);
        assert_eq!(dialogue.game.end().unwrap().deal, None);
    }
}
