//! Owns the arguments of the commands on a run folder: `status`, `retry`, `analyze`, `collect`, `validate`, `upload`.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::Args;

use super::{parse_count, progress::ProgressMode};

/// Show how far a run folder is, from any machine that sees it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter status data/runs/demo
  watch -n 10 tiltmeter status data/runs/demo")]
pub struct StatusArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Carry out what failed or is not finished in a run folder.
///
/// Goes on with the experiment file and the settings that the folder was begun with, from where that was. What failed runs left is
/// put aside in `archive/` first; runs that are done are not touched.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter retry data/runs/deception
  tiltmeter retry experiments/results/scaling_experiment --parallel 4")]
pub struct RetryArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Most runs at the same time [default: what the experiment says]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub parallel: Option<usize>,
    /// How progress is shown, on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressMode,
}

/// Analyze a batch: what succeeded, the metrics, variations side by side, costs, patterns.
///
/// Computes everything from the journal, prints it and writes its numbers under `analysis/`. Works on a batch that is not over yet,
/// with what is done of it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter analyze data/runs/regulation-local
  tiltmeter analyze data/runs/regulation-local --report
  tiltmeter analyze data/runs/regulation-local --json > analysis.json")]
pub struct AnalyzeArgs {
    /// Run folder, or the folder of an experiment's runs
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Write the page too, analysis/analysis-report.md
    #[arg(long)]
    pub report: bool,
    /// Print all numbers as one JSON document instead of the page
    #[arg(long)]
    pub json: bool,
}

/// Write every file of a run folder again from its journal.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter collect data/runs/deception_local")]
pub struct CollectArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Check that a run folder holds what its plan promised.
///
/// Looks at the journal, the frozen plan, every run, and every file of the manifest. Ends with code 4 if something is amiss.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter validate data/runs/deception_local")]
pub struct ValidateArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Send finished records to a Hugging Face dataset.
///
/// Sends what is not in the dataset yet, in one commit a folder. The token is HF_TOKEN, from the environment or .env.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter upload --pending
  tiltmeter upload data/runs/deception --repo name/dataset")]
pub struct UploadArgs {
    /// Run folders
    #[arg(value_name = "DIR", required_unless_present = "pending")]
    pub folders: Vec<PathBuf>,
    /// Every folder below data/runs that has something to send
    #[arg(long, conflicts_with = "folders")]
    pub pending: bool,
    /// The dataset [default: HF_REPO_ID, or the one the run was for]
    #[arg(long, value_name = "NAME/DATASET")]
    pub repo: Option<String>,
}
