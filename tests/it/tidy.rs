//! House rules that Cargo cannot keep: how long files are, that modules of a crate form no cycle, where `unsafe` may stand, that every
//! crate states its invariants, what stands at the top of the repository. Each rule is tested with a planted violation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Path from the repository root -> text.
type Sources = BTreeMap<String, String>;

const MAX_LINES: usize = 450;

/// Files longer than `MAX_LINES`, each with the lines it may have. Entries only ever shrink or go.
const LONGER: &[(&str, usize)] = &[];

/// `unsafe` outside `kernels/`, and its reason.
const UNSAFE: &[(&str, &str)] = &[("src/engine/checkpoint/weights.rs", "weights are mapped into memory, not copied")];

const UNFINISHED: &[&str] = &["todo!(", "unimplemented!(", "dbg!("];
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "misc"];

/// What may stand at the top of the repository.
const TOP: &[&str] = &[
    ".ci",
    ".git",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "build.rs",
    "data",
    "deny.toml",
    "experiments",
    "images",
    "kernels",
    "rustfmt.toml",
    "src",
    "tests",
];

/// Every violation, each as `path: what`.
fn violations(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources {
        let mut say = |what: String| found.push(format!("{path}: {what}"));
        let (lines, limit) = (text.lines().count(), LONGER.iter().find(|(long, _)| long == path));
        let limit = limit.map_or(MAX_LINES, |(_, lines)| *lines);
        if lines > limit {
            say(format!("{lines} lines exceed the limit of {limit}"));
        }
        let stem = |part: &str| part.split('.').next().unwrap_or(part).to_owned();
        if let Some(part) = path.split('/').map(stem).find(|part| EMPTY_NAMES.contains(&part.as_str())) {
            say(format!("`{part}` does not name what is in it"));
        }
        if !path.ends_with(".rs") {
            continue;
        }
        if !text.starts_with("//!") {
            say("does not begin with a `//!` header".into());
        }
        if !path.ends_with("tidy.rs") {
            for name in UNFINISHED.iter().filter(|name| code(text).any(|line| line.contains(**name))) {
                say(format!("`{name}…)` is unfinished work"));
            }
        }
        let exempt =
            path.starts_with("kernels/") || path.ends_with("tidy.rs") || UNSAFE.iter().any(|(file, _)| file == path);
        if !exempt
            && code(text)
                .any(|line| line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl"))
        {
            say("`unsafe` belongs into kernels/".into());
        }
        if path.ends_with("/lib.rs")
            && path.starts_with("src/")
            && !["Invariants", "No ", "Nothing "].iter().any(|word| text.contains(word))
        {
            say("a crate's lib.rs states its invariants, as what never happens".into());
        }
    }
    found.extend(cycles(sources));
    found
}

/// Lines that are not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

/// Cycles between the top modules of a crate, by their `crate::module` paths outside tests.
fn cycles(sources: &Sources) -> Vec<String> {
    let roots: BTreeSet<&str> = sources.keys().filter_map(|path| path.strip_suffix("/lib.rs")).collect();
    let mut edges: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let Some(root) =
            roots.iter().filter(|root| path.starts_with(&format!("{root}/"))).max_by_key(|root| root.len())
        else {
            continue;
        };
        let inside = path[root.len() + 1..].trim_end_matches(".rs");
        let module = inside.split('/').next().unwrap_or(inside).to_owned();
        if ["lib", "main", "tests"].contains(&module.as_str()) || inside.ends_with("tests") || inside.contains("tests/")
        {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().unwrap_or(text);
        let text: String = code(text).collect::<Vec<_>>().join(" ");
        let used = edges.entry((*root, module.clone())).or_default();
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + 7..];
            let group = rest.strip_prefix('{').map(top_names);
            let names = group.unwrap_or_else(|| vec![word(rest)]);
            used.extend(names.into_iter().filter(|name| *name != module));
        }
    }
    let mut found = Vec::new();
    for (root, module) in edges.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&String> = edges[&(*root, module.clone())].iter().collect();
        while let Some(name) = next.pop() {
            if name == module {
                found.push(format!("{root}/{module}: is in a cycle of modules"));
                break;
            }
            if seen.insert(name) {
                next.extend(edges.get(&(*root, name.clone())).into_iter().flatten());
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names of the paths in a `{…}` group.
fn top_names(inner: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 1, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                names.push(word(inner[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            names.push(word(inner[start..at].trim()));
            break;
        }
    }
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

/// What stands at the top and is neither listed nor ignored by git.
fn strangers(top: &[String], ignored: &str) -> Vec<String> {
    let is_ignored = |name: &str| {
        ignored.lines().map(|line| line.trim().trim_matches('/')).any(|pattern| match pattern.strip_prefix('*') {
            Some(ending) => name.ends_with(ending),
            None => name == pattern,
        })
    };
    top.iter().filter(|name| !TOP.contains(&name.as_str()) && !is_ignored(name)).cloned().collect()
}

/// Every file of code, by its path from the root.
fn read_sources(root: &Path) -> Sources {
    fn walk(root: &Path, folder: &Path, sources: &mut Sources) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let ending = entry.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_owned();
            if entry.is_dir() && !entry.ends_with("target") {
                walk(root, &entry, sources);
            } else if ["rs", "cu", "cuh", "cpp", "c", "h", "py"].contains(&ending.as_str()) {
                let path = entry.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                sources.insert(path, fs::read_to_string(&entry).unwrap());
            }
        }
    }
    let mut sources = Sources::new();
    ["src", "kernels", "tests"].iter().for_each(|folder| walk(root, &root.join(folder), &mut sources));
    sources
}

#[test]
fn the_house_keeps_its_rules() {
    let sources = read_sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(
        sources.len() > 20 && sources.contains_key("src/lib.rs"),
        "{} files: is this the repository?",
        sources.len()
    );
    let found = violations(&sources);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_top_of_the_repository_holds_what_was_agreed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let name = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name().to_string_lossy().into_owned();
    let top: Vec<String> = fs::read_dir(root).unwrap().map(name).collect();
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    assert_eq!(strangers(&top, &ignored), [""; 0]);
    assert_eq!(
        strangers(&["docs".into(), "src".into(), "target".into(), "a.log".into()], "/target\n*.log\n"),
        ["docs"]
    );
}

#[test]
fn a_planted_violation_of_each_rule_is_found() {
    let clean = || -> Sources {
        ["src/a/lib.rs", "src/a/one.rs", "src/a/two.rs"]
            .map(|path| (path.to_owned(), "//! A part. No invariants.\n".to_owned()))
            .into()
    };
    assert_eq!(violations(&clean()), [""; 0]);
    let long = "\n".repeat(450);
    for (path, text, expected) in [
        ("src/a/x.rs", &*format!("//! A part.{long}{long}"), "exceed the limit of 450"),
        ("kernels/cuda/x.cu", &*format!("//{long}{long}"), "exceed the limit of 450"),
        ("src/a/utils.rs", "//! A part.\n", "`utils` does not name"),
        ("src/a/util/x.rs", "//! A part.\n", "`util` does not name"),
        ("src/a/x.rs", "use std::fmt;\n", "does not begin with a `//!` header"),
        ("src/a/x.rs", "//! A part.\nfn f() { todo!() }\n", "unfinished work"),
        ("src/a/x.rs", "//! A part.\nfn f(p: *const u8) -> u8 { unsafe { *p } }\n", "`unsafe` belongs"),
        ("src/b/lib.rs", "//! A crate.\n", "states its invariants, as"),
        ("src/a/one.rs", "//! A part.\nuse crate::one::X;\nuse crate::{three, two::Y};\n", ""),
    ] {
        let mut sources = clean();
        sources.insert(path.to_owned(), text.to_owned());
        let found = violations(&sources);
        if expected.is_empty() {
            assert_eq!(found, [""; 0], "{path}");
            // The other direction closes the cycle, also from a file below the module.
            sources.insert("src/a/two/deep.rs".into(), "//! A part.\nuse crate::one::X;\n".into());
            assert_eq!(violations(&sources).len(), 2, "{:?}", violations(&sources));
        } else {
            assert!(found.len() == 1 && found[0].contains(expected), "{path}: {found:?}");
        }
    }
    let harmless = "//! A part.\n// unsafe { todo!() } use crate::two;\n";
    let mut sources = clean();
    sources.insert("src/a/one.rs".into(), harmless.into());
    assert_eq!(violations(&sources), [""; 0]);
}
