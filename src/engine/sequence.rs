//! One request on its way through the engine: its tokens, those still to be computed, and when it is finished.

use crate::{
    capture::{RawStates, Recorder},
    sampling::sample,
};
use tiltmeter_model::ModelError;
use tiltmeter_model::probe::{Readout, Site};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, Finish, Group, Sampling, SeedKey};

/// The KV cache of one sequence in a backend, known by the tokens whose keys and values it holds.
pub trait SequenceCache: Default {
    fn tokens(&self) -> &[u32];

    fn len(&self) -> usize {
        self.tokens().len()
    }
}

/// A sequence that no backend has taken yet.
impl SequenceCache for () {
    fn tokens(&self) -> &[u32] {
        &[]
    }
}

/// The token that a pass sampled for one sequence; `None` where none was due.
pub type Drawn = Option<Result<u32, Problem>>;

/// The result of a sequence.
#[derive(Debug)]
pub struct Finished {
    /// Sampled ids, the stop token included.
    pub generated: Vec<u32>,
    pub finish: Finish,
    pub reused_tokens: usize,
    pub readouts: Vec<Readout>,
    pub raw: Option<RawStates>,
}

/// Called once, with the result.
pub type Answer = Box<dyn FnOnce(Result<Finished, ModelError>) + Send>;

/// Sampling parameters of a reply; a sequence without them is only read.
#[derive(Clone, Debug)]
pub struct SamplingParams {
    pub sampling: Sampling,
    pub seed: SeedKey,
    pub max_new_tokens: usize,
    pub stop_ids: Vec<u32>,
}

/// Draft tokens computed along with the last token, until they are verified.
#[derive(Debug, Default)]
pub struct Draft {
    pub tokens: Vec<u32>,
    /// States held back from the recorder until drafts are verified, `[1 + draft tokens, hidden]` each.
    pub states: Vec<(Site, Vec<f32>)>,
    /// Number of accepted tokens.
    pub right: usize,
}

/// `C` is its KV cache; `()` before a backend takes it.
pub struct Sequence<C = ()> {
    /// Prompt and sampled tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub cache: C,
    pub conversation: Option<ConversationId>,
    pub group: Option<Group>,
    pub recorder: Option<Recorder>,
    pub raw: Option<RawStates>,
    pub reused_tokens: usize,
    pub draft: Draft,
    drawing: Option<SamplingParams>,
    finish: Option<Finish>,
    answer: Answer,
}

impl Sequence {
    /// `prompt` must hold at least one token.
    pub fn new(prompt: Vec<u32>, drawing: Option<SamplingParams>, answer: Answer) -> Self {
        // Without anything to draw, the sequence is over as soon as its prompt is fed.
        let nothing_to_draw = drawing.as_ref().is_none_or(|drawing| drawing.max_new_tokens == 0);
        Self {
            prompt_len: prompt.len(),
            tokens: prompt,
            cache: (),
            conversation: None,
            group: None,
            recorder: None,
            raw: None,
            reused_tokens: 0,
            draft: Draft::default(),
            finish: nothing_to_draw.then_some(Finish::Length),
            drawing,
            answer,
        }
    }

    /// The same sequence with the KV cache of a backend.
    pub fn holding<C: SequenceCache>(self, cache: C) -> Sequence<C> {
        let Self { tokens, prompt_len, conversation, group, recorder, raw, reused_tokens, .. } = self;
        let Self { drawing, finish, answer, .. } = self;
        Sequence {
            tokens,
            prompt_len,
            cache,
            conversation,
            group,
            recorder,
            raw,
            reused_tokens,
            draft: Draft::default(),
            drawing,
            finish,
            answer,
        }
    }
}

impl<C: SequenceCache> Sequence<C> {
    /// Tokens to compute next; none while drafts are verified.
    pub fn pending(&self) -> &[u32] {
        self.tokens.get(self.cache.len()..).unwrap_or_default()
    }

    /// Most draft tokens that may follow the last token.
    pub fn max_draft_tokens(&self) -> usize {
        match self.pending().len() == 1 && self.draws() && self.raw.is_none() {
            true => self.longest().saturating_sub(self.tokens.len() + 1),
            false => 0,
        }
    }

    /// Length of the prefix that may come from another sequence: all tokens but those whose states or logits are captured.
    pub fn may_adopt(&self) -> usize {
        let measured = self.recorder.as_ref().map_or(usize::MAX, Recorder::first_position);
        if self.raw.is_some() { 0 } else { (self.prompt_len - 1).min(measured) }
    }

    /// Whether a token is sampled after the pending tokens.
    pub fn draws(&self) -> bool {
        self.finish.is_none()
    }

    pub fn is_done(&self) -> bool {
        self.finish.is_some() && (self.pending().is_empty() || !self.must_feed_last())
    }

    /// The last sampled token is computed only if something of it is captured; the next turn's prefill computes its keys.
    fn must_feed_last(&self) -> bool {
        let last = self.tokens.len() - 1;
        self.cache.len() < last
            || self.tokens.len() == self.prompt_len
            || self.raw.is_some()
            || self.recorder.as_ref().is_some_and(|recorder| {
                let stopped = self.finish == Some(Finish::Stop);
                recorder.wants(last) && (!stopped || recorder.takes_stop())
            })
    }

    /// Longest that this sequence can become.
    pub fn longest(&self) -> usize {
        self.prompt_len + self.drawing.as_ref().map_or(0, |drawing| drawing.max_new_tokens)
    }

    /// Nothing below this position will be rolled back.
    pub fn anchor(&self) -> usize {
        self.cache.len().min(self.prompt_len)
    }

    /// How the next token is drawn, and its index in the reply.
    pub fn next_draw(&self) -> Option<(&SamplingParams, usize)> {
        self.drawing.as_ref().map(|drawing| (drawing, self.tokens.len() - self.prompt_len))
    }

    /// Draws the next token from the logits of the last one.
    pub fn draw(&self, logits: &[f32]) -> Drawn {
        let (drawing, index) = self.next_draw()?;
        Some(sample(logits, &drawing.sampling, drawing.seed, index as u64).ok_or_else(not_finite))
    }

    /// Draws after the last token and after each draft_token, `logits` being theirs, until one does not say what was drafted. What was drafted
    /// right is taken; the last one drawn is not.
    pub fn draw_along(&mut self, logits: &[&[f32]]) -> Drawn {
        for (n, row) in logits.iter().enumerate() {
            let drawn = self.draw(row);
            match (&drawn, self.draft.tokens.get(n)) {
                (Some(Ok(token)), Some(draft_token)) if token == draft_token && self.finish_at(*token).is_none() => {
                    self.take(*token);
                    self.draft.right += 1;
                }
                _ => return drawn,
            }
        }
        None
    }

    /// How the reply ends with this token as the next one, if it does.
    fn finish_at(&self, token: u32) -> Option<Finish> {
        let (drawing, index) = self.next_draw()?;
        match (drawing.stop_ids.contains(&token), index + 1 >= drawing.max_new_tokens) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        }
    }

    /// Goes on with the token that was drawn.
    pub fn take(&mut self, token: u32) {
        if self.drawing.is_some() {
            self.finish = self.finish_at(token);
            self.tokens.push(token);
        }
    }

    /// Delivers the result and returns the cache.
    pub fn complete(self) -> (Option<ConversationId>, C) {
        let readouts = self.recorder.map_or(Some(Vec::new()), Recorder::finish).ok_or_else(|| {
            ModelError::Refused(Problem::new("a projection is not finite").hint(
                "the hidden states overflow: the weights are damaged, or the axis holds values that are not numbers",
            ))
        });
        let generated = self.tokens[self.prompt_len..].to_vec();
        let finish = self.finish.unwrap_or(Finish::Length);
        (self.answer)(readouts.map(|readouts| Finished {
            generated,
            finish,
            reused_tokens: self.reused_tokens,
            readouts,
            raw: self.raw,
        }));
        (self.conversation, self.cache)
    }

    /// Ends the sequence with an error.
    pub fn fail(self, problem: Problem) -> C {
        (self.answer)(Err(ModelError::Refused(problem)));
        self.cache
    }
}

/// Why nothing can be drawn honestly.
pub fn not_finite() -> Problem {
    Problem::new("the model's logits are not finite, so no token can be drawn")
        .hint("the weights are damaged or overflow in this type: try --dtype f32, or fetch the checkpoint again")
}
