//! JSON as a located tree. serde_json validates the text; a second pass locates the values, which serde_json does not report.

use super::{
    describe,
    tree::{Entry, Keyed, MAX_BYTES, MAX_DEPTH, Node, Origin, Repeated, Value, too_long},
};
use tiltmeter_model::problem::Problem;

/// Reads one JSON value. Beside the tree stand the keys that were given twice.
pub(super) fn from_json(text: &str, file: &str) -> Result<(Node, Vec<Repeated>), Vec<Problem>> {
    if text.len() > MAX_BYTES {
        return Err(vec![too_long(file)]);
    }
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        return Err(vec![json_problem(&error, file)]);
    }
    let mut walk = Walk { text, at: 0, line: 1, column: 1, file, repeated: Vec::new() };
    match walk.value(0) {
        Ok(root) => Ok((root, walk.repeated)),
        Err(problem) => Err(vec![problem]),
    }
}

fn json_problem(error: &serde_json::Error, file: &str) -> Problem {
    // serde_json appends " at line 3 column 7" to its message; the place says that already.
    let message = error.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    let origin = Origin::File { line: error.line().max(1), column: error.column().max(1) };
    let hint = if error.is_eof() {
        "the file ends too early: is it complete?"
    } else if what.contains("trailing comma") {
        "remove the comma before the closing bracket"
    } else {
        "check the commas, quotes and brackets just before this place"
    };
    Problem::new(format!("this is not valid JSON: {what}")).at(describe::place(file, &origin, "")).hint(hint)
}

/// A cursor over text that is known to be JSON.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    column: usize,
    file: &'a str,
    repeated: Vec<Repeated>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, depth: usize) -> Result<Node, Problem> {
        self.skip_space();
        let origin = Origin::File { line: self.line, column: self.column };
        if depth > MAX_DEPTH {
            return Err(Problem::new(format!("the file is deeper than {MAX_DEPTH} levels"))
                .at(describe::place(self.file, &origin, ""))
                .hint("check the brackets"));
        }
        let value = match self.peek() {
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?),
            _ => super::tree::plain(self.word()),
        };
        Ok(Node::new(value, origin))
    }

    fn map(&mut self, depth: usize) -> Result<Value, Problem> {
        let mut entries = Keyed::default();
        self.bump();
        loop {
            self.skip_space();
            match self.peek() {
                Some('"') => {
                    let key_origin = Origin::File { line: self.line, column: self.column };
                    let key = self.string()?;
                    self.skip_space();
                    self.bump(); // the colon
                    let node = self.value(depth + 1)?;
                    entries.insert(Entry { key, key_origin, node }, self.file, &mut self.repeated);
                }
                Some(',') => self.bump(),
                _ => {
                    self.bump();
                    return Ok(Value::Map(entries.into_entries()));
                }
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        self.bump();
        loop {
            self.skip_space();
            match self.peek() {
                Some(',') => self.bump(),
                Some(']') | None => {
                    self.bump();
                    return Ok(Value::List(items));
                }
                Some(_) => items.push(self.value(depth + 1)?),
            }
        }
    }

    /// A string that is not Unicode, such as half of a surrogate pair, is a problem: serde_json skips over it without a look.
    fn string(&mut self) -> Result<String, Problem> {
        let (start, origin) = (self.at, Origin::File { line: self.line, column: self.column });
        self.bump();
        while let Some(c) = self.peek() {
            self.bump();
            match c {
                '\\' => self.bump(),
                '"' => break,
                _ => {}
            }
        }
        serde_json::from_str(&self.text[start..self.at]).map_err(|error| {
            let message = error.to_string();
            let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
            Problem::new(format!("this text is not valid Unicode: {what}"))
                .at(describe::place(self.file, &origin, ""))
                .hint("a \\ud83d needs its second half; write the character itself, or export the text as UTF-8 again")
        })
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(|c| !c.is_whitespace() && !",]}:".contains(c)) {
            self.bump();
        }
        if start == self.at {
            self.bump(); // never stand still, whatever the text
        }
        &self.text[start..self.at]
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.bump();
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) {
        let Some(c) = self.peek() else { return };
        self.at += c.len_utf8();
        (self.line, self.column) = if c == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
    }
}
