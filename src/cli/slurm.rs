//! Owns the commands of a batch on a cluster.
//! Must not know: inference, HTTP.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    Exit, Failure,
    carry::carry_out,
    execute::shown,
    parse_count, parse_set,
    progress::ProgressMode,
    status,
    terminal::{Paint, escape, stdout},
};
use crate::session::{self, ModelOptions, Resources, SlurmRequest, Submitted};

/// Run a batch as a Slurm array, on machines that share the run folder.
#[derive(Subcommand, Clone, Debug)]
pub enum SlurmCommand {
    Submit(SubmitArgs),
    Status(DirArgs),
    Retry(RetryArgs),
    Collect(DirArgs),
}

/// Freeze an experiment and hand all of its runs to Slurm.
///
/// Each task writes its own journal; a task that is requeued, or told that its time is nearly up, goes on from it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter slurm submit experiments/demo.yaml --time 01:00:00 --mem 8G --gres gpu:1
  tiltmeter slurm submit experiments/demo.yaml --runs-per-task 4 --at-once 16 --dry-run
  tiltmeter slurm submit experiments/demo.yaml --pull 16")]
pub struct SubmitArgs {
    /// Experiment file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Folder for the results [default: data/runs/<experiment>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change a key of the experiment, by dotted path; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Show the script and submit nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// Hand in again what is neither done nor in the queue.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter slurm retry data/runs/demo --time 02:00:00
  tiltmeter slurm retry data/runs/deception --set budget_limit=40")]
pub struct RetryArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Change how the experiment is carried out, as budget_limit, by dotted path; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    #[command(flatten)]
    pub resources: ResourceArgs,
}

/// Show or put together what the tasks of a run folder left.
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
    /// Time of a task
    #[arg(long, value_name = "HH:MM:SS", default_value = "00:30:00", value_parser = plain)]
    pub time: String,
    /// Memory of a task
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = plain)]
    pub mem: String,
    /// CPUs of a task
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    pub cpus: usize,
    #[arg(long, value_name = "NAME", value_parser = plain)]
    pub partition: Option<String>,
    /// Generic resources, as in gpu:1
    #[arg(long, value_name = "LIST", value_parser = plain)]
    pub gres: Option<String>,
    #[arg(long, value_name = "NAME", value_parser = plain)]
    pub account: Option<String>,
    /// Tasks at the same time [default: as many as there is room for]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub at_once: Option<usize>,
    /// Short runs can share a task
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count)]
    pub runs_per_task: usize,
    /// So many tasks that each take the next run that nobody has: no slow one holds up the end
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "runs_per_task")]
    pub pull: Option<usize>,
}

/// A word that can stand in a directive.
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

pub fn execute(command: SlurmCommand) -> Result<Exit, Failure> {
    match command {
        SlurmCommand::Submit(args) => {
            let SubmitArgs { file, out, set, dry_run, resources } = args;
            let request = SlurmRequest { file, out, set, dry_run, ..resources.request() };
            tell(&session::slurm_submit(&request, &ModelOptions::default())?, dry_run)
        }
        SlurmCommand::Retry(args) => {
            let request = SlurmRequest { set: args.set, ..args.resources.request() };
            match session::slurm_retry(&args.folder, &request, &ModelOptions::default())? {
                Some(submitted) => tell(&submitted, false),
                None => {
                    stdout("every run is done or in the queue\n")?;
                    Ok(Exit::Done)
                }
            }
        }
        SlurmCommand::Status(args) => {
            let states = session::slurm_queue(&args.folder)?;
            let waiting: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
            let queue = if waiting.is_empty() { "no task".to_owned() } else { waiting.join(", ") };
            stdout(&format!("queue      {}\n", escape(&queue)))?;
            let folder = tiltmeter_store::RunFolder::at(&args.folder);
            if folder.holds_journal()? {
                stdout(&status::render(&tiltmeter_scheduler::status(&folder)?, Paint::for_stdout()))?;
            }
            Ok(Exit::Done)
        }
        SlurmCommand::Collect(args) => {
            let (prepared, running) = session::slurm_collect(&args.folder, &ModelOptions::default())?;
            let again = format!("tiltmeter slurm retry {}", shown(&args.folder));
            carry_out(prepared, &running, ProgressMode::Auto, &again)
        }
    }
}

fn tell(submitted: &Submitted, dry_run: bool) -> Result<Exit, Failure> {
    let Submitted { folder, submission, script, runs } = submitted;
    if dry_run {
        stdout(script)?;
    }
    let tasks = submission.count();
    let jobs: Vec<&str> = submission.arrays.iter().map(|array| array.job.as_str()).collect();
    stdout(&format!("runs       {runs} in {tasks} tasks\n"))?;
    stdout(&match jobs.is_empty() {
        true => "jobs       none: this was a dry run\n".to_owned(),
        false => format!("jobs       {}\n", jobs.join(", ")),
    })?;
    stdout(&format!("folder     {}\n", shown(folder.dir())))?;
    Ok(Exit::Done)
}
