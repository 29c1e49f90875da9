//! Atomic file writes: the bytes go to a temporary file in the same folder, which is synced and renamed; then the folder is synced. A
//! reader and a crash see either the old file or the new one.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;

use tiltmeter_model::problem::Problem;

/// Atomically replaces `path` by a file with these bytes. Creates its folder if needed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    replace(path, |file| file.write_all(bytes)).map_err(|error| cannot_write(path, &error))
}

/// `write_atomic` for text; appends a line break if there is none.
pub fn write_text_atomic(path: &Path, text: &str) -> Result<(), Problem> {
    let line_break = if text.ends_with('\n') { "" } else { "\n" };
    write_atomic(path, format!("{text}{line_break}").as_bytes())
}

/// `write_atomic` for a value, as indented JSON.
pub fn write_json_atomic<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), Problem> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Problem::new(format!("cannot be written as JSON: {error}")).at(path.display().to_string()))?;
    write_text_atomic(path, &text)
}

/// Name prefix of temporary files.
pub(super) const WRITING: &str = ".writing-";

/// Atomic replacement of `path`; `fill` writes the content.
pub(super) fn replace(path: &Path, fill: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let path = &destination(path)?;
    let folder = folder_of(path);
    fs::create_dir_all(&folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(WRITING);
    // Temporary files default to mode 0600, which would make results unreadable to other users of a shared disk.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(&folder)?;
    fill(temporary.as_file_mut())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(&folder)
}

/// The file that a write to `path` replaces: links are followed, and only a regular file may be there.
fn destination(path: &Path) -> io::Result<PathBuf> {
    /// As many links as Linux follows.
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
            Ok(found) if found.is_symlink() => path = folder_of(&path).join(fs::read_link(&path)?),
            Ok(found) if found.is_file() => return Ok(path),
            Ok(found) if found.is_dir() => return Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a folder")),
            Ok(_) => {
                let what = "this is a device, pipe or socket, which a file would replace";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "too many symbolic links"))
}

/// Checks before any work that a file can later be written at `path`, as far as what is there now tells.
///
/// # Errors
/// A folder, device, pipe or socket has this name.
pub fn check_output(path: &Path) -> Result<(), Problem> {
    destination(path).map(|_| ()).map_err(|error| cannot_write(path, &error))
}

/// Makes new names in a folder durable. Does nothing outside unix, where folders cannot be opened.
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

/// The problem of a failed write, with a hint.
pub fn cannot_write(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("cannot write: {error}")).at(path.display().to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            problem.hint("free space on this disk, then continue with --resume")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            problem.hint("make the folder writable, or choose another with --out")
        }
        io::ErrorKind::FileTooLarge => {
            problem.hint("raise the limit on the size of files (ulimit -f), then continue with --resume")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            problem.hint("another file or folder has this name: move it away, or choose another folder with --out")
        }
        _ => problem.hint("check this place on the disk, or choose another; journaled steps are kept for --resume"),
    }
}

/// The problem of a failed read, with a hint.
pub fn cannot_read(path: &Path, error: &io::Error) -> Problem {
    let problem = Problem::new(format!("cannot read: {error}")).at(path.display().to_string());
    problem.hint(match error.kind() {
        io::ErrorKind::NotADirectory => "this is a file, not a folder: choose another place",
        io::ErrorKind::PermissionDenied => "make it readable, or choose another place",
        _ => "check the path and the disk",
    })
}

/// Accepts a name as part of a path only if it cannot leave its folder, is not hidden, and is valid on all file systems.
pub fn safe_name(name: &str) -> Result<&str, Problem> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=' | '@');
    if !name.is_empty() && name.len() <= 120 && !name.starts_with(['.', '-']) && name.chars().all(plain) {
        return Ok(name);
    }
    Err(Problem::new(format!("{name:?} cannot be part of a file name"))
        .hint("use letters, digits, '-', '_' and '.', not starting with '.' or '-', at most 120 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_and_folders_created() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/report.md");
        write_text_atomic(&path, "one").unwrap();
        write_text_atomic(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file remains");
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
    fn names_cannot_leave_their_folder() {
        for good in ["003b", "olmo3_7b", "T=0.7", "kühl", "a.b"] {
            assert_eq!(safe_name(good).unwrap(), good);
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a\0b", "a b", &"x".repeat(121)] {
            assert!(safe_name(bad).is_err(), "{bad:?}");
        }
    }
}
