//! Keys, defaults and model-independent checks of `kind: projection`. The parent module lists the keys.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    fields::{Fields, Reader},
    readouts::{self, Readouts},
    sampling::{self, SamplingKeys},
    tree::Node,
};
use tiltmeter_model::Sampling;

/// A multi-turn projection experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionSpec {
    /// Name of the run folder and of every file; safe as a file name.
    pub experiment: String,
    /// A name on the hub, or a folder.
    pub model: String,
    /// What turns are projected on; at least one axis.
    #[serde(flatten)]
    pub readouts: Readouts,
    /// The file with the user turns; it exists.
    pub transcript: PathBuf,
    /// At least one; labels differ.
    pub conditions: Vec<Condition>,
    /// Rollouts per condition.
    pub samples: usize,
    /// Rollouts generated together, at most `samples`.
    pub micro_batch: usize,
    /// Base seed.
    pub seed: u64,
    /// What the key of a token's random numbers is made of.
    pub seeding: Seeding,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Longest reply.
    pub max_new_tokens: usize,
    /// Longest prompt + reply; `None` is the model's own limit.
    pub max_seq_len: Option<usize>,
    /// What happens when a conversation outgrows that.
    pub on_context_overflow: OverflowPolicy,
    /// Also read the transcript's own replies.
    pub reference: bool,
    /// Keep the mean vector of every turn at every site.
    pub vectors: bool,
    /// Folder for the results.
    pub output: Option<PathBuf>,
}

/// One system prompt, or none, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Safe as a file name, unique whatever its case.
    pub label: String,
    /// `None`: no system message at all.
    pub system_prompt: Option<String>,
    /// Where the system message stands.
    pub placement: Placement,
}

/// Where a condition's system message stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Before the first user message.
    #[default]
    Start,
    /// After every user message, just before the reply.
    AfterEachUser,
}

/// What the key of a token's random numbers is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seeding {
    /// `seed + turn * 1000 + first sample of the micro-batch`, the row in the micro-batch being the stream.
    #[default]
    PerBatch,
    /// Seed, turn and sample; independent of `micro_batch`.
    PerSample,
}

/// What happens when a conversation outgrows the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverflowPolicy {
    /// The run fails, with the turn and the lengths.
    #[default]
    Error,
    /// The conversation ends there; later turns are `context_exhausted`.
    StopConversation,
    /// The oldest turns leave the prompt; the turn says so.
    DropOldestTurns,
}

/// Turns' keys are 1000 apart, so more samples than that would share keys with the next turn.
const TURN_STRIDE: usize = 1000;
/// A typo in a count should be an answer, not a plan of a billion runs.
const MAX_COUNT: u64 = 1_000_000;
/// Names that the results already use beside the conditions' labels.
pub(super) const RESERVED_LABELS: &[&str] = &["summary", "reference"];

/// Reads every key of the kind; `None` after at least one problem was reported.
pub(super) fn read(fields: &mut Fields<'_>) -> Option<ProjectionSpec> {
    let reader = fields.reader;
    let experiment = fields.required("experiment", "experiment: reminder", |n| reader.file_name(n));
    let model = fields.required("model", "model: allenai/Olmo-3-7B-Instruct", |n| reader.filled_text(n));
    let readouts = readouts::read(fields, true);
    let transcript =
        fields.required("transcript", "transcript: data/transcripts/conversation.json", |n| reader.existing_file(n));
    let conditions = fields.required("conditions", "conditions: [{label: baseline}]", |n| conditions(reader, n));

    let samples_node = fields.get("samples");
    let samples = samples_node.map_or(Some(16), |n| reader.size(n, 1..=MAX_COUNT));
    let batch_node = fields.get("micro_batch");
    let micro_batch = batch_node.map_or(samples, |n| reader.size(n, 1..=MAX_COUNT));
    if let (Some(node), Some(samples), Some(batch)) = (batch_node, samples, micro_batch)
        && batch > samples
    {
        reader.refuse(
            node,
            format!("`micro_batch` {batch} is more than the {samples} samples"),
            format!("use at most {samples}, or leave it out to generate all samples together"),
        );
    }
    let seed = fields.or("seed", 42, |n| reader.whole(n, 0..=u64::MAX));
    let seeding = fields.or("seeding", Default::default(), |n| {
        reader.choice(n, &[("per_batch", Seeding::PerBatch), ("per_sample", Seeding::PerSample)])
    });
    if let (Some(node), Some(samples), Some(Seeding::PerBatch)) = (samples_node, samples, seeding)
        && samples > TURN_STRIDE
    {
        let what = format!("{samples} samples with `seeding: per_batch` would share random numbers between turns");
        reader.refuse(node, what, format!("write `seeding: per_sample`, or use at most {TURN_STRIDE} samples"));
    }

    for key in ["label", "system_prompt", "placement"] {
        fields.belongs(key, "in an entry of `conditions:`");
    }
    let sampling = sampling::read(fields, SamplingKeys::default());
    let greedy = "temperature 0 is greedy: every sample of a condition will be the same";
    sampling::note_greedy(fields, sampling, samples, greedy, "use samples: 1, or a temperature above 0");
    let length_node = fields.get("max_seq_len");
    let max_seq_len = length_node.map_or(Some(None), |n| reader.size(n, 1..=u32::MAX.into()).map(Some));
    if let (Some(node), Some(Some(length)), Some(keys)) = (length_node, max_seq_len, sampling)
        && length <= keys.max_new_tokens
    {
        let what =
            format!("`max_seq_len` {length} leaves no room for a prompt beside {} new tokens", keys.max_new_tokens);
        reader.refuse(node, what, "it bounds prompt + reply: raise it, or lower sampling.max_new_tokens");
    }
    let on_context_overflow = fields.or("on_context_overflow", Default::default(), |n| {
        let policies = [
            ("error", OverflowPolicy::Error),
            ("stop_conversation", OverflowPolicy::StopConversation),
            ("drop_oldest_turns", OverflowPolicy::DropOldestTurns),
        ];
        reader.choice(n, &policies)
    });
    let reference = fields.or("reference", false, |n| reader.boolean(n));
    let vectors = fields.or("vectors", true, |n| reader.boolean(n));
    let output = fields.maybe("output", |n| reader.filled_text(n).map(PathBuf::from));

    let SamplingKeys { sampling, max_new_tokens } = sampling?;
    Some(ProjectionSpec {
        experiment: experiment?,
        model: model?,
        readouts: readouts?,
        transcript: transcript?,
        conditions: conditions?,
        samples: samples?,
        micro_batch: micro_batch?,
        seed: seed?,
        seeding: seeding?,
        sampling,
        max_new_tokens,
        max_seq_len: max_seq_len?,
        on_context_overflow: on_context_overflow?,
        reference: reference?,
        vectors: vectors?,
        output: output?,
    })
}

fn conditions(reader: &Reader<'_>, node: &Node) -> Option<Vec<Condition>> {
    let conditions = reader.list(node, |n| condition(reader, n).map(|condition| (n.clone(), condition)))?;
    for (i, (node, condition)) in conditions.iter().enumerate() {
        let same = |other: &&(Node, Condition)| other.1.label.eq_ignore_ascii_case(&condition.label);
        if let Some((_, first)) = conditions[..i].iter().find(same) {
            let what = match first.label == condition.label {
                true => format!("two conditions are called `{}`", condition.label),
                false => format!("the labels `{}` and `{}` differ only in case", first.label, condition.label),
            };
            reader.refuse(node, what, "results are filed by label: give each condition its own");
        }
    }
    Some(conditions.into_iter().map(|(_, condition)| condition).collect())
}

fn condition(reader: &Reader<'_>, node: &Node) -> Option<Condition> {
    let mut fields = Fields::open(reader, node)?;
    let label = fields.required("label", "label: baseline", |n| {
        let label = reader.file_name(n)?;
        if RESERVED_LABELS.contains(&label.to_lowercase().as_str()) {
            reader.refuse(
                n,
                format!("the label `{label}` is taken: the results have a file of that name"),
                "choose another",
            );
            return None;
        }
        Some(label)
    });
    let system_prompt = fields.maybe("system_prompt", |n| reader.text(n));
    let placement = fields.or("placement", Placement::Start, |n| {
        reader.choice(n, &[("start", Placement::Start), ("after_each_user", Placement::AfterEachUser)])
    });
    fields.finish();
    Some(Condition { label: label?, system_prompt: system_prompt?, placement: placement? })
}
