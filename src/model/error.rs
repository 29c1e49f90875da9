//! Owns `ModelError`: every way in which a model may fail to answer, each with what to do.
//! Must not know: candle, HTTP, experiments.

use super::ModelCard;
use crate::failure::Failure;
use crate::problem::Problem;

#[derive(Clone, Debug, thiserror::Error)]
pub enum ModelError {
    /// Prompt and longest reply do not fit; nothing was cut, nothing was generated.
    #[error(
        "the prompt has {prompt_tokens} tokens and the reply may take {max_new_tokens}: more than the {limit} tokens of the context"
    )]
    ContextOverflow { prompt_tokens: usize, max_new_tokens: usize, limit: usize },
    /// Asking again cannot help.
    #[error("{0}")]
    Refused(Problem),
    /// A call to a provider failed; its class says whether to try again.
    #[error("{}", .0.problem)]
    Call(Box<Failure>),
    /// The engine stopped; the message says why.
    #[error("{0}")]
    Broken(Problem),
}

impl ModelError {
    pub fn unsupported(card: &ModelCard, what: &str) -> Self {
        Self::Refused(
            Problem::new(format!("{} does not support {what}", card.name))
                .hint("only models run on this machine do: give a folder or a hub id"),
        )
    }

    pub fn problem(&self) -> Problem {
        match self {
            Self::ContextOverflow { .. } => Problem::new(self.to_string()).hint(
                "shorten the transcript, lower max_new_tokens, raise max_seq_len, or choose on_context_overflow: stop_conversation | drop_oldest_turns",
            ),
            Self::Refused(problem) | Self::Broken(problem) => problem.clone(),
            Self::Call(failure) => failure.problem.clone(),
        }
    }
}
