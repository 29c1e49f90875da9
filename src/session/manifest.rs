//! `manifest.json` from the journal: each session records its environment when it starts and its work when it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use tiltmeter_experiments::RunFile;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{EngineStats, ModelCard};
use tiltmeter_scheduler::Recorded;
use tiltmeter_store::{FileEntry, Host, Manifest, RunFolder, SessionEnd, Tool};

/// Name of the manifest's note with the dataset's repository.
pub const DATASET_NOTE: &str = "dataset";

/// Everything about a session that the journal does not otherwise record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    pub tool: Tool,
    pub host: Host,
    pub models: Vec<ModelCard>,
    /// `<axis>@<site>` to the hash of the axis file.
    pub axis_hashes: BTreeMap<String, String>,
    pub hf_repo_id: Option<String>,
    pub local_backup_dir: Option<PathBuf>,
    /// Files written before the first run that the plan does not determine: the experiment file, the invocation.
    pub files: Vec<RunFile>,
}

impl Environment {
    /// The environment of the latest session that recorded one.
    pub fn of(recorded: &Recorded) -> Self {
        let mut sessions = recorded.ledger.sessions.iter().rev().filter(|session| !session.environment.is_null());
        sessions.find_map(|session| Self::deserialize(&session.environment).ok()).unwrap_or_default()
    }
}

/// Engine counters in the units of the manifest.
pub fn work_units(stats: EngineStats) -> BTreeMap<String, u64> {
    BTreeMap::from([
        ("forward_tokens".to_owned(), stats.forward_tokens),
        ("unique_tokens".to_owned(), stats.unique_tokens),
        ("engine_steps".to_owned(), stats.steps),
    ])
}

/// Writes the manifest; `files` outside the run folder are left out.
pub fn write(
    folder: &RunFolder,
    recorded: &Recorded,
    environment: &Environment,
    files: &[PathBuf],
) -> Result<PathBuf, Problem> {
    let sessions = &recorded.ledger.sessions;
    let own = environment.models.iter().find(|card| card.device.is_some());
    let all_done = recorded.runs.iter().filter(|run| run.done().is_some()).count() >= recorded.planned;
    let mut work = recorded.work.clone();
    for (unit, amount) in sessions.iter().flat_map(|session| &session.work) {
        *work.entry(unit.clone()).or_default() += amount;
    }
    let interrupted = sessions.iter().filter(|session| session.how != SessionEnd::Finished).count();
    let inside = files.iter().filter(|path| path.starts_with(folder.dir()));
    let manifest = Manifest {
        tool: environment.tool.clone(),
        started: sessions.first().map(|session| session.started.clone()),
        finished: sessions.iter().filter_map(|session| session.ended.clone()).max().filter(|_| all_done),
        plan_hash: recorded.plan.hash().to_owned(),
        accepted_drifts: recorded.accepted_drifts.clone(),
        sessions: sessions.clone(),
        models: environment.models.iter().map(|card| json!(card)).collect(),
        axis_hashes: environment.axis_hashes.clone(),
        device: own.and_then(|card| card.device.clone()),
        dtype: own.and_then(|card| card.dtype.clone()),
        kv_dtype: own.and_then(|card| card.kv_dtype.clone()),
        host: environment.host.clone(),
        files: inside.map(|path| FileEntry::of(path, &[folder.dir()])).collect::<Result<_, _>>()?,
        work,
        notes: BTreeMap::from([
            ("sampling".to_owned(), recorded.plan.document().get("sampling").cloned().unwrap_or(Value::Null)),
            ("interruptions".to_owned(), json!(interrupted)),
            (DATASET_NOTE.to_owned(), json!(environment.hf_repo_id)),
        ]),
    };
    manifest.write(&folder.manifest())?;
    Ok(folder.manifest())
}
