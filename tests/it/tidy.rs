//! Owns the house rules that a machine can keep: which room may use which, which crate belongs to which room, how files begin, how
//! long they are, what they may not hold, what stands at the top of the repository. Each rule is a row of a table below, so that
//! a new arrow is a visible one-line change; each rule is itself tested with a planted violation.
//! Must not know: what the rooms do.

use std::{collections::BTreeMap, fs, path::Path};

/// Path from the repository root -> text.
type Sources = BTreeMap<String, String>;

/// Who may use whom, and what for. `problem` is for everyone and not listed.
const ARROWS: &[(&str, &str, &str)] = &[
    ("cli", "session", "commands are carried out there"),
    ("cli", "spec", "an experiment is shown before it runs"),
    ("cli", "record", "a run folder and how its sessions ended are shown"),
    ("cli", "report", "tables for the terminal"),
    ("cli", "scheduler", "progress, status, the stop signal"),
    ("cli", "model", "a conversation at the keyboard"),
    ("cli", "probe", "sites and axes as arguments, axis files shown"),
    ("session", "spec", "an experiment is loaded"),
    ("session", "registry", "its model is opened"),
    ("session", "experiment", "its kind says what runs"),
    ("session", "scheduler", "the runs are carried out"),
    ("session", "cluster", "a batch is handed to Slurm"),
    ("session", "record", "the folder and the manifest are written"),
    ("session", "report", "results are put together"),
    ("session", "model", "conversations and captures without an experiment"),
    ("session", "probe", "axes are opened and checked"),
    ("registry", "engine", "local models; the only room that sees them and API models"),
    ("registry", "provider", "models behind an API, by the same door"),
    ("registry", "model", "what it hands out is the port"),
    ("registry", "secret", "keys for models behind an API"),
    ("session", "secret", "keys are read once, at the start"),
    ("session", "dataset", "finished records are appended"),
    ("provider", "secret", "keys go into headers, and out of errors"),
    ("dataset", "secret", "a token goes into a header, and out of errors"),
    ("dataset", "record", "what was sent is booked in the run folder"),
    ("spec", "model", "sampling settings and roles in their own words"),
    ("spec", "probe", "sites and spans in their own words"),
    ("experiment", "spec", "a kind is made of its keys"),
    ("experiment", "model", "runs talk to the port"),
    ("experiment", "probe", "runs ask for readouts"),
    ("experiment", "scheduler", "a kind's runs are what it carries out"),
    ("experiment", "record", "a run leaves an outcome"),
    ("experiment", "stats", "files that a kind promises hold means, intervals and tests; pure functions on slices"),
    ("scheduler", "record", "run keys, outcomes, the run folder"),
    ("record", "model", "transcripts are messages"),
    ("model", "probe", "a request carries probes, a reply readouts"),
    ("probe", "model", "an axis is checked against a model's card"),
    ("report", "record", "what is reported was recorded"),
    ("report", "stats", "its numbers"),
    ("report", "plot", "its figures"),
    ("cluster", "record", "what was submitted stands in the run folder"),
    ("engine", "model", "it implements the port"),
    ("engine", "probe", "it answers probes"),
    ("provider", "model", "it implements the port"),
];

/// Rooms that everyone may use.
const COMMON: &[&str] = &["problem", "failure"];

/// Crates that stay in one place, so that a room's "must not know" holds for them too.
const CRATES: &[(&str, &[&str])] = &[
    ("candle_core", &["src/engine/", "src/probe/import/"]),
    ("candle_nn", &["src/engine/"]),
    ("tiltmeter_kernels", &["src/engine/", "tests/it/gpu.rs"]),
    ("hf_hub", &["src/engine/", "src/dataset/"]),
    ("minijinja", &["src/engine/"]),
    ("tokenizers", &["src/engine/"]),
    ("clap", &["src/cli/"]),
    ("indicatif", &["src/cli/"]),
    ("serde_saphyr", &["src/spec/"]),
    ("plotters", &["src/plot/"]),
    // In `dataset`: time-outs of the client that hf_hub sends with, and the one question it does not ask.
    ("reqwest", &["src/provider/", "src/dataset/"]),
    ("statrs", &["src/stats/"]),
    ("parquet", &["src/record/", "tests/it/demo.rs"]),
];

/// `unsafe` outside `kernels/`, and why it must be there.
const UNSAFE: &[(&str, &str)] = &[("src/engine/checkpoint/weights.rs", "weights are mapped into memory, not copied")];

/// What may stand at the top of the repository.
const TOP: &[&str] = &[
    ".ci",
    ".git",
    ".gitattributes",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "build.rs",
    "clippy.toml",
    "data",
    "deny.toml",
    "experiments",
    "images",
    "kernels",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "src",
    "tests",
];

const MAX_LINES: usize = 500;
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "misc"];

/// Every violation, each as `path: what`.
fn violations(sources: &Sources) -> Vec<String> {
    let rooms: Vec<&str> = sources.keys().filter_map(|path| room_of(path)).collect();
    let mut found = Vec::new();
    for (path, text) in sources {
        let mut say = |what: String| found.push(format!("{path}: {what}"));
        let lines = text.lines().count();
        if lines > MAX_LINES {
            say(format!("{lines} lines, {MAX_LINES} are the limit: split it by what it owns"));
        }
        for part in path.split('/') {
            let stem = part.split('.').next().unwrap_or(part);
            let versioned =
                stem.rsplit_once("_v").is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            if EMPTY_NAMES.contains(&stem) || versioned {
                say(format!("`{stem}` says nothing of what it owns"));
            }
        }
        if !path.ends_with(".rs") {
            continue;
        }
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        match header.last() {
            None => say("begins without a `//!` header that says what it owns".into()),
            Some(last) if !last.starts_with("//! Must not know: ") => {
                say("the last line of its header is not `//! Must not know: …`".into());
            }
            Some(_) if header.len() < 2 => say("its header does not say what it owns".into()),
            Some(_) => {}
        }
        let code = code_of(text);
        for name in UNFINISHED.iter().filter(|name| has_word(&code, name)) {
            say(format!("`{name}` is unfinished work"));
        }
        if has_word(&code, "unsafe")
            && !path.starts_with("kernels/")
            && !UNSAFE.iter().any(|(allowed, _)| allowed == path)
        {
            say("`unsafe` belongs into kernels/".into());
        }
        let Some(room) = room_of(path) else { continue };
        if !COMMON.contains(&room)
            && !ARROWS.iter().any(|(from, to, _)| room == *from || room == *to)
            && !LEAVES.contains(&room)
        {
            say(format!("the room `{room}` is not in the table: say whom it may use"));
        }
        for used in rooms_used(path, &code, &rooms) {
            let listed = ARROWS.iter().any(|(from, to, _)| *from == room && *to == used);
            if used != room && !COMMON.contains(&used.as_str()) && !listed {
                say(format!("`{room}` must not use `{used}`: no such arrow in the table"));
            }
        }
        for (name, homes) in CRATES.iter().filter(|(_, homes)| !homes.iter().any(|home| path.starts_with(home))) {
            if has_word(&code, &format!("{name}::")) {
                say(format!("the crate `{name}` stays in {}", homes.join(" and ")));
            }
        }
    }
    found
}

/// Rooms that use nobody.
const LEAVES: &[&str] = &["stats", "plot", "problem"];

/// `src/spec/mod.rs` and `src/spec.rs` are of the room `spec`; the crate's own root is of none.
fn room_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
    (!["lib", "main"].contains(&name)).then_some(name)
}

/// The rooms a file names: `crate::room`, `crate::{room, …}`, and `super::…` where it climbs to the top.
fn rooms_used(path: &str, code: &str, rooms: &[&str]) -> Vec<String> {
    let tokens = tokens_of(code);
    let mut used = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let climbed = tokens[at..].chunks(2).take_while(|pair| *pair == ["super", "::"]).count();
        let begin = match tokens[at] {
            "crate" if tokens.get(at + 1) == Some(&"::") => Some(at + 2),
            "super" if climbed >= depth_of(path) => Some(at + 2 * climbed),
            _ => None,
        };
        at += 1 + 2 * climbed.saturating_sub(1);
        let Some(begin) = begin else { continue };
        let group = tokens.get(begin) == Some(&"{");
        let mut depth = 0usize;
        for (i, token) in tokens.iter().enumerate().skip(begin) {
            match *token {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                name if rooms.contains(&name) && (!group || (depth == 1 && ["{", ","].contains(&tokens[i - 1]))) => {
                    used.push(name.to_string());
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used.sort();
    used.dedup();
    used
}

/// How many `super` lead from a file's own module to the top of the crate.
fn depth_of(path: &str) -> usize {
    let parts: Vec<&str> = path.trim_start_matches("src/").split('/').collect();
    parts.len() - usize::from(parts.last() == Some(&"mod.rs"))
}

fn tokens_of(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if word > 0 {
            word
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Whether `word` stands in the code and is not the end of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + word.len()..].chars().next());
        !(before.is_some_and(part) || (word.ends_with(part) && after.is_some_and(part)))
    })
}

/// The code without its comments and without what its texts say.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let named = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let hashes = rest.strip_prefix('r').map(|tail| tail.len() - tail.trim_start_matches('#').len());
        let raw = hashes.filter(|n| !named && rest[1 + n..].starts_with('"'));
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 2;
            rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && (rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'')) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// Length of a literal with its quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = true; // the opening quote does not end it
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
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
            let code =
                entry.extension().is_some_and(|e| ["rs", "cu", "cuh", "c", "h", "py"].iter().any(|known| e == *known));
            if entry.is_dir() && !entry.ends_with("target") {
                walk(root, &entry, sources);
            } else if code {
                let path = entry.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                sources.insert(path, fs::read_to_string(&entry).unwrap());
            }
        }
    }
    let mut sources = Sources::new();
    for folder in ["src", "kernels", "tests"] {
        walk(root, &root.join(folder), &mut sources);
    }
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
    let top: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    assert_eq!(strangers(&top, &ignored), [""; 0]);
    assert_eq!(
        strangers(&["docs".into(), "src".into(), "target".into(), "a.log".into()], "/target\n*.log\n"),
        ["docs"]
    );
}

#[test]
fn the_tables_are_in_order() {
    for (i, (from, to, why)) in ARROWS.iter().enumerate() {
        assert!(!ARROWS[..i].iter().any(|(f, t, _)| f == from && t == to), "{from} -> {to} is listed twice");
        assert!(from != to && why.len() > 5, "{from} -> {to} needs a reason");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, why) in UNSAFE {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(has_word(&code_of(&text), "unsafe"), "{path} needs no exception any more ({why})");
    }
}

/// A file that breaks no rule, and what else is in it.
fn planted(path: &str, code: &str) -> Vec<String> {
    let mut sources: Sources =
        ["src/spec/mod.rs", "src/engine/mod.rs", "src/cli/mod.rs", "src/probe.rs", "src/problem.rs"]
            .map(|path| (path.to_string(), "//! Owns it.\n//! Must not know: others.\n".to_string()))
            .into();
    assert_eq!(violations(&sources), [""; 0]);
    sources.insert(path.to_string(), format!("//! Owns it.\n//! Must not know: others.\n{code}"));
    violations(&sources)
}

#[test]
fn a_planted_violation_of_each_rule_is_found() {
    let long = "\n".repeat(500);
    for (path, code, expected) in [
        ("src/spec/x.rs", "use crate::engine::Local;", "`spec` must not use `engine`"),
        (
            "src/spec/x.rs",
            "use crate::{\n    problem::Problem,\n    engine::{self, Local},\n};",
            "`spec` must not use `engine`",
        ),
        ("src/spec/x.rs", "fn f() -> crate::engine::Local { g() }", "`spec` must not use `engine`"),
        ("src/spec/x.rs", "use super::super::engine;", "`spec` must not use `engine`"),
        ("src/spec/mod.rs", "use super::{cli, problem};", "`spec` must not use `cli`"),
        ("src/attic/mod.rs", "", "the room `attic` is not in the table"),
        ("src/spec/x.rs", "use candle_core::Tensor;", "the crate `candle_core` stays in src/engine/"),
        ("src/spec/x.rs", "fn f(p: *const u8) -> u8 { unsafe { *p } }", "`unsafe` belongs into kernels/"),
        ("src/spec/x.rs", "fn f() { todo!() }", "`todo!` is unfinished work"),
        ("kernels/src/x.rs", "fn f() { dbg!(1); }", "`dbg!` is unfinished work"),
        ("tests/it/x.rs", &long, "502 lines, 500 are the limit"),
        ("kernels/cuda/x.cu", &long, "502 lines, 500 are the limit"),
        ("src/spec/utils.rs", "", "`utils` says nothing"),
        ("src/spec/util/mod.rs", "", "`util` says nothing"),
        ("src/spec/fields_v2.rs", "", "`fields_v2` says nothing"),
    ] {
        let found = planted(path, code);
        assert!(found.len() == 1 && found[0].contains(expected), "{path}: {code}\n{found:#?}");
    }
    for (text, expected) in [
        ("use std::fmt;\n", "begins without a `//!` header"),
        ("//! Owns it.\n", "the last line of its header"),
        ("//! Must not know: others.\n", "does not say what it owns"),
    ] {
        let found = violations(&[("tests/it/x.rs".to_string(), text.to_string())].into());
        assert!(found.len() == 1 && found[0].contains(expected), "{text}{found:#?}");
    }
}

#[test]
fn what_only_looks_like_a_violation_is_let_pass() {
    for (path, code) in [
        ("src/spec/x.rs", "// use crate::engine; todo!() unsafe\n/* crate::engine */"),
        ("src/spec/x.rs", "const A: &str = \"crate::engine unsafe { dbg!() }\"; const B: &str = r#\"a \" todo!()\"#;"),
        ("src/spec/x.rs", "const A: char = '\"'; fn f<'a>(x: &'a str) -> char { '\\'' } // todo!()"),
        ("src/spec/x.rs", "use super::engine_words; use crate::probe::Site; use crate::problem::{Problem, engine};"),
        ("src/spec/x.rs", "use crate::{probe::{engine, Site}, problem};"),
        ("src/spec/x.rs", "mod tests { use super::*; } #[deny(unsafe_code)] fn my_todo() {}"),
        ("kernels/src/x.rs", "fn f(p: *const u8) -> u8 { unsafe { *p } }"),
        ("src/probe.rs", "use crate::probe::Site; fn fields_very() {}"),
    ] {
        assert_eq!(planted(path, code), [""; 0], "{path}: {code}");
    }
}
