//! `analyze`: success rate, metrics, variations, costs and patterns of a batch.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure, errors,
    terminal::{escape, path_text, stderr, stdout},
};
use crate::session::{self, Analysed};

/// Analyze a batch: success rate, metrics, variations side by side, costs and patterns.
///
/// Computes everything from the journal, prints it and writes the numbers to `analysis/`. A batch in progress is analyzed as far as it is
/// done.
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
    /// Also write analysis/analysis-report.md
    #[arg(long)]
    pub report: bool,
    /// Print all numbers as one JSON document
    #[arg(long)]
    pub json: bool,
}

pub(super) fn execute(args: &AnalyzeArgs) -> Result<Exit, Failure> {
    let Analysed { analysis, mut standing, notes, files } = session::analyse(&args.folder, args.report)?;
    let written: String = files.iter().map(|path| format!("wrote      {}\n", path_text(path))).collect();
    if args.json {
        standing.extend(analysis.document());
        stdout(&format!("{:#}\n", serde_json::Value::from(standing)))?;
        // Standard output contains the document only.
        stderr(&written);
    } else {
        let page: String = analysis.page.text.lines().map(|line| format!("{}\n", escape(line))).collect();
        stdout(&format!("{page}\n{written}"))?;
    }
    errors::print_notes(&notes);
    Ok(Exit::Done)
}
