//! [`ModelError`]: why a model returned no reply.

use crate::card::ModelCard;
use crate::failure::Failure;
use crate::problem::Problem;

/// Why a model returned no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModelError {
    /// Prompt and longest reply exceed the context; nothing was generated.
    #[error(
        "the prompt has {prompt_tokens} tokens and the reply may take {max_new_tokens}: more than the {limit} tokens of the context"
    )]
    ContextOverflow { prompt_tokens: usize, max_new_tokens: usize, limit: usize },
    /// The request is invalid for this model; a retry cannot help.
    #[error("{0}")]
    Refused(Problem),
    /// A call to a provider failed; its class decides on a retry.
    #[error("{}", .0.problem)]
    Call(Box<Failure>),
    /// The local engine stopped.
    #[error("{0}")]
    Engine(Problem),
}

impl ModelError {
    /// `Refused`: the model lacks a capability (`what`) that only local models have.
    pub fn unsupported(card: &ModelCard, what: &str) -> Self {
        Self::Refused(
            Problem::new(format!("{} does not support {what}", card.name))
                .hint("use a local model: a folder or a hub id"),
        )
    }

    /// The error with a hint.
    pub fn problem(&self) -> Problem {
        match self {
            Self::ContextOverflow { .. } => Problem::new(self.to_string()).hint(
                "shorten the transcript, lower max_new_tokens, raise max_seq_len, or choose on_context_overflow: stop_conversation | drop_oldest_turns",
            ),
            Self::Refused(problem) | Self::Engine(problem) => problem.clone(),
            Self::Call(failure) => failure.problem.clone(),
        }
    }
}
