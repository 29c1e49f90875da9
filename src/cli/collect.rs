//! `collect`: rewrites every file of a run folder from its journal.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, summary, terminal::stdout};
use crate::session;

/// Rewrite every file of a run folder from its plan and journal.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter collect data/runs/deception_local")]
pub struct CollectArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

pub(super) fn execute(args: &CollectArgs) -> Result<Exit, Failure> {
    let folder = session::find_folder(&args.folder)?;
    stdout(&summary::written(&folder, &session::collect(&args.folder)?))?;
    Ok(Exit::Done)
}
