//! What the fake Hub holds: datasets as lists of commits, each with all its files, and the objects of LFS.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// One commit with the whole tree.
#[derive(Clone, Debug)]
pub struct Commit {
    /// 40 hex digits, as git's.
    pub oid: String,
    pub summary: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

pub struct State {
    pub address: String,
    pub repos: BTreeMap<String, Vec<Commit>>,
    pub models: Vec<String>,
    /// By SHA-256.
    pub objects: BTreeMap<String, Vec<u8>>,
    pub lfs_from: usize,
}

impl Default for State {
    fn default() -> Self {
        let (address, repos, models, objects) = Default::default();
        Self { address, repos, models, objects, lfs_from: 10 << 20 }
    }
}

impl State {
    pub fn make(&mut self, repo: &str) {
        let files = [(".gitattributes".to_string(), b"*.parquet filter=lfs\n".to_vec())].into();
        let first = Commit { oid: hex(repo.as_bytes(), 40), summary: "initial commit".into(), files };
        self.repos.insert(repo.into(), vec![first]);
    }

    pub fn commit(&mut self, repo: &str, summary: &str, changes: BTreeMap<String, Option<Vec<u8>>>) -> String {
        let commits = self.repos.get_mut(repo).unwrap();
        let mut files = commits.last().unwrap().files.clone();
        for (path, bytes) in changes {
            match bytes {
                Some(bytes) => files.insert(path, bytes),
                None => files.remove(&path),
            };
        }
        let oid = hex(format!("{repo} {} {summary} {files:?}", commits.len()).as_bytes(), 40);
        commits.push(Commit { oid: oid.clone(), summary: summary.into(), files });
        oid
    }

    pub fn put(&mut self, repo: &str, path: &str, bytes: &[u8]) -> String {
        self.commit(repo, "by somebody else", [(path.to_string(), Some(bytes.to_vec()))].into())
    }

    /// A commit by its name; `main` is the newest.
    pub fn at(&self, repo: &str, revision: &str) -> Option<&Commit> {
        let commits = self.repos.get(repo)?;
        match revision {
            "main" => commits.last(),
            oid => commits.iter().find(|commit| commit.oid == oid),
        }
    }

    pub fn file(&self, repo: &str, path: &str) -> Option<Vec<u8>> {
        self.at(repo, "main")?.files.get(path).cloned()
    }
}

/// The first digits of the SHA-256.
pub fn hex(bytes: &[u8], digits: usize) -> String {
    let all: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    all[..digits].to_string()
}
