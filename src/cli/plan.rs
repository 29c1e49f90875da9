//! `plan`: shows the runs of an experiment, whether they fit the context, their worst-case cost and their duration.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{
    Exit, Failure,
    args::parse_set,
    errors, summary,
    terminal::{counted, escape, runtime, stdout},
    view,
};
use crate::session::{self, Forecast, ModelOptions, PreparedRun};
use tiltmeter_experiments::config::Loaded;
use tiltmeter_scheduler::dollars;
use tiltmeter_store::RunFolder;

/// Preview an experiment: its runs, whether they fit the context, and their cost.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter plan experiments/demo.yaml
  tiltmeter plan experiments/demo.yaml --set samples=64 --set seeding=per_sample
  tiltmeter plan experiments/bargain_local.yaml --out data/runs/bargain_local/planned")]
pub struct PlanArgs {
    /// Experiment file: YAML, or JSON if its name ends in .json
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Override a key of the experiment, by dotted path; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Also write the frozen plan and its files to this folder, in which it can be run
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub(super) fn execute(args: &PlanArgs) -> Result<Exit, Failure> {
    show(session::load(&args.file, &args.set)?, &ModelOptions::default(), args.out.as_deref())
}

/// Prints the plan, and writes it to `out`.
pub(super) fn show(loaded: Loaded, models: &ModelOptions, out: Option<&Path>) -> Result<Exit, Failure> {
    errors::print_notes(&loaded.notes);
    let file = loaded.path.display().to_string();
    let prepared = session::prepare(loaded, &ModelOptions { for_plan: true, ..*models })?;
    let experiment = ("experiment".to_owned(), format!("{} ({file})", prepared.name()));
    let rows = std::iter::once(experiment).chain(prepared.describe());
    stdout(&rows.map(|(key, value)| format!("{key:<11} {}\n", escape(&value))).collect::<String>())?;
    stdout(&forecast(prepared.forecast()))?;
    stdout(&format!("plan        {}\n", prepared.plan().hash()))?;
    stdout(&duration(&prepared)?)?;
    if let Some(out) = out {
        let folder = RunFolder::at(out);
        stdout(&summary::written(&folder, &prepared.write_plan(&folder)?))?;
    }
    errors::print_notes(&prepared.notes);
    Ok(Exit::Done)
}

/// Context, runs and first prompt per condition; paid calls and their worst-case cost.
fn forecast(forecast: &Forecast) -> String {
    let mut text = String::new();
    if let Some(limit) = forecast.limit {
        text += &format!("fit         {limit} tokens of context, replies of up to {}\n", forecast.max_new_tokens);
    }
    let width = forecast.cells.iter().map(|cell| cell.cell.len()).max().unwrap_or(0);
    for cell in &forecast.cells {
        let tokens = cell.tokens.map(|tokens| {
            let overflow = match tokens.may_overflow_at {
                Some(turn) => format!("may overflow from turn {turn}"),
                None => "always fits".to_owned(),
            };
            format!(", {} to {} tokens at the last turn: {overflow}", tokens.least, tokens.most)
        });
        let (runs, turns) = (counted(cell.runs as u64, "run"), counted(cell.turns as u64, "turn"));
        text += &format!("  {:<width$}  {runs} x {turns}{}\n", cell.cell, tokens.unwrap_or_default());
    }
    if forecast.paid_calls > 0 {
        let most = forecast.worst_micro_usd.map(|worst| format!(", {} at most", dollars(worst)));
        text += &format!("calls       {}{}\n", counted(forecast.paid_calls, "paid call"), most.unwrap_or_default());
    }
    for cell in forecast.cells.iter().filter(|cell| !cell.first_prompt.is_empty()) {
        let prompt: String = cell.first_prompt.lines().map(|line| format!("  | {}\n", escape(line))).collect();
        text += &format!("first prompt of {}\n{prompt}", cell.cell);
    }
    text
}

/// An estimate: from a few tokens generated now, or from the number of calls.
fn duration(prepared: &PreparedRun) -> Result<String, Failure> {
    /// Seconds for a short reply of a model behind an API.
    const CALL_S: f64 = 3.0;
    if prepared.forecast().paid_calls > 0 {
        let shown = view::short_duration(Duration::from_secs_f64(prepared.seconds_at(CALL_S)));
        return Ok(format!("time        about {shown} at {CALL_S} s per call, longer if rate limits apply\n"));
    }
    let Some(seconds) = runtime()?.block_on(prepared.estimate_seconds())? else { return Ok(String::new()) };
    let shown = view::short_duration(Duration::from_secs_f64(seconds));
    Ok(format!("time        up to about {shown}, if every reply has the maximum length (measured on a few tokens)\n"))
}
