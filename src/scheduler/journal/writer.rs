//! `Journal`: appends entries durably. One thread writes and syncs; entries handed over during a sync share the next one (group
//! commit), so 48 runs cost one `fdatasync` and not 48.
//!
//! An entry is acknowledged only once it is durable. The first disk error closes the journal: after a failed sync, earlier writes may
//! be lost.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    format::{Entry, now_ms, seal},
    recovery::{FileEnd, Recovered},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{RunFolder, cannot_read, cannot_write, sync_folder};

/// Storage of a journal: a file, or a failing disk in tests.
pub trait Disk: Send {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything appended survives a power loss.
    fn sync(&mut self) -> io::Result<()>;
}

impl Disk for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Replaces the journal file by another disk.
pub type WrapDisk = Box<dyn FnOnce(File) -> Box<dyn Disk> + Send>;

/// An open journal. Dropping it writes the queued entries and unlocks the file.
pub struct Journal {
    path: PathBuf,
    sender: mpsc::Sender<Command>,
    failure: Arc<OnceLock<Problem>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    /// Times in a journal are monotonic even if the clock is set back.
    latest_ms: AtomicU64,
}

enum Command {
    Append(Vec<u8>, oneshot::Sender<()>),
    Close,
}

/// A batch of this size is synced even if more entries are queued, which bounds latency.
const BATCH_BYTES: usize = 4 << 20;

impl Journal {
    /// Locks the folder's journal, reads all journals this process resumes from, its own last, and truncates a torn last line.
    pub fn open(folder: &RunFolder, wrap: Option<WrapDisk>) -> Result<(Self, Recovered, FileEnd), Problem> {
        std::fs::create_dir_all(folder.dir()).map_err(|error| cannot_write(folder.dir(), &error))?;
        let path = folder.journal();
        let failed = |error: io::Error| cannot_write(&path, &error);
        if std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(Problem::new("the journal must be a regular file, not a link, folder or device")
                .at(path.display().to_string())
                .hint("choose another folder with --out; what is here is left untouched"));
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        lock(&file, &path)?;
        let mut recovered = Recovered::default();
        for other in folder.earlier_journals()? {
            let opened = File::open(&other).map_err(|error| cannot_read(&other, &error))?;
            recovered.read(&other, &opened)?;
        }
        if folder.is_shared() {
            recovered.attribute_to_others();
        }
        let end = recovered.read(&path, &file)?;
        if file.metadata().map_err(failed)?.len() > end.good_bytes {
            file.set_len(end.good_bytes).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        file.seek(SeekFrom::Start(end.good_bytes)).map_err(failed)?;
        sync_folder(folder.dir()).map_err(failed)?;

        let held = file.try_clone().map_err(failed)?;
        let disk = match wrap {
            Some(wrap) => wrap(file),
            None => Box::new(file),
        };
        let (sender, commands) = mpsc::channel();
        let failure = Arc::new(OnceLock::new());
        let writer = Writer { disk, held, path: path.clone(), next: end.lines, failure: Arc::clone(&failure) };
        let thread =
            thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&commands)).map_err(failed)?;
        let latest_ms = AtomicU64::new(recovered.last_activity.unwrap_or(0));
        Ok((Self { path, sender, failure, thread: Mutex::new(Some(thread)), latest_ms }, recovered, end))
    }

    /// Unix time in ms for a new entry.
    pub fn now(&self) -> u64 {
        let now = now_ms();
        self.latest_ms.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// The disk error that closed the journal.
    pub fn failure(&self) -> Option<Problem> {
        self.failure.get().cloned()
    }

    /// The JSON of an entry, for `commit`.
    pub fn encode<T: Serialize>(entry: &Entry<'_, T>) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(entry).map_err(|error| Problem::new(format!("cannot be written as JSON: {error}")))
    }

    /// Returns once the entry is durable.
    pub async fn commit(&self, json: Vec<u8>) -> Result<(), Problem> {
        let (durable, acknowledged) = oneshot::channel();
        if self.sender.send(Command::Append(json, durable)).is_ok() && acknowledged.await.is_ok() {
            return Ok(());
        }
        Err(self.failure().unwrap_or_else(|| Problem::new("the journal is closed").at(self.path.display().to_string())))
    }

    /// Writes the queued entries and unlocks the file.
    pub fn close(&self) {
        // The send fails only if the writer has stopped after an error; nothing is left to write then.
        let _ = self.sender.send(Command::Close);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Locks the journal for this process. Retries, because `status` holds a shared lock for an instant.
fn lock(file: &File, path: &Path) -> Result<(), Problem> {
    for _ in 0..20 {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => {
                return Err(Problem::new(format!("cannot lock the journal: {error}"))
                    .at(path.display().to_string())
                    .hint("choose a folder on a local disk with --out"));
            }
        }
    }
    Err(Problem::new("another process is writing this run folder")
        .at(path.display().to_string())
        .hint("wait until it ends, or choose another folder with --out"))
}

struct Writer {
    disk: Box<dyn Disk>,
    /// Holds the lock even if `disk` does not hold the file.
    held: File,
    path: PathBuf,
    /// Number of the next line.
    next: u64,
    failure: Arc<OnceLock<Problem>>,
}

impl Writer {
    fn run(mut self, commands: &mpsc::Receiver<Command>) {
        let mut bytes = Vec::new();
        let mut waiting = Vec::new();
        let mut open = true;
        while open {
            let mut command = commands.recv().ok();
            loop {
                match command {
                    Some(Command::Append(json, durable)) => {
                        seal(self.next, &json, &mut bytes);
                        self.next += 1;
                        waiting.push(durable);
                    }
                    Some(Command::Close) | None => open = false,
                }
                if !open || bytes.len() >= BATCH_BYTES {
                    break;
                }
                match commands.try_recv() {
                    Ok(next) => command = Some(next),
                    Err(_) => break,
                }
            }
            if bytes.is_empty() {
                continue;
            }
            let written = self.disk.append(&bytes).and_then(|()| self.disk.sync());
            let failure = match written {
                Err(error) => Some(write_error(&self.path, &error)),
                Ok(()) => lost(&self.held, &self.path),
            };
            if let Some(problem) = failure {
                let _ = self.failure.set(problem);
                // Dropping `waiting` and `commands` fails all pending commits.
                return;
            }
            for durable in waiting.drain(..) {
                // The send fails if the waiting run was dropped.
                let _ = durable.send(());
            }
            bytes.clear();
        }
    }
}

/// Whether the open journal is no longer the file of its name. Then every line in it, the latest included, is copied to a new file:
/// the open one would vanish with this process.
#[cfg(unix)]
fn lost(mut held: &File, path: &Path) -> Option<Problem> {
    use std::os::unix::fs::MetadataExt;
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let named = std::fs::metadata(path);
    let own = held.metadata().ok()?;
    if named.as_ref().is_ok_and(|named| same(named, &own)) {
        return None;
    }
    // Never over what took its place.
    let copy = match named {
        Ok(_) => path.with_file_name(format!("journal-kept-{}.txt", now_ms())),
        Err(_) => path.to_owned(),
    };
    let mut keep = || -> io::Result<u64> {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&copy)?;
        held.rewind()?;
        let bytes = io::copy(&mut held, &mut file)?;
        file.sync_all()?;
        Ok(bytes)
    };
    let problem = Problem::new("the journal was deleted, moved or replaced while it was being written");
    let problem = problem.at(path.display().to_string());
    Some(match keep() {
        Ok(bytes) if copy == path => {
            problem.hint(format!("all {bytes} bytes of it are back in this place: continue with --resume"))
        }
        Ok(bytes) => problem.hint(format!(
            "all {bytes} bytes of it are kept in {}: move that file to this place, then continue with --resume",
            copy.display()
        )),
        Err(error) => {
            problem.hint(format!("it could not be written again ({error}); look for it where it was moved to"))
        }
    })
}

#[cfg(not(unix))]
fn lost(_: &File, _: &Path) -> Option<Problem> {
    None
}

fn write_error(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("the journal can no longer be written: {error}")).at(path.display().to_string());
    problem.hint(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "everything acknowledged so far is kept; free space on this disk, then continue with --resume"
        }
        io::ErrorKind::FileTooLarge => {
            "everything acknowledged so far is kept; raise the limit on the size of files (ulimit -f), then continue with --resume"
        }
        _ => "everything acknowledged so far is kept; check the disk, then continue with --resume",
    })
}
