//! Owns how a file comes into being: whole or not at all. The bytes go to a new file in the same folder, are synced, take the
//! name in one step, and then the folder is synced, so that a reader and a crash see either the old file or the new one.
//! Must not know: what is in the file.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;

use tiltmeter_model::problem::Problem;

/// Replaces `path` by a file with these bytes, making its folder where there is none.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    replace(path, |file| file.write_all(bytes)).map_err(|error| cannot_write(path, &error))
}

/// `write_atomic` for text; the file ends with a line break.
pub fn write_text_atomic(path: &Path, text: &str) -> Result<(), Problem> {
    let line_break = if text.ends_with('\n') { "" } else { "\n" };
    write_atomic(path, format!("{text}{line_break}").as_bytes())
}

/// `write_atomic` for a value as indented JSON.
pub fn write_json_atomic<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Problem::new(format!("cannot be put as JSON: {error}")).at(path.display().to_string()))?;
    write_text_atomic(path, &text)
}

/// How the name of a file begins that is not whole yet.
pub(super) const WRITING: &str = ".writing-";

/// The atomic replacement itself; `fill` writes the content.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(&folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(WRITING);
    // The default of a temporary file is 0600, which would make results unreadable to the people one shares a disk with.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(&folder)?;
    fill(temporary.as_file_mut())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(&folder)
}

/// Makes a new name in a folder last. Only unix can open a folder.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// What to say when the disk refuses.
pub fn cannot_write(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("cannot write: {error}")).at(path.display().to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            problem.hint("make room on this disk, then go on with --resume")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            problem.hint("make the folder writable, or choose another with --out")
        }
        io::ErrorKind::FileTooLarge => {
            problem.hint("raise the limit on the size of files (ulimit -f), then go on with --resume")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            problem.hint("something else stands in this place: move it away, or choose another folder with --out")
        }
        _ => problem.hint("see to this place on the disk, or choose another; what is recorded is kept for --resume"),
    }
}

/// What to say when a file cannot be read.
pub fn cannot_read(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("cannot read: {error}")).at(path.display().to_string());
    problem.hint(match error.kind() {
        io::ErrorKind::NotADirectory => "this is a file, and a folder is needed: choose another place",
        io::ErrorKind::PermissionDenied => "make it readable, or choose another place",
        _ => "check the path and the disk",
    })
}

/// Accepts a name that becomes part of a path only if it cannot lead out of its folder, hide, or be refused by a file system.
pub fn safe_name(name: &str) -> Result<&str, Problem> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=' | '@');
    if !name.is_empty() && name.len() <= 120 && !name.starts_with(['.', '-']) && name.chars().all(plain) {
        return Ok(name);
    }
    Err(Problem::new(format!("{name:?} cannot be part of a file name"))
        .hint("use letters, digits, '-', '_' and '.', not beginning with '.' or '-', at most 120 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_makes_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/report.md");
        write_text_atomic(&path, "one").unwrap();
        write_text_atomic(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file stays behind");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        write_json_atomic(&path, &serde_json::json!({"n": 1})).unwrap();
        let refused = replace(&path, |file| {
            file.write_all(b"{\"n\":")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(refused.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"n\": 1\n}\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_cannot_traverse() {
        for good in ["003b", "olmo3_7b", "T=0.7", "kühl", "a.b"] {
            assert_eq!(safe_name(good).unwrap(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a\0b", "a b", &"x".repeat(121)] {
            assert!(safe_name(bad).is_err(), "{bad:?}");
        }
    }
}
