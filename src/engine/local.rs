//! `LocalModel` implements the `Model` port for a checkpoint: renders and tokenizes requests, and submits them to the engine thread.

use std::sync::{Arc, Mutex, mpsc};

use tiltmeter_kernels::gpu::Gpu;
use tokio::sync::oneshot;

use crate::{
    batcher::Notes,
    capture::{RawStates, Recorder},
    checkpoint::hub::Checkpoint,
    checkpoint::spans::{self, Layout},
    checkpoint::template::ChatTemplate,
    checkpoint::tokenizer::Tokenizer,
    checkpoint::weights::Weights,
    device::{self, LoadRequest, Started},
    families::ModelConfig,
    options::EngineOptions,
    sequence::{Finished, SamplingParams, Sequence},
    thread::Job,
};
use tiltmeter_model::probe::{Site, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{
    ChatReply, ChatRequest, ConversationId, EngineStats, Finish, Message, Model, ModelCard, ModelError, ReadReply,
    ReadRequest, Rendered, Role, Sampling, SeedKey, Usage,
};

/// Longest reply if a request does not say.
const DEFAULT_MAX_NEW_TOKENS: usize = 512;

/// A checkpoint that answers conversations.
pub struct LocalModel {
    card: ModelCard,
    config: ModelConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    jobs: mpsc::Sender<Job>,
    work: Arc<Mutex<EngineStats>>,
    notes: Notes,
}

/// Everything about one conversation, for tools and tests.
pub struct Capture {
    pub prompt: Rendered,
    pub generated_ids: Vec<u32>,
    pub reply: String,
    pub finish: Finish,
    /// States and logits of all prompt and generated tokens.
    pub raw: RawStates,
}

impl LocalModel {
    /// Opens a folder or a hub id and loads the weights.
    pub fn open(name: &str, options: &EngineOptions) -> Result<Self, Problem> {
        Self::open_by(name, options, device::start)
    }

    /// The same by the GPU's kernels, on whatever carries them out.
    pub fn open_on(name: &str, options: &EngineOptions, gpu: Gpu) -> Result<Self, Problem> {
        let device = gpu.driver().name();
        Self::open_by(name, options, |order| device::start_on(order, move || Ok((gpu, device))))
    }

    fn open_by(
        name: &str,
        options: &EngineOptions,
        start: impl FnOnce(LoadRequest) -> Started,
    ) -> Result<Self, Problem> {
        let checkpoint = Checkpoint::open(name)?;
        let config = ModelConfig::parse(&checkpoint.config, checkpoint.generation_config.as_deref())
            .map_err(|problem| Problem { place: Some(place(&checkpoint, &problem)), ..problem })?;
        if config.arch.attention().head_dim % 8 != 0 {
            return Err(Problem::new(format!(
                "heads of {} channels are not supported",
                config.arch.attention().head_dim
            ))
            .at(name)
            .hint("head_dim must be a multiple of 8"));
        }
        let tokenizer = Tokenizer::open(&checkpoint.tokenizer)?.with_added_tokens(&checkpoint.added_tokens);
        let template = ChatTemplate::of(&checkpoint)?;
        // A template that cannot show a plain exchange will say so when it is used; until then config.json's ids must do.
        let turn_ends = spans::turn_ends(&template, &tokenizer).unwrap_or_default();
        let stop_ids = config.stop_ids(&turn_ends);
        let weights = Weights::open(&checkpoint.weights, options.weights, &config.arch)?;
        let work = Arc::new(Mutex::new(EngineStats::default()));
        let notes = Notes::default();
        let order = LoadRequest {
            arch: config.arch.clone(),
            weights,
            options: *options,
            work: work.clone(),
            notes: notes.clone(),
        };
        let (jobs, facts) = start(order)?;
        let fingerprint = checkpoint.fingerprint()?;
        let card = ModelCard {
            name: name.to_owned(),
            family: config.family.to_owned(),
            fingerprint: Some(fingerprint.value),
            template_sha256: Some(template.sha256().to_owned()),
            hidden_size: Some(config.arch.hidden_size),
            num_layers: Some(config.arch.num_layers()),
            max_positions: Some(config.arch.max_positions),
            dtype: Some(facts.dtype),
            kv_dtype: Some(facts.kv_dtype),
            device: Some(facts.device),
            sampler_defaults: config.sampler_defaults.clone(),
            stop_ids,
        };
        Ok(Self { card, config, tokenizer, template, jobs, work, notes })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Continues a conversation and keeps the hidden states of every token at `sites`.
    pub async fn capture(
        &self,
        messages: &[Message],
        sites: Vec<Site>,
        with_logits: bool,
        max_new_tokens: usize,
        sampling: Sampling,
        seed: SeedKey,
    ) -> Result<Capture, ModelError> {
        let prompt = self.render(messages)?;
        let limit = self.config.arch.max_positions;
        fits(prompt.token_ids.len(), max_new_tokens, limit)?;
        let drawing = SamplingParams { sampling, seed, max_new_tokens, stop_ids: self.card.stop_ids.clone() };
        let finished = self
            .submit(prompt.token_ids.clone(), Some(drawing), |sequence| {
                sequence.raw = Some(RawStates::new(sites, with_logits));
            })
            .await?;
        let reply = self.text(&finished)?;
        Ok(Capture {
            prompt,
            reply,
            finish: finished.finish,
            raw: finished.raw.unwrap_or_default(),
            generated_ids: finished.generated,
        })
    }

    /// The prompt of a conversation, in which every message is shown.
    fn prompt(&self, messages: &[Message]) -> Result<String, ModelError> {
        let text = self.template.render(messages, true).map_err(ModelError::Refused)?;
        Layout::check_shown(&self.template, messages, &text).map_err(ModelError::Refused)?;
        Ok(text)
    }

    async fn submit(
        &self,
        prompt: Vec<u32>,
        drawing: Option<SamplingParams>,
        prepare: impl FnOnce(&mut Sequence),
    ) -> Result<Finished, ModelError> {
        let stopped = || {
            ModelError::Engine(
                Problem::new("the engine stopped")
                    .hint("this is a defect in tiltmeter: please report what was printed before"),
            )
        };
        if prompt.is_empty() {
            return Err(ModelError::Refused(
                Problem::new("the rendered prompt is empty").hint("the chat template ignores these messages"),
            ));
        }
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= self.config.arch.vocab_size) {
            return Err(ModelError::Refused(
                Problem::new(format!("token id {id} is beyond the vocabulary of {}", self.config.arch.vocab_size))
                    .hint("tokenizer.json and the weights are not of the same model"),
            ));
        }
        let (send, receive) = oneshot::channel();
        let answer = Box::new(move |result| drop(send.send(result)));
        let mut sequence = Sequence::new(prompt, drawing, answer);
        prepare(&mut sequence);
        self.jobs.send(Job::Run(Box::new(sequence))).map_err(|_| stopped())?;
        receive.await.map_err(|_| stopped())?
    }

    /// The text of a reply, without the stop token.
    fn text(&self, finished: &Finished) -> Result<String, ModelError> {
        let ids = match finished.finish {
            Finish::Stop => &finished.generated[..finished.generated.len().saturating_sub(1)],
            _ => &finished.generated,
        };
        self.tokenizer.decode(ids).map_err(ModelError::Refused)
    }
}

#[async_trait::async_trait]
impl Model for LocalModel {
    fn card(&self) -> &ModelCard {
        &self.card
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ModelError> {
        self.check(request).map_err(ModelError::Refused)?;
        let text = self.prompt(&request.messages)?;
        let encoded = self.tokenizer.encode(&text).map_err(ModelError::Refused)?;
        let prompt_tokens = encoded.ids.len();
        let limit = request.max_seq_len.unwrap_or(usize::MAX).min(self.config.arch.max_positions);
        let max_new_tokens = request.max_new_tokens.unwrap_or(DEFAULT_MAX_NEW_TOKENS);
        fits(prompt_tokens, max_new_tokens, limit)?;
        let span = match request.probes.as_ref().map(|plan| plan.span) {
            None => None,
            Some(Span::Content | Span::ContentAndStop) => Some(prompt_tokens..usize::MAX),
            Some(Span::FirstK(k)) => Some(prompt_tokens..prompt_tokens + k),
            Some(span @ (Span::Prompt | Span::User)) => {
                let layout = Layout::of(&self.template, &request.messages, true).map_err(ModelError::Refused)?;
                let spans = spans::turn_spans(&layout, &request.messages, &encoded);
                Some(if span == Span::User { spans.user } else { spans.turn })
            }
        };
        let drawing = SamplingParams {
            sampling: request.sampling,
            seed: request.seed,
            max_new_tokens,
            stop_ids: self.card.stop_ids.clone(),
        };
        let finished = self
            .submit(encoded.ids, Some(drawing), |sequence| {
                sequence.conversation = request.conversation;
                sequence.group = request.group;
                sequence.recorder = request.probes.clone().map(|plan| Recorder::new(plan, vec![span.unwrap_or(0..0)]));
            })
            .await?;
        let content = self.text(&finished)?;
        Ok(ChatReply {
            message: Message::new(Role::Assistant, content),
            finish: finished.finish,
            usage: Usage {
                prompt_tokens: prompt_tokens as u64,
                completion_tokens: finished.generated.len() as u64,
                cost_usd: 0.0,
            },
            reused_tokens: finished.reused_tokens as u64,
            readout: finished.readouts.into_iter().next(),
            version: None,
            token_ids: finished.generated,
        })
    }

    fn check(&self, request: &ChatRequest) -> Result<(), Problem> {
        match request.response_schema {
            None => Ok(()),
            Some(_) => Err(Problem::new("a model on this machine cannot be bound to a JSON schema")
                .hint("ask for JSON in the prompt, or use a provider's model")),
        }
    }

    async fn read(&self, request: &ReadRequest) -> Result<ReadReply, ModelError> {
        let layout = Layout::of(&self.template, &request.messages, false).map_err(ModelError::Refused)?;
        let encoded = self.tokenizer.encode(layout.text()).map_err(ModelError::Refused)?;
        let limit = request.max_seq_len.unwrap_or(usize::MAX).min(self.config.arch.max_positions);
        let takes_stop = request.probes.span == Span::ContentAndStop;
        let mut ranges = Vec::new();
        for reply in spans::reply_spans(&layout, &request.messages, &encoded, &self.card.stop_ids) {
            let mut range = reply.content;
            match request.probes.span {
                Span::FirstK(k) => range.end = range.end.min(range.start + k),
                _ if takes_stop && reply.stop => range.end += 1,
                _ => {}
            }
            ranges.push(range);
        }
        let within = |range: &std::ops::Range<usize>| range.end <= limit;
        let needed = ranges.iter().filter(|range| within(range)).map(|range| range.end).max().unwrap_or(0);
        let mut readouts = Vec::new();
        if needed > 0 {
            let spans: Vec<_> = ranges.iter().filter(|range| within(range)).cloned().collect();
            let prompt = encoded.ids[..needed].to_vec();
            let plan = request.probes.clone();
            let finished =
                self.submit(prompt, None, |sequence| sequence.recorder = Some(Recorder::new(plan, spans))).await?;
            readouts = finished.readouts;
        }
        let mut measured = readouts.into_iter();
        let readouts = ranges.iter().map(|range| if within(range) { measured.next() } else { None });
        Ok(ReadReply { readouts: readouts.collect(), prompt_tokens: encoded.ids.len() as u64 })
    }

    fn render(&self, messages: &[Message]) -> Result<Rendered, ModelError> {
        let text = self.prompt(messages)?;
        let token_ids = self.tokenizer.encode(&text).map_err(ModelError::Refused)?.ids;
        Ok(Rendered { text, token_ids })
    }

    fn close(&self, conversation: ConversationId) {
        // If the engine is gone, so is what it kept.
        let _ = self.jobs.send(Job::Close(conversation));
    }

    fn stats(&self) -> EngineStats {
        self.work.lock().map(|work| *work).unwrap_or_default()
    }

    fn take_notes(&self) -> Vec<String> {
        self.notes.lock().map(|mut notes| std::mem::take(&mut *notes)).unwrap_or_default()
    }
}

fn fits(prompt_tokens: usize, max_new_tokens: usize, limit: usize) -> Result<(), ModelError> {
    match prompt_tokens + max_new_tokens <= limit {
        true => Ok(()),
        false => Err(ModelError::ContextOverflow { prompt_tokens, max_new_tokens, limit }),
    }
}

fn place(checkpoint: &Checkpoint, problem: &Problem) -> String {
    let file = problem.place.as_deref().unwrap_or("config.json");
    checkpoint.folder.join(file).display().to_string()
}
