//! Owns the command line: the tree of commands, what a person sees in a terminal, exit codes.
//!
//! Results go to standard output, everything else (progress, problems, notes) to standard error, so that a pipe carries
//! results alone. A pipe that is closed early ends nothing: what cannot be shown is dropped, what is recorded stays recorded.
//! Must not know: inference, HTTP.

pub mod run;
pub mod folder;
pub mod status;
pub mod report;
pub mod capture;
pub mod chat;
pub mod axis;
pub mod bench;
mod gpu_bench;
pub mod errors;
pub mod view;
pub mod progress;
pub mod terminal;
pub mod slurm;
mod carry;
mod execute;

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

pub use errors::{Exit, Failure};
pub use execute::execute;

/// Measure how far a language model tilts from an axis in its own activation space.
#[derive(Debug, Parser)]
#[command(name = "tiltmeter", version, max_term_width = 120, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tiltmeter plan experiments/demo.yaml           what would run, and whether it fits
  tiltmeter run experiments/demo.yaml            run it
  tiltmeter run experiments/demo.yaml --resume   go on after a stop
  tiltmeter retry data/runs/demo                 try again what failed
  tiltmeter report data/runs/demo                tables, figure and report again

Exit codes: 0 all done, 1 internal error, 2 bad plan (nothing ran), 3 budget, 4 some runs failed, 5 quota, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::RunArgs),
    Plan(run::PlanArgs),
    Status(folder::StatusArgs),
    Retry(folder::RetryArgs),
    Report(report::ReportArgs),
    #[command(alias = "analyse")]
    Analyze(folder::AnalyzeArgs),
    Collect(folder::CollectArgs),
    Validate(folder::ValidateArgs),
    Upload(folder::UploadArgs),
    Capture(capture::CaptureArgs),
    Chat(chat::ChatArgs),
    Bench(bench::BenchArgs),
    #[command(subcommand)]
    Axis(axis::AxisCommand),
    #[command(subcommand)]
    Slurm(slurm::SlurmCommand),
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

/// `<submission>.<task>`
fn parse_task(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('.').and_then(|(number, task)| Some((number.parse().ok()?, task.parse().ok()?)));
    parts.ok_or_else(|| "write <submission>.<task>, as in 1.17".to_string())
}

/// A site by name, with the hint in the message.
fn parse_site(text: &str) -> Result<tiltmeter_model::probe::Site, String> {
    text.parse().map_err(|problem: tiltmeter_model::problem::Problem| match problem.hint {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use tiltmeter_model::probe::Site;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("tiltmeter").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command)
    }

    #[test]
    fn every_help_has_examples_that_parse() {
        fn visit(command: &mut clap::Command, name: &str, examples: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let leaf = command.get_subcommands().next().is_none();
            assert!(!leaf || help.contains("Examples:"), "{name} --help has no examples");
            assert!(
                help.lines().filter(|l| l.starts_with(' ')).all(|l| l.len() <= 98),
                "{name}: examples would be wrapped"
            );
            for (_, example) in help.split_once("Examples:").into_iter() {
                examples
                    .extend(example.lines().map(str::trim).filter(|l| l.starts_with("tiltmeter ")).map(String::from));
            }
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                let name = format!("{name} {}", sub.get_name());
                visit(sub, &name, examples);
            }
        }
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        let mut examples = Vec::new();
        visit(&mut cli, "tiltmeter", &mut examples);
        assert!(examples.len() >= 15, "{examples:#?}");
        for example in examples {
            // What the shell takes away: redirections, and the words of a quoted text; beside those stands prose in the overview.
            let line = example.split(" > ").next().unwrap_or(&example).split(" 2> ").next().unwrap_or(&example);
            let line = line.split("   ").next().unwrap_or(line).replace("\"Be brief.\"", "brief");
            parse(line.trim_start_matches("tiltmeter ")).unwrap_or_else(|error| panic!("{line}\n{error}"));
        }
    }

    #[test]
    fn arguments_become_what_they_mean() {
        let Ok(Command::Run(run)) = parse("run a.yaml --set sampling.temperature=0.7 --set a.b=x=y --threads 2") else {
            panic!("run")
        };
        let set: Vec<_> = run.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(set, [("sampling.temperature", "0.7"), ("a.b", "x=y")]);
        assert_eq!(
            (run.device, run.progress, run.threads),
            (run::DeviceChoice::Auto, progress::ProgressMode::Auto, Some(2))
        );
        let Ok(Command::Capture(capture)) = parse("capture m --messages a.json --sites block.3.out,final_norm --out o")
        else {
            panic!("capture")
        };
        assert_eq!(capture.sites, capture::SitesChoice::These(vec![Site::BlockOut(3), Site::FinalNorm]));
        let Ok(Command::Axis(axis::AxisCommand::Import(import))) =
            parse("axis import a.pt --index-base hidden_states --site embed --out o")
        else {
            panic!("import")
        };
        assert_eq!(import.index_base.map(Into::into), Some(tiltmeter_model::probe::LayerConvention::HiddenStates));
    }

    #[test]
    fn wrong_arguments_are_told_what_is_right() {
        for (line, expected) in [
            ("run", "<FILE>"),
            ("run a.yaml --set temperature", "write key=value"),
            ("run a.yaml --threads 0", "a whole number from 1"),
            ("run a.yaml --accept-drift", "--resume"),
            ("report data --ddof 2", "0..=1"),
            ("report", "<DIR|FILE.json>"),
            ("capture m --messages a --sites block3 --out o", "sites are `embed`"),
            ("chat m --temperature -1", "a number from 0"),
            ("chat m --site embed", "--axis"),
            ("axis import a.pt --index-base layers --out o", "hidden_states"),
            ("rum a.yaml", "run"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}\n{error}");
        }
    }

    #[test]
    fn a_panic_is_an_internal_error_and_a_problem_a_bad_plan() {
        let code = |execute: fn(Command) -> Result<Exit, Failure>| main(["tiltmeter", "status", "x"], execute);
        assert_eq!(code(|_| Ok(Exit::SomeFailed)), ExitCode::from(4));
        assert_eq!(code(|_| Err(tiltmeter_model::problem::Problem::new("no").into())), ExitCode::from(2));
        assert_eq!(code(|_| panic!("this message belongs to the test")), ExitCode::from(1));
        assert_eq!(main(["tiltmeter", "--help"], |_| unreachable!()), ExitCode::SUCCESS);
        assert_eq!(main(["tiltmeter", "nothing"], |_| unreachable!()), ExitCode::from(2));
    }
}
