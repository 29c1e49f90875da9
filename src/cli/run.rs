//! `run`: prepares an experiment, runs it with a progress display and signal handling, and prints the summary.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;

use super::{
    Exit, Failure,
    args::{parse_count, parse_device, parse_set, parse_task},
    errors, plan,
    progress::{ProgressDisplay, ProgressMode},
    summary,
    terminal::{Paint, escape, path_text, runtime, stderr},
};
use crate::session::{self, Device, EngineOptions, Invocation, ModelOptions, PreparedRun, RunOptions, Worker};
use tiltmeter_scheduler::{Progress, StopLevel, StopSignal};

/// Run an experiment.
///
/// Every turn is recorded as soon as it is measured. Ctrl+C once: no new run starts, active runs finish. Twice: stop at the next turn.
/// Three times: stop now. Continue with `--resume`.
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
    /// Experiment file: YAML, or JSON if its name ends in .json
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Continue the unfinished runs
    #[arg(long)]
    pub resume: bool,
    /// Run folder [default: data/runs/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Override a key of the experiment, by dotted path; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Device of local models: auto (a GPU if available), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: Device,
    /// Progress output, on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressMode,
    /// Validate everything and show the plan without running
    #[arg(long)]
    pub dry_run: bool,
    /// With --resume: continue although the experiment changed; the change is recorded
    #[arg(long, requires = "resume")]
    pub accept_drift: bool,
    /// Maximum concurrent runs [default: set by the experiment]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub parallel: Option<usize>,
    /// Execute only run number N, counted from 0
    ///
    /// Starts or continues the run with its own journal and files; `tiltmeter collect` then writes the files of the whole batch. Any
    /// number of such processes can share a folder, as in a Slurm array with `--job $SLURM_ARRAY_TASK_ID`.
    #[arg(long, value_name = "N", conflicts_with_all = ["only", "task"])]
    pub job: Option<usize>,
    /// Execute only this run, by id; repeatable
    #[arg(long, value_name = "RUN", requires = "resume")]
    pub only: Vec<String>,
    /// Execute one task of a Slurm submission (used by its script)
    #[arg(long, value_name = "N.K", value_parser = parse_task, hide = true, requires = "resume", conflicts_with = "only")]
    pub task: Option<(usize, usize)>,
    /// Join the folder as worker NAME: claim runs until none is left; the same NAME continues its own runs
    #[arg(long, value_name = "NAME", requires_all = ["resume", "out"], conflicts_with_all = ["only", "task", "accept_drift"])]
    pub pull: Option<String>,
    /// Use 1/N of the accounts' rate limits, for N concurrent processes
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub rate_share: Option<usize>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_count, allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

pub(super) fn execute(args: RunArgs) -> Result<Exit, Failure> {
    let models = ModelOptions {
        device: args.device,
        engine: EngineOptions { threads: args.threads, ..Default::default() },
        rate_share: args.rate_share,
        for_plan: args.dry_run,
    };
    let loaded = session::load(&args.file, &args.set)?;
    if args.dry_run {
        return plan::show(loaded, &models, None);
    }
    errors::print_notes(&loaded.notes);
    let prepared = session::prepare(loaded, &models)?;
    errors::print_notes(&prepared.notes);
    let tick = Paint::for_stderr().green("✓");
    stderr(&prepared.ready.iter().map(|check| format!("{tick} {}\n", escape(check))).collect::<String>());
    let resume = resume_command(&args);
    let worker = match (args.job, args.task, args.pull) {
        (Some(number), ..) => Some(Worker::Job(number)),
        (None, Some((submission, task)), _) => Some(Worker::Task { submission, task }),
        (None, None, Some(name)) => Some(Worker::Pull(name)),
        (None, None, None) => None,
    };
    let options = RunOptions {
        out: args.out,
        // A job is started or resumed by the same command.
        resume: args.resume || args.job.is_some(),
        accept_drift: args.accept_drift,
        invocation: Some(Invocation::new(&args.file, &args.set)?),
        parallel: args.parallel,
        only: (!args.only.is_empty()).then(|| args.only.clone()),
        worker,
        pause: Some(Arc::new(|text: &str| Box::pin(wait_for_enter(text.to_owned())))),
    };
    execute_prepared(prepared, &options, args.progress, &resume)
}

/// Runs what is not done yet and prints the summary. `resume` is the command that continues after a stop.
pub(super) fn execute_prepared(
    prepared: PreparedRun,
    options: &RunOptions,
    mode: ProgressMode,
    resume: &str,
) -> Result<Exit, Failure> {
    let progress = Arc::new(Progress::new());
    let started = || progress.snapshot().elapsed_s > 0.0;
    let report = runtime()?.block_on(async {
        let stop = StopSignal::listen()?;
        let mut display = ProgressDisplay::new(mode);
        let mut level = StopLevel::None;
        let run = prepared.run(options, progress.clone(), stop.clone());
        tokio::pin!(run);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            let next = match level {
                StopLevel::None => StopLevel::Drain,
                StopLevel::Drain => StopLevel::Stop,
                StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
            };
            tokio::select! {
                // A signal is acknowledged before its effect.
                biased;
                () = stop.reached(next), if level < StopLevel::Abort => {
                    level = stop.level();
                    display.print(stop_message(level));
                }
                report = &mut run => {
                    if started() {
                        display.end(&progress);
                    }
                    return report;
                }
                _ = tick.tick() => {
                    if started() {
                        display.poll(&progress);
                    }
                }
            }
        }
    });
    let report = report.map_err(|problem| match started() {
        true => Failure::internal(problem),
        false => problem.into(),
    })?;
    summary::print(&report, resume)
}

fn stop_message(level: StopLevel) -> &'static str {
    match level {
        StopLevel::None => "",
        StopLevel::Drain => "stopping: active runs finish, no new one starts; Ctrl+C again stops at the next turn",
        StopLevel::Stop => "stopping at the next turn; Ctrl+C again stops now",
        StopLevel::Abort => "stopping now",
    }
}

fn resume_command(args: &RunArgs) -> String {
    let mut command = format!("tiltmeter run {} --resume", path_text(&args.file));
    command.extend(args.out.iter().map(|out| format!(" --out {}", path_text(out))));
    command.extend(args.pull.iter().map(|name| format!(" --pull {}", escape(name))));
    command.extend(args.set.iter().map(|(key, value)| format!(" --set '{}={}'", escape(key), escape(value))));
    command
}

/// Waits for the Enter key, or for the end of standard input.
async fn wait_for_enter(text: String) {
    stderr(&format!("{text}\n"));
    // On a thread of its own, because reading blocks.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
}
