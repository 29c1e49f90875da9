//! `slurm`: runs a batch as a Slurm job array.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Exit, Failure,
    args::{parse_count, parse_set},
    progress::ProgressMode,
    run, status,
    terminal::{Paint, counted, escape, path_text, stdout},
};
use crate::session::{self, ModelOptions, Resources, SlurmRequest, Submitted};

/// Run a batch as a Slurm job array on machines that share the run folder.
#[derive(Subcommand, Clone, Debug)]
pub enum SlurmCommand {
    Submit(SubmitArgs),
    /// Show the queue and the state of a run folder.
    Status(DirArgs),
    Retry(RetryArgs),
    /// Write the files of the whole batch from the tasks' journals.
    Collect(DirArgs),
}

/// Freeze an experiment and submit all of its runs to Slurm.
///
/// Each task writes its own journal, from which it continues after a requeue or a time limit.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter slurm submit experiments/demo.yaml --time 01:00:00 --mem 8G --gres gpu:1
  tiltmeter slurm submit experiments/demo.yaml --runs-per-task 4 --at-once 16 --dry-run
  tiltmeter slurm submit experiments/demo.yaml --pull 16")]
pub struct SubmitArgs {
    /// Experiment file: YAML, or JSON if its name ends in .json
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Run folder [default: data/runs/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Override a key of the experiment, by dotted path; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Print the script without submitting it
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// Resubmit runs that are neither done nor queued.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter slurm retry data/runs/demo --time 02:00:00
  tiltmeter slurm retry data/runs/deception --set budget_limit=40")]
pub struct RetryArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Override an execution setting, such as budget_limit, by dotted path; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    #[command(flatten)]
    pub resources: ResourceArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter slurm status data/runs/demo
  tiltmeter slurm collect data/runs/demo")]
pub struct DirArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct ResourceArgs {
    /// Time limit per task
    #[arg(long, value_name = "HH:MM:SS", default_value = "00:30:00", value_parser = plain)]
    pub time: String,
    /// Memory per task
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = plain)]
    pub mem: String,
    /// CPUs per task
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    pub cpus: usize,
    /// Partition
    #[arg(long, value_name = "NAME", value_parser = plain)]
    pub partition: Option<String>,
    /// Generic resources, such as gpu:1
    #[arg(long, value_name = "LIST", value_parser = plain)]
    pub gres: Option<String>,
    /// Account to charge
    #[arg(long, value_name = "NAME", value_parser = plain)]
    pub account: Option<String>,
    /// Maximum concurrent tasks [default: no limit]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub at_once: Option<usize>,
    /// Runs per task, for short runs
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    pub runs_per_task: usize,
    /// Submit N tasks that claim runs one by one, so that no slow run delays the others
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "runs_per_task")]
    pub pull: Option<usize>,
}

/// A word that is safe in an #SBATCH directive.
fn plain(text: &str) -> Result<String, String> {
    let safe = |c: char| c.is_ascii_alphanumeric() || "._-:,=/@+".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        return Ok(text.to_owned());
    }
    Err("write one word of letters, digits and . _ - : , = / @ +".to_owned())
}

impl ResourceArgs {
    fn resources(&self) -> Resources {
        Resources {
            time: self.time.clone(),
            mem: self.mem.clone(),
            cpus: self.cpus,
            partition: self.partition.clone(),
            gres: self.gres.clone(),
            account: self.account.clone(),
            at_once: self.at_once,
        }
    }

    fn request(&self) -> SlurmRequest {
        SlurmRequest {
            file: PathBuf::new(),
            set: Vec::new(),
            out: None,
            runs_per_task: self.runs_per_task,
            pull: self.pull,
            resources: self.resources(),
            dry_run: false,
        }
    }
}

pub(super) fn execute(command: SlurmCommand) -> Result<Exit, Failure> {
    match command {
        SlurmCommand::Submit(args) => {
            let SubmitArgs { file, out, set, dry_run, resources } = args;
            let request = SlurmRequest { file, out, set, dry_run, ..resources.request() };
            print(&session::slurm_submit(&request, &ModelOptions::default())?, dry_run)
        }
        SlurmCommand::Retry(args) => {
            let request = SlurmRequest { set: args.set, ..args.resources.request() };
            match session::slurm_retry(&args.folder, &request, &ModelOptions::default())? {
                Some(submitted) => print(&submitted, false),
                None => {
                    stdout("every run is done or in the queue\n")?;
                    Ok(Exit::Done)
                }
            }
        }
        SlurmCommand::Status(args) => {
            let states = session::slurm_queue(&args.folder)?;
            let by_state: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
            let queue = if by_state.is_empty() { "no task".to_owned() } else { by_state.join(", ") };
            stdout(&format!("queue      {}\n", escape(&queue)))?;
            let folder = tiltmeter_store::RunFolder::at(&args.folder);
            if folder.holds_journal()? {
                stdout(&status::render(&tiltmeter_scheduler::status(&folder)?, Paint::for_stdout()))?;
            }
            Ok(Exit::Done)
        }
        SlurmCommand::Collect(args) => {
            let (prepared, options) = session::slurm_collect(&args.folder, &ModelOptions::default())?;
            let resume = format!("tiltmeter slurm retry {}", path_text(&args.folder));
            run::execute_prepared(prepared, &options, ProgressMode::Auto, &resume)
        }
    }
}

fn print(submitted: &Submitted, dry_run: bool) -> Result<Exit, Failure> {
    let Submitted { folder, submission, script, runs } = submitted;
    if dry_run {
        stdout(script)?;
    }
    let jobs: Vec<&str> = submission.arrays.iter().map(|array| array.job.as_str()).collect();
    let tasks = counted(submission.count() as u64, "task");
    stdout(&format!("runs       {runs} in {tasks}\n"))?;
    stdout(&match jobs.is_empty() {
        true => "jobs       none (dry run)\n".to_owned(),
        false => format!("jobs       {}\n", jobs.join(", ")),
    })?;
    stdout(&format!("folder     {}\n", path_text(folder.dir())))?;
    Ok(Exit::Done)
}
