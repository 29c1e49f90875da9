//! Experiments from file to report.
//!
//! ```text
//! prepare   experiment file -> opened models and axes, frozen plan     (build, models, scenario_models)
//! run       prepared experiment -> journal                             (artifact_writer, session_log, workers, slurm, retry)
//! collect   plan + journal -> every other file of the run folder       (export, manifest, methods, report)
//! ```
//!
//! `run` ends with `collect`, so a folder written by workers, or interrupted, gets the same files from `collect` alone. `analyze`,
//! `validate` and `report` read a folder; `capture` and `chat` use one model without an experiment; `upload` sends records to a dataset.

mod analyze;
mod artifact_writer;
mod build;
mod capture;
mod chat;
mod collect;
mod export;
mod manifest;
mod methods;
mod models;
mod prepare;
mod report;
mod retry;
mod run;
mod scenario_models;
mod session_log;
mod slurm;
mod upload;
mod validate;
mod workers;

pub use crate::cluster::Resources;
pub use crate::registry::{
    Bench, BenchModel, BenchRequest, Device, EngineOptions, KvType, ModelFacts, Rollouts, WeightType, bench,
    model_facts,
};
pub use analyze::{Analysed, analyse, live};
pub use artifact_writer::Pause;
pub use capture::{CaptureRequest, Captured, capture};
pub use chat::Chat;
pub use collect::{collect, find_folder};
pub use prepare::{ModelOptions, PreparedRun, load, prepare};
pub use report::{ReportInput, Reported, report};
pub use retry::{Invocation, Retry, retry};
pub use run::{RunOptions, RunReport};
pub use slurm::{SlurmRequest, Submitted, slurm_collect, slurm_queue, slurm_retry, slurm_submit};
pub use tiltmeter_experiments::Forecast;
pub use upload::{Uploaded, upload_pending};
pub use validate::{Validation, validate};
pub use workers::Worker;

use tiltmeter_store::SourceVersion;

/// File with API keys and settings, in the current folder.
const ENV_FILE: &str = ".env";

/// Tells the libraries which source this program was built from.
fn declare_source() {
    if let Some(commit) = option_env!("TILTMETER_COMMIT") {
        SourceVersion { commit: commit.to_owned(), dirty: option_env!("TILTMETER_DIRTY") == Some("true") }.declare();
    }
}
