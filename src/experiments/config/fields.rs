//! Reads keys from a mapping, checks them, and collects every problem. A function that reads a value returns `None` after it has
//! reported a problem.

use std::collections::HashSet;
use std::{
    cell::RefCell,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::{
    describe,
    nearest::{nearest, nearest_file},
    tree::{Entry, Node, Origin, Repeated, Value},
};
use tiltmeter_model::problem::Problem;

/// Everything found in one file, and how its values are read.
pub(super) struct Reader<'a> {
    /// The file's name in problems.
    pub file: &'a str,
    /// The folder of the file: where relative paths are looked for second.
    pub folder: &'a Path,
    /// What the file as a whole is called.
    whole: &'static str,
    problems: RefCell<Vec<(usize, usize, Problem)>>,
    notes: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, folder: &'a Path) -> Self {
        Self { file, folder, whole: "the experiment", problems: RefCell::default(), notes: RefCell::default() }
    }

    /// Of a file that is no experiment.
    pub fn of(self, whole: &'static str) -> Self {
        Self { whole, ..self }
    }

    /// Reports a problem with a value.
    pub fn refuse(&self, node: &Node, what: impl Into<String>, hint: impl Into<String>) {
        self.refuse_at(&node.origin, &node.path, what.into(), hint.into());
    }

    fn refuse_at(&self, origin: &Origin, path: &str, what: String, hint: String) {
        self.push(origin, Problem::new(what).at(describe::place(self.file, origin, path)).hint(hint));
    }

    fn push(&self, origin: &Origin, problem: Problem) {
        let (line, column) = match origin {
            Origin::File { line, column } => (*line, *column),
            Origin::Set(_) => (usize::MAX, 0),
        };
        self.problems.borrow_mut().push((line, column, problem));
    }

    /// Says something worth knowing that is not wrong.
    pub fn note(&self, node: &Node, what: impl Into<String>, hint: impl Into<String>) {
        let place = describe::place(self.file, &node.origin, &node.path);
        self.notes.borrow_mut().push(Problem::new(what).at(place).hint(hint));
    }

    /// Adds what was found while the tree was built.
    pub fn absorb(&self, repeated: Vec<Repeated>) {
        repeated.into_iter().for_each(|repeated| self.push(&repeated.at, repeated.problem));
    }

    /// Adds what was found in a file that this one names; it has its places already.
    pub fn absorb_file(&self, problems: Vec<Problem>, notes: Vec<Problem>) {
        self.problems.borrow_mut().extend(problems.into_iter().map(|problem| (usize::MAX, 0, problem)));
        self.notes.borrow_mut().extend(notes);
    }

    /// What was reported, in the order of the file, and the notes.
    pub fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(line, column, _)| (*line, *column));
        (problems.into_iter().map(|(.., problem)| problem).collect(), self.notes.into_inner())
    }

    fn wrong_type(&self, node: &Node, wanted: &str) {
        let quoted_number = |text: &str| matches!(super::tree::plain(text), Value::Number { .. });
        let hint = match &node.value {
            Value::Number { raw, .. } if wanted.contains("text") => format!("quote it: \"{raw}\""),
            Value::Bool(value) if wanted.contains("text") => format!("quote it: \"{value}\""),
            Value::Text(text) if wanted.contains("true or false") && is_yaml_1_1_bool(text) => {
                format!("`{text}` is text in YAML 1.2: write true or false")
            }
            Value::Text(text) if wanted.contains("number") && quoted_number(text) => "remove the quotes".to_string(),
            Value::Text(text) if wanted.contains("number") && quoted_number(&text.replace('_', "")) => {
                format!("write {}", text.replace('_', ""))
            }
            Value::Number { float, .. } if wanted.contains("whole") && float.fract() == 0.0 && float.abs() < 1e15 => {
                format!("write {float}")
            }
            _ => format!("write {wanted}"),
        };
        self.refuse(node, format!("{} must be {wanted}, found {}", name_of(node), describe::found(node)), hint);
    }

    pub fn text(&self, node: &Node) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => self.none(node, "text"),
        }
    }

    /// Text with at least one visible character.
    pub fn filled_text(&self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if text.trim().is_empty() {
            self.refuse(node, format!("{} is empty", name_of(node)), "fill it in, or remove the key");
            return None;
        }
        Some(text)
    }

    /// Text that can be part of a file name on every system and cannot leave its folder.
    pub fn file_name(&self, node: &Node) -> Option<String> {
        let text = self.filled_text(node)?;
        let safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if starts_well && text.chars().all(safe) && text.len() <= 80 && !text.ends_with('.') {
            return Some(text);
        }
        let cleaned: String = text.chars().map(|c| if safe(c) { c } else { '_' }).take(80).collect();
        let cleaned = cleaned.trim_start_matches(['.', '-']).trim_end_matches('.');
        let cleaned = if cleaned.trim_matches('_').is_empty() { "name" } else { cleaned };
        let what = format!("{} `{}` cannot be a file name", name_of(node), describe::short(&text));
        let hint = format!("use up to 80 of A-Z a-z 0-9 . _ -, beginning with a letter, a digit or _: `{cleaned}`");
        self.refuse(node, what, hint);
        None
    }

    pub fn boolean(&self, node: &Node) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => self.none(node, "true or false"),
        }
    }

    /// A whole number within bounds.
    pub fn whole(&self, node: &Node, range: RangeInclusive<u64>) -> Option<u64> {
        let Value::Number { raw, int, float } = &node.value else { return self.none(node, "a whole number") };
        let in_range = int.and_then(|int| u64::try_from(int).ok()).filter(|value| range.contains(value));
        if in_range.is_none() {
            // 18 digits and more are numbers with a value, not numbers with a fraction.
            if int.is_none() && float.is_finite() && float.abs() < 1e18 {
                return self.none(node, "a whole number");
            }
            let (low, high) = range.into_inner();
            let bounds = if high == u64::MAX { format!("at least {low}") } else { format!("{low} to {high}") };
            let what = format!("{} is out of range: {}", name_of(node), describe::short(raw));
            self.refuse(node, what, format!("it must be {bounds}"));
        }
        in_range
    }

    /// `whole` as a size.
    pub fn size(&self, node: &Node, range: RangeInclusive<u64>) -> Option<usize> {
        self.whole(node, range).and_then(|value| usize::try_from(value).ok())
    }

    /// A finite number that passes `check`; `bounds` says in words what passes.
    pub fn number(&self, node: &Node, bounds: &str, check: fn(f64) -> bool) -> Option<f64> {
        let Value::Number { raw, float, .. } = &node.value else { return self.none(node, "a number") };
        if float.is_finite() && check(*float) {
            return Some(*float);
        }
        let what = format!("{} is out of range: {}", name_of(node), describe::short(raw));
        self.refuse(node, what, format!("it must be {bounds}"));
        None
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let text = match &node.value {
            Value::Text(text) => text,
            _ => return self.none(node, &format!("text: {}", words(choices))),
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        let meant = nearest(text, choices.iter().map(|(word, _)| *word));
        let hint = match meant {
            Some(word) => format!("did you mean `{word}`? It can be {}", words(choices)),
            None => format!("it can be {}", words(choices)),
        };
        self.refuse(node, format!("{} cannot be `{}`", name_of(node), describe::short(text)), hint);
        None
    }

    /// Every entry of a list that has at least one; problems in several entries are all reported.
    pub fn list<T>(&self, node: &Node, read: impl Fn(&Node) -> Option<T>) -> Option<Vec<T>> {
        let Value::List(items) = &node.value else { return self.none(node, "a list") };
        if items.is_empty() {
            self.refuse(node, format!("{} is an empty list", name_of(node)), "give it at least one entry");
            return None;
        }
        let values: Vec<Option<T>> = items.iter().map(read).collect();
        values.into_iter().collect()
    }

    /// A list, or a single value standing for a list of one.
    pub fn one_or_list<T>(&self, node: &Node, read: impl Fn(&Node) -> Option<T>) -> Option<Vec<T>> {
        match node.value {
            Value::List(_) => self.list(node, read),
            _ => read(node).map(|value| vec![value]),
        }
    }

    /// A file that must exist: looked for from the current folder first, then from the folder of the file that names it.
    pub fn existing_file(&self, node: &Node) -> Option<PathBuf> {
        let given = PathBuf::from(self.filled_text(node)?);
        let beside = self.folder.join(&given);
        if let Some(found) = [&given, &beside].into_iter().find(|path| path.is_file()) {
            return Some(found.clone());
        }
        let shown = describe::short(&given.to_string_lossy()).into_owned();
        if given.is_dir() || beside.is_dir() {
            self.refuse(node, format!("{} `{shown}` is a folder", name_of(node)), "name a file in it");
            return None;
        }
        let hint = match nearest_file(&given).or_else(|| nearest_file(&beside)) {
            Some(near) => format!("did you mean {near}?"),
            None if given.is_absolute() => "check the path".to_string(),
            None if self.folder.as_os_str().is_empty() => "paths are relative to the current folder".to_string(),
            None => format!("looked from the current folder and from {}", self.folder.display()),
        };
        self.refuse(node, format!("{} `{shown}` does not exist", name_of(node)), hint);
        None
    }

    fn none<T>(&self, node: &Node, wanted: &str) -> Option<T> {
        self.wrong_type(node, wanted);
        None
    }
}

fn is_yaml_1_1_bool(text: &str) -> bool {
    ["yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str())
}

fn words<T>(choices: &[(&str, T)]) -> String {
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.join(""),
    }
}

/// The last key of a node's path, for messages: `temperature` of `sampling.temperature`.
pub(super) fn name_of(node: &Node) -> String {
    match node.path.rsplit_once('.') {
        _ if node.path.is_empty() => "the experiment".into(),
        Some((above, last)) if last.bytes().all(|b| b.is_ascii_digit()) => format!("an entry of `{above}`"),
        Some((_, last)) => format!("`{}`", describe::short(last)),
        None => format!("`{}`", describe::short(&node.path)),
    }
}

/// One mapping, key by key. Keys that nobody asked for are reported by `finish`.
pub(super) struct Fields<'a> {
    pub reader: &'a Reader<'a>,
    node: &'a Node,
    entries: &'a [Entry],
    asked: Vec<&'static str>,
    missing: Vec<(&'static str, &'static str)>,
    elsewhere: Vec<(&'static str, &'static str)>,
}

/// Unknown keys of one mapping that are named; whoever has more has another file in hand.
const MOST_UNKNOWN: usize = 50;

impl<'a> Fields<'a> {
    pub fn open(reader: &'a Reader<'a>, node: &'a Node) -> Option<Self> {
        let Value::Map(entries) = &node.value else { return reader.none(node, "a mapping of keys to values") };
        Some(Self { reader, node, entries, asked: Vec::new(), missing: Vec::new(), elsewhere: Vec::new() })
    }

    /// The mapping itself, for problems that are of no single key.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// The value of a key; `key:` with nothing after it counts as absent.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// Whether the key is there with an explicit null.
    pub fn is_null(&mut self, key: &'static str) -> bool {
        self.get(key);
        self.entries.iter().any(|entry| entry.key == key && entry.node.value == Value::Null)
    }

    /// A key that must be there; `example` shows what a person could write.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        example: &'static str,
        read: impl FnOnce(&Node) -> Option<T>,
    ) -> Option<T> {
        match self.get(key) {
            Some(node) => read(node),
            None => {
                self.missing(key, example);
                None
            }
        }
    }

    /// A key with a default; `None` when it was refused.
    pub fn or<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Node) -> Option<T>) -> Option<T> {
        self.get(key).map_or(Some(default), read)
    }

    /// A key that may be absent: `Some(None)` then, and `None` when it was refused.
    pub fn maybe<T>(&mut self, key: &'static str, read: impl FnOnce(&Node) -> Option<T>) -> Option<Option<T>> {
        self.get(key).map_or(Some(None), |node| read(node).map(Some))
    }

    /// Reports that a key is missing, unless `finish` finds it misspelt.
    pub fn missing(&mut self, key: &'static str, example: &'static str) {
        self.missing.push((key, example));
    }

    /// A key that people put here although it belongs elsewhere: `home` says where, as in "under `sampling:`".
    pub fn belongs(&mut self, key: &'static str, home: &'static str) {
        self.elsewhere.push((key, home));
    }

    /// Reports unknown and missing keys.
    pub fn finish(self) {
        let mut misspelt = Vec::new();
        let given: HashSet<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        let unused: Vec<&str> = self.asked.iter().copied().filter(|key| !given.contains(key)).collect();
        let mut unknown = self.entries.iter().filter(|entry| !self.asked.contains(&entry.key.as_str()));
        for entry in unknown.by_ref().take(MOST_UNKNOWN) {
            let near =
                nearest(&entry.key, unused.iter().copied()).or_else(|| nearest(&entry.key, self.asked.iter().copied()));
            let home = self.elsewhere.iter().find(|(key, _)| *key == entry.key).map(|(_, home)| *home);
            let hint = match (home, near) {
                (Some(home), _) => format!("it belongs {home}"),
                (None, Some(near)) => {
                    misspelt.push(near);
                    format!("did you mean `{near}`?")
                }
                (None, None) => format!("remove it; the keys here are {}", self.asked.join(", ")),
            };
            let what = format!("`{}` is not a key of {}", describe::short(&entry.key), self.whole_name());
            self.reader.refuse_at(&entry.key_origin, &entry.node.path, what, hint);
        }
        if let Some(next) = unknown.next() {
            let what = format!("{} more keys are not keys of {}", 1 + unknown.count(), self.whole_name());
            self.reader.refuse_at(
                &next.key_origin,
                &next.node.path,
                what,
                "check that this is the right file".to_owned(),
            );
        }
        for (key, example) in self.missing.iter().filter(|(key, _)| !misspelt.contains(key)) {
            let what = format!("`{key}` is missing from {}", self.whole_name());
            self.reader.refuse(self.node, what, format!("add it, as in `{example}`"));
        }
    }

    fn whole_name(&self) -> String {
        if self.node.path.is_empty() { self.reader.whole.into() } else { format!("`{}`", self.node.path) }
    }
}
