//! Owns the way of a batch through Slurm: which array index carries out which runs, the script of a task, submitting it, and what the
//! queue says of it. Slurm's accounting is not needed: what is done is in the journals. And how the processes of a batch, on Slurm or
//! begun by hand, share its runs and its budget: by claims in the run folder.
//!
//! A submission is frozen as a list of tasks, each a list of run ids. An array cannot have an index of `MaxArraySize` or more, so a
//! long list goes in as several arrays with an offset: task = offset + index.
//! Must not know: kinds, models, what a run does.

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

/// What was given to the cluster at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// From 1, in the order of submitting.
    pub number: usize,
    pub plan_hash: String,
    /// The experiment file, whole, and the pairs of `--set`.
    pub file: PathBuf,
    pub set: Vec<(String, String)>,
    /// Run ids of each task.
    pub tasks: Vec<Vec<String>>,
    /// So many tasks have one list together, the only one above: each takes the next run that nobody has.
    #[serde(default)]
    pub pull: Option<usize>,
    /// The limit that its tasks share, in micro-dollars.
    #[serde(default)]
    pub budget_limit: Option<u64>,
    /// The arrays it went in as; empty until Slurm has taken it.
    pub arrays: Vec<Array>,
}

/// One Slurm array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Slurm's number of the job.
    pub job: String,
    /// Task of its index 0.
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
            Problem::new(format!("cannot read what was submitted: {error}"))
                .at(place())
                .hint("give the folder that `tiltmeter slurm submit` named; it must be on a disk that all machines of the cluster share")
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| Problem::new(format!("not a submission: {error}")).at(place()).hint("submit again"))
    }

    /// All submissions of a folder, in their order.
    pub fn all(folder: &RunFolder) -> Result<Vec<Self>, Problem> {
        let mut found = Vec::new();
        while Self::path(folder, found.len() + 1).is_file() {
            found.push(Self::read(folder, found.len() + 1)?);
        }
        Ok(found)
    }

    /// How many tasks there are.
    pub fn count(&self) -> usize {
        self.pull.unwrap_or(self.tasks.len())
    }

    /// Run ids of one task, or those it may take from.
    pub fn runs_of(&self, task: usize) -> Result<&[String], Problem> {
        let list = if self.pull.is_some() && task < self.count() { 0 } else { task };
        self.tasks.get(list).map(Vec::as_slice).ok_or_else(|| {
            Problem::new(format!("submission {} has {} tasks, and no task {task}", self.number, self.count()))
                .hint("tasks count from 0")
        })
    }

    /// The journal of a task: the same after a requeue, so that it goes on where it was.
    pub fn worker(number: usize, task: usize) -> String {
        format!("s{number}-{task}")
    }

    /// Where its tasks claim runs.
    pub fn runs_dir(folder: &RunFolder, number: usize) -> PathBuf {
        folder.claims_dir(&format!("runs-{number}"))
    }

    /// The workers of this submission that may have begun one of these runs.
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

    /// What the tasks that are still in the queue have to do, by their numbers.
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
            // What nobody has yet will be taken.
            if Claims::holder(&dir, run)?.is_none_or(|(worker, _)| workers.contains(&worker)) {
                busy.insert(run.clone());
            }
        }
        Ok(busy)
    }
}

/// Puts so many runs into each task.
pub fn pack(runs: &[String], per_task: usize) -> Vec<Vec<String>> {
    runs.chunks(per_task.max(1)).map(<[String]>::to_vec).collect()
}

/// `(offset, tasks)` of the arrays that so many tasks take.
pub fn parts(tasks: usize, max_array_size: usize) -> Vec<(usize, usize)> {
    let most = max_array_size.max(1);
    (0..tasks).step_by(most).map(|offset| (offset, most.min(tasks - offset))).collect()
}

/// A path that holds wherever a task starts.
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
