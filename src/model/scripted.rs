//! [`ScriptedModel`]: a model whose replies are a function of the request.

use crate::card::ModelCard;
use crate::chat::{ChatReply, ChatRequest, Finish, Message, Role, Usage};
use crate::error::ModelError;
use crate::model::Model;

type Script = dyn Fn(&ChatRequest) -> Result<String, ModelError> + Send + Sync;

/// A model for tests and dry runs. It counts words as tokens and supports no probes.
pub struct ScriptedModel {
    card: ModelCard,
    script: Box<Script>,
}

impl ScriptedModel {
    /// A model that replies with `script(request)`.
    pub fn new(
        name: &str,
        script: impl Fn(&ChatRequest) -> Result<String, ModelError> + Send + Sync + 'static,
    ) -> Self {
        let card = ModelCard { name: name.into(), family: "scripted".into(), ..ModelCard::default() };
        Self { card, script: Box::new(script) }
    }
}

#[async_trait::async_trait]
impl Model for ScriptedModel {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError> {
        if request.probes.is_some() {
            return Err(ModelError::unsupported(&self.card, "reading hidden states"));
        }
        let content = (self.script)(request)?;
        let words = |text: &str| text.split_whitespace().count() as u64;
        Ok(ChatReply {
            usage: Usage {
                prompt_tokens: request.messages.iter().map(|m| words(&m.content)).sum(),
                completion_tokens: words(&content),
                cost_usd: 0.0,
            },
            message: Message::new(Role::Assistant, content),
            token_ids: Vec::new(),
            finish: Finish::Stop,
            reused_tokens: 0,
            readout: None,
            version: None,
        })
    }
}
