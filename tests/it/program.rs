//! Owns running the program as a person does: as a process with arguments and a folder to stand in, and what it says and leaves.
//! Must not know: how anything is done inside.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A path of the repository, whole, so that it holds wherever the program stands.
pub fn in_root(path: &str) -> String {
    Path::new(ROOT).join(path).display().to_string()
}

/// The program, standing at the top of the repository, without a person at the keyboard.
pub fn tiltmeter<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(arguments: I) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiltmeter"));
    command.args(arguments).current_dir(ROOT).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a process said, and how it ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }

    /// What it printed, of a process that did all it was asked for.
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self.out
    }

    /// The problems on standard error, each with its place and hint. Anything else there that looks like a mistake is one here.
    pub fn problems(&self) -> Vec<String> {
        assert!(!self.err.contains("panicked"), "{}", self.err);
        let mut problems: Vec<String> = Vec::new();
        for line in self.err.lines() {
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

/// Every file under a folder by its path in it.
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

pub fn json(path: impl AsRef<Path>) -> Value {
    let path: PathBuf = path.as_ref().into();
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
