//! Synthetic conversations on a batcher, and the times of its steps.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use crate::{
    backend::{Backend, PageCounts},
    batcher::{Batcher, Limits},
    capture::Recorder,
    sequence::{Finished, SamplingParams, Sequence},
    spec::ArchSpec,
};
use tiltmeter_model::probe::{Probe, ProbePlan, Site, Span};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, ModelError, Sampling, SeedKey};

/// A finished sequence, by the number it was submitted under.
type Results = Arc<Mutex<Vec<(usize, Result<Finished, Problem>)>>>;

pub struct Workload<B: Backend> {
    pub batcher: Batcher<B>,
    config: ArchSpec,
    results: Results,
    /// Prompts that share no prefix with earlier ones so far.
    fresh: usize,
    /// Conversations that `decode` keeps between calls.
    kept: usize,
}

impl<B: Backend> Workload<B> {
    /// Tokens that each conversation generates beyond the timed steps; a GPU records its graphs during the first half of them.
    pub const WARM_UP: usize = 8;

    pub fn new(backend: B, limits: Limits) -> Self {
        let config = backend.arch().clone();
        Self {
            batcher: Batcher::new(backend, limits, Arc::default()),
            config,
            results: Results::default(),
            fresh: 0,
            kept: 0,
        }
    }

    pub fn config(&self) -> &ArchSpec {
        &self.config
    }

    /// Whether the KV cache holds so many conversations of `context` tokens and `steps` more.
    pub fn fits(&self, batch: usize, context: usize, steps: usize) -> bool {
        let backend = self.batcher.backend();
        let need: PageCounts = (0..batch).map(|_| backend.pages_for(context + steps + Self::WARM_UP, 0)).sum();
        need.fits(backend.capacity())
    }

    /// Seconds of each of at least one decode step in which all conversations take part. Prompts stay in the cache for the next call.
    pub fn decode(
        &mut self,
        batch: usize,
        context: usize,
        steps: usize,
        plan: Option<Arc<ProbePlan>>,
    ) -> Result<Vec<f64>, Problem> {
        for n in 0..batch {
            let prompt = tokens_of(n, 0, context, self.config.vocab_size);
            self.submit(n, prompt, steps + Self::WARM_UP, Some(ConversationId(n as u64)), plan.clone());
        }
        self.kept = self.kept.max(batch);
        let warm = self.batcher.work().generated_tokens + (Self::WARM_UP / 2 * batch) as u64;
        while self.batcher.is_busy() && self.batcher.work().generated_tokens < warm {
            self.batcher.step()?;
        }
        let mut times = Vec::new();
        while self.batcher.is_busy() && times.len() < steps {
            let generated = self.batcher.work().generated_tokens;
            let began = Instant::now();
            self.batcher.step()?;
            // A step in which some conversations wait or have finished is not one of the whole batch.
            if self.batcher.work().generated_tokens - generated == batch as u64 {
                times.push(began.elapsed().as_secs_f64());
            }
        }
        self.drain()?;
        if times.is_empty() {
            return Err(Problem::new(format!("{batch} conversations of {context} tokens never ran together"))
                .hint("give the KV cache more memory, or measure smaller batches: --batch 1,4"));
        }
        Ok(times)
    }

    /// Ends the conversations that `decode` kept.
    pub fn close(&mut self) {
        (0..self.kept).for_each(|n| self.batcher.close(ConversationId(n as u64)));
        self.kept = 0;
    }

    /// Runs everything submitted to its end and returns its results, in the order of finishing.
    pub fn drain(&mut self) -> Result<Vec<(usize, Finished)>, Problem> {
        while self.batcher.is_busy() {
            self.batcher.step()?;
        }
        self.results()
    }

    /// Results since the last call.
    pub fn results(&mut self) -> Result<Vec<(usize, Finished)>, Problem> {
        let results = std::mem::take(&mut *self.results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        results.into_iter().map(|(n, result)| Ok((n, result?))).collect()
    }

    /// A prompt that shares no prefix with any other.
    pub fn fresh_prompt(&mut self, tokens: usize) -> Vec<u32> {
        self.fresh += 1;
        tokens_of(self.fresh, 1000, tokens, self.config.vocab_size)
    }

    pub fn submit(
        &mut self,
        number: usize,
        prompt: Vec<u32>,
        max_new_tokens: usize,
        conversation: Option<ConversationId>,
        plan: Option<Arc<ProbePlan>>,
    ) {
        let (results, reply) = (self.results.clone(), prompt.len()..usize::MAX);
        let answer = Box::new(move |result: Result<Finished, ModelError>| {
            let result = result.map_err(|error| error.problem());
            results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((number, result));
        });
        let sampling = SamplingParams {
            sampling: Sampling { temperature: 1.0, ..Sampling::default() },
            seed: SeedKey { key: 7, stream: number as u64 },
            max_new_tokens,
            stop_ids: Vec::new(),
        };
        let mut sequence = Sequence::new(prompt, Some(sampling), answer);
        sequence.recorder = plan.map(|plan| Recorder::new(plan, [reply].into()));
        sequence.conversation = conversation;
        self.batcher.submit(sequence);
    }

    /// Unit directions at block outputs spread over the depth, `sites` of them at most one per block.
    pub fn probe_plan(&self, axes: usize, sites: usize) -> Arc<ProbePlan> {
        let (width, layers) = (self.config.hidden_size, self.config.num_layers());
        let sites = sites.clamp(1, layers);
        let unit = |n: usize| -> Vec<f32> {
            let values: Vec<f32> = (0..width).map(|i| ((i * (n + 3)) % 17) as f32 - 8.0).collect();
            let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
            values.into_iter().map(|v| v / norm).collect()
        };
        let units: Vec<Vec<f32>> = (0..axes).map(unit).collect();
        let probes = (0..sites).flat_map(|i| {
            let site = Site::BlockOut((i + 1) * layers / sites - 1);
            units.iter().enumerate().map(move |(n, unit)| Probe { name: format!("axis {n}"), site, unit: unit.clone() })
        });
        Arc::new(ProbePlan { probes: probes.collect(), span: Span::Content, vectors: Vec::new() })
    }
}

/// Tokens spread over the vocabulary, different for every `number` and `round`; a shorter list is a prefix of a longer one.
pub fn tokens_of(number: usize, round: usize, length: usize, vocab: usize) -> Vec<u32> {
    let begin = number as u64 * 104_729 + round as u64 * 1_299_709;
    (0..length as u64).map(|i| ((begin + i * 7919) % vocab as u64) as u32).collect()
}
