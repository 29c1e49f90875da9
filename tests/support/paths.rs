//! Paths of the repository and of its fixtures.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The repository: where this crate was built, or the working directory if the tests run on another machine.
pub fn repo() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/support is two levels deep");
    if built.is_dir() { built.to_owned() } else { std::env::current_dir().expect("a working directory") }
}

/// Makes the repository the working directory, from which shipped experiments look for their files.
pub fn enter_repo() {
    std::env::set_current_dir(repo()).expect("the repository can be entered");
}

/// Absolute path of a file of the repository, valid in any working directory.
pub fn in_repo(path: &str) -> String {
    repo().join(path).display().to_string()
}

/// Absolute path of a file below `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    repo().join("tests/fixtures").join(path)
}

/// Parses a JSON file; panics with its path if that fails.
pub fn json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
