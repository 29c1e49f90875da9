//! A conversation with a local model whose replies are projected on an axis.

use std::{path::Path, sync::Arc};

use super::ModelOptions;
use crate::registry::{LocalModel, open_local};
use tiltmeter_model::probe::{AxisFile, ProbePlan, Site, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ChatReply, ChatRequest, ConversationId, Message, Model, Role, Sampling, SeedKey};

/// An open model and the settings of its replies.
pub struct Chat {
    model: Arc<LocalModel>,
    probes: Option<Arc<ProbePlan>>,
    sampling: Sampling,
    seed: u64,
    max_new_tokens: usize,
}

impl Chat {
    /// Opens the model and, if there is one, the axis.
    pub fn open(
        model: &str,
        axis: Option<(&Path, Option<Site>)>,
        sampling: Sampling,
        seed: u64,
        max_new_tokens: usize,
        options: &ModelOptions,
    ) -> Result<Self, Problem> {
        let model = open_local(model, options.device, &options.engine)?;
        let probes = match axis {
            None => None,
            Some((path, site)) => {
                let axis = AxisFile::open(path)?.axis(site)?;
                axis.site.check(model.config().arch.num_layers())?;
                axis.check(model.card(), false)?;
                Some(Arc::new(ProbePlan { probes: vec![axis.probe()?], span: Span::Content, vectors: Vec::new() }))
            }
        };
        Ok(Self { model, probes, sampling, seed, max_new_tokens })
    }

    /// The reply to these messages. The seed follows from the number of user messages, so the same conversation gets the same replies.
    pub async fn answer(&self, messages: &[Message]) -> Result<ChatReply, Problem> {
        let turn = messages.iter().filter(|message| message.role == Role::User).count() as u64;
        let request = ChatRequest {
            sampling: self.sampling,
            max_new_tokens: Some(self.max_new_tokens),
            seed: SeedKey { key: self.seed.wrapping_add(turn.saturating_sub(1) * 1000), stream: 0 },
            probes: self.probes.clone(),
            conversation: Some(ConversationId(0)),
            ..ChatRequest::new(messages.to_vec())
        };
        self.model.chat(&request).await.map_err(|error| error.problem())
    }
}
