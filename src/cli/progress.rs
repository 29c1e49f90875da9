//! Progress on standard error: a live line on a terminal, one flushed line per event in a pipe, or one JSON object per line with
//! `--progress json`. Results go to standard output, so that `2> progress.jsonl` contains progress only.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{terminal::escape, view::ProgressView};
use tiltmeter_scheduler::{Event, EventKind, Progress};

/// `--progress`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Live line on a terminal, else plain
    #[default]
    Auto,
    /// One line per event
    Plain,
    /// One JSON object per line
    Json,
}

/// Shows progress until dropped. It may be updated at any rate and prints a line only for changes.
pub struct ProgressDisplay {
    sink: Sink,
    shown: Option<(Instant, ProgressView)>,
    next_event: u64,
}

enum Sink {
    Live(ProgressBar),
    Lines { out: Box<dyn Write + Send>, json: bool },
}

impl ProgressDisplay {
    /// On standard error.
    pub fn new(mode: ProgressMode) -> Self {
        if mode == ProgressMode::Auto && io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(
                ProgressStyle::with_template("{wide_msg}{prefix}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            return Self { sink: Sink::Live(bar), shown: None, next_event: 0 };
        }
        Self::to(mode, Box::new(io::stderr()))
    }

    /// In lines, to any writer.
    pub fn to(mode: ProgressMode, out: Box<dyn Write + Send>) -> Self {
        Self { sink: Sink::Lines { out, json: mode == ProgressMode::Json }, shown: None, next_event: 0 }
    }

    /// Shows new events and the current state. Call it a few times per second.
    pub fn poll(&mut self, progress: &Progress) {
        for event in progress.events_since(self.next_event) {
            self.next_event = event.number + 1;
            self.event(&event);
        }
        self.update(&(&progress.snapshot()).into());
    }

    /// Shows the final state.
    pub fn end(&mut self, progress: &Progress) {
        self.poll(progress);
        self.finish(&(&progress.snapshot()).into());
    }

    fn event(&mut self, event: &Event) {
        let run = event.run.as_deref().map(|run| format!("{run}: ")).unwrap_or_default();
        match (&self.sink, event.kind) {
            (Sink::Lines { json: true, .. }, kind) => self.write(
                &json!({"event": kind, "run": event.run, "text": event.text, "elapsed_s": event.elapsed_s}).to_string(),
            ),
            // Counted in the next progress line.
            (_, EventKind::Done) => {}
            // The text starts with the run.
            (_, EventKind::Failed) => self.print(&event.text),
            (_, EventKind::Said) => self.print(&event.text),
            (_, EventKind::Note) => self.print(&format!("{run}{}", event.text)),
        }
    }

    /// Shows the view if a run ended, or if work continued and the last line is old enough.
    pub fn update(&mut self, view: &ProgressView) {
        let interval = match &self.sink {
            Sink::Live(bar) => {
                bar.set_message(view.line());
                // Lanes, on a second line.
                bar.set_prefix(view.lanes_line().map(|lanes| format!("\n  {lanes}")).unwrap_or_default());
                return;
            }
            Sink::Lines { json: true, .. } => Duration::from_secs(1),
            Sink::Lines { json: false, .. } => Duration::from_secs(5),
        };
        let changed = match &self.shown {
            None => true,
            Some((_, last)) if view.runs_differ(last) => true,
            Some((when, last)) => when.elapsed() >= interval && view.units_done != last.units_done,
        };
        if changed {
            self.show(view, "progress");
        }
    }

    /// Prints a message above the live line.
    pub fn print(&mut self, text: &str) {
        match &self.sink {
            Sink::Live(bar) => bar.println(escape(text)),
            Sink::Lines { json: true, .. } => self.write(&json!({"event": "note", "text": text}).to_string()),
            Sink::Lines { json: false, .. } => self.write(&escape(text)),
        }
    }

    /// Shows the final view, which stays on the screen.
    pub fn finish(&mut self, view: &ProgressView) {
        let view = &ProgressView { eta: None, ..view.clone() };
        match &self.sink {
            Sink::Live(bar) => {
                let line = view.line();
                bar.println(&line);
                bar.finish_and_clear();
            }
            Sink::Lines { .. } => self.show(view, "end"),
        }
    }

    fn show(&mut self, view: &ProgressView, event: &str) {
        let json = matches!(self.sink, Sink::Lines { json: true, .. });
        let line = if json { view.json(event).to_string() } else { escape(&view.line()).into_owned() };
        self.write(&line);
        self.shown = Some((Instant::now(), view.clone()));
    }

    fn write(&mut self, line: &str) {
        if let Sink::Lines { out, .. } = &mut self.sink {
            // Flushed, because the next line may be minutes away. A closed pipe is ignored.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Sink::Live(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_string).collect()
        }
    }

    fn view(units_done: u64, runs_done: u64) -> ProgressView {
        ProgressView {
            unit: "turns".into(),
            units_done,
            units_total: Some(864),
            runs_done,
            runs_total: 48,
            rate: Some((512.3, "tok".into())),
            elapsed: Duration::from_secs(62),
            eta: Some(Duration::from_secs(190)),
            ..ProgressView::default()
        }
    }

    #[test]
    fn a_pipe_gets_one_line_per_finished_run() {
        let written = Written::default();
        let mut display = ProgressDisplay::to(ProgressMode::Auto, Box::new(written.clone()));
        for (units, runs) in [(0, 0), (1, 0), (2, 0), (3, 1), (3, 1), (4, 1)] {
            display.update(&view(units, runs));
        }
        display.print("a \x1b[31mred\x1b[0m word");
        display.finish(&view(864, 48));
        let lines = written.lines();
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[0].starts_with("[0/864 turns]") && lines[1].starts_with("[3/864 turns]"), "{lines:#?}");
        assert_eq!(lines[2], "a \\u{1b}[31mred\\u{1b}[0m word");
        assert!(lines[3].starts_with("[864/864 turns] 48/48 runs"), "{lines:#?}");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let written = Written::default();
        let mut display = ProgressDisplay::to(ProgressMode::Json, Box::new(written.clone()));
        let progress = Progress::new();
        progress.expect("turns", 4);
        progress.count("turns", 1, true);
        progress.note("two\nlines");
        display.poll(&progress);
        display.poll(&progress);
        display.end(&progress);
        let objects: Vec<serde_json::Value> =
            written.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events: Vec<_> = objects.iter().map(|object| object["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["note", "progress", "end"], "each event appears once");
        assert_eq!(objects[0]["text"], "two\nlines");
        assert_eq!(objects[1]["units"], json!({"name": "turns", "done": 1, "total": 4}));
    }

    #[test]
    fn a_closed_pipe_is_ignored() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut display = ProgressDisplay::to(ProgressMode::Plain, Box::new(Closed));
        display.update(&view(1, 0));
        display.finish(&view(2, 1));
    }
}
