//! `methods.md`: procedure, completeness, versions, interruptions and settings of a batch.

use serde_json::Value;

use super::export::Batch;
use super::manifest::Environment;
use super::report::title;
use tiltmeter_scheduler::RunEnd;
use tiltmeter_store::{Session, SessionEnd};

/// The methods section.
pub fn methods(batch: &Batch, environment: &Environment) -> String {
    let Batch { plan, kind, runs, ledger, .. } = batch;
    let mut text = format!("# Methods: {}\n\n", title(plan));
    for paragraph in kind.methods() {
        text += &format!("{paragraph}\n\n");
    }
    let of = |end: fn(&RunEnd) -> bool| runs.iter().filter(|run| end(&run.end)).count();
    let (done, failed) = (of(|end| *end == RunEnd::Done), of(|end| matches!(end, RunEnd::Failed(_))));
    let open = runs.len() - done - failed;
    text +=
        &format!("Of {} planned runs, {done} are complete, {failed} failed and {open} are pending.\n\n", runs.len());
    for run in *runs {
        if let RunEnd::Failed(problem) = &run.end {
            text += &format!("- {} failed: {}\n", run.key.id(), problem.what);
        }
    }
    if failed > 0 {
        text.push('\n');
    }
    let commit = environment.tool.source.as_ref().map(|source| format!(", source {}", source.commit));
    text += &format!(
        "The runs were executed by tiltmeter {}{}. Everything that determines the results was frozen before the first run, \
         under the hash {} (plan.json).\n\n",
        environment.tool.version,
        commit.unwrap_or_default(),
        plan.hash()
    );
    text += "## Interruptions\n\n";
    match interruptions(&ledger.sessions).as_slice() {
        [] => text += "None.\n",
        stops => {
            text += &stops.iter().map(|stop| format!("- {stop}\n")).collect::<String>();
            text += "\nAfter each, the runs continued after their last finished step; no finished step was repeated.\n";
        }
    }
    let settings = serde_json::to_string_pretty(&shortened(plan.document())).unwrap_or_default();
    text + &format!("\n## Settings\n\n```json\n{settings}\n```\n")
}

/// The plan with long texts cut; plan.json has them in full.
fn shortened(document: &Value) -> Value {
    const LONG: usize = 200;
    match document {
        Value::String(text) if text.chars().count() > LONG => {
            let head: String = text.chars().take(LONG).collect();
            Value::from(format!("{head}… ({} characters)", text.chars().count()))
        }
        Value::Array(items) => items.iter().map(shortened).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), shortened(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// One line per session that ended before its runs.
pub fn interruptions(sessions: &[Session]) -> Vec<String> {
    let ended = |session: &Session| {
        let how = match session.how {
            SessionEnd::Finished => return None,
            SessionEnd::Drained => "drained: the runs under way were finished",
            SessionEnd::Stopped => "stopped between two steps",
            SessionEnd::Aborted => "aborted",
            SessionEnd::Unknown => "killed",
        };
        Some(match &session.ended {
            Some(ended) => format!("started {}, {how} at {ended}", session.started),
            None => format!("started {}, {how}", session.started),
        })
    };
    sessions.iter().filter_map(ended).collect()
}
