//! Slurm's commands (`sbatch`, `squeue`, `scontrol`) and their output.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::Array;
use tiltmeter_model::problem::Problem;

/// A queued or running task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub job: String,
    pub index: usize,
    /// `PENDING`, `RUNNING`, …
    pub state: String,
}

/// `MaxArraySize`, the exclusive upper bound of array indices; `None` if `scontrol` is not available.
pub fn max_array_size() -> Option<usize> {
    let output = Command::new("scontrol").args(["show", "config"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.trim_start().starts_with("MaxArraySize"))?;
    line.split('=').nth(1)?.trim().parse().ok()
}

/// Submits one array.
pub fn submit(script: &Path, offset: usize, tasks: usize, at_once: Option<usize>) -> Result<Array, Problem> {
    let limit = at_once.map(|most| format!("%{most}")).unwrap_or_default();
    let mut command = Command::new("sbatch");
    command.arg("--parsable").arg(format!("--array=0-{}{limit}", tasks - 1));
    // The offset is an argument of the script: with `--export`, Slurm would load the user's login environment before every task.
    command.arg(script).arg(offset.to_string());
    let output = stdout_of(command, "sbatch")?;
    // `<job>` or `<job>;<cluster>`.
    let job = output.trim().split(';').next().unwrap_or_default().to_owned();
    if job.is_empty() || !job.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(
            Problem::new(format!("sbatch printed no job id: {}", output.trim())).hint("check the queue with squeue")
        );
    }
    Ok(Array { job, offset, tasks })
}

/// The tasks of these arrays that are queued or running.
pub fn queued(arrays: &[Array]) -> Result<Vec<Queued>, Problem> {
    if arrays.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<&str> = arrays.iter().map(|array| array.job.as_str()).collect();
    let mut command = Command::new("squeue");
    command.args(["--noheader", "--array", "--format=%F %K %T", "--jobs", &jobs.join(",")]);
    match stdout_of(command, "squeue") {
        Ok(text) => Ok(text.lines().filter_map(parse).collect()),
        // Slurm removes jobs some time after they end.
        Err(problem) if problem.what.contains("Invalid job id") => Ok(Vec::new()),
        Err(problem) => Err(problem),
    }
}

fn parse(line: &str) -> Option<Queued> {
    let mut words = line.split_whitespace();
    let (job, index, state) = (words.next()?, words.next()?, words.next()?);
    Some(Queued { job: job.to_owned(), index: index.parse().ok()?, state: state.to_owned() })
}

fn stdout_of(mut command: Command, name: &str) -> Result<String, Problem> {
    let Output { status, stdout, stderr } = command.output().map_err(|error| {
        Problem::new(format!("{name} cannot be started: {error}")).hint(
            "run this on a node with Slurm's commands, such as a login node; --dry-run prints the script without them",
        )
    })?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&stderr);
    let why = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(Problem::new(format!("{name} failed: {why}")).hint("nothing was submitted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_squeue_are_parsed() {
        let queued = parse("26 17 RUNNING").unwrap();
        assert_eq!((queued.job.as_str(), queued.index, queued.state.as_str()), ("26", 17, "RUNNING"));
        assert_eq!(parse("26 N/A PENDING"), None);
        assert_eq!(parse(""), None);
    }
}
