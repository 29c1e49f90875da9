//! Owns `kind: projection`: its keys, their defaults and the checks that need no model. The table of keys is in the module above.
//! Must not know: how a model is opened.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    fields::{Fields, Reader, name_of},
    tree::{Node, Value},
};
use crate::{
    model::Sampling,
    probe::{LayerConvention, Site, Span},
};

/// A multi-turn projection experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionSpec {
    /// Name of the run folder and of every file; safe as a file name.
    pub experiment: String,
    /// A name on the hub, or a folder.
    pub model: String,
    /// At least one.
    pub axes: Vec<AxisRef>,
    /// Where to read; empty means where each axis says.
    pub sites: Vec<SiteRef>,
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
    /// Which tokens of a turn are measured.
    pub span: Span,
    /// Also read the transcript's own replies.
    pub reference: bool,
    /// Keep the mean vector of every turn at every site.
    pub vectors: bool,
    /// Use an axis that was built from another model.
    pub accept_axis_of_other_model: bool,
    /// Folder for the results.
    pub output: Option<PathBuf>,
}

/// An axis to project on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AxisRef {
    /// The file; it exists.
    pub file: PathBuf,
    /// Name to show; `None` is the axis' own.
    pub name: Option<String>,
    /// Where to read; `None` is the experiment's site, or else the axis' own.
    pub site: Option<SiteRef>,
}

/// A place in the residual stream as the file names it. A layer number becomes a [`Site`] once the model's depth is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteRef {
    /// `site: block.20.out`
    Site(Site),
    /// `layer: 21`
    Layer {
        /// The number.
        layer: usize,
        /// What it counts.
        convention: LayerConvention,
    },
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
    let axes = axes(fields, true);
    let sites = sites(fields, |n, read| reader.one_or_list(n, read));
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

    for key in ["temperature", "top_p", "top_k", "min_p", "max_new_tokens"] {
        fields.belongs(key, "under `sampling:`");
    }
    for key in ["label", "system_prompt", "placement"] {
        fields.belongs(key, "in an entry of `conditions:`");
    }
    let sampling_node = fields.get("sampling");
    let sampling =
        sampling_node.map_or(Some(SamplingKeys::default()), |n| sampling(reader, n, SamplingKeys::default()));
    if let (Some(node), Some(keys), Some(2..)) = (sampling_node, sampling, samples)
        && keys.sampling.temperature == 0.0
    {
        let what = "temperature 0 is greedy: every sample of a condition will be the same";
        reader.note(node, what, "use samples: 1, or a temperature above 0");
    }
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
    let span = fields.or("span", Default::default(), |n| span(reader, n));
    let reference = fields.or("reference", false, |n| reader.boolean(n));
    let vectors = fields.or("vectors", true, |n| reader.boolean(n));
    let accept = fields.or("accept_axis_of_other_model", false, |n| reader.boolean(n));
    let output = fields.maybe("output", |n| reader.filled_text(n).map(PathBuf::from));

    let SamplingKeys { sampling, max_new_tokens } = sampling?;
    Some(ProjectionSpec {
        experiment: experiment?,
        model: model?,
        axes: axes?,
        sites: sites?,
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
        span: span?,
        reference: reference?,
        vectors: vectors?,
        accept_axis_of_other_model: accept?,
        output: output?,
    })
}

/// `axis` or `axes`; empty where none is given and none needs to be.
pub(super) fn axes(fields: &mut Fields<'_>, required: bool) -> Option<Vec<AxisRef>> {
    let reader = fields.reader;
    match (fields.get("axis"), fields.get("axes")) {
        (Some(_), Some(both)) => {
            reader.refuse(both, "`axis` and `axes` are both given", "put every axis into `axes` and remove `axis`");
            None
        }
        (Some(one), None) if matches!(one.value, Value::List(_)) => {
            reader.refuse(one, "`axis` is one axis, found a list", "call the key `axes`");
            None
        }
        (Some(one), None) => axis(reader, one).map(|axis| vec![axis]),
        (None, Some(many)) => {
            let axes = reader.list(many, |n| axis(reader, n).map(|axis| (n.clone(), axis)))?;
            for (i, (node, axis)) in axes.iter().enumerate() {
                if axes[..i].iter().any(|(_, earlier)| earlier == axis) {
                    reader.refuse(node, "this axis is listed twice", "remove one, or give them different sites");
                }
            }
            Some(axes.into_iter().map(|(_, axis)| axis).collect())
        }
        (None, None) if !required => Some(Vec::new()),
        (None, None) => {
            fields.missing("axis", "axis: data/axes/assistant.safetensors");
            None
        }
    }
}

fn axis(reader: &Reader<'_>, node: &Node) -> Option<AxisRef> {
    if matches!(node.value, Value::Text(_)) {
        return reader.existing_file(node).map(|file| AxisRef { file, name: None, site: None });
    }
    let mut fields = Fields::open(reader, node)?;
    let file = fields.required("file", "file: data/axes/assistant.safetensors", |n| reader.existing_file(n));
    let name = fields.maybe("name", |n| reader.file_name(n));
    let sites = sites(&mut fields, |n, read| read(n).map(|site| vec![site]));
    fields.finish();
    Some(AxisRef { file: file?, name: name?, site: sites?.first().copied() })
}

/// `site`, or `layer` with `layer_convention`; empty when none is given. `many` decides whether a list may stand there.
pub(super) fn sites<'a>(
    fields: &mut Fields<'a>,
    many: impl Fn(&Node, &dyn Fn(&Node) -> Option<SiteRef>) -> Option<Vec<SiteRef>>,
) -> Option<Vec<SiteRef>> {
    let reader = fields.reader;
    let (site, layer, convention_node) = (fields.get("site"), fields.get("layer"), fields.get("layer_convention"));
    let convention = convention_node.map_or(Some(LayerConvention::default()), |n| {
        reader.choice(n, &[("block", LayerConvention::Block), ("hidden_states", LayerConvention::HiddenStates)])
    });
    let sites = match (site, layer) {
        (Some(_), Some(layer)) => {
            reader.refuse(layer, "`site` and `layer` are both given", "keep one: a site needs no convention");
            return None;
        }
        (None, Some(node)) => many(node, &|n| {
            let layer = reader.size(n, 0..=10_000)?;
            Some(SiteRef::Layer { layer, convention: convention? })
        })?,
        (site, None) => {
            if let Some(node) = convention_node {
                let what = "`layer_convention` says what `layer` counts, but there is no `layer`";
                reader.refuse(node, what, "add `layer`, or remove it: a site needs no convention");
                return None;
            }
            site.map_or(Some(Vec::new()), |node| many(node, &|n| one_site(reader, n).map(SiteRef::Site)))?
        }
    };
    if let Some(node) = site.or(layer)
        && sites.iter().enumerate().any(|(i, site)| sites[..i].contains(site))
    {
        reader.refuse(node, format!("{} lists the same place twice", name_of(node)), "remove one of them");
        return None;
    }
    convention.map(|_| sites)
}

fn one_site(reader: &Reader<'_>, node: &Node) -> Option<Site> {
    if let Value::Number { raw, .. } = &node.value {
        let hint =
            format!("write `layer: {raw}` and say what it counts (`layer_convention`), or `site: block.{raw}.out`");
        reader.refuse(node, format!("`site` is a name, found the number {raw}"), hint);
        return None;
    }
    let text = reader.filled_text(node)?;
    text.parse()
        .inspect_err(|problem: &crate::problem::Problem| {
            reader.refuse(node, &problem.what, problem.hint.clone().unwrap_or_default());
        })
        .ok()
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

/// What stands under `sampling:`.
#[derive(Clone, Copy)]
pub(super) struct SamplingKeys {
    pub sampling: Sampling,
    pub max_new_tokens: usize,
}

impl Default for SamplingKeys {
    fn default() -> Self {
        // What the file does not state is off: temperature 1 leaves the model's distribution as it is.
        Self { sampling: Sampling { temperature: 1.0, top_p: None, top_k: None, min_p: None }, max_new_tokens: 512 }
    }
}

/// The keys under `sampling:`; what is not written is the default's.
pub(super) fn sampling(reader: &Reader<'_>, node: &Node, default: SamplingKeys) -> Option<SamplingKeys> {
    let mut fields = Fields::open(reader, node)?;
    let temperature = fields
        .or("temperature", default.sampling.temperature, |n| reader.number(n, "0 (greedy) or more", |t| t >= 0.0));
    let top_p = fields.or("top_p", default.sampling.top_p, |n| {
        reader.number(n, "above 0 and at most 1 (1 is off)", |p| p > 0.0 && p <= 1.0).map(Some)
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
    let sampling = Sampling { temperature: temperature?, top_p: top_p?, top_k: top_k?, min_p: min_p? };
    Some(SamplingKeys { sampling, max_new_tokens: max_new_tokens? })
}

pub(super) fn span(reader: &Reader<'_>, node: &Node) -> Option<Span> {
    if matches!(node.value, Value::Map(_)) {
        let mut fields = Fields::open(reader, node)?;
        let k = fields.required("first_k", "first_k: 8", |n| reader.size(n, 1..=MAX_COUNT));
        fields.finish();
        return k.map(Span::FirstK);
    }
    if let Value::Text(text) = &node.value
        && let Some(rest) = text.strip_prefix("first_k")
    {
        let k =
            rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).and_then(|k| k.trim().parse().ok());
        if let Some(k) = k.filter(|k| *k >= 1) {
            return Some(Span::FirstK(k));
        }
        reader.refuse(node, format!("`span` cannot be `{text}`"), "say how many tokens: first_k(8)");
        return None;
    }
    let spans = [
        ("content", Span::Content),
        ("content+stop", Span::ContentAndStop),
        ("prompt", Span::Prompt),
        ("user", Span::User),
        ("first_k(8)", Span::FirstK(8)),
    ];
    reader.choice(node, &spans)
}
