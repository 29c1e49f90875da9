//! Writing to the terminal: escaping of untrusted text, colours, paths, plurals, and output that survives a closed pipe.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
};

use super::exit::Failure;
use tiltmeter_model::Problem;

/// Replaces control characters (except line feed and tab) and bidirectional formatting characters by escapes such as `\u{1b}`, so that
/// text of models and files cannot control the terminal.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

fn is_unsafe(c: char) -> bool {
    let bidirectional =
        matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidirectional || (c.is_control() && c != '\n' && c != '\t')
}

/// Colours, on a terminal that is not dumb and unless `NO_COLOR` is set.
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

    /// Without colours.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { on: false }
    }

    /// With colours.
    #[cfg(test)]
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

/// Writes results to standard output. A closed pipe (`| head`) is ignored.
///
/// # Errors
/// Any other write error, such as a full disk.
pub fn stdout(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let problem =
                Problem::new(format!("cannot write to standard output: {error}")).hint("check the free disk space");
            Err(Failure::internal(problem))
        }
        _ => Ok(()),
    }
}

/// Writes progress, notes and errors to standard error. Write errors are ignored.
pub fn stderr(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// A path for display: escaped, and without a leading `./`.
pub fn path_text(path: &Path) -> String {
    let text = path.display().to_string();
    escape(text.strip_prefix("./").unwrap_or(&text)).into_owned()
}

/// `1 run`, `2 runs`
pub fn counted(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// The runtime of commands that wait for signals, timers or the network.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(Problem::new(format!("cannot start threads: {error}"))))?;
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // SIGXFSZ kills the process silently. With a handler, the write that exceeds the file-size limit fails with an error instead.
        const SIGXFSZ: i32 = 25;
        let _guard = runtime.enter();
        let _ = signal(SignalKind::from_raw(SIGXFSZ));
    }
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_control_the_terminal() {
        assert_eq!(escape("Grüße, 😀\n\tok"), "Grüße, 😀\n\tok");
        assert_eq!(escape("\x1b]0;title\x07\r\u{9b}31m"), "\\u{1b}]0;title\\u{7}\\u{d}\\u{9b}31m");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("\u{1f468}\u{200d}\u{1f469}"), "\u{1f468}\u{200d}\u{1f469}", "joined emoji stay joined");
    }
}
