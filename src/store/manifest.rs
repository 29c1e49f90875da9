//! Owns the manifest: what made a run folder, when, from what, on which kind of machine, and what files came out.
//! No user name and no host name is in it.
//! Must not know: what a label or a metric means.

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

/// `manifest.json`. Written again, whole, whenever something in it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The program that wrote the folder.
    pub tool: Tool,
    /// When the first session began, RFC 3339 in UTC.
    pub started: Option<String>,
    /// When the last run was finished; absent while some are left.
    pub finished: Option<String>,
    /// BLAKE3 of the canonical plan.
    pub plan_hash: String,
    /// Changes to the plan that were accepted on a resume.
    pub accepted_drifts: Vec<Drift>,
    /// Every start of the program on this folder and how it ended.
    pub sessions: Vec<Session>,
    /// What is known of each model.
    pub models: Vec<Value>,
    /// Axis name to the hash of its file.
    pub axis_hashes: BTreeMap<String, String>,
    /// Where the tensors were.
    pub device: Option<String>,
    /// In which number format.
    pub dtype: Option<String>,
    /// In which keys and values were kept.
    pub kv_dtype: Option<String>,
    /// The machine, as far as numbers depend on it.
    pub host: Host,
    /// What was written.
    pub files: Vec<FileEntry>,
    /// Work that was done, by unit.
    pub work: BTreeMap<String, u64>,
    /// Whatever else a kind of experiment wants to have on record.
    pub notes: BTreeMap<String, Value>,
}

/// The program and the source it was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tool {
    /// Name of the program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The source, where it is known.
    pub source: Option<SourceVersion>,
}

/// A commit, and whether files differed from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceVersion {
    /// Full commit id.
    pub commit: String,
    /// Whether tracked files had uncommitted changes.
    pub dirty: bool,
}

/// Declared once by the program, whose build script alone knows it: a library that asked git would be rebuilt at every commit.
static OF_PROGRAM: OnceLock<SourceVersion> = OnceLock::new();

impl SourceVersion {
    /// Sets the version that `of_program` returns; later calls change nothing.
    pub fn declare(self) {
        let _ = OF_PROGRAM.set(self);
    }

    /// The source that the running program was built from; `None` outside a repository.
    pub fn of_program() -> Option<&'static SourceVersion> {
        OF_PROGRAM.get()
    }

    /// The commit id, with `-dirty` appended where files differed from it.
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
    /// RFC 3339 in UTC; absent where the program was killed or is still running.
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
    /// Every run was done or had failed.
    Finished,
    /// No new run was started any more; those that ran were finished.
    Drained,
    /// Runs were left at their next step.
    Stopped,
    /// Runs were left where they were.
    Aborted,
    /// The session left no word: it was killed, lost power or disk, or is still running.
    #[default]
    Unknown,
}

/// One field in which two plans differ; `None` where the field is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The field, as in `conditions[1].system_prompt`.
    pub path: String,
    /// What the recorded plan says.
    pub was: Option<Value>,
    /// What the plan says now.
    pub is: Option<Value>,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, is {}", self.path, shown(self.was.as_ref()), shown(self.is.as_ref()))
    }
}

/// Long values are cut for the eye; the whole ones are in the two plans.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 72;
    let Some(value) = value else { return "not there".to_owned() };
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}… ({} characters)", &text[..cut], text.chars().count()),
        None => text,
    }
}

/// What numbers may depend on besides device and format.
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

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the run folder, or to the project root for a copy in a shared place; `/` between the parts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl FileEntry {
    /// Reads `path` once and describes it, relative to the first of `roots` it lies under.
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
            // A path outside of all roots would show where somebody keeps their files.
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
    /// Replaces the file, whole.
    pub fn write(&self, path: &Path) -> Result<(), Problem> {
        write_json_atomic(path, self)
    }

    /// Reads it back; fields a later version added are ignored, fields an earlier one lacked are empty.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let bytes = fs::read(path).map_err(|error| cannot_read(path, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Problem::new(format!("not a manifest: {error}"))
                .at(path.display().to_string())
                .hint("the file can be deleted: it is written again from the journal")
        })
    }
}

/// A moment as RFC 3339 in UTC, to the second.
pub fn timestamp(moment: OffsetDateTime) -> String {
    let moment = moment.to_offset(time::UtcOffset::UTC);
    let whole = moment.replace_nanosecond(0).unwrap_or(moment);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back() {
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
    fn a_long_value_is_cut_between_characters() {
        let drift = Drift { path: "p".to_owned(), was: Some("ü".repeat(500).into()), is: None };
        assert!(drift.to_string().ends_with("… (502 characters), is not there"), "{drift}");
    }
}
