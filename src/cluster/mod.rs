//! Batches on Slurm: which array index executes which runs, the batch script, submission, and the queue. Slurm's accounting is not
//! needed, because the journals contain all results. Tasks share runs and budget by claims in the run folder.
//!
//! A submission is a frozen list of tasks, each a list of run ids. Array indices must be below `MaxArraySize`, so a long list is
//! submitted as several arrays: task = offset + index.

mod script;
mod queue;

pub use queue::{Queued, max_array_size, queued, submit};
pub use script::{Resources, script};

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::Claims;
use tiltmeter_store::{RunFolder, write_json_atomic};

/// Tasks submitted to the cluster at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// From 1, in order of submission.
    pub number: usize,
    pub plan_hash: String,
    /// Absolute path of the experiment file, and the pairs of `--set`.
    pub file: PathBuf,
    pub set: Vec<(String, String)>,
    /// Run ids of each task.
    pub tasks: Vec<Vec<String>>,
    /// Number of tasks that share one list of runs (`tasks` has one entry) and claim them one by one.
    #[serde(default)]
    pub pull: Option<usize>,
    /// Limit shared by the tasks, in micro-dollars.
    #[serde(default)]
    pub budget_limit: Option<u64>,
    /// The Slurm arrays; empty until Slurm has accepted them.
    pub arrays: Vec<Array>,
}

/// One Slurm array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Job id.
    pub job: String,
    /// Number of the task at index 0.
    pub offset: usize,
    pub tasks: usize,
}

impl Submission {
    fn path(folder: &RunFolder, number: usize) -> PathBuf {
        folder.cluster_dir().join(format!("submission-{number}.json"))
    }

    pub fn write(&self, folder: &RunFolder) -> Result<(), Problem> {
        write_json_atomic(&Self::path(folder, self.number), self)
    }

    /// The submission of this number.
    pub fn read(folder: &RunFolder, number: usize) -> Result<Self, Problem> {
        let path = Self::path(folder, number);
        let place = || path.display().to_string();
        let text = std::fs::read(&path).map_err(|error| {
            Problem::new(format!("cannot read the submission: {error}")).at(place()).hint(
                "use the folder that `tiltmeter slurm submit` printed; all machines of the cluster must share its disk",
            )
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| Problem::new(format!("not a submission: {error}")).at(place()).hint("submit again"))
    }

    /// All submissions of a folder, in order.
    pub fn all(folder: &RunFolder) -> Result<Vec<Self>, Problem> {
        let mut found = Vec::new();
        while Self::path(folder, found.len() + 1).is_file() {
            found.push(Self::read(folder, found.len() + 1)?);
        }
        Ok(found)
    }

    /// Number of tasks.
    pub fn count(&self) -> usize {
        self.pull.unwrap_or(self.tasks.len())
    }

    /// Run ids of one task, or those it may claim.
    pub fn runs_of(&self, task: usize) -> Result<&[String], Problem> {
        let list = if self.pull.is_some() && task < self.count() { 0 } else { task };
        self.tasks.get(list).map(Vec::as_slice).ok_or_else(|| {
            Problem::new(format!("submission {} has {} tasks and no task {task}", self.number, self.count()))
                .hint("tasks are numbered from 0")
        })
    }

    /// Worker name of a task. It is the same after a requeue, so the task resumes its journal.
    pub fn worker(number: usize, task: usize) -> String {
        format!("s{number}-{task}")
    }

    /// Folder of the claims on runs.
    pub fn runs_dir(folder: &RunFolder, number: usize) -> PathBuf {
        folder.claims_dir(&format!("runs-{number}"))
    }

    /// Workers of this submission that may have started one of these runs.
    pub fn workers_of(&self, folder: &RunFolder, runs: &BTreeSet<&str>) -> Result<Vec<String>, Problem> {
        if self.pull.is_none() {
            let tasks = self.tasks.iter().enumerate();
            let own = tasks.filter(|(_, list)| list.iter().any(|run| runs.contains(run.as_str())));
            return Ok(own.map(|(task, _)| Self::worker(self.number, task)).collect());
        }
        let dir = Self::runs_dir(folder, self.number);
        let mut workers = BTreeSet::new();
        for run in self.tasks.first().into_iter().flatten().filter(|run| runs.contains(run.as_str())) {
            workers.extend(Claims::holder(&dir, run)?.map(|(worker, _)| worker));
        }
        Ok(workers.into_iter().collect())
    }

    /// Runs that the queued tasks with these numbers may still execute.
    pub fn busy(&self, folder: &RunFolder, queued: &BTreeSet<usize>) -> Result<BTreeSet<String>, Problem> {
        if queued.is_empty() {
            return Ok(BTreeSet::new());
        }
        if self.pull.is_none() {
            return Ok(queued.iter().filter_map(|task| self.tasks.get(*task)).flatten().cloned().collect());
        }
        let workers: BTreeSet<String> = queued.iter().map(|task| Self::worker(self.number, *task)).collect();
        let dir = Self::runs_dir(folder, self.number);
        let mut busy = BTreeSet::new();
        for run in self.tasks.first().into_iter().flatten() {
            // Unclaimed runs may be claimed by any queued task.
            if Claims::holder(&dir, run)?.is_none_or(|(worker, _)| workers.contains(&worker)) {
                busy.insert(run.clone());
            }
        }
        Ok(busy)
    }
}

/// Splits runs into tasks of `per_task` runs.
pub fn pack(runs: &[String], per_task: usize) -> Vec<Vec<String>> {
    runs.chunks(per_task.max(1)).map(<[String]>::to_vec).collect()
}

/// Splits tasks into arrays, as `(offset, tasks)`.
pub fn parts(tasks: usize, max_array_size: usize) -> Vec<(usize, usize)> {
    let most = max_array_size.max(1);
    (0..tasks).step_by(most).map(|offset| (offset, most.min(tasks - offset))).collect()
}

/// Makes a path independent of the current folder.
pub fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path)
        .map_err(|error| Problem::new(format!("no absolute path: {error}")).at(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_in_one_task_and_every_task_in_one_array() {
        let runs: Vec<String> = (0..10).map(|n| format!("a-{n:03}")).collect();
        let tasks = pack(&runs, 3);
        assert_eq!(tasks.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
        assert_eq!(tasks.concat(), runs);
        assert_eq!(parts(4, 1001), [(0, 4)]);
        assert_eq!(parts(2500, 1000), [(0, 1000), (1000, 1000), (2000, 500)]);
        assert_eq!(parts(0, 1000), []);
    }
}
