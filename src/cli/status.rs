//! Owns how the state of a run folder is shown.
//! Must not know: inference, HTTP.

use super::terminal::{Paint, escape};
use tiltmeter_scheduler::{Spending, Status, dollars};
use tiltmeter_store::SessionEnd;

/// How far a run folder is: one line for the runs, one for each unit of work, then what went wrong and how sessions ended.
pub fn render(status: &Status, paint: Paint) -> String {
    let percent = |done: u64, total: u64| done as f64 * 100.0 / total.max(1) as f64;
    let (done, planned) = (status.done as u64, status.planned as u64);
    let mut text = format!(
        "runs       {done}/{planned} done ({:.0} %), {} failed, {} begun, {} to do\n",
        percent(done, planned),
        status.failed,
        status.begun,
        status.pending,
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
        text.push_str(&format!("spent      {}\n", money(spending)));
    }
    text.push_str(&format!("state      {}\n", state(status)));
    if let Some(at) = &status.last_activity {
        text.push_str(&format!("last word  {at}\n"));
    }
    if status.uncertain_steps > 0 && !status.writer_active {
        let n = status.uncertain_steps;
        text.push_str(&format!("uncertain  {n} steps were begun and have no result; --resume does them again\n"));
    }
    if let Some(hash) = &status.plan_hash {
        let short: String = hash.chars().take(12).collect();
        text.push_str(&format!("plan       {short}\n"));
    }
    if status.sessions.len() > 1 {
        text.push_str("sessions\n");
        for session in &status.sessions {
            let ended = session.ended.as_deref().unwrap_or("–");
            text.push_str(&format!("  {} to {ended}: {}\n", session.started, how(session.how)));
        }
    }
    if !status.accepted_drifts.is_empty() {
        text.push_str("accepted changes of the plan\n");
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

/// What was spent, of how much, and what of it is uncertain.
pub fn money(spending: &Spending) -> String {
    let limit = spending.limit_micro_usd.map(|limit| format!(" of {}", dollars(limit))).unwrap_or_default();
    let uncertain = match spending.uncertain_micro_usd {
        0 => String::new(),
        some => format!(", {} of it uncertain (calls whose end nobody knows)", dollars(some)),
    };
    format!("{}{limit}{uncertain}", dollars(spending.settled_micro_usd + spending.uncertain_micro_usd))
}

fn state(status: &Status) -> &'static str {
    match (status.writer_active, status.pending, status.failed) {
        (true, ..) => "running",
        (false, 0, 0) => "complete",
        (false, 0, _) => "ended; failed runs are tried again with --resume",
        (false, ..) => "not running; go on with --resume",
    }
}

fn how(end: SessionEnd) -> &'static str {
    match end {
        SessionEnd::Finished => "came to its end",
        SessionEnd::Drained => "was asked to end, and finished the runs it had begun",
        SessionEnd::Stopped => "was stopped between two steps",
        SessionEnd::Aborted => "was stopped at once",
        SessionEnd::Unknown => "left no word (killed, or still running)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiltmeter_model::problem::Problem;
    use tiltmeter_store::Session;

    #[test]
    fn the_status_says_how_far_and_how_to_go_on() {
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
runs       12/48 done (25 %), 1 failed, 2 begun, 35 to do
turns      216/864 (25 %)
state      not running; go on with --resume
last word  2000-01-01T00:10:00Z
uncertain  1 steps were begun and have no result; --resume does them again
plan       0123456789ab
sessions
  2000-01-01T00:00:00Z to –: was stopped between two steps
  2000-01-01T00:00:00Z to –: left no word (killed, or still running)
failed runs
  calm-003: out of context
    hint: lower max_new_tokens
";
        assert_eq!(render(&status, Paint::plain()), expected);
        assert!(render(&Status { writer_active: true, ..status }, Paint::plain()).contains("state      running\n"));
    }
}
