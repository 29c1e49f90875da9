//! `RunFolder`: the paths in a run folder, and the shared folders that get copies of its exports. In the default place, transcripts are
//! copied to `data/generated_transcripts/` and figures to `images/`, as in the original study. A folder named by the user contains
//! everything itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use time::{OffsetDateTime, macros::format_description};

use super::files::{WRITING, cannot_read, cannot_write, safe_name};
use tiltmeter_model::problem::Problem;

/// Maximum depth of folders below a run folder: `<pair>/<level>/result.json`, `runs/<run>/metrics.json`.
const MAX_DEPTH: usize = 3;

/// Removes temporary files from a folder and its subfolders, except from other run folders.
fn remove_temporary_files(dir: &Path, deeper: usize) -> Result<(), Problem> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(()),
        Err(error) => return Err(cannot_read(dir, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| cannot_read(dir, &error))?;
        // Symbolic links are not followed: their targets do not belong to the run.
        let (path, kind) = (entry.path(), entry.file_type().map_err(|error| cannot_read(dir, &error))?);
        let name = entry.file_name();
        if kind.is_file() && name.to_str().is_some_and(|name| name.starts_with(WRITING)) {
            fs::remove_file(&path).map_err(|error| cannot_write(&path, &error))?;
        } else if kind.is_dir() && deeper > 0 && RunFolder::at(&path).journals().is_ok_and(|found| found.is_empty()) {
            remove_temporary_files(&path, deeper - 1)?;
        }
    }
    Ok(())
}

/// A folder with the journal of one experiment and all files derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    dir: PathBuf,
    /// Project root whose shared folders get a copy of the exports; `None` for a folder named by the user.
    shared: Option<PathBuf>,
    /// Name of this worker, if several processes write to the folder.
    worker: Option<String>,
    /// Workers whose journals are resumed; `None`: all.
    earlier: Option<Vec<String>>,
}

impl RunFolder {
    /// Creates `<base>/data/runs/<experiment>/<YYYYMMDD-HHMMSS>-<first 8 of the plan's hash>/` (UTC), with a suffix if that name is
    /// taken.
    pub fn create(base: &Path, experiment: &str, plan_hash: &str) -> Result<Self, Problem> {
        let parent = runs_of(base, experiment)?;
        fs::create_dir_all(&parent).map_err(|error| cannot_write(&parent, &error))?;
        let format = format_description!("[year][month][day]-[hour][minute][second]");
        let Ok(time) = OffsetDateTime::now_utc().format(&format) else {
            return Err(Problem::new("the clock of this machine has no valid date"));
        };
        let name = format!("{time}-{}", short(plan_hash));
        for attempt in 1_u32.. {
            let dir = parent.join(if attempt == 1 { name.clone() } else { format!("{name}-{attempt}") });
            // Unlike `create_dir_all`, `create_dir` succeeds for only one of two processes that start in the same second.
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Self { dir, shared: Some(base.to_path_buf()), worker: None, earlier: None }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_write(&dir, &error)),
            }
        }
        Err(Problem::new("no free name for a run folder").at(parent.display().to_string()))
    }

    /// A folder named by the user; it need not exist.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), shared: None, worker: None, earlier: None }
    }

    /// The folder as seen by one of several workers, each of which writes its own journal.
    pub fn for_worker(&self, name: &str) -> Result<Self, Problem> {
        Ok(Self { worker: Some(safe_name(name)?.to_owned()), ..self.clone() })
    }

    /// Limits the journals to resume to those of these workers: no others contain the runs of this worker. Reading all journals would
    /// take each worker time proportional to the number of workers.
    pub fn resuming_only(self, workers: Vec<String>) -> Self {
        Self { earlier: Some(workers), ..self }
    }

    /// Whether this process is one of several workers.
    pub fn is_shared(&self) -> bool {
        self.worker.is_some()
    }

    /// All folders in the default place that contain a journal, oldest first.
    pub fn begun(base: &Path, experiment: &str) -> Result<Vec<Self>, Problem> {
        let parent = runs_of(base, experiment)?;
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot_read(&parent, &error)),
        };
        let mut begun = Vec::new();
        for entry in entries {
            let dir = entry.map_err(|error| cannot_read(&parent, &error))?.path();
            let folder = Self { shared: Some(base.to_path_buf()), dir, worker: None, earlier: None };
            let Some(age) = folder.age_key() else { continue };
            if folder.holds_journal()? {
                begun.push((age, folder));
            }
        }
        begun.sort_by_key(|(age, _)| *age);
        Ok(begun.into_iter().map(|(_, folder)| folder).collect())
    }

    /// The newest folder in the default place that contains a journal, with this plan or, for `None`, any plan.
    pub fn latest(base: &Path, experiment: &str, plan_hash: Option<&str>) -> Result<Option<Self>, Problem> {
        let begun = Self::begun(base, experiment)?;
        Ok(begun.into_iter().rev().find(|folder| plan_hash.is_none_or(|hash| folder.is_of_plan(hash))))
    }

    /// Path of the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The frozen plan, as written from the journal.
    pub fn plan(&self) -> PathBuf {
        self.dir.join("plan.json")
    }

    /// The journal written by this process.
    pub fn journal(&self) -> PathBuf {
        match &self.worker {
            None => self.dir.join("journal.jsonl"),
            Some(worker) => self.dir.join(format!("journal-{worker}.jsonl")),
        }
    }

    /// Submissions to the cluster.
    pub fn cluster_dir(&self) -> PathBuf {
        self.dir.join("slurm")
    }

    /// All `journal*.jsonl` in the folder, sorted by name: one per worker.
    pub fn journals(&self) -> Result<Vec<PathBuf>, Problem> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot_read(&self.dir, &error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| cannot_read(&self.dir, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("journal") && name.ends_with(".jsonl") && path.is_file() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Names of the workers that have a journal.
    pub fn workers(&self) -> Result<Vec<String>, Problem> {
        let name = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix("journal-")?.strip_suffix(".jsonl")?;
            safe_name(name).ok().map(str::to_owned)
        };
        Ok(self.journals()?.iter().filter_map(name).collect())
    }

    /// The journals that this process resumes, other than its own.
    pub fn earlier_journals(&self) -> Result<Vec<PathBuf>, Problem> {
        let own = self.journal();
        let Some(workers) = &self.earlier else {
            return Ok(self.journals()?.into_iter().filter(|path| *path != own).collect());
        };
        // Also the journal of a process that was not a worker.
        let alone = Self { worker: None, ..self.clone() }.journal();
        let mut found = vec![alone];
        for worker in workers {
            found.push(self.for_worker(worker)?.journal());
        }
        Ok(found.into_iter().filter(|path| *path != own && path.is_file()).collect())
    }

    /// Folder for one kind of claims of the workers: on runs or on leases.
    pub fn claims_dir(&self, of: &str) -> PathBuf {
        self.dir.join("claims").join(of)
    }

    /// The manifest.
    pub fn manifest(&self) -> PathBuf {
        self.dir.join("manifest.json")
    }

    /// Dataset records of finished runs, one JSON object per line.
    pub fn game_logs(&self) -> PathBuf {
        self.dir.join("game_logs.jsonl")
    }

    /// Log of uploaded records.
    pub fn uploads(&self) -> PathBuf {
        self.dir.join("uploads.json")
    }

    /// The report in Markdown.
    pub fn report(&self) -> PathBuf {
        self.dir.join("report.md")
    }

    /// Mean hidden states of turns.
    pub fn vectors(&self) -> PathBuf {
        self.dir.join("vectors.safetensors")
    }

    /// Log of all sessions.
    pub fn session_log(&self) -> PathBuf {
        self.dir.join("session.log")
    }

    /// Latest progress snapshot of the session that writes the folder.
    pub fn progress(&self) -> PathBuf {
        self.dir.join("progress.json")
    }

    /// The methods section.
    pub fn methods(&self) -> PathBuf {
        self.dir.join("methods.md")
    }

    /// `<experiment>_summary.json`.
    pub fn summary(&self, experiment: &str) -> Result<PathBuf, Problem> {
        Ok(self.dir.join(format!("{}_summary.json", safe_name(experiment)?)))
    }

    /// Transcripts in the run folder.
    pub fn transcripts_dir(&self) -> PathBuf {
        self.dir.join("generated_transcripts")
    }

    /// Figures in the run folder.
    pub fn images_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Where a copy of this transcript or figure belongs, outside the run folder; `None` for other files and for folders that the user
    /// named.
    pub fn shared_copy(&self, path: &Path) -> Option<PathBuf> {
        let base = self.shared.as_ref()?;
        let transcript = path
            .strip_prefix(self.transcripts_dir())
            .map(|name| ["data", "generated_transcripts"].iter().collect::<PathBuf>().join(name));
        let figure = || path.strip_prefix(self.images_dir()).map(|name| Path::new("images").join(name));
        Some(base.join(transcript.or_else(|_| figure()).ok()?))
    }

    /// Removes temporary files of a killed process. Does nothing if other processes may write to the folder, because their temporary
    /// files may be in use.
    pub fn remove_temporary_files(&self) -> Result<(), Problem> {
        let own = self.journal();
        if self.worker.is_some() || self.journals()?.iter().any(|journal| *journal != own) {
            return Ok(());
        }
        remove_temporary_files(&self.dir, MAX_DEPTH)
    }

    /// Whether the folder contains a journal that is not empty.
    pub fn holds_journal(&self) -> Result<bool, Problem> {
        for path in self.journals()? {
            let length = fs::metadata(&path).map_err(|error| cannot_read(&path, &error))?.len();
            if length > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Refuses a folder that already contains a journal. Checked before anything is spent, and again by the scheduler.
    pub fn require_unused(&self) -> Result<(), Problem> {
        if self.holds_journal()? {
            return Err(Problem::new("this folder already contains the journal of a run")
                .at(self.dir.display().to_string())
                .hint("resume it with --resume, or choose another folder with --out"));
        }
        Ok(())
    }

    /// Date, time and suffix in the name of a default folder; `None` for other names.
    fn age_key(&self) -> Option<AgeKey> {
        let name = self.dir.file_name()?.to_str()?;
        let mut parts = name.split('-');
        let (date, time, _hash) = (parts.next()?, parts.next()?, parts.next()?);
        let suffix = parts.next().map_or(Ok(1), str::parse).ok()?;
        Some((date.parse().ok()?, time.parse().ok()?, suffix))
    }

    /// Decides by `plan.json`, or by the folder's name if that file is missing.
    fn is_of_plan(&self, hash: &str) -> bool {
        let recorded = fs::read(self.plan()).ok().and_then(|bytes| {
            let plan: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            Some(plan.get("hash")?.as_str()?.to_owned())
        });
        match recorded {
            Some(recorded) => recorded == hash,
            None => {
                self.dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('-').nth(2))
                    == Some(short(hash))
            }
        }
    }
}

/// Date, time and suffix in a folder's name.
type AgeKey = (u64, u64, u32);

fn runs_of(base: &Path, experiment: &str) -> Result<PathBuf, Problem> {
    Ok(base.join("data").join("runs").join(safe_name(experiment)?))
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_folders_have_distinct_names_and_the_newest_is_found() {
        let base = tempfile::tempdir().unwrap();
        let hash = "0123456789abcdef";
        let folders: Vec<_> = (0..12).map(|_| RunFolder::create(base.path(), "003b", hash).unwrap()).collect();
        assert_eq!(RunFolder::latest(base.path(), "003b", Some(hash)).unwrap(), None, "none has a journal");
        for folder in &folders {
            fs::write(folder.journal(), "x").unwrap();
        }
        fs::create_dir_all(base.path().join("data/runs/003b/notes")).unwrap();
        assert_eq!(RunFolder::latest(base.path(), "003b", Some(hash)).unwrap().as_ref(), folders.last());
        assert_eq!(RunFolder::latest(base.path(), "003b", None).unwrap().as_ref(), folders.last());
        assert_eq!(RunFolder::latest(base.path(), "003b", Some("ffffffff00")).unwrap(), None);
        assert_eq!(RunFolder::latest(base.path(), "other", None).unwrap(), None);
    }

    #[test]
    fn a_plan_file_takes_precedence_over_the_name() {
        let base = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(base.path(), "e", "aaaaaaaaaaaa").unwrap();
        fs::write(folder.journal(), "x").unwrap();
        fs::write(folder.plan(), r#"{"hash": "bbbbbbbbbbbb", "document": {}}"#).unwrap();
        assert_eq!(RunFolder::latest(base.path(), "e", Some("aaaaaaaaaaaa")).unwrap(), None);
        assert_eq!(RunFolder::latest(base.path(), "e", Some("bbbbbbbbbbbb")).unwrap(), Some(folder));
    }

    #[test]
    fn only_runs_in_the_default_place_have_shared_copies() {
        assert_eq!(RunFolder::at("out").shared_copy(Path::new("out/images/a.png")), None);
        let base = tempfile::tempdir().unwrap();
        let default = RunFolder::create(base.path(), "e", "aaaaaaaaaaaa").unwrap();
        let copy = |name: &str| default.shared_copy(&default.dir().join(name));
        assert_eq!(copy("generated_transcripts/a.json"), Some(base.path().join("data/generated_transcripts/a.json")));
        assert_eq!(copy("images/a.png"), Some(base.path().join("images/a.png")));
        assert_eq!(copy("report.md"), None);
        assert!(RunFolder::create(base.path(), "../e", "aa").is_err());
    }

    #[test]
    fn only_temporary_files_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(base.path());
        folder.remove_temporary_files().unwrap();
        let all = [
            ".writing-a",
            "images/.writing-b",
            "images/a.png",
            ".hidden",
            "writing-c",
            "runs/r-001/.writing-d",
            "runs/r-001/log",
            "other/journal.jsonl",
            "other/.writing-e",
            "other/images/.writing-f",
        ];
        for name in all {
            fs::create_dir_all(base.path().join(name).parent().unwrap()).unwrap();
            fs::write(base.path().join(name), "x").unwrap();
        }
        folder.remove_temporary_files().unwrap();
        let left: Vec<&str> = all.into_iter().filter(|name| base.path().join(name).exists()).collect();
        let other = ["other/journal.jsonl", "other/.writing-e", "other/images/.writing-f"];
        let expected = ["images/a.png", ".hidden", "writing-c", "runs/r-001/log"].into_iter().chain(other);
        assert_eq!(left, expected.collect::<Vec<_>>(), "other run folders are not touched");
    }

    #[test]
    fn a_used_folder_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(base.path().join("out"));
        folder.require_unused().unwrap();
        fs::create_dir_all(folder.dir()).unwrap();
        fs::write(folder.dir().join("journal-3.jsonl"), "x").unwrap();
        assert!(folder.require_unused().unwrap_err().hint.unwrap().contains("--resume"));
    }
}
