//! `upload`: sends finished records to a Hugging Face dataset.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure, summary,
    terminal::{runtime, stdout},
};
use crate::session;

/// Send finished records to a Hugging Face dataset.
///
/// Sends the records that the dataset lacks, in one commit per folder. The token is HF_TOKEN, from the environment or .env.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter upload --pending
  tiltmeter upload data/runs/deception --repo name/dataset")]
pub struct UploadArgs {
    /// Run folders
    #[arg(value_name = "DIR", required_unless_present = "pending")]
    pub folders: Vec<PathBuf>,
    /// All folders under data/runs with unsent records
    #[arg(long, conflicts_with = "folders")]
    pub pending: bool,
    /// Dataset [default: HF_REPO_ID, or the one in the experiment]
    #[arg(long, value_name = "NAME/DATASET")]
    pub repo: Option<String>,
}

pub(super) fn execute(args: &UploadArgs) -> Result<Exit, Failure> {
    let uploads = runtime()?.block_on(session::upload_pending(&args.folders, args.repo.as_deref()))?;
    if uploads.is_empty() {
        stdout("no records to upload\n")?;
    }
    let mut exit = Exit::Done;
    for uploaded in &uploads {
        if !summary::upload(uploaded)? {
            exit = Exit::SomeFailed;
        }
    }
    Ok(exit)
}
