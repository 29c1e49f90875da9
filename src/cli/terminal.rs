//! Owns what may reach a terminal: escaping of text from models and files, colours, and writing that survives a closed pipe.
//! Must not know: inference, HTTP.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, IsTerminal, Write},
};

use super::errors::Failure;
use tiltmeter_model::problem::Problem;

/// Text that cannot steer the terminal: control characters (but line feed and tab), and the marks that reverse the direction of
/// text, are shown as `\u{1b}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

fn steers(c: char) -> bool {
    let reverses = matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reverses || (c.is_control() && c != '\n' && c != '\t')
}

/// Colours, where they are wanted: on a terminal that is not dumb, unless `NO_COLOR` is set to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For standard error.
    pub fn for_stderr() -> Self {
        Self { on: io::stderr().is_terminal() && wanted() }
    }

    /// For standard output.
    pub fn for_stdout() -> Self {
        Self { on: io::stdout().is_terminal() && wanted() }
    }

    /// Never a colour.
    pub fn plain() -> Self {
        Self { on: false }
    }

    /// Always colours.
    pub fn always() -> Self {
        Self { on: true }
    }

    pub fn red(self, text: &str) -> String {
        self.code("1;31", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.code("1;33", text)
    }

    pub fn green(self, text: &str) -> String {
        self.code("32", text)
    }

    pub fn blue(self, text: &str) -> String {
        self.code("34", text)
    }

    fn code(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

fn wanted() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Writes results. A reader that closed the pipe (`| head`) has had enough: that is no problem; a full disk is.
pub fn stdout(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let problem = Problem::new(format!("standard output cannot be written: {error}")).hint("is the disk full?");
            Err(Failure::internal(problem))
        }
        _ => Ok(()),
    }
}

/// Writes what is beside the results. Whatever cannot be told is dropped: a run must not end because nobody listens.
pub fn stderr(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_steers_the_terminal() {
        assert_eq!(escape("Grüße, 😀\n\tok"), "Grüße, 😀\n\tok");
        assert_eq!(escape("\x1b]0;title\x07\r\u{9b}31m"), "\\u{1b}]0;title\\u{7}\\u{d}\\u{9b}31m");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("\u{1f468}\u{200d}\u{1f469}"), "\u{1f468}\u{200d}\u{1f469}", "joined emoji stay joined");
    }
}
