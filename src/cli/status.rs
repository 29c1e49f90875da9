//! `status`: the state of a run folder, from any machine that can read it.

use std::path::PathBuf;

use clap::Args;

use super::{
    Exit, Failure,
    terminal::{Paint, counted, escape, stdout},
    view,
};
use crate::session;
use tiltmeter_scheduler::Status;
use tiltmeter_store::SessionEnd;

/// Show the state of a run folder, from any machine that can read it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  tiltmeter status data/runs/demo
  watch -n 10 tiltmeter status data/runs/demo")]
pub struct StatusArgs {
    /// Run folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

pub(super) fn execute(args: &StatusArgs) -> Result<Exit, Failure> {
    let folder = session::find_folder(&args.folder)?;
    stdout(&render(&tiltmeter_scheduler::status(&folder)?, Paint::for_stdout()))?;
    if let Some(now) = session::live(&folder)? {
        let lanes = now.lanes.iter().filter(|lane| lane.calls + lane.waiting as u64 > 0);
        stdout(&lanes.map(|lane| format!("lane       {}\n", escape(&view::lane(lane)))).collect::<String>())?;
    }
    Ok(Exit::Done)
}

/// Runs and work done, cost and state; then sessions, accepted changes and failed runs.
pub fn render(status: &Status, paint: Paint) -> String {
    let percent = |done: u64, total: u64| done as f64 * 100.0 / total.max(1) as f64;
    let (done, planned) = (status.done as u64, status.planned as u64);
    let mut text = format!(
        "runs       {done}/{planned} done ({:.0} %), {} failed, {} pending ({} started)\n",
        percent(done, planned),
        status.failed,
        status.pending,
        status.begun,
    );
    for (unit, done) in &status.work {
        let name = escape(unit);
        match status.totals.get(unit) {
            Some(total) => text.push_str(&format!("{name:<11}{done}/{total} ({:.0} %)\n", percent(*done, *total))),
            None => text.push_str(&format!("{name:<11}{done}\n")),
        }
    }
    let spending = &status.spending;
    if spending.held_micro_usd() > 0 || spending.limit_micro_usd.is_some() {
        text.push_str(&format!("spent      {}\n", view::money(spending)));
    }
    text.push_str(&format!("state      {}\n", state(status)));
    if let Some(at) = &status.last_activity {
        text.push_str(&format!("updated    {at}\n"));
    }
    if status.uncertain_steps > 0 && !status.writer_active {
        let steps = counted(status.uncertain_steps as u64, "step");
        text.push_str(&format!("uncertain  {steps} without a result; repeated by --resume\n"));
    }
    if let Some(hash) = &status.plan_hash {
        let short: String = hash.chars().take(12).collect();
        text.push_str(&format!("plan       {short}\n"));
    }
    if status.sessions.len() > 1 {
        text.push_str("sessions\n");
        for session in &status.sessions {
            let ended = session.ended.as_deref().unwrap_or("–");
            text.push_str(&format!("  {} to {ended}: {}\n", session.started, ending(session.how)));
        }
    }
    if !status.accepted_drifts.is_empty() {
        text.push_str("accepted plan changes\n");
        for drift in &status.accepted_drifts {
            text.push_str(&format!("  {}\n", escape(&drift.to_string())));
        }
    }
    if !status.failures.is_empty() {
        text.push_str(&format!("{}\n", paint.red("failed runs")));
        for (run, problem) in &status.failures {
            text.push_str(&format!("  {}: {}\n", escape(run), escape(&problem.what)));
            if let Some(hint) = &problem.hint {
                text.push_str(&format!("    {} {}\n", paint.green("hint:"), escape(hint)));
            }
        }
    }
    text
}

fn state(status: &Status) -> &'static str {
    match (status.writer_active, status.pending, status.failed) {
        (true, ..) => "running",
        (false, 0, 0) => "complete",
        (false, 0, _) => "finished with failures; --resume retries failed runs",
        (false, ..) => "stopped; continue with --resume",
    }
}

fn ending(end: SessionEnd) -> &'static str {
    match end {
        SessionEnd::Finished => "finished",
        SessionEnd::Drained => "stopped after its active runs finished",
        SessionEnd::Stopped => "stopped between two steps",
        SessionEnd::Aborted => "aborted",
        SessionEnd::Unknown => "no end recorded (killed, or still running)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::problem::Problem;
    use tiltmeter_store::Session;

    #[test]
    fn status_shows_progress_and_how_to_continue() {
        let session = |how| Session { started: "2000-01-01T00:00:00Z".into(), how, ..Session::default() };
        let status = Status {
            plan_hash: Some("0123456789abcdef".into()),
            planned: 48,
            done: 12,
            failed: 1,
            begun: 2,
            pending: 35,
            steps: 300,
            uncertain_steps: 1,
            work: [("turns".to_string(), 216)].into(),
            totals: [("turns".to_string(), 864)].into(),
            failures: [("calm-003".to_string(), Problem::new("out of context").hint("lower max_new_tokens"))].into(),
            last_activity: Some("2000-01-01T00:10:00Z".into()),
            writer_active: false,
            spending: tiltmeter_scheduler::Spending::default(),
            sessions: vec![session(SessionEnd::Stopped), session(SessionEnd::Unknown)],
            accepted_drifts: Vec::new(),
        };
        let expected = "\
runs       12/48 done (25 %), 1 failed, 35 pending (2 started)
turns      216/864 (25 %)
state      stopped; continue with --resume
updated    2000-01-01T00:10:00Z
uncertain  1 step without a result; repeated by --resume
plan       0123456789ab
sessions
  2000-01-01T00:00:00Z to –: stopped between two steps
  2000-01-01T00:00:00Z to –: no end recorded (killed, or still running)
failed runs
  calm-003: out of context
    hint: lower max_new_tokens
";
        assert_eq!(render(&status, Paint::plain()), expected);
        assert!(render(&Status { writer_active: true, ..status }, Paint::plain()).contains("state      running\n"));
    }
}
