//! Owns what is written while runs go on: a run's own files as soon as the journal has what they are made of, the log of the sitting,
//! and the state that `status` shows from another terminal. All of it can be made again from the journal, so a disk that refuses a
//! file here is told of and stops no run.
//! Must not know: flags, terminal.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use tiltmeter_experiments::{BACKUPS, Kind, RunEnd, RunFile, RunRecord};
use tiltmeter_model::Model;
use tiltmeter_model::problem::Problem;
use tiltmeter_model::secret::Scrubber;
use tiltmeter_scheduler::{EventKind, Progress, RunHooks};
use tiltmeter_store::{Outcome, RunFolder, RunKey, safe_name, timestamp, write_json_atomic, write_text_atomic};

/// Asks a person to let a run go on.
pub type Pause = Arc<dyn Fn(&str) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Writes the files of runs.
pub struct ArtifactWriter {
    folder: RunFolder,
    kind: Box<dyn Kind>,
    /// Where backups go instead of the run folder.
    backups: Option<PathBuf>,
    pause: Option<Pause>,
    /// What stands in the folder before the first run.
    opening: Vec<RunFile>,
    progress: Arc<Progress>,
    refused: Mutex<Option<Problem>>,
    standing: Mutex<Standing>,
}

/// How far the batch is, and when that was last written.
#[derive(Default)]
struct Standing {
    done: BTreeSet<String>,
    written: Option<Instant>,
}

impl ArtifactWriter {
    pub fn new(
        folder: RunFolder,
        kind: Box<dyn Kind>,
        backups: Option<PathBuf>,
        pause: Option<Pause>,
        opening: Vec<RunFile>,
        progress: Arc<Progress>,
    ) -> Self {
        Self { folder, kind, backups, pause, opening, progress, refused: Mutex::default(), standing: Mutex::default() }
    }

    pub fn kind(&self) -> &dyn Kind {
        self.kind.as_ref()
    }

    /// Where backups go instead of the run folder.
    pub fn backups(&self) -> Option<&Path> {
        self.backups.as_deref()
    }

    /// What the batch has to show with one more run done, unless that was told a moment ago.
    fn standing(&self, done: String) -> Vec<RunFile> {
        // One of several processes knows only its own part of the batch.
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

    /// Writes the files of a run, and what the batch has to show with it.
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

/// Passes on what models have to say while runs go on; does not end by itself.
pub async fn pass_on(models: &[Arc<dyn Model>], progress: &Progress) {
    loop {
        tokio::time::sleep(NOTES_EVERY).await;
        pass_on_now(models, progress);
    }
}

pub fn pass_on_now(models: &[Arc<dyn Model>], progress: &Progress) {
    models.iter().flat_map(|model| model.take_notes()).for_each(|note| progress.note(note));
}

const NOTES_EVERY: Duration = Duration::from_millis(500);

/// How often at most the files of the batch are written while runs go on: they grow with it.
const STANDING_EVERY: Duration = Duration::from_secs(1);

/// Where a file of a run or of the batch stands.
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

/// Writes the file unless it stands there already.
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
        for file in &self.opening {
            // What several processes share is written by the first of them.
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

/// How often the log and the state are brought up to date.
const BEAT: Duration = Duration::from_millis(500);
/// Beats between two lines that say how far it is.
const LINE_EVERY: u32 = 60;

/// Writes `session.log` and `progress.json` while the runs go on.
pub struct SessionLog {
    folder: RunFolder,
    progress: Arc<Progress>,
    scrubber: Scrubber,
    next_event: u64,
    beats: u32,
}

impl SessionLog {
    pub fn new(folder: RunFolder, progress: Arc<Progress>, scrubber: Scrubber) -> Self {
        Self { folder, progress, scrubber, next_event: 0, beats: 0 }
    }

    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep(BEAT).await;
            self.beat();
        }
    }

    /// The state was for the time in which nothing else tells it.
    pub fn last_word(&mut self) {
        self.beats = 0;
        self.beat();
        if !self.folder.is_shared() {
            let _ = std::fs::remove_file(self.folder.progress());
        }
    }

    /// A diary that cannot be written is no reason to stop: the journal is what counts.
    fn beat(&mut self) {
        let now = timestamp(OffsetDateTime::now_utc());
        let snapshot = self.progress.snapshot();
        let mut text = String::new();
        for event in self.progress.events_since(self.next_event) {
            if event.number > self.next_event {
                text += &format!("{now} ({} lines more than could be kept)\n", event.number - self.next_event);
            }
            self.next_event = event.number + 1;
            let run = event.run.as_deref().filter(|_| event.kind == EventKind::Note);
            let run = run.map(|run| format!("{run}: ")).unwrap_or_default();
            text += &format!("{now} {run}{}\n", event.text.replace('\n', "\n    "));
        }
        if self.beats.is_multiple_of(LINE_EVERY) {
            let (done, failed, total) = (snapshot.done, snapshot.failed, snapshot.total);
            text += &format!("{now} {done}/{total} runs done, {failed} failed, {} under way\n", snapshot.running);
        }
        self.beats += 1;
        let log = OpenOptions::new().create(true).append(true).open(self.folder.session_log());
        if let Ok(mut log) = log
            && !text.is_empty()
        {
            let _ = log.write_all(self.scrubber.scrub(&text).as_bytes());
        }
        // There is one state to show, and only a process that has the folder to itself knows it.
        if !self.folder.is_shared() {
            let _ = write_json_atomic(&self.folder.progress(), &snapshot);
        }
    }
}
