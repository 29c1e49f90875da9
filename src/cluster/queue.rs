//! Owns talking with Slurm: its commands, and reading what they say.
//! Must not know: kinds, models, what a run does.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::Array;
use tiltmeter_model::problem::Problem;

/// A task that is in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub job: String,
    pub index: usize,
    /// `PENDING`, `RUNNING`, …
    pub state: String,
}

/// What an array's index must stay below; `None` where nobody can be asked.
pub fn max_array_size() -> Option<usize> {
    let output = Command::new("scontrol").args(["show", "config"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.trim_start().starts_with("MaxArraySize"))?;
    line.split('=').nth(1)?.trim().parse().ok()
}

/// Hands one array in; its job number.
pub fn submit(script: &Path, offset: usize, tasks: usize, at_once: Option<usize>) -> Result<Array, Problem> {
    let limit = at_once.map(|most| format!("%{most}")).unwrap_or_default();
    let mut command = Command::new("sbatch");
    command.arg("--parsable").arg(format!("--array=0-{}{limit}", tasks - 1));
    // As the script's argument: with a variable in `--export` Slurm would look up the user's login environment before every task.
    command.arg(script).arg(offset.to_string());
    let output = said(command, "sbatch")?;
    // `<job>` or `<job>;<cluster>`.
    let job = output.trim().split(';').next().unwrap_or_default().to_owned();
    if job.is_empty() || !job.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Problem::new(format!("sbatch named no job: {}", output.trim())).hint("look with squeue"));
    }
    Ok(Array { job, offset, tasks })
}

/// The tasks of these arrays that are still in the queue.
pub fn queued(arrays: &[Array]) -> Result<Vec<Queued>, Problem> {
    if arrays.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<&str> = arrays.iter().map(|array| array.job.as_str()).collect();
    let mut command = Command::new("squeue");
    command.args(["--noheader", "--array", "--format=%F %K %T", "--jobs", &jobs.join(",")]);
    match said(command, "squeue") {
        Ok(text) => Ok(text.lines().filter_map(parse).collect()),
        // Slurm forgets jobs some time after their end.
        Err(problem) if problem.what.contains("Invalid job id") => Ok(Vec::new()),
        Err(problem) => Err(problem),
    }
}

fn parse(line: &str) -> Option<Queued> {
    let mut words = line.split_whitespace();
    let (job, index, state) = (words.next()?, words.next()?, words.next()?);
    Some(Queued { job: job.to_owned(), index: index.parse().ok()?, state: state.to_owned() })
}

fn said(mut command: Command, name: &str) -> Result<String, Problem> {
    let Output { status, stdout, stderr } = command.output().map_err(|error| {
        Problem::new(format!("{name} cannot be started: {error}"))
            .hint("run this where Slurm's commands are, on a login node; --dry-run shows the script without them")
    })?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&stderr);
    let why = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(Problem::new(format!("{name} refused: {why}")).hint("see what the message names; nothing was submitted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_read_line_by_line() {
        let queued = parse("26 17 RUNNING").unwrap();
        assert_eq!((queued.job.as_str(), queued.index, queued.state.as_str()), ("26", 17, "RUNNING"));
        assert_eq!(parse("26 N/A PENDING"), None);
        assert_eq!(parse(""), None);
    }
}
