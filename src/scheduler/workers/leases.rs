//! `BudgetLeases`: how several workers share one limit. The limit is cut into leases; a worker claims leases and spends at most their
//! sum. All state is in the names of files that are only ever added, so it can be read at any moment, whichever process was killed:
//!
//! ```text
//! claims/budget/level-1            text `<worker> 0-5000000`: the limit is $5, cut at multiples of `lease_size(limit)`
//! claims/budget/level-2            text `<worker> 5000000-8000000`: raised to $8
//! claims/budget/12000-14000        this lease of level 1 is claimed (its text names the worker)
//! claims/budget/left/<worker>-<k>-<amount>      the worker released this amount; anyone may claim it, by its name
//! held(worker) = claimed by it - released by it      limit = held by all + unclaimed
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::Claims;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{RunFolder, cannot_read, cannot_write, sync_folder};

/// The leases of one worker, in micro-dollars.
#[derive(Debug)]
pub struct BudgetLeases {
    dir: PathBuf,
    worker: String,
    claims: Claims,
    /// Serialises changes of the held amount.
    lock: Mutex<()>,
}

/// A part of the limit that can be claimed.
struct Lease {
    name: String,
    amount: u64,
}

/// A limit is cut into at least this many leases (if it has as many micro-dollars) and at most 2.5 times as many.
const LEASES: u64 = 1000;

/// Size of a lease: 1, 2 or 5 times a power of ten, so that a raised limit is cut at the same multiples.
fn lease_size(limit: u64) -> u64 {
    let most = (limit / LEASES).max(1);
    let power = 10_u64.pow(most.ilog10());
    [5, 2, 1].into_iter().map(|times| times * power).find(|size| *size <= most).unwrap_or(1)
}

impl BudgetLeases {
    /// Opens the leases of a worker, creating the folder if needed.
    pub fn open(folder: &RunFolder, worker: &str) -> Result<Self, Problem> {
        let dir = Self::dir(folder);
        let left = dir.join(LEFT);
        fs::create_dir_all(&left).map_err(|error| cannot_write(&left, &error))?;
        let claims = Claims::open(&dir, worker)?;
        Ok(Self { dir, worker: worker.to_owned(), claims, lock: Mutex::default() })
    }

    /// Names of all workers that ever opened leases of this folder.
    pub fn workers(folder: &RunFolder) -> Result<BTreeSet<String>, Problem> {
        Claims::workers(&Self::dir(folder))
    }

    fn dir(folder: &RunFolder) -> PathBuf {
        folder.claims_dir("budget")
    }

    /// Raises the limit to at least this and returns it. A limit is never lowered, because it may be spent already.
    pub fn raise_limit(&self, limit: u64) -> Result<u64, Problem> {
        loop {
            let levels = self.levels()?;
            let current = levels.last().map_or(0, |(_, to)| *to);
            if current >= limit {
                self.claims.sync()?;
                return Ok(current);
            }
            // If another worker was faster, the limit may be a different one now.
            self.claims.take_with(&level(levels.len() + 1), &format!("{current}-{limit}"))?;
        }
    }

    /// Total amount that the worker may spend.
    pub fn held(&self) -> Result<u64, Problem> {
        let claimed: u64 = self.claims.own().iter().filter_map(|name| amount(name)).sum();
        let released = self.released_by_worker()?.iter().map(|lease| lease.amount).sum();
        claimed.checked_sub(released).ok_or_else(|| {
            Problem::new(format!("worker {} released more of the budget than it had claimed", self.worker))
                .at(self.dir.display().to_string())
                .hint("files of this folder were removed: restore them")
        })
    }

    /// Claims leases until the worker holds this amount, unless less than that is free. Returns the amount held.
    pub fn acquire(&self, to: u64) -> Result<u64, Problem> {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.held()?;
        if held >= to {
            return Ok(held);
        }
        let free = self.free()?;
        // An amount too small for this worker may suffice for another.
        if held.saturating_add(free.iter().map(|lease| lease.amount).sum()) < to {
            return Ok(held);
        }
        for lease in free {
            if held >= to {
                break;
            }
            if self.claims.take(&lease.name)? {
                held += lease.amount;
            }
        }
        self.claims.sync()?;
        Ok(held)
    }

    /// Releases the amount held beyond `spent`. If the worker spent more than it holds, it acquires the difference.
    pub fn release_unspent(&self, spent: u64) -> Result<(), Problem> {
        let held = self.held()?;
        if spent >= held {
            return self.acquire(spent).map(|_| ());
        }
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dir.join(LEFT);
        let number = self.released_by_worker()?.len() + 1;
        let path = dir.join(format!("{}-{number}-{}", self.worker, held - spent));
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&path).map(|_| ());
        made.and_then(|()| sync_folder(&dir)).map_err(|error| cannot_write(&path, &error))
    }

    /// `[from, to)` of each level, in order.
    fn levels(&self) -> Result<Vec<(u64, u64)>, Problem> {
        let mut levels: Vec<(u64, u64)> = Vec::new();
        while let Some((_, note)) = Claims::holder(&self.dir, &level(levels.len() + 1))? {
            let from = levels.last().map_or(0, |(_, to)| *to);
            let range = range(&note).filter(|(known, _)| *known == from).ok_or_else(|| {
                Problem::new("this file does not contain the range by which budget_limit was raised")
                    .at(self.dir.join(level(levels.len() + 1)).display().to_string())
                    .hint(format!("it must contain `<worker> {from}-<limit in micro-dollars>` and a line break"))
            })?;
            levels.push(range);
        }
        Ok(levels)
    }

    fn released_by_worker(&self) -> Result<Vec<Lease>, Problem> {
        let mut released = self.released()?;
        released.retain(|lease| worker_of(&lease.name) == Some(&self.worker));
        Ok(released)
    }

    /// All released amounts, including those claimed since.
    fn released(&self) -> Result<Vec<Lease>, Problem> {
        let dir = self.dir.join(LEFT);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot_read(&dir, &error)),
        };
        let mut released = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| cannot_read(&dir, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Hidden files belong to the file system, such as `.nfs…`.
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{LEFT}-{name}");
            let Some(amount) = amount(&name) else { return Err(not_a_lease(&path)) };
            released.push(Lease { name, amount });
        }
        Ok(released)
    }

    /// Unclaimed leases: released ones first, then those of the levels, starting at a worker-specific place to reduce contention.
    fn free(&self) -> Result<Vec<Lease>, Problem> {
        let taken = self.claims.all()?;
        if let Some(other) = taken.iter().find(|name| amount(name).is_none() && !is_reserved_name(name)) {
            return Err(not_a_lease(&self.dir.join(other)));
        }
        let mut free = self.released()?;
        let mut fresh = Vec::new();
        for (from, to) in self.levels()? {
            let size = lease_size(to);
            let mut begin = from;
            while begin < to {
                let end = (begin / size + 1).saturating_mul(size).min(to);
                fresh.push(Lease { name: format!("{begin}-{end}"), amount: end - begin });
                begin = end;
            }
        }
        let first =
            blake3::hash(self.worker.as_bytes()).as_bytes()[..4].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let count = fresh.len().max(1);
        fresh.rotate_left(first % count);
        free.extend(fresh);
        free.retain(|lease| !taken.contains(&lease.name));
        Ok(free)
    }
}

/// Folder of released amounts, and prefix of claims on them.
const LEFT: &str = "left";

fn level(number: usize) -> String {
    format!("level-{number}")
}

fn is_reserved_name(name: &str) -> bool {
    name == LEFT || name.strip_prefix("level-").is_some_and(|number| number.parse::<usize>().is_ok())
}

/// `<from>-<to>`
fn range(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from < to).then_some((from, to))
}

/// The worker in `left-<worker>-<k>-<amount>`.
fn worker_of(name: &str) -> Option<&str> {
    let mut parts = name.strip_prefix(LEFT)?.strip_prefix('-')?.rsplitn(3, '-');
    let (amount, number, worker) = (parts.next()?, parts.next()?, parts.next()?);
    (amount.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()).then_some(worker)
}

/// Amount of a lease, by the name of its claim; `None` for other names.
fn amount(name: &str) -> Option<u64> {
    match worker_of(name) {
        Some(_) => name.rsplit('-').next()?.parse().ok(),
        None => range(name).map(|(from, to)| to - from),
    }
}

fn not_a_lease(path: &Path) -> Problem {
    Problem::new("this file is not a lease of the budget_limit, so the amount held is unknown")
        .at(path.display().to_string())
        .hint("names are `<from>-<to>` or `<worker>-<k>-<micro-dollars>`: restore the name, or move the file away")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn open(folder: &RunFolder, worker: &str) -> BudgetLeases {
        BudgetLeases::open(folder, worker).unwrap()
    }

    #[test]
    fn a_limit_is_cut_into_about_a_thousand_leases_that_do_not_overlap() {
        for limit in [1, 7, 999, 1000, 12_345, 5_000_000, 1_000_000_000_000] {
            let home = tempfile::tempdir().unwrap();
            let leases = open(&RunFolder::at(home.path()), "a");
            assert_eq!([limit, limit].map(|limit| leases.raise_limit(limit).unwrap()), [limit, limit]);
            let free = leases.free().unwrap();
            assert_eq!(free.iter().map(|lease| lease.amount).sum::<u64>(), limit);
            assert!(free.len() as u64 >= limit.min(1000) && free.len() <= 2500, "{limit}: {}", free.len());
            leases.raise_limit(limit * 3).unwrap();
            assert_eq!(leases.free().unwrap().iter().map(|lease| lease.amount).sum::<u64>(), limit * 3);
            assert_eq!(leases.raise_limit(limit * 3 - 1).unwrap(), limit * 3, "a limit is never lowered");
        }
    }

    #[test]
    fn concurrent_workers_never_hold_more_than_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(home.path());
        const LIMIT: u64 = 60_000;
        open(&folder, "first").raise_limit(LIMIT).unwrap();
        let spent: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u64)
                .map(|worker| {
                    let folder = &folder;
                    scope.spawn(move || {
                        let mut spent = 0;
                        for turn in 0..40 {
                            // Opened again each time, as after a kill: the state is in the files.
                            let leases = open(folder, &format!("w-{worker}"));
                            let cost = 150 + 37 * ((worker + turn) % 9);
                            if leases.acquire(spent + cost).unwrap() >= spent + cost {
                                spent += cost;
                            }
                            assert!(leases.held().unwrap() >= spent);
                            if turn % 5 == 4 {
                                leases.release_unspent(spent).unwrap();
                                assert_eq!(open(folder, &format!("w-{worker}")).held().unwrap(), spent);
                            }
                        }
                        spent
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let total: u64 = spent.iter().sum();
        let free: u64 = open(&folder, "first").free().unwrap().iter().map(|lease| lease.amount).sum();
        assert_eq!(total + free, LIMIT, "unspent amounts are free");
        assert!(total > LIMIT * 9 / 10, "{total}");
    }

    #[test]
    fn spending_without_a_lease_is_claimed_afterwards_and_insufficient_amounts_stay_free() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(home.path());
        let (a, b) = (open(&folder, "a"), open(&folder, "b"));
        a.raise_limit(1000).unwrap();
        a.release_unspent(700).unwrap();
        assert_eq!(a.held().unwrap(), 700);
        assert_eq!(b.acquire(400).unwrap(), 0, "300 are too few, so they stay free");
        assert_eq!(b.acquire(300).unwrap(), 300);
        b.release_unspent(120).unwrap();
        assert_eq!((b.held().unwrap(), a.acquire(880).unwrap()), (120, 880));
        a.raise_limit(2000).unwrap();
        assert_eq!(b.acquire(1120).unwrap(), 1120);
    }

    #[test]
    fn foreign_and_truncated_files_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(home.path());
        let leases = open(&folder, "a");
        leases.raise_limit(1000).unwrap();
        leases.acquire(10).unwrap();
        let refused = |name: &str, text: &str| {
            let path = leases.dir.join(name);
            let before = fs::read(&path).ok();
            fs::write(&path, text).unwrap();
            let problem = leases.acquire(20).unwrap_err();
            assert!(problem.place.as_ref().unwrap().ends_with(name) && problem.hint.is_some(), "{problem}");
            before.map_or_else(|| fs::remove_file(&path), |before| fs::write(&path, before)).unwrap();
        };
        refused("level-1", "");
        refused("level-1", "a 0-\n");
        refused("level-1", "a 5-1000\n");
        refused("notes", "");
        refused("left/a-1", "");
        refused("left/a-1-x", "");
        assert_eq!(leases.acquire(20).unwrap(), 20);
        fs::write(leases.dir.join("left/a-1-30"), "").unwrap();
        assert!(leases.held().unwrap_err().hint.is_some(), "more released than claimed");
    }
}
