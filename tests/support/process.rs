//! Runs the program as a child process and reads its output and the files it leaves.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::paths::repo;

/// A command in the repository's root, without a terminal, with both outputs captured.
pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, arguments: I) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(repo()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and output of a finished process.
#[derive(Clone, Debug)]
pub struct Finished {
    /// `None` if a signal ended the process.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Finished {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }

    /// Standard output; panics unless the exit code is 0.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The problems on standard error, each with its place and hint. Panics if one lacks a hint or the process panicked.
    pub fn problems(&self) -> Vec<String> {
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let mut problems: Vec<String> = Vec::new();
        for line in self.stderr.lines() {
            if line.starts_with("error: ") {
                problems.push(String::new());
            } else if !line.starts_with("  ") {
                continue;
            }
            if let Some(problem) = problems.last_mut() {
                *problem += &format!("{line}\n");
            }
        }
        for problem in &problems {
            assert!(problem.contains("\n  hint: "), "a problem without a hint:\n{problem}");
        }
        problems
    }
}

/// Every file below a folder, by its path relative to the folder.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(top, &path, found);
            } else {
                let name = path.strip_prefix(top).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}
