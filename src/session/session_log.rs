//! `session.log`, and `progress.json`, which `status` and `watch` read from another process.

use std::{fs::OpenOptions, io::Write, sync::Arc, time::Duration};

use time::OffsetDateTime;

use tiltmeter_model::secret::Scrubber;
use tiltmeter_scheduler::{EventKind, Progress};
use tiltmeter_store::{RunFolder, timestamp, write_json_atomic};

/// Interval between updates.
const UPDATE_EVERY: Duration = Duration::from_millis(500);
/// Updates between two progress lines.
const LINE_EVERY: u32 = 60;

/// Writes both files while runs are under way.
pub struct SessionLog {
    folder: RunFolder,
    progress: Arc<Progress>,
    scrubber: Scrubber,
    next_event: u64,
    updates: u32,
}

impl SessionLog {
    pub fn new(folder: RunFolder, progress: Arc<Progress>, scrubber: Scrubber) -> Self {
        Self { folder, progress, scrubber, next_event: 0, updates: 0 }
    }

    pub async fn write_periodically(&mut self) {
        loop {
            tokio::time::sleep(UPDATE_EVERY).await;
            self.update();
        }
    }

    /// Writes the last lines and removes `progress.json`.
    pub fn finish(&mut self) {
        self.updates = 0;
        self.update();
        if !self.folder.is_shared() {
            let _ = std::fs::remove_file(self.folder.progress());
        }
    }

    /// A failed write stops nothing: the journal has everything.
    fn update(&mut self) {
        let now = timestamp(OffsetDateTime::now_utc());
        let snapshot = self.progress.snapshot();
        let mut text = String::new();
        for event in self.progress.events_since(self.next_event) {
            if event.number > self.next_event {
                text += &format!("{now} ({} earlier lines were dropped)\n", event.number - self.next_event);
            }
            self.next_event = event.number + 1;
            let run = event.run.as_deref().filter(|_| event.kind == EventKind::Note);
            let run = run.map(|run| format!("{run}: ")).unwrap_or_default();
            text += &format!("{now} {run}{}\n", event.text.replace('\n', "\n    "));
        }
        if self.updates.is_multiple_of(LINE_EVERY) {
            let (done, failed, total) = (snapshot.done, snapshot.failed, snapshot.total);
            text += &format!("{now} {done}/{total} runs done, {failed} failed, {} under way\n", snapshot.running);
        }
        self.updates += 1;
        let log = OpenOptions::new().create(true).append(true).open(self.folder.session_log());
        if let Ok(mut log) = log
            && !text.is_empty()
        {
            let _ = log.write_all(self.scrubber.scrub(&text).as_bytes());
        }
        // Only a process that has the folder to itself knows the state of the batch.
        if !self.folder.is_shared() {
            let _ = write_json_atomic(&self.folder.progress(), &snapshot);
        }
    }
}
