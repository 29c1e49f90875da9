//! Owns the arguments of `run` and `plan`, with their help.
//! Must not know: inference, HTTP.

use std::{fmt, path::PathBuf};

use clap::Args;

use super::{parse_count, parse_set, parse_task, progress::ProgressMode, terminal::stderr};

/// Run an experiment.
///
/// Each turn is recorded as soon as it is measured. Ctrl+C once: no new run starts, running ones finish. Twice: stop at the next
/// turn. Three times: stop now. `--resume` goes on where it stopped.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter run experiments/demo.yaml
  tiltmeter run experiments/demo.yaml --resume
  tiltmeter run experiments/demo.yaml --set samples=4 --set sampling.temperature=0.7 --out try
  tiltmeter run experiments/demo.yaml --dry-run
  tiltmeter run experiments/bargain_scaling.yaml --parallel 8
  tiltmeter run experiments/bargain_scaling.yaml --job 42
  tiltmeter run experiments/demo.yaml --out shared --resume --pull node7
  tiltmeter run experiments/demo.yaml --progress json 2> progress.jsonl")]
pub struct RunArgs {
    /// Experiment file (YAML, or JSON by its ending)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Go on with the runs that are not finished
    #[arg(long)]
    pub resume: bool,
    /// Folder for the results [default: data/runs/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change a key of the experiment, by dotted path; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Where the model runs: cpu, cuda (the first GPU), cuda:N, or auto, which is a GPU if there is one
    #[arg(long, value_name = "DEVICE", default_value_t, value_parser = parse_device)]
    pub device: DeviceChoice,
    /// How progress is shown, on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressMode,
    /// Check everything and show the plan, but run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// With --resume: go on although the experiment has changed; the change is recorded
    #[arg(long, requires = "resume")]
    pub accept_drift: bool,
    /// Most runs at the same time [default: what the experiment says]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub parallel: Option<usize>,
    /// Carry out only the run of this number, from 0
    ///
    /// It begins or goes on, writes its own journal and its own files, and leaves what is made of all runs to `tiltmeter collect`.
    /// So any number of these may run at once in one folder, as in a Slurm array with `--job $SLURM_ARRAY_TASK_ID`.
    #[arg(long, value_name = "N", conflicts_with_all = ["only", "task"])]
    pub job: Option<usize>,
    /// Carry out only these runs, by id; may be repeated
    #[arg(long, value_name = "RUN", requires = "resume")]
    pub only: Vec<String>,
    /// Carry out one task of a Slurm submission, as its script says
    #[arg(long, value_name = "N.K", value_parser = parse_task, hide = true, requires = "resume", conflicts_with = "only")]
    pub task: Option<(usize, usize)>,
    /// Be one of several workers on this folder: take runs that no other has; the same NAME goes on with its own
    #[arg(long, value_name = "NAME", requires_all = ["resume", "out"], conflicts_with_all = ["only", "task", "accept_drift"])]
    pub pull: Option<String>,
    /// Keep to this part of the accounts' limits: N processes share them
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub rate_share: Option<usize>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Show what an experiment would run, and whether it fits the context.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter plan experiments/demo.yaml
  tiltmeter plan experiments/demo.yaml --set samples=64 --set seeding=per_sample
  tiltmeter plan experiments/bargain_local.yaml --out data/runs/bargain_local/planned")]
pub struct PlanArgs {
    /// Experiment file (YAML, or JSON by its ending)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Change a key of the experiment, by dotted path; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Also write the frozen plan, and the files that the kind makes of it, to this folder, in which it can then be run
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    #[default]
    Auto,
    Cpu,
    /// By the number that its driver gives it.
    Cuda(usize),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

pub fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    match (text, text.strip_prefix("cuda:").map(str::parse)) {
        ("auto", _) => Ok(DeviceChoice::Auto),
        ("cpu", _) => Ok(DeviceChoice::Cpu),
        ("cuda", _) => Ok(DeviceChoice::Cuda(0)),
        (_, Some(Ok(number))) => Ok(DeviceChoice::Cuda(number)),
        _ => Err(format!("`{text}` is not a device: it is auto, cpu, cuda or cuda:N, N counting GPUs from 0")),
    }
}

/// Waits for the Enter key. Where nobody can press it, the run goes on.
pub async fn wait_for_enter(text: String) {
    stderr(&format!("{text}\n"));
    // Reading blocks until a line comes, and must not hold up whatever else the thread would do.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
}
