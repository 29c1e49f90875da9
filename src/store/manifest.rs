//! `Manifest`: versions, plan hash, sessions, models, machine and files of a run folder. Contains no user name and no host name.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::files::{cannot_read, write_json_atomic};
use tiltmeter_model::problem::Problem;

/// `manifest.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// Program that wrote the folder.
    pub tool: Tool,
    /// Start of the first session, RFC 3339 in UTC.
    pub started: Option<String>,
    /// End of the session that finished the last run; absent while runs are pending.
    pub finished: Option<String>,
    /// BLAKE3 of the canonical plan.
    pub plan_hash: String,
    /// Plan changes accepted on a resume.
    pub accepted_drifts: Vec<Drift>,
    /// All sessions, oldest first.
    pub sessions: Vec<Session>,
    /// Card of each model.
    pub models: Vec<Value>,
    /// SHA-256 of each axis file, by axis.
    pub axis_hashes: BTreeMap<String, String>,
    /// Device of local models.
    pub device: Option<String>,
    /// Dtype of weights.
    pub dtype: Option<String>,
    /// Dtype of the KV cache.
    pub kv_dtype: Option<String>,
    /// Properties of the machine that can affect numbers.
    pub host: Host,
    /// Files of the run folder.
    pub files: Vec<FileEntry>,
    /// Finished work by unit.
    pub work: BTreeMap<String, u64>,
    /// Further entries, depending on the kind of experiment.
    pub notes: BTreeMap<String, Value>,
}

/// The program and the source it was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tool {
    /// Program name.
    pub name: String,
    /// Program version.
    pub version: String,
    /// Source version, if known.
    pub source: Option<SourceVersion>,
}

/// A commit, and whether files differ from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceVersion {
    /// Full commit id.
    pub commit: String,
    /// Whether tracked files had uncommitted changes.
    pub dirty: bool,
}

/// Set once by the program, because its build script reads it from git; a library doing so would be rebuilt at every commit.
static OF_PROGRAM: OnceLock<SourceVersion> = OnceLock::new();

impl SourceVersion {
    /// Sets the version that `of_program` returns; later calls change nothing.
    pub fn declare(self) {
        let _ = OF_PROGRAM.set(self);
    }

    /// Source of the running program; `None` outside a repository.
    pub fn of_program() -> Option<&'static SourceVersion> {
        OF_PROGRAM.get()
    }

    /// The commit id, followed by `-dirty` if files differ from it.
    pub fn label(&self) -> String {
        format!("{}{}", self.commit, if self.dirty { "-dirty" } else { "" })
    }
}

/// One start of the program on a run folder. `environment` and `work` stay out of the manifest's list of sessions: the manifest has
/// fields of its own for what they contain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// RFC 3339 in UTC.
    pub started: String,
    /// RFC 3339 in UTC; absent if the program was killed or is still running.
    pub ended: Option<String>,
    /// How it ended.
    pub how: SessionEnd,
    /// Model cards, axis hashes, program version and host, as passed to the scheduler; `Null` if nothing was.
    #[serde(skip)]
    pub environment: Value,
    /// Engine work of this session by unit; empty while it runs, and where the program was killed.
    #[serde(skip)]
    pub work: BTreeMap<String, u64>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// All runs are done or failed.
    Finished,
    /// Stopped after the runs in flight were finished.
    Drained,
    /// Runs were stopped at their next step, or a limit left runs pending.
    Stopped,
    /// Runs were dropped at once.
    Aborted,
    /// Not journaled: the program was killed, lost power or disk, or is still running.
    #[default]
    Unknown,
}

/// One field in which two plans differ; `None` if the field is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The field, as in `conditions[1].system_prompt`.
    pub path: String,
    /// Value in the journaled plan.
    pub was: Option<Value>,
    /// Value in the current plan.
    pub is: Option<Value>,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, is {}", self.path, shown(self.was.as_ref()), shown(self.is.as_ref()))
    }
}

/// Truncates long values.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 72;
    let Some(value) = value else { return "not there".to_owned() };
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}… ({} characters)", &text[..cut], text.chars().count()),
        None => text,
    }
}

/// Properties of a machine that can affect numbers, besides device and dtype.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// `linux`, `macos`, …
    pub os: String,
    /// `x86_64`, `aarch64`, …
    pub arch: String,
    /// Logical CPUs this process may use.
    pub cpus: usize,
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

/// A file with its size and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the run folder, or to the project root for a copy in a shared place, with `/` as separator.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

impl FileEntry {
    /// Hashes the file at `path`. Its path is relative to the first of `roots` that contains it.
    pub fn of(path: &Path, roots: &[&Path]) -> Result<Self, Problem> {
        let read = || -> io::Result<(u64, String)> {
            let mut file = fs::File::open(path)?;
            let mut hasher = Hashing(Sha256::new());
            let bytes = io::copy(&mut file, &mut hasher)?;
            Ok((bytes, hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
        };
        let (bytes, sha256) = read().map_err(|error| cannot_read(path, &error))?;
        let relative: PathBuf = match roots.iter().find_map(|root| path.strip_prefix(root).ok()) {
            Some(relative) => relative.to_path_buf(),
            // An absolute path would reveal names of local folders.
            None => path.file_name().map(PathBuf::from).unwrap_or_default(),
        };
        let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        Ok(Self { path: parts.join("/"), bytes, sha256 })
    }
}

struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Manifest {
    /// Replaces the file atomically.
    pub fn write(&self, path: &Path) -> Result<(), Problem> {
        write_json_atomic(path, self)
    }

    /// Reads a manifest. Unknown fields are ignored, missing ones are empty.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let bytes = fs::read(path).map_err(|error| cannot_read(path, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Problem::new(format!("not a manifest: {error}"))
                .at(path.display().to_string())
                .hint("delete the file: tiltmeter collect writes it again from the journal")
        })
    }
}

/// RFC 3339 in UTC, to the second.
pub fn timestamp(moment: OffsetDateTime) -> String {
    let moment = moment.to_offset(time::UtcOffset::UTC);
    let whole = moment.replace_nanosecond(0).unwrap_or(moment);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_round_trips() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        let file = folder.path().join("images/a.png");
        super::super::write_atomic(&file, b"abc").unwrap();
        let entry = FileEntry::of(&file, &[folder.path()]).unwrap();
        assert_eq!((entry.path.as_str(), entry.bytes), ("images/a.png", 3));
        assert_eq!(entry.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let started = timestamp(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(started, "1970-01-01T00:00:00Z");
        let manifest = Manifest {
            plan_hash: "ab".to_owned(),
            sessions: vec![Session { started, ..Session::default() }],
            accepted_drifts: vec![Drift { path: "a".to_owned(), was: None, is: Some(1.into()) }],
            files: vec![entry],
            host: Host::this(),
            ..Manifest::default()
        };
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        fs::write(&path, "{").unwrap();
        assert!(Manifest::read(&path).unwrap_err().hint.is_some());
    }

    #[test]
    fn a_long_value_is_truncated_between_characters() {
        let drift = Drift { path: "p".to_owned(), was: Some("ü".repeat(500).into()), is: None };
        assert!(drift.to_string().ends_with("… (502 characters), is not there"), "{drift}");
    }
}
