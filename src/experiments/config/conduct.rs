//! How an experiment is executed: parallelism, order, rate and budget. No result depends on these keys, so they are not part of the
//! frozen plan: a limit can be raised before a resume.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `parallel` | 1 | runs in flight |
//! | `order` | `interleaved` | repetition 1 of every cell, then 2, …; `sequential`: all repetitions of the first cell, then of the second |
//! | `inter_run_delay` | 0 | seconds between the starts of two runs |
//! | `timeout_per_run` | none | seconds a run may take |
//! | `budget_limit` | none | US dollars for the whole folder |
//! | `cost_per_run_limit` | none | US dollars for one run |
//! | `on_run_cost_limit` | `stop_run` | what a run that reached it ends: itself, or with `halt_batch` the start of further runs |
//! | `lanes.<name>` | the provider's preset | `requests_per_minute`, `input_tokens_per_minute`, `output_tokens_per_minute`, `max_in_flight` |
//! | `local_backup_dir` | `local_backups` in the run folder | where backups of runs go |
//! | `hf_repo_id` | none | dataset that records are appended to |

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    fields::{Fields, Reader},
    tree::{Node, Value},
};

/// How an experiment is carried out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conduct {
    /// `None`: what the kind finds right.
    pub parallel: Option<usize>,
    pub order: RunOrder,
    /// Seconds.
    pub inter_run_delay: f64,
    /// Seconds.
    pub timeout_per_run: Option<f64>,
    /// Micro-dollars.
    pub budget_limit: Option<u64>,
    /// Micro-dollars.
    pub cost_per_run_limit: Option<u64>,
    pub on_run_cost_limit: OnRunCostLimit,
    pub lanes: Vec<LaneSpec>,
    pub local_backup_dir: Option<PathBuf>,
    pub hf_repo_id: Option<String>,
}

/// In which order runs start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOrder {
    #[default]
    Interleaved,
    Sequential,
}

/// What comes to an end when a run has reached its cost limit. Both can be resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRunCostLimit {
    /// That run.
    #[default]
    StopRun,
    /// That run, and no further one starts.
    HaltBatch,
}

/// What an account allows, as its owner knows it; what is `None` is the preset's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSpec {
    pub name: String,
    pub requests_per_minute: Option<u32>,
    pub input_tokens_per_minute: Option<u64>,
    pub output_tokens_per_minute: Option<u64>,
    pub max_in_flight: Option<usize>,
}

const MOST_SECONDS: f64 = 31.0 * 86_400.0;

/// Reads the keys above; `None` after at least one problem was reported.
pub(super) fn read(fields: &mut Fields<'_>) -> Option<Conduct> {
    read_as(fields, "parallel")
}

/// `read` for a kind that has another word for `parallel`.
pub(super) fn read_as(fields: &mut Fields<'_>, parallel: &'static str) -> Option<Conduct> {
    let reader = fields.reader;
    let seconds = |n: &Node| reader.number(n, "seconds, from 0 to a month", |s| (0.0..=MOST_SECONDS).contains(&s));
    let parallel = fields.maybe(parallel, |n| reader.size(n, 1..=100_000));
    let order = fields.or("order", RunOrder::default(), |n| {
        reader.choice(n, &[("interleaved", RunOrder::Interleaved), ("sequential", RunOrder::Sequential)])
    });
    let inter_run_delay = fields.or("inter_run_delay", 0.0, seconds);
    let timeout_per_run = fields.maybe("timeout_per_run", |n| {
        reader.number(n, "more than 0 seconds and at most a month", |s| s > 0.0 && s <= MOST_SECONDS)
    });
    let budget_limit = fields.maybe("budget_limit", |n| micro_usd(reader, n));
    let cost_per_run_limit = fields.maybe("cost_per_run_limit", |n| micro_usd(reader, n));
    let on_run_cost_limit = fields.or("on_run_cost_limit", OnRunCostLimit::default(), |n| {
        reader.choice(n, &[("stop_run", OnRunCostLimit::StopRun), ("halt_batch", OnRunCostLimit::HaltBatch)])
    });
    let lanes = fields.or("lanes", Vec::new(), |n| lanes(reader, n));
    let local_backup_dir = fields.maybe("local_backup_dir", |n| reader.filled_text(n).map(PathBuf::from));
    let hf_repo_id = fields.maybe("hf_repo_id", |n| reader.filled_text(n));
    Some(Conduct {
        parallel: parallel?,
        order: order?,
        inter_run_delay: inter_run_delay?,
        timeout_per_run: timeout_per_run?,
        budget_limit: budget_limit?,
        cost_per_run_limit: cost_per_run_limit?,
        on_run_cost_limit: on_run_cost_limit?,
        lanes: lanes?,
        local_backup_dir: local_backup_dir?,
        hf_repo_id: hf_repo_id?,
    })
}

/// US dollars as a person writes them.
pub(super) fn micro_usd(reader: &Reader<'_>, node: &Node) -> Option<u64> {
    let usd = reader.number(node, "US dollars, more than 0 and at most 1000000", |usd| usd > 0.0 && usd <= 1e6)?;
    // Rounded down: a limit is never more than what was said.
    Some((usd * 1e6).floor() as u64)
}

fn lanes(reader: &Reader<'_>, node: &Node) -> Option<Vec<LaneSpec>> {
    let Value::Map(entries) = &node.value else {
        reader.refuse(node, "`lanes` must be a mapping", "write lanes: {openai: {requests_per_minute: 500}}");
        return None;
    };
    entries.iter().map(|entry| lane(reader, &entry.key, &entry.node)).collect()
}

fn lane(reader: &Reader<'_>, name: &str, node: &Node) -> Option<LaneSpec> {
    let mut fields = Fields::open(reader, node)?;
    let count = |n: &Node| reader.whole(n, 1..=1_000_000_000_000);
    let requests = fields.maybe("requests_per_minute", |n| reader.whole(n, 1..=10_000_000).map(|n| n as u32));
    let input = fields.maybe("input_tokens_per_minute", count);
    let output = fields.maybe("output_tokens_per_minute", count);
    let in_flight = fields.maybe("max_in_flight", |n| reader.size(n, 1..=1_000_000));
    fields.finish();
    Some(LaneSpec {
        name: name.to_owned(),
        requests_per_minute: requests?,
        input_tokens_per_minute: input?,
        output_tokens_per_minute: output?,
        max_in_flight: in_flight?,
    })
}
