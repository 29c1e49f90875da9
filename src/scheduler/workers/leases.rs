//! Owns how a limit on money is shared: it is cut into leases, each claimed by one writer, and a writer may spend the sum of what it
//! holds. Everything is in names of files that are only ever added, so that what is held can be told at any instant, whoever is killed:
//!
//! ```text
//! claims/budget/level-1            text `<writer> 0-5000000`: the limit is $5, cut at multiples of `cut(limit)`
//! claims/budget/level-2            text `<writer> 5000000-8000000`: raised to $8
//! claims/budget/12000-14000        that lease of level 1 is claimed (its text says by whom)
//! claims/budget/left/<writer>-<k>-<amount>      the writer has left so much; anybody may claim it, by the name
//! held(writer) = claimed by it - left by it      limit = held by all + claimed by nobody
//! ```
//!
//! Must not know: what is spent on what.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::Claims;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{RunFolder, cannot_read, cannot_write, sync_folder};

/// One writer's leases of a run folder's limit, in micro-dollars.
#[derive(Debug)]
pub struct BudgetLeases {
    dir: PathBuf,
    writer: String,
    claims: Claims,
    /// One at a time, so that what is held is what was counted.
    counting: Mutex<()>,
}

/// A part of the limit.
struct Lease {
    name: String,
    amount: u64,
}

/// Of a limit's leases there are about this many, and at most two and a half times as many.
const LEASES: u64 = 1000;

/// Size of the leases of a limit: 1, 2 or 5 times a power of ten, so that limits that are raised are cut alike.
fn cut(limit: u64) -> u64 {
    let most = (limit / LEASES).max(1);
    let power = 10_u64.pow(most.ilog10());
    [5, 2, 1].into_iter().map(|times| times * power).find(|size| *size <= most).unwrap_or(1)
}

impl BudgetLeases {
    pub fn open(folder: &RunFolder, writer: &str) -> Result<Self, Problem> {
        let dir = Self::dir(folder);
        let left = dir.join(LEFT);
        fs::create_dir_all(&left).map_err(|error| cannot_write(&left, &error))?;
        let claims = Claims::open(&dir, writer)?;
        Ok(Self { dir, writer: writer.to_owned(), claims, counting: Mutex::default() })
    }

    /// Everybody who may hold a lease of this folder.
    pub fn writers(folder: &RunFolder) -> Result<BTreeSet<String>, Problem> {
        Claims::writers(&Self::dir(folder))
    }

    fn dir(folder: &RunFolder) -> PathBuf {
        folder.claims_dir("budget")
    }

    /// Raises the limit to this, unless it is there or beyond already: what it was may be spent. What it is then.
    pub fn cover(&self, limit: u64) -> Result<u64, Problem> {
        loop {
            let levels = self.levels()?;
            let now = levels.last().map_or(0, |(_, to)| *to);
            if now >= limit {
                self.claims.sync()?;
                return Ok(now);
            }
            // Whoever was faster has raised it, maybe to something else.
            self.claims.take_with(&level(levels.len() + 1), &format!("{now}-{limit}"))?;
        }
    }

    /// What the writer may spend in all.
    pub fn held(&self) -> Result<u64, Problem> {
        let claimed: u64 = self.claims.own().iter().filter_map(|name| amount(name)).sum();
        let left = self.left()?.into_iter().filter(|lease| lease.name.starts_with(&format!("{LEFT}-{}-", self.writer)));
        let left: u64 =
            left.filter(|lease| writer_of(&lease.name) == Some(&self.writer)).map(|lease| lease.amount).sum();
        claimed.checked_sub(left).ok_or_else(|| {
            Problem::new(format!("{} has left more of the budget to others than it had claimed", self.writer))
                .at(self.dir.display().to_string())
                .hint("files of this folder were removed: put them back")
        })
    }

    /// Claims more until the writer holds as much as this, if there is as much to be had. What it holds then.
    pub fn fill(&self, to: u64) -> Result<u64, Problem> {
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.held()?;
        if held >= to {
            return Ok(held);
        }
        let free = self.free()?;
        // Too little for one may be enough for another.
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

    /// Leaves to others what the writer holds beyond this; where it spent more than it holds, it claims that.
    pub fn leave(&self, spent: u64) -> Result<(), Problem> {
        let held = self.held()?;
        if spent >= held {
            return self.fill(spent).map(|_| ());
        }
        let _counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dir.join(LEFT);
        let before = self.left()?.iter().filter(|lease| writer_of(&lease.name) == Some(&self.writer)).count();
        let path = dir.join(format!("{}-{}-{}", self.writer, before + 1, held - spent));
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&path).map(|_| ());
        made.and_then(|()| sync_folder(&dir)).map_err(|error| cannot_write(&path, &error))
    }

    /// `[from, to)` of each level, in their order.
    fn levels(&self) -> Result<Vec<(u64, u64)>, Problem> {
        let mut levels: Vec<(u64, u64)> = Vec::new();
        while let Some((_, note)) = Claims::holder(&self.dir, &level(levels.len() + 1))? {
            let from = levels.last().map_or(0, |(_, to)| *to);
            let range = range(&note).filter(|(known, _)| *known == from).ok_or_else(|| {
                Problem::new("this file does not say from what to what the budget_limit was raised")
                    .at(self.dir.join(level(levels.len() + 1)).display().to_string())
                    .hint(format!("it must read `<writer> {from}-<limit in micro-dollars>`, with a line break"))
            })?;
            levels.push(range);
        }
        Ok(levels)
    }

    /// What writers left; claimed by others meanwhile or not.
    fn left(&self) -> Result<Vec<Lease>, Problem> {
        let dir = self.dir.join(LEFT);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot_read(&dir, &error)),
        };
        let mut left = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| cannot_read(&dir, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // What a file system keeps for itself is hidden.
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{LEFT}-{name}");
            let Some(amount) = amount(&name) else { return Err(strange(&path)) };
            left.push(Lease { name, amount });
        }
        Ok(left)
    }

    /// What nobody has claimed: first what others left, then from a place of the writer's own on, so that not all want the same.
    fn free(&self) -> Result<Vec<Lease>, Problem> {
        let taken = self.claims.all()?;
        if let Some(other) = taken.iter().find(|name| amount(name).is_none() && !is_own_word(name)) {
            return Err(strange(&self.dir.join(other)));
        }
        let mut free = self.left()?;
        let mut fresh = Vec::new();
        for (from, to) in self.levels()? {
            let size = cut(to);
            let mut begin = from;
            while begin < to {
                let end = (begin / size + 1).saturating_mul(size).min(to);
                fresh.push(Lease { name: format!("{begin}-{end}"), amount: end - begin });
                begin = end;
            }
        }
        let first =
            blake3::hash(self.writer.as_bytes()).as_bytes()[..4].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let places = fresh.len().max(1);
        fresh.rotate_left(first % places);
        free.extend(fresh);
        free.retain(|lease| !taken.contains(&lease.name));
        Ok(free)
    }
}

/// How names of what was left begin, and where it is.
const LEFT: &str = "left";

fn level(number: usize) -> String {
    format!("level-{number}")
}

fn is_own_word(name: &str) -> bool {
    name == LEFT || name.strip_prefix("level-").is_some_and(|number| number.parse::<usize>().is_ok())
}

/// `<from>-<to>`
fn range(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from < to).then_some((from, to))
}

/// Of `left-<writer>-<k>-<amount>`.
fn writer_of(name: &str) -> Option<&str> {
    let mut parts = name.strip_prefix(LEFT)?.strip_prefix('-')?.rsplitn(3, '-');
    let (amount, number, writer) = (parts.next()?, parts.next()?, parts.next()?);
    (amount.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()).then_some(writer)
}

/// What a claim is worth; `None` if it is none of a lease.
fn amount(name: &str) -> Option<u64> {
    match writer_of(name) {
        Some(_) => name.rsplit('-').next()?.parse().ok(),
        None => range(name).map(|(from, to)| to - from),
    }
}

fn strange(path: &Path) -> Problem {
    Problem::new("this is no lease of the budget_limit, so nobody can say how much is held")
        .at(path.display().to_string())
        .hint("names are `<from>-<to>` or `<writer>-<k>-<micro-dollars>`: put back what it was, or move it away")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn open(folder: &RunFolder, writer: &str) -> BudgetLeases {
        BudgetLeases::open(folder, writer).unwrap()
    }

    #[test]
    fn a_limit_is_cut_into_about_a_thousand_leases_that_do_not_overlap() {
        for limit in [1, 7, 999, 1000, 12_345, 5_000_000, 1_000_000_000_000] {
            let home = tempfile::tempdir().unwrap();
            let leases = open(&RunFolder::at(home.path()), "a");
            assert_eq!([limit, limit].map(|limit| leases.cover(limit).unwrap()), [limit, limit]);
            let free = leases.free().unwrap();
            assert_eq!(free.iter().map(|lease| lease.amount).sum::<u64>(), limit);
            assert!(free.len() as u64 >= limit.min(1000) && free.len() <= 2500, "{limit}: {}", free.len());
            leases.cover(limit * 3).unwrap();
            assert_eq!(leases.free().unwrap().iter().map(|lease| lease.amount).sum::<u64>(), limit * 3);
            assert_eq!(leases.cover(limit * 3 - 1).unwrap(), limit * 3, "it can only be raised");
        }
    }

    #[test]
    fn whatever_writers_claim_spend_and_leave_it_is_never_more_than_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(home.path());
        const LIMIT: u64 = 60_000;
        open(&folder, "first").cover(LIMIT).unwrap();
        let spent: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8_u64)
                .map(|who| {
                    let folder = &folder;
                    scope.spawn(move || {
                        let mut spent = 0;
                        for turn in 0..40 {
                            // Begun anew each time, as after a kill: what is held is in the files.
                            let leases = open(folder, &format!("w-{who}"));
                            let cost = 150 + 37 * ((who + turn) % 9);
                            if leases.fill(spent + cost).unwrap() >= spent + cost {
                                spent += cost;
                            }
                            assert!(leases.held().unwrap() >= spent);
                            if turn % 5 == 4 {
                                leases.leave(spent).unwrap();
                                assert_eq!(open(folder, &format!("w-{who}")).held().unwrap(), spent);
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
        assert_eq!(total + free, LIMIT, "what nobody spent is there for anybody");
        assert!(total > LIMIT * 9 / 10, "{total}");
    }

    #[test]
    fn who_spent_without_a_lease_claims_it_afterwards_and_too_little_is_left_to_others() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(home.path());
        let (a, b) = (open(&folder, "a"), open(&folder, "b"));
        a.cover(1000).unwrap();
        a.leave(700).unwrap();
        assert_eq!(a.held().unwrap(), 700);
        assert_eq!(b.fill(400).unwrap(), 0, "300 are not enough, so they stay where they are");
        assert_eq!(b.fill(300).unwrap(), 300);
        b.leave(120).unwrap();
        assert_eq!((b.held().unwrap(), a.fill(880).unwrap()), (120, 880));
        a.cover(2000).unwrap();
        assert_eq!(b.fill(1120).unwrap(), 1120);
    }

    #[test]
    fn files_that_are_no_leases_or_were_cut_short_are_told() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::at(home.path());
        let leases = open(&folder, "a");
        leases.cover(1000).unwrap();
        leases.fill(10).unwrap();
        let refused = |name: &str, text: &str| {
            let path = leases.dir.join(name);
            let before = fs::read(&path).ok();
            fs::write(&path, text).unwrap();
            let problem = leases.fill(20).unwrap_err();
            assert!(problem.place.as_ref().unwrap().ends_with(name) && problem.hint.is_some(), "{problem}");
            before.map_or_else(|| fs::remove_file(&path), |before| fs::write(&path, before)).unwrap();
        };
        refused("level-1", "");
        refused("level-1", "a 0-\n");
        refused("level-1", "a 5-1000\n");
        refused("notes", "");
        refused("left/a-1", "");
        refused("left/a-1-x", "");
        assert_eq!(leases.fill(20).unwrap(), 20);
        fs::write(leases.dir.join("left/a-1-30"), "").unwrap();
        assert!(leases.held().unwrap_err().hint.is_some(), "more left than there was");
    }
}
