//! Reading of files that somebody else wrote: only regular ones, and none larger than its reader expects, so that a device or a pipe
//! neither blocks nor fills memory.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Experiments, transcripts, configurations, prompts: 64 MiB.
pub const MAX_TEXT: u64 = 64 << 20;
/// Axis files and published projections: 4 GiB.
pub const MAX_DATA: u64 = 4 << 30;

/// How a pointer of Git LFS begins, which stands for a file that was not fetched.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
pub const LFS_MESSAGE: &str = "this is a Git LFS pointer, not the file it stands for";

/// Opens a regular file of at most `max_bytes`. A link is followed.
///
/// # Errors
/// `InvalidInput` for a folder, device, pipe or socket; `FileTooLarge`; and whatever opening meets.
pub fn open_regular(path: &Path, max_bytes: u64) -> io::Result<File> {
    // Before opening: that would wait for the other end of a pipe.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a folder, not a file"));
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is a device, pipe or socket, not a file"));
    }
    if metadata.len() > max_bytes {
        let what = format!("the file has {} bytes; at most {max_bytes} are read", metadata.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    File::open(path)
}

/// The bytes of a regular file of at most `max_bytes`.
pub fn read_bytes(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    open_regular(path, max_bytes)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max_bytes} bytes")));
    }
    if bytes.starts_with(LFS_POINTER) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{LFS_MESSAGE}: run git lfs pull")));
    }
    Ok(bytes)
}

/// The text of a regular file of at most `max_bytes`.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    String::from_utf8(read_bytes(path, max_bytes)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8: {}", error.utf8_error())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(read_bytes(&path, length).unwrap().len() as u64, length);
        assert_eq!(read_bytes(&path, length - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read_text(path.parent().unwrap(), MAX_TEXT).is_err());
        #[cfg(unix)]
        assert_eq!(read_bytes(Path::new("/dev/zero"), MAX_TEXT).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
