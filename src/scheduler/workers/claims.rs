//! `Claims`: each name is claimed by exactly one of any number of workers (processes, machines) that share a folder.
//!
//! `link(2)` gives a file a second name only if that name is free, also on NFS. A worker creates a file of its own and links it to the
//! name of the claim. On NFS the reply to a successful `link` may be lost, so the number of links of the file decides: 2 is a claim.
//! Both names stay, so that a restarted worker finds its claims:
//!
//! ```text
//! <claim>                text: the worker, and a note if there is one
//! .of-<worker>/<claim>   the same file
//! ```
//!
//! Claims are never released.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tiltmeter_model::problem::Problem;
use tiltmeter_store::{cannot_read, cannot_write, safe_name, sync_folder};

/// The claims of one worker in one folder.
#[derive(Debug)]
pub struct Claims {
    dir: PathBuf,
    own_dir: PathBuf,
    worker: String,
    own: Mutex<BTreeSet<String>>,
}

impl Claims {
    /// Opens the claims of a worker, including those it made before, and creates the folder if needed.
    pub fn open(dir: &Path, worker: &str) -> Result<Self, Problem> {
        let own_dir = dir.join(format!(".of-{}", safe_name(worker)?));
        fs::create_dir_all(&own_dir).map_err(|error| cannot_write(&own_dir, &error))?;
        let mut own = BTreeSet::new();
        for name in names_in(&own_dir)? {
            let file = own_dir.join(&name);
            let linked = has_both_names(&file, &dir.join(&name)).map_err(|error| cannot_read(&file, &error))?;
            // In a copied folder, the two names are two files.
            if linked || Self::holder(dir, &name)?.is_some_and(|(holder, _)| holder == worker) {
                own.insert(name);
            } else {
                // Left by a process killed before its `link`.
                fs::remove_file(&file).map_err(|error| cannot_write(&file, &error))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), own_dir, worker: worker.to_owned(), own: Mutex::new(own) })
    }

    /// Claims the name; returns whether it belongs to this worker, now or already before.
    pub fn take(&self, name: &str) -> Result<bool, Problem> {
        self.take_with(name, "")
    }

    /// `take` with a note. An existing claim keeps its note.
    pub fn take_with(&self, name: &str, note: &str) -> Result<bool, Problem> {
        let (claim, file) = (self.dir.join(safe_name(name)?), self.own_dir.join(name));
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.contains(name) {
            return Ok(true);
        }
        if claim.exists() {
            return Ok(false);
        }
        let text = if note.is_empty() { format!("{}\n", self.worker) } else { format!("{} {note}\n", self.worker) };
        fs::write(&file, text).map_err(|error| cannot_write(&file, &error))?;
        let linked = fs::hard_link(&file, &claim);
        if has_both_names(&file, &claim).map_err(|error| cannot_read(&file, &error))? {
            own.insert(name.to_owned());
            return Ok(true);
        }
        fs::remove_file(&file).map_err(|error| cannot_write(&file, &error))?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Problem::new(format!(
                "cannot claim {name}: {error}"
            ))
            .at(claim.display().to_string())
            .hint(
                "workers can share a run folder only on a file system with hard links: choose another disk with --out",
            )),
            _ => Ok(false),
        }
    }

    /// All claims of this worker.
    pub fn own(&self) -> BTreeSet<String> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All claims of all workers.
    pub fn all(&self) -> Result<BTreeSet<String>, Problem> {
        names_in(&self.dir)
    }

    /// Makes claims survive a power loss. A killed process needs no sync.
    pub fn sync(&self) -> Result<(), Problem> {
        sync_folder(&self.dir).map_err(|error| cannot_write(&self.dir, &error))
    }

    /// Names of all workers that ever opened claims in a folder.
    pub fn workers(dir: &Path) -> Result<BTreeSet<String>, Problem> {
        let own = |name: &str| name.strip_prefix(".of-").map(str::to_owned);
        listed(dir, own)
    }

    /// The worker that claimed the name, and the note; `None` if it is unclaimed.
    pub fn holder(dir: &Path, name: &str) -> Result<Option<(String, String)>, Problem> {
        let claim = dir.join(safe_name(name)?);
        let text = match fs::read_to_string(&claim) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_read(&claim, &error)),
        };
        let whole = text.strip_suffix('\n').map(|line| line.split_once(' ').unwrap_or((line, "")));
        match whole.filter(|(worker, _)| safe_name(worker).is_ok()) {
            Some((worker, note)) => Ok(Some((worker.to_owned(), note.to_owned()))),
            None => Err(Problem::new("this claim names no worker: the file is truncated or was changed")
                .at(claim.display().to_string())
                .hint(format!(
                    "its other name is .of-<worker>/{name} beside it: write that worker and a line break into it"
                ))),
        }
    }
}

/// Valid claim names in a folder; none if the folder does not exist.
fn names_in(dir: &Path) -> Result<BTreeSet<String>, Problem> {
    listed(dir, |name| safe_name(name).ok().map(str::to_owned))
}

fn listed(dir: &Path, wanted: impl Fn(&str) -> Option<String>) -> Result<BTreeSet<String>, Problem> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(cannot_read(dir, &error)),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(|error| cannot_read(dir, &error))?.file_name();
        names.extend(name.to_str().and_then(&wanted));
    }
    Ok(names)
}

/// Whether both names belong to one file. The attributes are read through an open file, because NFS may cache older ones by name.
#[cfg(unix)]
fn has_both_names(file: &Path, _claim: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::File::open(file)?.metadata()?.nlink() == 2)
}

/// Without link counts, texts are compared: each worker writes its own name.
#[cfg(not(unix))]
fn has_both_names(file: &Path, claim: &Path) -> io::Result<bool> {
    Ok(fs::read(claim).is_ok_and(|text| fs::read(file).is_ok_and(|own| own == text)))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn every_name_is_claimed_by_exactly_one_of_many() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..400).map(|n| format!("run-{n:03}")).collect();
        let taken: Vec<BTreeSet<String>> = thread::scope(|scope| {
            let worker = |who: usize| {
                let (folder, names) = (folder.path(), &names);
                move || {
                    let claims = Claims::open(folder, &format!("w{who}")).unwrap();
                    let mine: BTreeSet<_> = names.iter().filter(|name| claims.take(name).unwrap()).cloned().collect();
                    assert_eq!(mine, claims.own());
                    mine
                }
            };
            let threads: Vec<_> = (0..8).map(|who| scope.spawn(worker(who))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().map(BTreeSet::len).sum::<usize>(), names.len());
        assert_eq!(taken.iter().flatten().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(Claims::workers(folder.path()).unwrap().len(), 8);
    }

    #[test]
    fn a_restarted_worker_has_its_own_claims_only() {
        let folder = tempfile::tempdir().unwrap();
        let first = Claims::open(folder.path(), "a").unwrap();
        assert!(first.take("x").unwrap() && first.take_with("y", "0-10").unwrap());
        assert!(Claims::open(folder.path(), "b").unwrap().take("z").unwrap());
        // Killed before `link`: the file exists, the claim does not.
        fs::write(folder.path().join(".of-a/w"), "a\n").unwrap();
        let again = Claims::open(folder.path(), "a").unwrap();
        assert_eq!(again.own(), first.own());
        assert!(again.take("x").unwrap() && again.take("w").unwrap() && !again.take("z").unwrap());
        let holder = |name| Claims::holder(folder.path(), name).unwrap();
        assert_eq!(holder("y"), Some(("a".into(), "0-10".into())));
        assert_eq!((holder("z"), holder("v")), (Some(("b".into(), String::new())), None));
        assert_eq!(again.all().unwrap().len(), 4);
    }

    #[test]
    fn unsafe_names_and_truncated_claims_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Claims::open(folder.path(), "../a").unwrap_err().hint.is_some());
        let claims = Claims::open(folder.path(), "a").unwrap();
        assert!(claims.take("../x").unwrap_err().hint.is_some());
        for cut in ["", "a", "\n", "../a 1\n"] {
            fs::write(folder.path().join("x"), cut).unwrap();
            let problem = Claims::holder(folder.path(), "x").unwrap_err();
            assert!(problem.what.contains("truncated") && problem.hint.is_some(), "{cut:?}");
            assert!(!claims.take("x").unwrap(), "the name is taken, even if the worker is unknown");
        }
    }
}
