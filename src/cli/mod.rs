//! The command line: one file per command, and what they share.
//!
//! Results go to standard output; progress, notes and errors go to standard error. A closed pipe never stops a run.

// commands
mod analyze;
mod axis;
mod bench;
mod capture;
mod chat;
mod collect;
mod plan;
mod report;
mod retry;
mod run;
mod slurm;
mod status;
mod upload;
mod validate;

// shared
mod args;
mod errors;
mod exit;
mod progress;
mod summary;
mod terminal;
mod view;

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};

/// Measure how far a language model tilts from an axis in its own activation space.
#[derive(Debug, Parser)]
#[command(name = "tiltmeter", version, max_term_width = 120, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tiltmeter plan experiments/demo.yaml           show runs, context and cost
  tiltmeter run experiments/demo.yaml            run the experiment
  tiltmeter run experiments/demo.yaml --resume   continue after a stop
  tiltmeter retry data/runs/demo                 run failed runs again
  tiltmeter report data/runs/demo                print tables, write figures

Exit codes: 0 success, 1 internal error, 2 bad plan (nothing ran), 3 budget, 4 some runs failed, 5 quota, 130 interrupted.";

/// The arguments of one command.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::RunArgs),
    Plan(plan::PlanArgs),
    Status(status::StatusArgs),
    Retry(retry::RetryArgs),
    Report(report::ReportArgs),
    #[command(alias = "analyse")]
    Analyze(analyze::AnalyzeArgs),
    Collect(collect::CollectArgs),
    Validate(validate::ValidateArgs),
    Upload(upload::UploadArgs),
    Capture(capture::CaptureArgs),
    Chat(chat::ChatArgs),
    Bench(bench::BenchArgs),
    #[command(subcommand)]
    Axis(axis::AxisCommand),
    #[command(subcommand)]
    Slurm(slurm::SlurmCommand),
}

/// Executes a command.
pub fn execute(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run::execute(args),
        Command::Plan(args) => plan::execute(&args),
        Command::Status(args) => status::execute(&args),
        Command::Retry(args) => retry::execute(&args),
        Command::Report(args) => report::execute(args),
        Command::Analyze(args) => analyze::execute(&args),
        Command::Collect(args) => collect::execute(&args),
        Command::Validate(args) => validate::execute(&args),
        Command::Upload(args) => upload::execute(&args),
        Command::Capture(args) => capture::execute(args),
        Command::Chat(args) => chat::execute(&args),
        Command::Bench(args) => bench::execute(&args),
        Command::Axis(command) => axis::execute(command),
        Command::Slurm(command) => slurm::execute(command),
    }
}

/// Parses the arguments, executes the command and returns the exit code.
pub fn main<I>(arguments: I, execute: impl FnOnce(Command) -> Result<Exit, Failure>) -> ExitCode
where
    I: IntoIterator<Item: Into<OsString> + Clone>,
{
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(error) => {
            // Includes --help and --version. A closed pipe is ignored.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::BadPlan.code()));
        }
    };
    let exit = match catch_unwind(AssertUnwindSafe(|| execute(command))) {
        Ok(Ok(exit)) => exit,
        Ok(Err(failure)) => {
            errors::print(&failure.problems);
            failure.exit
        }
        Err(_) => {
            errors::print(&[errors::panicked()]);
            Exit::Internal
        }
    };
    ExitCode::from(exit.code())
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
            // Without redirections, quotation marks, and the descriptions in the overview.
            let line = example.split(" > ").next().unwrap_or(&example).split(" 2> ").next().unwrap_or(&example);
            let line = line.split("   ").next().unwrap_or(line).replace("\"Be brief.\"", "brief");
            parse(line.trim_start_matches("tiltmeter ")).unwrap_or_else(|error| panic!("{line}\n{error}"));
        }
    }

    #[test]
    fn arguments_are_parsed() {
        let Ok(Command::Run(run)) = parse("run a.yaml --set sampling.temperature=0.7 --set a.b=x=y --threads 2") else {
            panic!("run")
        };
        let set: Vec<_> = run.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(set, [("sampling.temperature", "0.7"), ("a.b", "x=y")]);
        assert_eq!(
            (run.device, run.progress, run.threads),
            (crate::session::Device::Auto, progress::ProgressMode::Auto, Some(2))
        );
        let Ok(Command::Capture(capture)) = parse("capture m --messages a.json --sites block.3.out,final_norm --out o")
        else {
            panic!("capture")
        };
        assert_eq!(capture.sites, capture::SitesChoice::List(vec![Site::BlockOut(3), Site::FinalNorm]));
        let Ok(Command::Axis(axis::AxisCommand::Import(import))) =
            parse("axis import a.pt --index-base hidden_states --site embed --out o")
        else {
            panic!("import")
        };
        assert_eq!(import.index_base.map(Into::into), Some(tiltmeter_model::probe::LayerConvention::HiddenStates));
    }

    #[test]
    fn wrong_arguments_name_the_right_form() {
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
    fn a_panic_is_an_internal_error_and_a_problem_is_a_bad_plan() {
        let code = |execute: fn(Command) -> Result<Exit, Failure>| main(["tiltmeter", "status", "x"], execute);
        assert_eq!(code(|_| Ok(Exit::SomeFailed)), ExitCode::from(4));
        assert_eq!(code(|_| Err(tiltmeter_model::problem::Problem::new("no").into())), ExitCode::from(2));
        assert_eq!(code(|_| panic!("this message belongs to the test")), ExitCode::from(1));
        assert_eq!(main(["tiltmeter", "--help"], |_| unreachable!()), ExitCode::SUCCESS);
        assert_eq!(main(["tiltmeter", "nothing"], |_| unreachable!()), ExitCode::from(2));
    }
}
