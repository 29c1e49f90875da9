//! Owns writing the journal: one thread writes and syncs, everyone else hands it lines and waits. Whatever was handed over
//! while a sync was under way shares the next one (group commit), so that 48 runs cost one `fdatasync` and not 48.
//!
//! A line is acknowledged only when it is durable. The first error of the disk ends the journal: nothing is written after it,
//! because a disk that refused once may have lost what lies between.
//! Must not know: what a result or an outcome means.

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
    journal_format::{Line, now_ms, seal},
    recover::{FileEnd, Recovered},
};
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{RunFolder, cannot_read, cannot_write, sync_folder};

/// Where the bytes of a journal go. A file, unless a test puts a failing disk in its place.
pub trait Disk: Send {
    /// Writes all of `bytes` behind what is there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended would survive a power cut.
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

/// Puts another disk in the place of the journal's file.
pub(super) type WrapDisk = Box<dyn FnOnce(File) -> Box<dyn Disk> + Send>;

/// An open journal. Dropping it writes what was handed over and releases the file.
pub(super) struct Journal {
    path: PathBuf,
    sender: mpsc::Sender<Order>,
    failure: Arc<OnceLock<Problem>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    /// Times in the journal never run backwards, whatever the machine's clock does.
    latest_ms: AtomicU64,
}

enum Order {
    Append(Vec<u8>, oneshot::Sender<()>),
    Close,
}

/// A batch is synced when it has this size, even if more is waiting: nobody should wait for all the others.
const BATCH_BYTES: usize = 4 << 20;

impl Journal {
    /// Takes the folder's journal for this process, reads every journal it goes on from, its own last, and cuts off a torn last line.
    pub fn open(folder: &RunFolder, wrap: Option<WrapDisk>) -> Result<(Self, Recovered, FileEnd), Problem> {
        std::fs::create_dir_all(folder.dir()).map_err(|error| cannot_write(folder.dir(), &error))?;
        let path = folder.journal();
        let failed = |error: io::Error| cannot_write(&path, &error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        lock(&file, &path)?;
        let mut recovered = Recovered::default();
        for other in folder.earlier_journals()? {
            let opened = File::open(&other).map_err(|error| cannot_read(&other, &error))?;
            recovered.read(&other, &opened)?;
        }
        if folder.is_shared() {
            recovered.is_of_others();
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
        let (sender, orders) = mpsc::channel();
        let failure = Arc::new(OnceLock::new());
        let writer = Writer { disk, _held: held, path: path.clone(), next: end.lines, failure: Arc::clone(&failure) };
        let thread =
            thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&orders)).map_err(failed)?;
        let latest_ms = AtomicU64::new(recovered.last_activity.unwrap_or(0));
        Ok((Self { path, sender, failure, thread: Mutex::new(Some(thread)), latest_ms }, recovered, end))
    }

    /// Time to put on a line.
    pub fn now(&self) -> u64 {
        let now = now_ms();
        self.latest_ms.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Why the journal can no longer be written, if so.
    pub fn failure(&self) -> Option<Problem> {
        self.failure.get().cloned()
    }

    /// The JSON of a line, for `commit`.
    pub fn encode<T: Serialize>(line: &Line<'_, T>) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(line).map_err(|error| Problem::new(format!("cannot be put as JSON: {error}")))
    }

    /// Returns when the line is durable.
    pub async fn commit(&self, json: Vec<u8>) -> Result<(), Problem> {
        let (durable, acknowledged) = oneshot::channel();
        if self.sender.send(Order::Append(json, durable)).is_ok() && acknowledged.await.is_ok() {
            return Ok(());
        }
        Err(self.failure().unwrap_or_else(|| Problem::new("the journal is closed").at(self.path.display().to_string())))
    }

    /// Writes what was handed over and releases the file.
    pub fn close(&self) {
        // A writer that has already ended by an error takes no order; then there is nothing left to write.
        let _ = self.sender.send(Order::Close);
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

/// One writer per journal. Whoever looks at a folder's status holds the lock for an instant, so it is asked for repeatedly.
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
        .hint("wait for it to end, or choose another folder with --out"))
}

struct Writer {
    disk: Box<dyn Disk>,
    /// Keeps the lock even if `disk` does not keep the file.
    _held: File,
    path: PathBuf,
    /// Number of the next line.
    next: u64,
    failure: Arc<OnceLock<Problem>>,
}

impl Writer {
    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        let mut bytes = Vec::new();
        let mut waiting = Vec::new();
        let mut open = true;
        while open {
            let mut order = orders.recv().ok();
            loop {
                match order {
                    Some(Order::Append(json, durable)) => {
                        seal(self.next, &json, &mut bytes);
                        self.next += 1;
                        waiting.push(durable);
                    }
                    Some(Order::Close) | None => open = false,
                }
                if !open || bytes.len() >= BATCH_BYTES {
                    break;
                }
                match orders.try_recv() {
                    Ok(next) => order = Some(next),
                    Err(_) => break,
                }
            }
            if bytes.is_empty() {
                continue;
            }
            if let Err(error) = self.disk.append(&bytes).and_then(|()| self.disk.sync()) {
                let _ = self.failure.set(broken(&self.path, &error));
                // Dropping `waiting` and `orders` tells everyone who waits.
                return;
            }
            for durable in waiting.drain(..) {
                // Whoever was dropped meanwhile no longer needs to know.
                let _ = durable.send(());
            }
            bytes.clear();
        }
    }
}

fn broken(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("the journal can no longer be written: {error}")).at(path.display().to_string());
    problem.hint(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "everything acknowledged so far is kept; make room on this disk, then go on with --resume"
        }
        io::ErrorKind::FileTooLarge => {
            "everything acknowledged so far is kept; raise the limit on the size of files (ulimit -f), then go on with --resume"
        }
        _ => "everything acknowledged so far is kept; see to the disk, then go on with --resume",
    })
}
