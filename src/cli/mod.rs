//! Owns the command line: the tree of commands, what a person sees in a terminal, exit codes.
//!
//! Results go to standard output, everything else (progress, problems, notes) to standard error, so that a pipe carries
//! results alone. A pipe that is closed early ends nothing: what cannot be shown is dropped, what is recorded stays recorded.
//! Must not know: inference, HTTP.

pub mod run;
pub mod status;
pub mod report;
pub mod capture;
pub mod chat;
pub mod axis;
pub mod errors;
pub mod progress;
pub mod terminal;

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

pub use errors::{Exit, Failure};

/// Measure how far a language model tilts from an axis in its own activation space.
#[derive(Debug, Parser)]
#[command(name = "tiltmeter", version, max_term_width = 120, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tiltmeter plan experiments/reminder.yaml            what would run, and whether it fits
  tiltmeter run experiments/reminder.yaml             run it
  tiltmeter run experiments/reminder.yaml --resume    go on after a stop
  tiltmeter report data/runs/reminder                 tables, figure and report again

Exit codes: 0 all done, 1 internal error, 2 bad plan (nothing ran), 3 budget, 4 some runs failed, 5 quota, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::RunArgs),
    Plan(run::PlanArgs),
    Status(run::StatusArgs),
    Report(report::ReportArgs),
    Capture(capture::CaptureArgs),
    Chat(chat::ChatArgs),
    #[command(subcommand)]
    Axis(axis::AxisCommand),
}

/// Reads the arguments, carries the command out and turns whatever comes of it into an exit code.
pub fn main<I>(arguments: I, execute: impl FnOnce(Command) -> Result<Exit, Failure>) -> ExitCode
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(told) => {
            // Help and version come this way too. A closed pipe is no reason to fail.
            let _ = told.print();
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(Exit::BadPlan.code()));
        }
    };
    let exit = match catch_unwind(AssertUnwindSafe(|| execute(command))) {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            errors::print(&failure.problems);
            failure.exit
        }
        Err(_) => {
            errors::print(&[errors::bug()]);
            Exit::Internal
        }
    };
    ExitCode::from(exit.code())
}

/// One `key=value` of `--set`.
fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
        _ => Err("write key=value, as in --set sampling.temperature=0.7".to_string()),
    }
}

/// A site by name, with the hint in the message.
fn parse_site(text: &str) -> Result<crate::probe::Site, String> {
    text.parse().map_err(|problem: crate::problem::Problem| match problem.hint {
        Some(hint) => format!("{} ({hint})", problem.what),
        None => problem.what,
    })
}

/// A temperature: 0 or more.
fn parse_temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("write a number from 0 (greedy), as in 0.7".to_string()),
    }
}

/// A count: 1 or more.
fn parse_count(text: &str) -> Result<usize, String> {
    text.parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(|| "write a whole number from 1".to_string())
}
