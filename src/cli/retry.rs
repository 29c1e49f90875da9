//! `retry`: retries the failed and continues the unfinished runs of a folder.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure,
    args::parse_count,
    errors,
    progress::ProgressMode,
    run,
    terminal::{counted, path_text, stderr, stdout},
};
use crate::session::{self, ModelOptions, Retry, RunOptions};

/// Retry the failed and continue the unfinished runs of a folder.
///
/// Uses the experiment file and the settings that the folder was started with, from the same working directory. The files of failed runs
/// are moved to `archive/` first; finished runs are not touched.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter retry data/runs/deception
  tiltmeter retry experiments/results/scaling_experiment --parallel 4")]
pub struct RetryArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Maximum concurrent runs [default: set by the experiment]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub parallel: Option<usize>,
    /// Progress output, on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressMode,
}

pub(super) fn execute(args: &RetryArgs) -> Result<Exit, Failure> {
    let Some(retry) = session::retry(&args.folder, &ModelOptions::default())? else {
        stdout("every run is done\n")?;
        return Ok(Exit::Done);
    };
    let Retry { prepared, running, failed, not_finished, archive } = retry;
    let (failed, unfinished) = (counted(failed as u64, "failed run"), counted(not_finished as u64, "unfinished run"));
    stderr(&format!("retrying {failed}, continuing {unfinished}\n"));
    if let Some(archive) = archive {
        stderr(&format!("files of failed runs moved to {}\n", path_text(&archive)));
    }
    errors::print_notes(&prepared.notes);
    let resume = format!("tiltmeter retry {}", path_text(&args.folder));
    run::execute_prepared(prepared, &RunOptions { parallel: args.parallel, ..running }, args.progress, &resume)
}
