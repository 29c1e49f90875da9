//! [`Model`]: the trait of every chat model.

use crate::card::{EngineStats, ModelCard};
use crate::chat::{ChatReply, ChatRequest, ConversationId, Message, ReadReply, ReadRequest, Rendered, SeedSupport};
use crate::error::ModelError;
use crate::problem::Problem;

/// A chat model.
#[async_trait::async_trait]
pub trait Model: Send + Sync {
    fn card(&self) -> &ModelCard;

    /// Generates one assistant message.
    ///
    /// # Errors
    /// See [`ModelError`].
    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError>;

    /// Measures an existing conversation without generating: one readout per assistant message.
    ///
    /// # Errors
    /// Not supported by models behind an API.
    async fn read(&self, _request: &ReadRequest) -> Result<ReadReply, ModelError> {
        Err(ModelError::unsupported(self.card(), "reading hidden states"))
    }

    /// Applies the chat template and the tokenizer.
    ///
    /// # Errors
    /// Not supported by models behind an API.
    fn render(&self, _messages: &[Message]) -> Result<Rendered, ModelError> {
        Err(ModelError::unsupported(self.card(), "rendering its prompt"))
    }

    /// Ends a conversation and releases its KV cache.
    fn close(&self, _conversation: ConversationId) {}

    /// Checks that the model supports the request, without sending or computing anything.
    ///
    /// # Errors
    /// A field the model does not support.
    fn check(&self, _request: &ChatRequest) -> Result<(), Problem> {
        Ok(())
    }

    /// The most a request can cost, in micro-dollars; `None` if the model has no price or the request no `max_new_tokens`.
    fn worst_case_micro_usd(&self, _request: &ChatRequest) -> Option<u64> {
        Some(0)
    }

    /// What a seed guarantees.
    fn seed_support(&self) -> SeedSupport {
        SeedSupport::Exact
    }

    /// Counters of a local engine; zeros for other models.
    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// Notes for the user that were not taken yet.
    fn take_notes(&self) -> Vec<String> {
        Vec::new()
    }
}
