//! Owns a game with what each agent has been told so far: before its turn an agent gets one message with everything public that it has
//! not read yet and what to do; its reply becomes a move. Each agent's conversation alternates, so that any model can hold it.
//! Must not know: engine, provider, run folders, terminal.

use super::parse;
use super::prompts;
use super::protocol::{Allocation, Game, Invalid, Move, Phase, Rules, Turn};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{Message, Role};

/// Stands in a conversation where a model said nothing: an empty message is refused by most.
const SILENCE: &str = "(no answer)";

/// What was made of a reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Understood {
    pub allocation: Option<Allocation>,
    pub invalid: Option<String>,
    pub votes: Option<Vec<Option<bool>>>,
}

pub struct Play {
    pub game: Game,
    /// By agent: how much of the public record it has read.
    told: Vec<usize>,
    conversations: Vec<Vec<Message>>,
}

impl Play {
    pub fn new(rules: Rules, gamma: f64, values: &[Vec<f64>]) -> Self {
        let briefing = |(agent, values): (usize, &Vec<f64>)| {
            vec![Message::new(Role::System, prompts::briefing(rules, gamma, agent, values))]
        };
        let conversations: Vec<Vec<Message>> = values.iter().enumerate().map(briefing).collect();
        Self { game: Game::new(rules), told: vec![0; conversations.len()], conversations }
    }

    /// Tells the agent whose turn it is what it has to know; its whole conversation.
    pub fn tell(&mut self, turn: Turn) -> &[Message] {
        let text = prompts::message(&self.game, turn, self.told[turn.agent]);
        self.told[turn.agent] = self.game.record().len();
        let conversation = &mut self.conversations[turn.agent];
        conversation.push(Message::new(Role::User, text));
        conversation
    }

    /// Plays what the agent replied.
    pub fn hear(&mut self, turn: Turn, reply: &str) -> Result<Understood, Problem> {
        let content = if reply.trim().is_empty() { SILENCE } else { reply };
        self.conversations[turn.agent].push(Message::new(Role::Assistant, content));
        let mut reply_record = Understood::default();
        let played = match turn.phase {
            Phase::Discussion => Move::Say(reply.to_owned()),
            Phase::Thinking | Phase::Reflection => Move::Ponder,
            Phase::Proposal => {
                let proposal = parse::proposal(reply, self.game.rules());
                match &proposal {
                    Ok(allocation) => reply_record.allocation = Some(allocation.clone()),
                    Err(Invalid(why)) => reply_record.invalid = Some(why.clone()),
                }
                Move::Propose(proposal)
            }
            Phase::Voting => {
                let votes = parse::ballot(reply, self.game.proposals().len());
                reply_record.votes = Some(votes.clone());
                Move::Vote(votes)
            }
        };
        self.game.play(played)?;
        Ok(reply_record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_alternate_and_silence_stands_in_them_as_something() {
        let rules = Rules { agents: 2, items: 2, max_rounds: 2 };
        let mut play = Play::new(rules, 0.9, &[vec![50.0, 50.0], vec![30.0, 70.0]]);
        while let Some(turn) = play.game.turn() {
            let messages = play.tell(turn).to_vec();
            assert_eq!(messages[0].role, Role::System);
            for (i, message) in messages[1..].iter().enumerate() {
                assert_eq!(message.role, if i % 2 == 0 { Role::User } else { Role::Assistant });
                assert!(!message.content.is_empty());
            }
            play.hear(turn, "").unwrap();
        }
        assert_eq!(play.game.invalid_proposals(), [2, 2]);
        assert_eq!(play.game.end().unwrap().deal, None);
    }
}
