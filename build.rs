//! Owns the source version that the program reports of itself: the commit it was built from and whether the tree was changed.
//! Must not know: anything of the program.

use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

fn main() {
    // Outside a repository (a released archive) there is nothing to say, and the manifest leaves it out.
    if let (Some(commit), Some(changes)) =
        (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain", "--", "src", "kernels", "Cargo.toml"]))
    {
        println!("cargo::rustc-env=TILTMETER_COMMIT={commit}");
        println!("cargo::rustc-env=TILTMETER_DIRTY={}", !changes.is_empty());
    }
    // A path that is not there would have everything built again every time: a worktree or an archive has no `.git` folder.
    let watched = [".git/HEAD", ".git/refs/heads", "src", "kernels/src"];
    for path in watched.iter().filter(|path| std::path::Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
}
