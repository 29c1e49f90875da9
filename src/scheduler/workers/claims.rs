//! Owns claims: among any number of processes and machines that share a folder, a name is claimed by exactly one writer.
//!
//! `link(2)` gives a file a second name only where that name is free, on NFS too. So a writer makes a file of its own and links it
//! to the name of the claim. The reply to that can be lost on the way although the link was made, so what counts is the number of
//! names that the file has afterwards: 2 is a claim. Both names stay, so that whoever goes on under the writer's name finds its claims:
//!
//! ```text
//! <claim>                its text: the writer, and a note where there is one
//! .of-<writer>/<claim>   the same file
//! ```
//!
//! Nothing is ever released: what may be claimed anew gets another name or another folder.
//! Must not know: what is claimed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tiltmeter_model::problem::Problem;
use tiltmeter_store::{cannot_read, cannot_write, safe_name, sync_folder};

/// The claims of one writer in one folder.
#[derive(Debug)]
pub struct Claims {
    dir: PathBuf,
    own_dir: PathBuf,
    writer: String,
    own: Mutex<BTreeSet<String>>,
}

impl Claims {
    /// The folder is made where there is none. What the writer claimed before is its own again.
    pub fn open(dir: &Path, writer: &str) -> Result<Self, Problem> {
        let own_dir = dir.join(format!(".of-{}", safe_name(writer)?));
        fs::create_dir_all(&own_dir).map_err(|error| cannot_write(&own_dir, &error))?;
        let mut own = BTreeSet::new();
        for name in names_in(&own_dir)? {
            let file = own_dir.join(&name);
            let linked = has_both_names(&file, &dir.join(&name)).map_err(|error| cannot_read(&file, &error))?;
            // In a folder that was copied the two names are two files.
            if linked || Self::holder(dir, &name)?.is_some_and(|(holder, _)| holder == writer) {
                own.insert(name);
            } else {
                // Left by a process that was killed before its link.
                fs::remove_file(&file).map_err(|error| cannot_write(&file, &error))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), own_dir, writer: writer.to_owned(), own: Mutex::new(own) })
    }

    /// Whether the name is this writer's, now or already before.
    pub fn take(&self, name: &str) -> Result<bool, Problem> {
        self.take_with(name, "")
    }

    /// `take` with a note for whoever reads the claim; of a claim that was there before, the note is the old one.
    pub fn take_with(&self, name: &str, note: &str) -> Result<bool, Problem> {
        let (claim, file) = (self.dir.join(safe_name(name)?), self.own_dir.join(name));
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.contains(name) {
            return Ok(true);
        }
        if claim.exists() {
            return Ok(false);
        }
        let text = if note.is_empty() { format!("{}\n", self.writer) } else { format!("{} {note}\n", self.writer) };
        fs::write(&file, text).map_err(|error| cannot_write(&file, &error))?;
        let linked = fs::hard_link(&file, &claim);
        if has_both_names(&file, &claim).map_err(|error| cannot_read(&file, &error))? {
            own.insert(name.to_owned());
            return Ok(true);
        }
        fs::remove_file(&file).map_err(|error| cannot_write(&file, &error))?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Problem::new(format!("cannot claim {name}: {error}"))
                    .at(claim.display().to_string())
                    .hint("several processes can share a run folder only where a file can have two names (hard links): choose another disk with --out"))
            }
            _ => Ok(false),
        }
    }

    /// What this writer claimed.
    pub fn own(&self) -> BTreeSet<String> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What anybody claimed.
    pub fn all(&self) -> Result<BTreeSet<String>, Problem> {
        names_in(&self.dir)
    }

    /// Makes what was claimed outlast a power cut. A process that is killed needs none of it.
    pub fn sync(&self) -> Result<(), Problem> {
        sync_folder(&self.dir).map_err(|error| cannot_write(&self.dir, &error))
    }

    /// Everybody who ever claimed anything in a folder.
    pub fn writers(dir: &Path) -> Result<BTreeSet<String>, Problem> {
        let own = |name: &str| name.strip_prefix(".of-").map(str::to_owned);
        listed(dir, own)
    }

    /// Whose the name is, and the note; `None` if nobody claimed it.
    pub fn holder(dir: &Path, name: &str) -> Result<Option<(String, String)>, Problem> {
        let claim = dir.join(safe_name(name)?);
        let text = match fs::read_to_string(&claim) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_read(&claim, &error)),
        };
        let whole = text.strip_suffix('\n').map(|line| line.split_once(' ').unwrap_or((line, "")));
        match whole.filter(|(writer, _)| safe_name(writer).is_ok()) {
            Some((writer, note)) => Ok(Some((writer.to_owned(), note.to_owned()))),
            None => Err(Problem::new("this claim does not say whose it is: the file is cut short or was changed")
                .at(claim.display().to_string())
                .hint(format!(
                    "its other name is .of-<writer>/{name} beside it: write that writer into it, and a line break"
                ))),
        }
    }
}

/// Names in a folder that can be claims; none where there is no folder.
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

/// Whether the two names are of one file. An open file is asked, because NFS may remember an answer of before the link.
#[cfg(unix)]
fn has_both_names(file: &Path, _claim: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::File::open(file)?.metadata()?.nlink() == 2)
}

/// Elsewhere nobody says how many names a file has; no two writers write the same text.
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
        assert_eq!(Claims::writers(folder.path()).unwrap().len(), 8);
    }

    #[test]
    fn whoever_comes_back_under_its_name_has_its_claims_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let first = Claims::open(folder.path(), "a").unwrap();
        assert!(first.take("x").unwrap() && first.take_with("y", "0-10").unwrap());
        assert!(Claims::open(folder.path(), "b").unwrap().take("z").unwrap());
        // Killed before its link: the file is there, the claim is not.
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
    fn names_that_lead_elsewhere_and_claims_cut_short_are_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Claims::open(folder.path(), "../a").unwrap_err().hint.is_some());
        let claims = Claims::open(folder.path(), "a").unwrap();
        assert!(claims.take("../x").unwrap_err().hint.is_some());
        for cut in ["", "a", "\n", "../a 1\n"] {
            fs::write(folder.path().join("x"), cut).unwrap();
            let problem = Claims::holder(folder.path(), "x").unwrap_err();
            assert!(problem.what.contains("cut short") && problem.hint.is_some(), "{cut:?}");
            assert!(!claims.take("x").unwrap(), "whose it is may be unknown, but it is taken");
        }
    }
}
