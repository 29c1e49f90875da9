//! The located tree: the content of a YAML or JSON file, every value with its line and column. YAML values follow the YAML 1.2 core
//! schema, so `yes` and `no` are text. serde does not read the tree, because it stops at the first error.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::describe;
use tiltmeter_model::problem::Problem;

/// More text than an experiment can have, in a file and after its aliases are written out.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// More values than an experiment can have; aliases of aliases would otherwise grow without end.
const MAX_NODES: usize = 200_000;
/// Deeper than any key; keeps recursion over the tree bounded.
pub(super) const MAX_DEPTH: usize = 64;

/// Where a value stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    /// In the file; both count from 1.
    File { line: usize, column: usize },
    /// On the command line: `--set key=value`, as it was typed.
    Set(String),
}

/// One value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
    /// Dotted path from the top: `conditions.0.label`; empty for the top itself.
    pub path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number {
        /// As it was written, so that a message can quote it.
        raw: String,
        /// `None` for a number with a fraction, or one too large for any key.
        int: Option<i128>,
        float: f64,
    },
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub key_origin: Origin,
    pub node: Node,
}

impl Node {
    pub fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin, path: String::new() }
    }

    /// Writes the dotted path into this node and everything below it.
    pub fn name_paths(&mut self, path: String) {
        let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match &mut self.value {
            Value::List(items) => {
                items.iter_mut().enumerate().for_each(|(i, item)| item.name_paths(below(&i.to_string())))
            }
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.node.name_paths(below(&entry.key))),
            _ => {}
        }
        self.path = path;
    }

    fn size(&self) -> Size {
        let mut size = Size { nodes: 1, bytes: 0, depth: 0 };
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| size.include(item.size())),
            Value::Map(entries) => entries.iter().for_each(|entry| {
                size.bytes += entry.key.len();
                size.include(entry.node.size());
            }),
            Value::Text(text) => size.bytes = text.len(),
            Value::Number { raw, .. } => size.bytes = raw.len(),
            Value::Null | Value::Bool(_) => {}
        }
        Size { depth: size.depth + 1, ..size }
    }
}

/// What copying a node costs.
struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Size {
    fn include(&mut self, below: Size) {
        self.nodes += below.nodes;
        self.bytes += below.bytes;
        self.depth = self.depth.max(below.depth);
    }
}

/// A key that was given before. Reading goes on with the first.
pub(super) struct Repeated {
    pub at: Origin,
    pub problem: Problem,
}

/// The entries of a mapping in their order, each key once.
#[derive(Default)]
pub(super) struct Keyed {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

impl Keyed {
    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Adds `entry` unless its key is there already, which is a problem that names both places.
    pub(super) fn insert(&mut self, entry: Entry, file: &str, repeated: &mut Vec<Repeated>) {
        let Some(first) = self.index.get(&entry.key) else {
            self.index.insert(entry.key.clone(), self.entries.len());
            return self.entries.push(entry);
        };
        repeated.push(given_twice(&self.entries[*first], entry, file));
    }
}

fn given_twice(first: &Entry, entry: Entry, file: &str) -> Repeated {
    let first_at = describe::place(file, &first.key_origin, "");
    let problem = Problem::new(format!("`{}` is given twice", describe::short(&entry.key)))
        .at(describe::place(file, &entry.key_origin, ""))
        .hint(format!("keep one of them; the first is at {first_at}"));
    Repeated { at: entry.key_origin, problem }
}

/// What a plain (unquoted) scalar means.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let radix = unsigned.strip_prefix("0x").map(|d| (d, 16)).or_else(|| unsigned.strip_prefix("0o").map(|d| (d, 8)));
    let int = match radix {
        Some((digits, radix)) if digits.starts_with(|c: char| c.is_digit(radix)) => {
            i128::from_str_radix(digits, radix).ok()
        }
        _ => text.parse::<i128>().ok(),
    };
    let float = match unsigned {
        ".inf" | ".Inf" | ".INF" if text.starts_with('-') => Some(f64::NEG_INFINITY),
        ".inf" | ".Inf" | ".INF" => Some(f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        // Rust also reads `inf` and `nan`, which are words here.
        _ if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => text.parse::<f64>().ok(),
        _ => None,
    };
    match (int, float) {
        (Some(int), _) => Value::Number { raw: text.to_string(), int: Some(int), float: int as f64 },
        (None, Some(float)) => Value::Number { raw: text.to_string(), int: None, float },
        (None, None) => Value::Text(text.to_string()),
    }
}

/// Reads one YAML document. `Err` holds everything found up to where reading could not go on.
pub(super) fn from_yaml(text: &str, file: &str) -> Result<(Node, Vec<Repeated>), Vec<Problem>> {
    if text.len() > MAX_BYTES {
        return Err(vec![too_long(file)]);
    }
    let mut builder = Builder {
        file,
        stack: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        bytes: 0,
        root: None,
        repeated: Vec::new(),
    };
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.step(event, span),
            Err(error) => Err(scan_problem(&error, text, file)),
        };
        if let Err(problem) = step {
            let mut problems: Vec<Problem> = builder.repeated.into_iter().map(|repeated| repeated.problem).collect();
            problems.push(problem);
            return Err(problems);
        }
    }
    match builder.root {
        Some(root) => Ok((root, builder.repeated)),
        None => Err(vec![empty(file)]),
    }
}

pub(super) fn too_long(file: &str) -> Problem {
    Problem::new(format!("the file is longer than {} MiB", MAX_BYTES >> 20)).at(file).hint("split the experiment")
}

fn empty(file: &str) -> Problem {
    Problem::new("the file holds no experiment").at(file).hint("a first line could be `kind: projection`")
}

fn origin(mark: &Marker) -> Origin {
    // The parser counts lines from 1 and columns from 0; editors count both from 1.
    Origin::File { line: mark.line(), column: mark.col() + 1 }
}

fn scan_problem(error: &ScanError, text: &str, file: &str) -> Problem {
    let (line, column) = (error.marker().line(), error.marker().col() + 1);
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or("");
    let info = error.info();
    let tabbed = |line: &str| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    let hint = if tabbed(source) || info.contains("tab") {
        "YAML is indented with spaces: replace the tab by spaces".to_string()
    } else if info.contains("mapping value") || info.contains("':'") {
        "put the text in quotes if it holds `: `, and check the indentation of this line and the one above".to_string()
    } else if info.contains("quote") {
        "close the quote it opened with".to_string()
    } else if info.contains("bracket") {
        "every `[` and `{` needs its `]` and `}`".to_string()
    } else if info.contains("anchor") {
        "an alias `*name` needs an anchor `&name` above it; put the text in quotes if no alias is meant".to_string()
    } else {
        "check the indentation of this line and the one above; keys of one mapping start in the same column".to_string()
    };
    let place = describe::place(file, &Origin::File { line, column }, "");
    Problem::new(format!("this is not valid YAML: {info}")).at(place).hint(hint)
}

/// A collection that is still open.
struct Frame {
    collection: Collection,
    origin: Origin,
    anchor: usize,
}

enum Collection {
    List(Vec<Node>),
    Map { entries: Keyed, key: Option<(String, Origin)> },
}

struct Builder<'a> {
    file: &'a str,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Of the copies that aliases stand for.
    bytes: usize,
    root: Option<Node>,
    repeated: Vec<Repeated>,
}

impl Builder<'_> {
    fn step(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let at = origin(&span.start);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                return Err(Problem::new("the file holds a second document")
                    .at(describe::place(self.file, &at, ""))
                    .hint("write one experiment a file, and remove the `---`"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let as_text =
                    style != ScalarStyle::Plain || tag.as_ref().is_some_and(|t| t.is_yaml_core_schema_tag("str"));
                self.refuse_tag(tag.as_deref().map(|tag| tag.is_yaml_core_schema()), &at)?;
                let key_wanted =
                    matches!(self.stack.last(), Some(Frame { collection: Collection::Map { key: None, .. }, .. }));
                if key_wanted {
                    return self.key(text.into_owned(), at);
                }
                let value = if as_text { Value::Text(text.into_owned()) } else { plain(&text) };
                self.add(Node::new(value, at), anchor)?;
            }
            Event::Alias(id) => {
                let node = self.anchors.get(&id).ok_or_else(|| self.recursive(&at))?;
                let size = node.size();
                self.nodes += size.nodes;
                self.bytes += size.bytes;
                if self.nodes > MAX_NODES || self.bytes > MAX_BYTES || size.depth + self.stack.len() > MAX_DEPTH {
                    return Err(self.too_large(&at));
                }
                let copy = Node { origin: at, ..node.clone() };
                self.add(copy, 0)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref().map(|tag| tag.is_yaml_core_schema()), &at)?;
                self.open(Collection::List(Vec::new()), at, anchor)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref().map(|tag| tag.is_yaml_core_schema()), &at)?;
                self.open(Collection::Map { entries: Keyed::default(), key: None }, at, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.stack.pop() {
                    let value = match frame.collection {
                        Collection::List(items) => Value::List(items),
                        Collection::Map { entries, .. } => Value::Map(entries.into_entries()),
                    };
                    self.add(Node::new(value, frame.origin), frame.anchor)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, collection: Collection, origin: Origin, anchor: usize) -> Result<(), Problem> {
        if matches!(self.stack.last(), Some(Frame { collection: Collection::Map { key: None, .. }, .. })) {
            return Err(Problem::new("a key must be plain text, not a list or a mapping")
                .at(describe::place(self.file, &origin, ""))
                .hint("put the text in quotes if it begins with `[` or `{`"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.too_large(&origin));
        }
        self.stack.push(Frame { collection, origin, anchor });
        Ok(())
    }

    fn key(&mut self, text: String, at: Origin) -> Result<(), Problem> {
        if let Some(Frame { collection: Collection::Map { key, .. }, .. }) = self.stack.last_mut() {
            *key = Some((text, at));
        }
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.too_large(&node.origin));
        }
        if anchor != 0 {
            // The copy kept for later aliases; anchors within anchors would otherwise multiply.
            let size = node.size();
            self.nodes += size.nodes;
            self.bytes += size.bytes;
            if self.nodes > MAX_NODES || self.bytes > MAX_BYTES {
                return Err(self.too_large(&node.origin));
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.collection) {
            None => self.root = Some(node),
            Some(Collection::List(items)) => items.push(node),
            Some(Collection::Map { entries, key }) => {
                let Some((key, key_origin)) = key.take() else {
                    return Err(Problem::new("an alias cannot be a key")
                        .at(describe::place(self.file, &node.origin, ""))
                        .hint("write the key out"));
                };
                entries.insert(Entry { key, key_origin, node }, self.file, &mut self.repeated);
            }
        }
        Ok(())
    }

    fn refuse_tag(&self, core: Option<bool>, at: &Origin) -> Result<(), Problem> {
        match core {
            Some(false) => Err(Problem::new("YAML tags (`!name`) have no meaning here")
                .at(describe::place(self.file, at, ""))
                .hint("remove the tag, or put the text in quotes if it begins with `!`")),
            _ => Ok(()),
        }
    }

    fn too_large(&self, at: &Origin) -> Problem {
        Problem::new(format!(
            "the file is too large or too deep: {MAX_NODES} values, {} MiB of text and {MAX_DEPTH} levels are the limit",
            MAX_BYTES >> 20
        ))
        .at(describe::place(self.file, at, ""))
        .hint("write aliases out, or split the experiment")
    }

    fn recursive(&self, at: &Origin) -> Problem {
        Problem::new("an alias refers to a value that contains it")
            .at(describe::place(self.file, at, ""))
            .hint("write the value out")
    }
}
