//! Errors and notes on standard error.

use super::terminal::{Paint, escape, stderr};
use tiltmeter_model::problem::Problem;

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
}
