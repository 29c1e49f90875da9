//! Owns how problems look in a terminal and which exit code a command ends with.
//! Must not know: inference, HTTP.

use super::terminal::{Paint, escape, stderr};
use tiltmeter_model::problem::Problem;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for is done.
    Done,
    /// An error inside tiltmeter or the machine.
    Internal,
    /// The request or the plan cannot be carried out; nothing ran.
    BadPlan,
    /// A budget ended the schedule.
    Budget,
    /// Some runs failed; the others are done.
    SomeFailed,
    /// A quota or rate limit of a provider ended the schedule.
    Quota,
    /// A person or the system ended the schedule.
    Interrupted,
}

impl Exit {
    /// The code the process ends with.
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

/// A command that came to nothing. `?` on a `Problem` or a `Vec<Problem>` is a bad plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to tell.
    pub problems: Vec<Problem>,
}

impl Failure {
    /// A failure after something had begun.
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

/// Prints problems on standard error.
pub fn print(problems: &[Problem]) {
    stderr(&render(problems, Paint::for_stderr()));
}

/// Prints notes on standard error: worth knowing, not wrong.
pub fn print_notes(notes: &[Problem]) {
    let paint = Paint::for_stderr();
    stderr(&notes.iter().map(|note| block(&paint.yellow("note"), note, paint)).collect::<String>());
}

/// Problems as text: what, where, what to do; and how many there are, if more than one.
pub fn render(problems: &[Problem], paint: Paint) -> String {
    let mut text: String = problems.iter().map(|problem| block(&paint.red("error"), problem, paint)).collect();
    if problems.len() > 1 {
        text.push_str(&format!("{} problems\n", problems.len()));
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

/// Text of several lines, hanging under its first.
fn indented(text: &str) -> String {
    escape(text.trim_end()).replace('\n', "\n      ")
}

/// What a person is told after a panic, whose own message is already on standard error.
pub fn bug() -> Problem {
    Problem::new("tiltmeter stopped because of an error of its own (see the message above)")
        .hint("what was recorded is kept and `--resume` goes on; please report the message with the experiment file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_where_and_what_to_do() {
        let first =
            Problem::new("`samples` is out of range: 0").at("plan.yaml:11:10 (samples)").hint("it must be 1 or more");
        assert_eq!(
            render(std::slice::from_ref(&first), Paint::plain()),
            "error: `samples` is out of range: 0\n  --> plan.yaml:11:10 (samples)\n  hint: it must be 1 or more\n"
        );
        let second = Problem::new("two\nlines\x1b[2J");
        assert_eq!(
            render(&[first.clone(), second], Paint::plain()).lines().skip(3).collect::<Vec<_>>(),
            ["error: two", "      lines\\u{1b}[2J", "2 problems"]
        );
        assert!(render(&[first], Paint::always()).starts_with("\x1b[1;31merror\x1b[0m: "));
    }

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        use Exit::*;
        let codes = [Done, Internal, BadPlan, Budget, SomeFailed, Quota, Interrupted].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130]);
    }
}
