//! Tests of submissions whatever Slurm does with their tasks, with commands in the place of Slurm's that only say what
//! the test wants: the tasks are started by hand, from the scripts. The real one is in `cluster.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::tiltmeter;
use serde_json::json;
use tiltmeter_test_support::process::Finished;

use super::{done, exactly_once, experiment, scripted};

/// Slurm's commands: jobs are numbered from 101, and the queue is what the test says.
pub struct Pretended {
    dir: PathBuf,
    home: PathBuf,
    file: PathBuf,
    pub folder: PathBuf,
}

impl Pretended {
    pub fn new(home: &Path, file: &Path) -> Self {
        let dir = home.join("bin");
        fs::create_dir(&dir).unwrap();
        let own = Self { dir, home: home.to_owned(), file: file.to_owned(), folder: home.join("out") };
        let here = own.dir.display();
        own.command(
            "sbatch",
            &format!("n=$(($(cat {here}/last 2>/dev/null || echo 100) + 1)); echo $n | tee {here}/last"),
        );
        own.command("squeue", &format!("cat {here}/queue"));
        own.command("scontrol", "echo 'MaxArraySize = 1001'");
        own.queue("");
        own
    }

    fn command(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What is in the queue: `<job> <index> <state>` a line.
    pub fn queue(&self, lines: &str) {
        fs::write(self.dir.join("queue"), lines).unwrap();
    }

    /// `tiltmeter slurm …` where these commands are.
    pub fn slurm(&self, arguments: &[&str]) -> Finished {
        let path = format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap());
        Finished::of(tiltmeter(["slurm"]).args(arguments).env("PATH", path).current_dir(&self.home))
    }

    pub fn submit(&self, arguments: &[&str]) -> String {
        let (file, folder) = (self.file.to_str().unwrap(), self.folder.to_str().unwrap());
        self.slurm(&[&["submit", file, "--out", folder], arguments].concat()).success()
    }

    pub fn retry(&self, arguments: &[&str]) -> Finished {
        self.slurm(&[&["retry", self.folder.to_str().unwrap()], arguments].concat())
    }

    /// A task as its script starts it.
    pub fn task(&self, submission: usize, index: usize) -> Child {
        let script = self.folder.join(format!("slurm/task-{submission}.sh"));
        let mut command = Command::new("bash");
        command.arg(script).env("SLURM_ARRAY_TASK_ID", index.to_string()).current_dir(&self.home);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Carries a task out; its exit code and what it said.
    pub fn carry_out(&self, submission: usize, index: usize) -> Finished {
        self.task(submission, index).wait_with_output().unwrap().into()
    }
}

#[test]
fn workers_on_slurm_pull_and_what_the_dead_had_is_handed_in_again() {
    const RUNS: usize = 400;
    let home = tempfile::tempdir().unwrap();
    let file = experiment(home.path(), 2, RUNS, scripted(), json!({"parallel": 2}));
    let slurm = Pretended::new(home.path(), &file);
    let said = slurm.submit(&["--pull", "3"]);
    assert!(said.contains("runs       400 in 3 tasks"), "{said}");
    let again = slurm.slurm(&["submit", file.to_str().unwrap(), "--out", slurm.folder.to_str().unwrap()]);
    assert!(again.problems()[0].contains("submitted already"), "{}", again.stderr);

    // Two are killed in the middle; the third waits in the queue, so that the rest is its.
    let mut killed: Vec<Child> = (0..2).map(|index| slurm.task(1, index)).collect();
    std::thread::sleep(Duration::from_millis(150));
    for child in &mut killed {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    slurm.queue("101 2 PENDING\n");
    let begun = done(&slurm.folder).len();
    let dead = RUNS - begun;
    assert!(begun > 0 && dead > 0, "killed too soon or too late: {begun}");
    let claimed: usize = (0..2).map(|index| own_claims(&slurm.folder, 1, index)).sum();
    let finished = done(&slurm.folder).values().filter(|times| times.0 == 1).count();
    let said = slurm.retry(&["--pull", "2"]).success();
    if claimed > finished {
        assert!(said.contains(&format!("runs       {} in", claimed - finished)), "{said}\n{claimed} {finished}");
    }
    slurm.queue("101 2 PENDING\n102 0 PENDING\n102 1 PENDING\n");
    assert!(slurm.retry(&[]).success().contains("every run is done or in the queue"));
    let mut last = vec![slurm.task(1, 2)];
    if claimed > finished {
        last.extend((0..(claimed - finished).min(2)).map(|index| slurm.task(2, index)));
    }
    for child in last {
        Finished::from(child.wait_with_output().unwrap()).success();
    }
    slurm.queue("");
    assert!(slurm.retry(&[]).success().contains("every run is done or in the queue"));
    // What a killed worker had begun is gone on with from its journal by another, so two journals may have it; done it is once.
    let all = done(&slurm.folder);
    assert!(all.len() == RUNS && all.values().all(|times| times.0 == 1), "{all:?}");
    let said = slurm.slurm(&["collect", slurm.folder.to_str().unwrap()]).success();
    assert!(said.contains("Successful: 400") && said.contains("Failed: 0"), "{said}");
}

/// How many runs a task has claimed.
fn own_claims(folder: &Path, submission: usize, task: usize) -> usize {
    let dir = folder.join(format!("claims/runs-{submission}/.of-s{submission}-{task}"));
    fs::read_dir(dir).map_or(0, |entries| entries.flatten().filter(|entry| linked(&entry.path())).count())
}

fn linked(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().nlink() == 2
}

#[test]
fn a_task_reads_its_own_journal_and_those_it_goes_on_from_and_no_others() {
    let home = tempfile::tempdir().unwrap();
    let file = experiment(home.path(), 1, 6, scripted(), json!({}));
    let slurm = Pretended::new(home.path(), &file);
    slurm.submit(&["--runs-per-task", "2"]);
    slurm.carry_out(1, 0).success();
    // What another task left does not concern it, even if it cannot be read.
    let other = slurm.folder.join("journal-s1-2.jsonl");
    fs::write(&other, "nonsense\n").unwrap();
    slurm.carry_out(1, 1).success();
    fs::remove_file(&other).unwrap();
    slurm.retry(&[]).success();
    slurm.carry_out(2, 0).success();
    slurm.carry_out(2, 1).success();
    exactly_once(&slurm.folder, 6);
    // But what its own runs were begun in does.
    let mut third = slurm.folder.join("journal-s2-0.jsonl");
    fs::remove_file(&third).unwrap();
    slurm.retry(&[]).success();
    third = slurm.folder.join("journal-s2-0.jsonl");
    fs::write(&third, "nonsense\n").unwrap();
    let refused = slurm.carry_out(3, 0);
    assert!(refused.problems()[0].contains("line 1 of the journal is damaged"), "{}", refused.stderr);
}

#[test]
fn a_task_where_it_cannot_be_what_was_submitted_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let file = experiment(home.path(), 1, 4, scripted(), json!({}));
    let slurm = Pretended::new(home.path(), &file);
    slurm.submit(&[]);
    let refused = |ended: Finished, what: &str| {
        assert_eq!(ended.code, Some(2), "{what}\n{}", ended.stderr);
        assert!(ended.problems()[0].contains(what), "{what}\n{}", ended.stderr);
    };
    let task = |folder: &Path, task: &str| {
        let mut command = tiltmeter(["run", "--resume", "--task", task, "--out"]);
        Finished::of(command.arg(folder).arg(&file).current_dir(home.path()))
    };
    refused(task(&home.path().join("elsewhere"), "1.0"), "all machines of the cluster must share its disk");
    refused(task(&slurm.folder, "1.4"), "no task 4");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(r#""max_new_tokens":20"#, r#""max_new_tokens":21"#)).unwrap();
    refused(task(&slurm.folder, "1.0"), "no longer the one that was submitted");
    refused(slurm.retry(&[]), "no longer the one that was submitted");
    fs::write(&file, text.replace(r#""parallel""#, r#""budget_limit":1,"parallel""#)).unwrap();
    refused(task(&slurm.folder, "1.0"), "budget_limit was added or removed");
    slurm.queue("101 1 PENDING\n");
    refused(slurm.retry(&[]), "with and without a budget_limit");
    fs::write(&file, text).unwrap();
    fs::write(slurm.folder.join("slurm/submission-1.json"), "{").unwrap();
    refused(task(&slurm.folder, "1.0"), "not a submission");
}
