//! Keys, defaults and model-independent checks of `kind: negotiation`.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `experiment` | required | name of the run folder and of every file; safe as a file name |
//! | `weak_models`, `strong_models` | required | lists of bargainers: see below |
//! | `competition_levels` | required | list of cosine similarities of the two agents' values, from 0 to 1 |
//! | `num_items` | 5 | what is divided; 2 to 16 |
//! | `max_rounds` | 10 | 1 to 100 |
//! | `gamma` | 0.9 | what a round leaves of everything's worth; 0 to 1 |
//! | `orders` | `weak_first` | who speaks first: `weak_first`, `strong_first`, or `both`, which doubles the runs |
//! | `repetitions` | 1 | runs of each cell |
//! | `seed` | 42 | run i has the seed 42 + i, from which its values are made and its replies drawn |
//! | `sampling.temperature` | 1.0 | what thinking models take, too |
//! | `sampling.top_p`, `top_k`, `min_p` | off | |
//! | `sampling.max_new_tokens` | 1000 | longest reply; where a provider counts thinking into it, leave room for that |
//! | `judge` | none | model that says which strategic behaviours of a fixed menu each agent showed; asked at temperature 0 |
//! | `judge_max_tokens` | 1000 | longest verdict |
//! | `axis` or `axes`, `site`, `layer`, `layer_convention`, `span`, `accept_axis_of_other_model` | – | projections of every reply of bargainers on this machine, as in `kind: projection` |
//! | `publication` | false | the plan is kept to |
//! | `output` | – | folder for the results |
//!
//! Besides, the keys of `conduct`, of which `parallel` is 4 and `timeout_per_run` 600 unless given.
//!
//! A bargainer is what `model_ref` says a model is, in a mapping with `label` where results shall call it otherwise, as in
//! `{name: openai/gpt-4o, label: gpt-4o}`; or `programmed`, which bargains by rule and needs no model, also
//! `{name: programmed, strategy: fair | greedy | conceder}`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    conduct::{self, Conduct},
    fields::{Fields, Reader, name_of},
    model_ref::{self, ModelRef},
    readouts::{self, Readouts},
    sampling::{self, SamplingKeys},
    tree::{Node, Value},
};
use tiltmeter_model::Sampling;

/// Weak against strong bargainers, at several levels of competition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NegotiationSpec {
    /// Name of the run folder and of every file; safe as a file name.
    pub experiment: String,
    /// At least one; labels differ.
    pub weak_models: Vec<BargainerRef>,
    /// At least one; labels differ.
    pub strong_models: Vec<BargainerRef>,
    /// At least one, all different, from 0 to 1.
    pub competition_levels: Vec<f64>,
    pub num_items: usize,
    pub max_rounds: usize,
    /// From 0 to 1.
    pub gamma: f64,
    /// One or both.
    pub orders: Vec<SpeakingOrder>,
    /// Runs of each cell.
    pub repetitions: usize,
    /// Base seed.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Longest reply.
    pub max_new_tokens: usize,
    /// Who says which behaviours there were; `None`: nobody.
    pub judge: Option<ModelRef>,
    /// Longest verdict.
    pub judge_max_tokens: usize,
    /// What replies of bargainers on this machine are projected on; may be empty.
    #[serde(flatten)]
    pub readouts: Readouts,
    /// The plan is kept to.
    pub publication: bool,
    /// Folder for the results.
    pub output: Option<PathBuf>,
    /// How it is carried out.
    pub conduct: Conduct,
}

/// Somebody who bargains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BargainerRef {
    /// What results call it; part of a folder's name.
    pub label: String,
    pub who: BargainerKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BargainerKind {
    Model(ModelRef),
    Programmed(Bargaining),
}

/// How a bargainer without a language model goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bargaining {
    /// Demands its even share from the outset.
    #[default]
    Fair,
    /// Demands everything and concedes late.
    Greedy,
    /// Demands everything and concedes early.
    Conceder,
}

/// Who speaks, proposes and votes first in every round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeakingOrder {
    #[default]
    WeakFirst,
    StrongFirst,
}

/// The name of the bargainer that needs no model.
pub const PROGRAMMED: &str = "programmed";

const PARALLEL: usize = 4;
const TIMEOUT_PER_RUN_S: f64 = 600.0;
/// Two of them stand in the name of a cell.
const LONGEST_LABEL: usize = 40;
const MOST_RUNS: usize = 1_000_000;
const BETWEEN_LABELS: &str = "_vs_";
const BOTH: &[SpeakingOrder] = &[SpeakingOrder::WeakFirst, SpeakingOrder::StrongFirst];

/// Reads every key of the kind; `None` after at least one problem was reported.
pub(super) fn read(fields: &mut Fields<'_>) -> Option<NegotiationSpec> {
    let reader = fields.reader;
    let experiment = fields.required("experiment", "experiment: bargain", |n| reader.file_name(n));
    let weak = fields.required("weak_models", "weak_models: [openai/gpt-4o]", |n| bargainers(reader, n));
    let strong = fields.required("strong_models", "strong_models: [openai/o3]", |n| bargainers(reader, n));
    let levels = fields.required("competition_levels", "competition_levels: [0.1, 0.5, 1.0]", |n| levels(reader, n));
    let items = fields.or("num_items", 5, |n| reader.size(n, 2..=16));
    let rounds = fields.or("max_rounds", 10, |n| reader.size(n, 1..=100));
    let gamma = fields.or("gamma", 0.9, |n| reader.number(n, "from 0 to 1", |gamma| (0.0..=1.0).contains(&gamma)));
    let orders = fields.or("orders", &BOTH[..1], |n| {
        reader.choice(n, &[("weak_first", &BOTH[..1]), ("strong_first", &BOTH[1..]), ("both", BOTH)])
    });
    let repetitions = fields.or("repetitions", 1, |n| reader.size(n, 1..=MOST_RUNS as u64));
    let seed = fields.or("seed", 42, |n| reader.whole(n, 0..=u64::MAX));
    fields.belongs("max_tokens", "under `sampling:`, as `max_new_tokens`");
    fields.belongs("random_seed", "here as `seed`: run i has the seed plus i");
    fields.belongs("competition_level", "in the list `competition_levels`");
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let default = SamplingKeys { sampling, max_new_tokens: 1000 };
    let sampling = sampling::read(fields, default);
    let judge = fields.maybe("judge", |n| model_ref::read(reader, n));
    let judge_max_tokens = fields.or("judge_max_tokens", 1000, |n| reader.size(n, 1..=1_000_000));

    let readouts = readouts::read(fields, false);
    let publication = fields.or("publication", false, |n| reader.boolean(n));
    let output = fields.maybe("output", |n| reader.filled_text(n).map(PathBuf::from));
    let conduct = conduct::read(fields).map(|conduct| Conduct {
        parallel: conduct.parallel.or(Some(PARALLEL)),
        timeout_per_run: conduct.timeout_per_run.or(Some(TIMEOUT_PER_RUN_S)),
        ..conduct
    });

    let (weak_models, strong_models, competition_levels) = (weak?, strong?, levels?);
    let (orders, repetitions) = (orders?.to_vec(), repetitions?);
    let runs = [strong_models.len(), competition_levels.len(), orders.len(), repetitions];
    let runs = runs.into_iter().fold(weak_models.len(), usize::saturating_mul);
    if let (true, Some(node)) = (runs > MOST_RUNS, fields.get("repetitions").or(fields.get("competition_levels"))) {
        reader.refuse(node, format!("that makes {runs} runs"), format!("at most {MOST_RUNS} can be planned"));
        return None;
    }
    let SamplingKeys { sampling, max_new_tokens } = sampling?;
    Some(NegotiationSpec {
        experiment: experiment?,
        weak_models,
        strong_models,
        competition_levels,
        num_items: items?,
        max_rounds: rounds?,
        gamma: gamma?,
        orders,
        repetitions,
        seed: seed?,
        sampling,
        max_new_tokens,
        judge: judge?,
        judge_max_tokens: judge_max_tokens?,
        readouts: readouts?,
        publication: publication?,
        output: output?,
        conduct: conduct?,
    })
}

fn levels(reader: &Reader<'_>, node: &Node) -> Option<Vec<f64>> {
    let level = |n: &Node| reader.number(n, "a cosine similarity, from 0 to 1", |c| (0.0..=1.0).contains(&c));
    // -0 and 0 are the same level and would be two names.
    let levels = reader.list(node, |n| level(n).map(|level| (n.clone(), level.abs())))?;
    let mut twice = false;
    for (i, (node, level)) in levels.iter().enumerate() {
        if levels[..i].iter().any(|(_, earlier)| earlier == level) {
            twice = true;
            reader.refuse(
                node,
                format!("the level {level} is listed twice"),
                "remove one: `repetitions` runs a cell more often",
            );
        }
    }
    (!twice).then(|| levels.into_iter().map(|(_, level)| level).collect())
}

fn bargainers(reader: &Reader<'_>, node: &Node) -> Option<Vec<BargainerRef>> {
    let entries = reader.list(node, |n| bargainer(reader, n).map(|entry| (n.clone(), entry)))?;
    let mut twice = false;
    for (i, (node, entry)) in entries.iter().enumerate() {
        if entries[..i].iter().any(|(_, earlier)| earlier.label.eq_ignore_ascii_case(&entry.label)) {
            twice = true;
            let what = format!("two entries of {} are called `{}`", name_of_list(node), entry.label);
            reader.refuse(node, what, "results are filed by label: give one another, {name: …, label: …}");
        }
    }
    (!twice).then(|| entries.into_iter().map(|(_, entry)| entry).collect())
}

fn name_of_list(entry: &Node) -> String {
    entry.path.split('.').next().map_or_else(|| name_of(entry), |key| format!("`{key}`"))
}

fn bargainer(reader: &Reader<'_>, node: &Node) -> Option<BargainerRef> {
    let Value::Map(entries) = &node.value else {
        let who = match &node.value {
            Value::Text(text) if text == PROGRAMMED => BargainerKind::Programmed(Bargaining::default()),
            _ => BargainerKind::Model(model_ref::read(reader, node)?),
        };
        return Some(BargainerRef { label: default_label(&who), who });
    };
    let said = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
    let who = if said("name").is_some_and(|n| n.value == Value::Text(PROGRAMMED.to_owned())) {
        let mut fields = Fields::open(reader, node)?;
        let (_, _) = (fields.get("name"), fields.get("label"));
        let strategies =
            [("fair", Bargaining::Fair), ("greedy", Bargaining::Greedy), ("conceder", Bargaining::Conceder)];
        let strategy = fields.or("strategy", Bargaining::default(), |n| reader.choice(n, &strategies));
        fields.finish();
        strategy.map(BargainerKind::Programmed)
    } else {
        let mut model = node.clone();
        if let Value::Map(entries) = &mut model.value {
            entries.retain(|entry| entry.key != "label");
        }
        model_ref::read(reader, &model).map(BargainerKind::Model)
    };
    let label = said("label").filter(|n| n.value != Value::Null).map(|n| label(reader, n));
    let who = who?;
    Some(BargainerRef { label: label.unwrap_or_else(|| Some(default_label(&who)))?, who })
}

fn label(reader: &Reader<'_>, node: &Node) -> Option<String> {
    let label = reader.file_name(node)?;
    if label.len() > LONGEST_LABEL || label.contains(BETWEEN_LABELS) {
        let hint =
            format!("results are filed by it: use at most {LONGEST_LABEL} characters, and not `{BETWEEN_LABELS}`");
        reader.refuse(node, format!("the label `{label}` cannot be used"), hint);
        return None;
    }
    Some(label)
}

/// The last part of a model's name, as far as it can be part of a folder's name.
fn default_label(who: &BargainerKind) -> String {
    let name = match who {
        BargainerKind::Programmed(Bargaining::Fair) => "programmed-fair",
        BargainerKind::Programmed(Bargaining::Greedy) => "programmed-greedy",
        BargainerKind::Programmed(Bargaining::Conceder) => "programmed-conceder",
        BargainerKind::Model(model) => model.name.trim_end_matches(['/', '\\']),
    };
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default().replace(BETWEEN_LABELS, "-");
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let label: String = last.chars().map(safe).take(LONGEST_LABEL).collect();
    let label = label.trim_matches(['.', '-']).to_owned();
    if label.is_empty() { "model".to_owned() } else { label }
}
