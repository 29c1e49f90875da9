//! The keys below `sampling:`.

use super::fields::{Fields, Reader};
use super::tree::Node;
use tiltmeter_model::Sampling;

/// A typo in a count should be an answer.
const MAX_COUNT: u64 = 1_000_000;

/// What stands under `sampling:`.
#[derive(Clone, Copy)]
pub struct SamplingKeys {
    pub sampling: Sampling,
    pub max_new_tokens: usize,
}

impl Default for SamplingKeys {
    fn default() -> Self {
        // What the file does not state is off: temperature 1 leaves the model's distribution as it is.
        Self { sampling: Sampling { temperature: 1.0, ..Sampling::default() }, max_new_tokens: 512 }
    }
}

/// The keys under `sampling:`; what is not written is the default's. `None` after at least one problem was reported.
pub fn read(fields: &mut Fields<'_>, default: SamplingKeys) -> Option<SamplingKeys> {
    for key in ["temperature", "top_p", "top_k", "min_p", "max_new_tokens"] {
        fields.belongs(key, "under `sampling:`");
    }
    let reader = fields.reader;
    fields.get("sampling").map_or(Some(default), |node| keys(reader, node, default))
}

/// Says so where repetitions will be copies of each other.
pub fn note_greedy(
    fields: &mut Fields<'_>,
    keys: Option<SamplingKeys>,
    repetitions: Option<usize>,
    what: &str,
    hint: &str,
) {
    if let (Some(node), Some(keys), Some(2..)) = (fields.get("sampling"), keys, repetitions)
        && keys.sampling.temperature == 0.0
    {
        fields.reader.note(node, what, hint);
    }
}

fn keys(reader: &Reader<'_>, node: &Node, default: SamplingKeys) -> Option<SamplingKeys> {
    let mut fields = Fields::open(reader, node)?;
    // An explicit null takes a default away; an absent key keeps it.
    let default_temperature = fields.is_null("temperature");
    let temperature = fields
        .or("temperature", default.sampling.temperature, |n| reader.number(n, "0 (greedy) or more", |t| t >= 0.0));
    let default_top_p = if fields.is_null("top_p") { None } else { default.sampling.top_p };
    let top_p = fields.or("top_p", default_top_p, |n| {
        let top_p = reader.number(n, "above 0 and at most 1 (1 is off)", |p| p > 0.0 && p <= 1.0);
        top_p.map(|p| Some(p).filter(|p| *p < 1.0))
    });
    let top_k = fields.maybe("top_k", |n| reader.size(n, 1..=MAX_COUNT));
    let min_p =
        fields.maybe("min_p", |n| reader.number(n, "at least 0 (off) and below 1", |p| (0.0..1.0).contains(&p)));
    let max_new_tokens = fields.or("max_new_tokens", default.max_new_tokens, |n| reader.size(n, 1..=MAX_COUNT));
    for key in ["seed", "seeding", "samples", "micro_batch", "max_seq_len"] {
        fields.belongs(key, "at the top of the file");
    }
    fields.belongs("max_tokens", "here as `max_new_tokens`");
    fields.finish();
    let temperature = if default_temperature { 1.0 } else { temperature? };
    let sampling = Sampling { temperature, top_p: top_p?, top_k: top_k?, min_p: min_p?, default_temperature };
    Some(SamplingKeys { sampling, max_new_tokens: max_new_tokens? })
}
