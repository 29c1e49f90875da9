//! Owns the arguments of `report`.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::Args;

/// Make tables, figure and report from what was recorded.
///
/// Takes a run folder, or JSON files of single conditions (as `run` writes them, or anything with `projections` of shape samples x
/// turns). The unit is the sample: intervals and tests count samples, not turns.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter report data/runs/demo
  tiltmeter report data/runs/demo --drop-flagged
  tiltmeter report a_baseline.json a_simple.json --ddof 0 --json > summary.json")]
pub struct ReportArgs {
    /// Run folder, or JSON files of conditions
    #[arg(value_name = "DIR|FILE.json", required = true)]
    pub inputs: Vec<PathBuf>,
    /// Divisor of variances: 1 is n - 1, 0 is n
    #[arg(long, value_name = "0|1", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub ddof: u8,
    /// Leave turns whose status is not `ok` out of every statistic
    #[arg(long)]
    pub drop_flagged: bool,
    /// Print the summary as JSON instead of tables
    #[arg(long)]
    pub json: bool,
}
