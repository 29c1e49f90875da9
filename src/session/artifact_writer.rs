//! Writes the files of a run as soon as the journal has its outcome. `collect` writes the same files again, so a failed write is a
//! warning and stops no run.

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tiltmeter_experiments::{BACKUPS, Kind, RunEnd, RunFile, RunRecord};
use tiltmeter_model::Model;
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Progress, RunHooks};
use tiltmeter_store::{Outcome, RunFolder, RunKey, safe_name, write_text_atomic};

/// Waits for the user before a run continues.
pub type Pause = Arc<dyn Fn(&str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Writes the files of runs while runs are under way.
pub struct ArtifactWriter {
    folder: RunFolder,
    kind: Arc<dyn Kind>,
    /// Folder for backups instead of the run folder.
    backups: Option<PathBuf>,
    pause: Option<Pause>,
    /// Files written before the first run.
    first_files: Vec<RunFile>,
    progress: Arc<Progress>,
    refused: Mutex<Option<Problem>>,
    standing: Mutex<Standing>,
}

/// Finished runs, and the time of the last write of the progress files.
#[derive(Default)]
struct Standing {
    done: BTreeSet<String>,
    written: Option<Instant>,
}

impl ArtifactWriter {
    pub fn new(
        folder: RunFolder,
        kind: Arc<dyn Kind>,
        backups: Option<PathBuf>,
        pause: Option<Pause>,
        first_files: Vec<RunFile>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            folder,
            kind,
            backups,
            pause,
            first_files,
            progress,
            refused: Mutex::default(),
            standing: Mutex::default(),
        }
    }

    /// Folder for backups instead of the run folder.
    pub fn backups(&self) -> Option<&Path> {
        self.backups.as_deref()
    }

    /// The progress files with one more finished run; none within `STANDING_EVERY` of the last write.
    fn standing(&self, done: String) -> Vec<RunFile> {
        // A worker sees only its own runs.
        if self.folder.is_shared() {
            return Vec::new();
        }
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.done.insert(done);
        if standing.written.is_some_and(|written| written.elapsed() < STANDING_EVERY) {
            return Vec::new();
        }
        standing.written = Some(Instant::now());
        let done: Vec<String> = standing.done.iter().cloned().collect();
        self.kind.standing(&done)
    }

    /// Writes the files of a run and the progress files of the batch.
    pub fn write(&self, ran: &RunRecord) {
        let standing = if ran.end == RunEnd::Done { self.standing(ran.key.id()) } else { Vec::new() };
        for file in self.kind.run_files(ran).into_iter().chain(standing) {
            if let Err(problem) = write_file(&self.folder, self.backups(), &file) {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                if refused.is_none() {
                    self.progress.note(format!("a file of {} cannot be written now: {problem}", ran.key.id()));
                    *refused = Some(problem);
                }
            }
        }
    }
}

/// Forwards the models' notes while runs are under way; never returns.
pub async fn forward_notes(models: &[Arc<dyn Model>], progress: &Progress) {
    loop {
        tokio::time::sleep(NOTES_EVERY).await;
        forward_notes_now(models, progress);
    }
}

pub fn forward_notes_now(models: &[Arc<dyn Model>], progress: &Progress) {
    models.iter().flat_map(|model| model.take_notes()).for_each(|note| progress.note(note));
}

const NOTES_EVERY: Duration = Duration::from_millis(500);

/// Shortest interval between writes of the progress files, which grow with the batch.
const STANDING_EVERY: Duration = Duration::from_secs(1);

/// Path of a file of a run or of the batch.
pub fn place(folder: &RunFolder, backups: Option<&Path>, file: &RunFile) -> Result<PathBuf, Problem> {
    let mut parts = file.path.split('/').peekable();
    let mut path = match backups {
        Some(dir) if parts.next_if_eq(&BACKUPS).is_some() => dir.to_owned(),
        _ => folder.dir().to_owned(),
    };
    for part in parts {
        path.push(safe_name(part)?);
    }
    Ok(path)
}

/// Writes the file unless it exists with the same content.
pub fn write_file(folder: &RunFolder, backups: Option<&Path>, file: &RunFile) -> Result<PathBuf, Problem> {
    let path = place(folder, backups, file)?;
    if std::fs::read(&path).is_ok_and(|found| found == file.text.as_bytes()) {
        return Ok(path);
    }
    write_text_atomic(&path, &file.text)?;
    Ok(path)
}

#[async_trait::async_trait]
impl RunHooks for ArtifactWriter {
    fn on_start(&self) -> Result<(), Problem> {
        for file in &self.first_files {
            // The first of several workers writes shared files.
            if !(self.folder.is_shared() && place(&self.folder, self.backups(), file)?.is_file()) {
                write_file(&self.folder, self.backups(), file)?;
            }
        }
        Ok(())
    }

    fn on_checkpoint(&self, key: &RunKey, outcome: &Outcome) {
        self.write(&RunRecord { key: key.clone(), outcome: Some(outcome.clone()), end: RunEnd::Pending });
    }

    fn on_done(&self, key: &RunKey, outcome: &Outcome) {
        self.write(&RunRecord { key: key.clone(), outcome: Some(outcome.clone()), end: RunEnd::Done });
    }

    async fn confirm(&self, text: &str) {
        if let Some(pause) = &self.pause {
            pause(text).await;
        }
    }
}
