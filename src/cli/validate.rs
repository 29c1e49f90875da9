//! `validate`: checks a run folder against its plan and manifest.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure, errors,
    terminal::{Paint, escape, stdout},
};
use crate::session;

/// Check that a run folder is complete and unchanged.
///
/// Checks the journal, the frozen plan, every run and every file of the manifest. Exit code 4 if a check fails.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter validate data/runs/deception_local")]
pub struct ValidateArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

pub(super) fn execute(args: &ValidateArgs) -> Result<Exit, Failure> {
    let found = session::validate(&args.folder)?;
    let paint = Paint::for_stdout();
    for check in &found.sound {
        stdout(&format!("{} {}\n", paint.green("✓"), escape(check)))?;
    }
    errors::print(&found.defects);
    Ok(if found.defects.is_empty() { Exit::Done } else { Exit::SomeFailed })
}
