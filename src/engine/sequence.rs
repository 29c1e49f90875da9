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

/// What a sequence leaves behind.
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

/// How a reply is drawn; a sequence without it is only read.
#[derive(Clone, Debug)]
pub struct SamplingParams {
    pub sampling: Sampling,
    pub seed: SeedKey,
    pub max_new_tokens: usize,
    pub stop_ids: Vec<u32>,
}

/// Guesses that are fed along with the last token, until it is known which of them are right.
#[derive(Debug, Default)]
pub struct Draft {
    pub tokens: Vec<u32>,
    /// What would have been shown to the recorder, `[1 + guesses, hidden]` each.
    pub states: Vec<(Site, Vec<f32>)>,
    /// How many from the first on are right.
    pub right: usize,
}

/// `C` is what a machine keeps of it: nothing before it is given to one.
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

    /// The same, holding what a machine keeps of it.
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
    /// Tokens that are to be fed next; none while guesses are fed.
    pub fn pending(&self) -> &[u32] {
        self.tokens.get(self.cache.len()..).unwrap_or_default()
    }

    /// Most guesses that may be fed along with the last token.
    pub fn most_guesses(&self) -> usize {
        match self.pending().len() == 1 && self.draws() && self.raw.is_none() {
            true => self.longest().saturating_sub(self.tokens.len() + 1),
            false => 0,
        }
    }

    /// Tokens from the fork_prefix that another sequence may have fed: all but those whose states or logits are asked for.
    pub fn may_adopt(&self) -> usize {
        let measured = self.recorder.as_ref().map_or(usize::MAX, Recorder::first_position);
        if self.raw.is_some() { 0 } else { (self.prompt_len - 1).min(measured) }
    }

    /// Whether the reply goes on after what is pending has been fed.
    pub fn draws(&self) -> bool {
        self.finish.is_none()
    }

    pub fn is_done(&self) -> bool {
        self.finish.is_some() && (self.pending().is_empty() || !self.must_feed_last())
    }

    /// The last sampled token is fed only where something of it is asked for; its keys are made by the next turn's prefill.
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

    /// Draws after the last token and after each guess, `logits` being theirs, until one does not say what was guessed. What was guessed
    /// right is taken; the last one drawn is not.
    pub fn draw_along(&mut self, logits: &[&[f32]]) -> Drawn {
        for (n, row) in logits.iter().enumerate() {
            let drawn = self.draw(row);
            match (&drawn, self.draft.tokens.get(n)) {
                (Some(Ok(token)), Some(guess)) if token == guess && self.finish_at(*token).is_none() => {
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

    /// Gives the result to whoever asked and hands the cache back.
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
