//! Errors and notes on standard error, and exit codes.

use super::terminal::{Paint, escape, stderr};
use tiltmeter_model::problem::Problem;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done,
    /// An error inside tiltmeter or the machine.
    Internal,
    /// Invalid arguments, experiment or plan; nothing ran.
    BadPlan,
    /// A budget limit stopped the schedule.
    Budget,
    /// Some runs failed; the others are done.
    SomeFailed,
    /// A quota or rate limit of a provider stopped the schedule.
    Quota,
    /// A signal stopped the schedule.
    Interrupted,
}

impl Exit {
    /// Exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Internal => 1,
            Exit::BadPlan => 2,
            Exit::Budget => 3,
            Exit::SomeFailed => 4,
            Exit::Quota => 5,
            Exit::Interrupted => 130,
        }
    }
}

/// A failed command. `?` converts a `Problem` or a `Vec<Problem>` into [`Exit::BadPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The errors to print.
    pub problems: Vec<Problem>,
}

impl Failure {
    /// A failure after the command started to run.
    pub fn internal(problem: Problem) -> Self {
        Self { exit: Exit::Internal, problems: vec![problem] }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        vec![problem].into()
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        Self { exit: Exit::BadPlan, problems }
    }
}

/// Prints errors to standard error.
pub fn print(problems: &[Problem]) {
    stderr(&render(problems, Paint::for_stderr()));
}

/// Prints notes to standard error.
pub fn print_notes(notes: &[Problem]) {
    let paint = Paint::for_stderr();
    stderr(&notes.iter().map(|note| block(&paint.yellow("note"), note, paint)).collect::<String>());
}

/// Formats errors, with their number if there are several.
pub fn render(problems: &[Problem], paint: Paint) -> String {
    let mut text: String = problems.iter().map(|problem| block(&paint.red("error"), problem, paint)).collect();
    if problems.len() > 1 {
        text.push_str(&format!("{} errors\n", problems.len()));
    }
    text
}

fn block(label: &str, problem: &Problem, paint: Paint) -> String {
    let mut text = format!("{label}: {}\n", indented(&problem.what));
    if let Some(place) = &problem.place {
        text.push_str(&format!("  {} {}\n", paint.blue("-->"), indented(place)));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("  {} {}\n", paint.green("hint:"), indented(hint)));
    }
    text
}

/// Indents all lines but the first.
fn indented(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\n      ")
}

/// The error after a panic, whose message is already on standard error.
pub fn panicked() -> Problem {
    Problem::new("tiltmeter stopped because of an internal error (see the message above)")
        .hint("recorded results are kept and `--resume` continues; please report the message with the experiment file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_what_where_and_a_hint() {
        let first =
            Problem::new("`samples` is out of range: 0").at("plan.yaml:11:10 (samples)").hint("it must be 1 or more");
        assert_eq!(
            render(std::slice::from_ref(&first), Paint::plain()),
            "error: `samples` is out of range: 0\n  --> plan.yaml:11:10 (samples)\n  hint: it must be 1 or more\n"
        );
        let second = Problem::new("two\nlines\x1b[2J");
        assert_eq!(
            render(&[first.clone(), second], Paint::plain()).lines().skip(3).collect::<Vec<_>>(),
            ["error: two", "      lines\\u{1b}[2J", "2 errors"]
        );
        assert!(render(&[first], Paint::always()).starts_with("\x1b[1;31merror\x1b[0m: "));
    }

    #[test]
    fn exit_codes_match_the_help() {
        use Exit::*;
        let codes = [Done, Internal, BadPlan, Budget, SomeFailed, Quota, Interrupted].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130]);
    }
}
