//! `report`: tables, figure and report of recorded runs.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, summary, terminal::stdout};
use crate::session::{self, ReportInput};
use tiltmeter_model::Problem;
use tiltmeter_report::Options;

/// Print tables and write the figure and the report of recorded runs.
///
/// Reads a run folder, or JSON documents of single conditions (as written by `run`, or any with `projections` of shape samples x turns).
/// The statistical unit is the sample: intervals and tests count samples, not turns.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter report data/runs/demo
  tiltmeter report data/runs/demo --drop-flagged
  tiltmeter report a_baseline.json a_simple.json --ddof 0 --json > summary.json")]
pub struct ReportArgs {
    /// Run folder, or JSON documents of conditions
    #[arg(value_name = "DIR|FILE.json", required = true)]
    pub inputs: Vec<PathBuf>,
    /// Delta degrees of freedom of variances: 1 divides by n - 1, 0 by n
    #[arg(long, value_name = "0|1", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub ddof: u8,
    /// Exclude turns whose status is not `ok` from every statistic
    #[arg(long)]
    pub drop_flagged: bool,
    /// Print the summary as JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

pub(super) fn execute(args: ReportArgs) -> Result<Exit, Failure> {
    let options = Options { ddof: args.ddof, drop_flagged: args.drop_flagged, ..Options::default() };
    let input = match args.inputs.as_slice() {
        [one] if one.is_dir() => ReportInput::Folder(session::find_folder(one)?.dir().to_owned()),
        several => {
            if let Some(dir) = several.iter().find(|path| path.is_dir()) {
                return Err(Problem::new("a run folder cannot be combined with other inputs")
                    .at(dir.display().to_string())
                    .hint("give one run folder, or only JSON documents")
                    .into());
            }
            ReportInput::Documents(args.inputs)
        }
    };
    let reported = session::report(&input, &options)?;
    if args.json {
        stdout(&format!("{:#}\n", reported.json()))?;
    } else {
        stdout(&summary::results(&reported, true))?;
    }
    Ok(Exit::Done)
}
