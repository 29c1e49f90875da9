//! Sampling on the device: parameters, scratch memory, results. The host decides one step later which token ends a reply.

use tiltmeter_kernels::gpu::{
    Gpu, Memory, Plain, Result, Span,
    sampler::{self, Draw, NextStep, SamplerRoom, SamplerRow},
};

use crate::{backend::cuda::slots::MOST_ROWS, sequence::SamplingParams};

/// Words of one row's sampling parameters.
pub const DRAW_WORDS: usize = size_of::<SamplerRow>() / 4;

/// The words of a draw; `None` draws nothing and leaves what was drawn before. `index`: which token of its reply it is.
pub fn words(drawing: Option<&SamplingParams>, index: usize) -> [u32; DRAW_WORDS] {
    let row = drawing.map_or_else(SamplerRow::default, |drawing| {
        let sampling = &drawing.sampling;
        SamplerRow {
            key: drawing.seed.key,
            stream: drawing.seed.stream,
            index: index as u64,
            temperature: sampling.temperature,
            top_p: sampling.top_p.unwrap_or(1.0),
            min_p: sampling.min_p.unwrap_or(0.0),
            top_k: sampling.top_k.map_or(0, |k| u32::try_from(k).unwrap_or(0)),
            left: u32::MAX,
            active: 1,
            ..SamplerRow::default()
        }
    });
    let mut words = [0; DRAW_WORDS];
    let bytes = SamplerRow::bytes_of(std::slice::from_ref(&row));
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// What drawing needs besides logits.
pub struct DrawMemory {
    room: SamplerRoom,
    finished: Memory,
    vocab: usize,
}

impl DrawMemory {
    pub fn new(gpu: &Gpu, vocab: usize) -> Result<Self> {
        Ok(Self { room: SamplerRoom::new(gpu, MOST_ROWS, vocab)?, finished: gpu.alloc(4 * MOST_ROWS)?, vocab })
    }

    /// Samples `count` rows of logits with the parameters in `draws` into the first of `tokens`.
    pub fn draw(&self, gpu: &Gpu, logits: Span, draws: Span, count: usize, tokens: Span) -> Result<()> {
        let work = Draw {
            rows: count,
            logits,
            stride: self.vocab,
            slots: count,
            slot_of: None,
            states: draws,
            stops: (self.finished.all(), 0),
            sampled: tokens,
            finished: self.finished.all(),
            next: NextStep::default(),
        };
        sampler::draw(gpu, &self.room, &work)
    }
}
