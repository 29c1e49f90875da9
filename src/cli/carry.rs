//! Owns carrying an experiment out before a person's eyes: signals, progress, and what is said at the end.
//! Must not know: inference, HTTP.

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Exit, Failure, errors,
    execute::{runtime, shown},
    progress::{ProgressDisplay, ProgressMode},
    run::RunArgs,
    status,
    terminal::{escape, stdout},
};
use crate::session::{PreparedRun, RunOptions, RunReport, Uploaded};
use tiltmeter_model::EngineStats;
use tiltmeter_model::problem::Problem;
use tiltmeter_report::{distribution_terminal, response_terminal, terminal as tables};
use tiltmeter_scheduler::{HaltReason, Progress, StopLevel, StopSignal};
use tiltmeter_store::RunFolder;

/// Carries out what is not done yet; `again` is the command that goes on where this one stops.
pub fn carry_out(
    prepared: PreparedRun,
    running: &RunOptions,
    mode: ProgressMode,
    again: &str,
) -> Result<Exit, Failure> {
    let progress = Arc::new(Progress::new());
    let begun = || progress.snapshot().elapsed_s > 0.0;
    let sitting = runtime()?.block_on(async {
        let stop = StopSignal::listen()?;
        let mut display = ProgressDisplay::new(mode);
        let mut level = StopLevel::None;
        let work = prepared.run(running, progress.clone(), stop.clone());
        tokio::pin!(work);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            let next = match level {
                StopLevel::None => StopLevel::Drain,
                StopLevel::Drain => StopLevel::Stop,
                StopLevel::Stop | StopLevel::Abort => StopLevel::Abort,
            };
            tokio::select! {
                // What was asked for is said before its effect, however soon that comes.
                biased;
                () = stop.reached(next), if level < StopLevel::Abort => {
                    level = stop.level();
                    display.say(stopping(level));
                }
                done = &mut work => {
                    if begun() {
                        display.end(&progress);
                    }
                    return done;
                }
                _ = tick.tick() => {
                    if begun() {
                        display.poll(&progress);
                    }
                }
            }
        }
    });
    let sitting = sitting.map_err(|problem| match begun() {
        true => Failure::internal(problem),
        false => problem.into(),
    })?;
    finish(&sitting, again)
}

/// The command that goes on where this one stops.
pub fn resume_command(args: &RunArgs) -> String {
    let mut command = format!("tiltmeter run {} --resume", shown(&args.file));
    command.extend(args.out.iter().map(|out| format!(" --out {}", shown(out))));
    command.extend(args.pull.iter().map(|name| format!(" --pull {}", escape(name))));
    command.extend(args.set.iter().map(|(key, value)| format!(" --set '{}={}'", escape(key), escape(value))));
    command
}

fn stopping(level: StopLevel) -> &'static str {
    match level {
        StopLevel::None => "",
        StopLevel::Drain => {
            "stopping: running conversations are finished, no new one starts; Ctrl+C again stops at the next turn"
        }
        StopLevel::Stop => "stopping at the next turn; Ctrl+C again stops at once",
        StopLevel::Abort => "stopping now",
    }
}

/// Says what came out, and how to go on where something is left.
fn finish(sitting: &RunReport, again: &str) -> Result<Exit, Failure> {
    if let Some(reported) = &sitting.reported {
        for (comparison, analysis) in &reported.measures {
            stdout(&format!("\n{}", tables(comparison, analysis, false)))?;
        }
        if let Some(key) = reported.key() {
            stdout(&format!("\n{key}"))?;
        }
        for (distribution, analysis) in &reported.distributions {
            stdout(&format!("\n{}", distribution_terminal(distribution, analysis)))?;
        }
        for (response, analysis) in &reported.responses {
            stdout(&format!("\n{}", response_terminal(response, analysis)))?;
        }
    }
    let work = sitting.work;
    if work.unique_tokens > 0 {
        let ratio = work.forward_tokens as f64 / work.unique_tokens as f64;
        stdout(&format!(
            "\nwork       {} forward token-passes for {} unique tokens: {ratio:.3} per token, {} generated, {} steps\n",
            work.forward_tokens, work.unique_tokens, work.generated_tokens, work.steps
        ))?;
        if work.draft_tokens > 0 {
            let (right, fed) = (work.accepted_draft_tokens, work.draft_tokens);
            stdout(&format!("           {right} of them were guessed, and {} guesses fed in vain\n", fed - right))?;
        }
    }
    if let Some(memory) = memory(&work) {
        stdout(&format!("memory     {memory}\n"))?;
    }
    let spending = &sitting.summary.ledger.spending;
    if spending.held_micro_usd() > 0 || spending.limit_micro_usd.is_some() {
        stdout(&format!("spent      {}\n", status::money(spending)))?;
    }
    stdout(&format!("folder     {}\n", shown(sitting.folder.dir())))?;
    stdout(&wrote(&sitting.folder, &sitting.files))?;
    if let Some(closing) = &sitting.closing {
        stdout(&format!("\n{}\n", escape(closing.trim_end())))?;
    }
    let sent = sitting.uploaded.as_ref().map_or(Ok(true), tell_upload)?;
    let summary = &sitting.summary;
    for run in &summary.runs {
        if let Some(problem) = run.failure() {
            errors::print(std::slice::from_ref(&Problem {
                what: format!("{}: {}", run.key.id(), problem.what),
                ..problem.clone()
            }));
        }
    }
    if let Some(halt) = &summary.halt {
        let hint = halt.problem.hint.clone().unwrap_or_default();
        errors::print(&[halt.problem.clone().hint(format!("{hint}: {again}"))]);
        return Ok(match halt.reason {
            HaltReason::Budget | HaltReason::RunBudget => Exit::Budget,
            HaltReason::Quota | HaltReason::RateLimit => Exit::Quota,
        });
    }
    if summary.interrupted {
        let kept = format!("stopped: {} runs are finished, {} are left", summary.completed, summary.pending);
        errors::print_notes(&[Problem::new(kept).hint(format!("every finished turn is kept; go on with {again}"))]);
        return Ok(Exit::Interrupted);
    }
    Ok(if summary.failed > 0 || !sent { Exit::SomeFailed } else { Exit::Done })
}

/// What was written, one file a line; what stands in folders of folders, such as the files of runs, in one line each top.
pub fn wrote(folder: &RunFolder, files: &[PathBuf]) -> String {
    const MANY: usize = 8;
    let top = |path: &Path| {
        let within = path.strip_prefix(folder.dir()).ok()?;
        (within.components().count() > 2)
            .then(|| folder.dir().join(within.components().next().unwrap_or(Component::CurDir)))
    };
    let mut by_folder: Vec<(PathBuf, bool, Vec<&Path>)> = Vec::new();
    for path in files {
        let deep = top(path);
        let (place, deep) =
            (deep.clone().unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned()), deep.is_some());
        match by_folder.iter_mut().find(|(known, below, _)| (known, *below) == (&place, deep)) {
            Some((.., list)) => list.push(path),
            None => by_folder.push((place, deep, vec![path])),
        }
    }
    let mut text = String::new();
    for (place, deep, list) in by_folder {
        // The files of the runs, that is; what stands at the top of the run folder is named.
        if deep || list.len() > MANY && place != folder.dir() {
            text += &format!("wrote      {}/ ({} files)\n", shown(&place), list.len());
        } else {
            text.extend(list.iter().map(|path| format!("wrote      {}\n", shown(path))));
        }
    }
    text
}

/// `false`: it failed.
pub fn tell_upload(uploaded: &Uploaded) -> Result<bool, Failure> {
    let (folder, repo_id) = (shown(&uploaded.folder), escape(&uploaded.repo_id));
    match &uploaded.result {
        Ok(done) => {
            let commit = done.commit.as_ref().map(|commit| format!(", commit {}", escape(commit))).unwrap_or_default();
            let before = match done.already_there {
                0 => String::new(),
                n => format!(" ({n} were there before)"),
            };
            stdout(&format!("Successfully uploaded {} records to {repo_id}{before}{commit}\n", done.added))?;
            Ok(true)
        }
        Err(problem) => {
            let hint = problem.hint.as_ref().map(|hint| format!("{hint}; ")).unwrap_or_default();
            errors::print(&[Problem {
                what: format!("Upload failed: {}", problem.what),
                place: problem.place.clone().or(Some(repo_id.into_owned())),
                hint: Some(format!("{hint}everything is kept in {folder}; send it with: tiltmeter upload {folder}")),
            }]);
            Ok(false)
        }
    }
}

/// What the process took at most, beside what it has to hold for models that run here.
fn memory(work: &EngineStats) -> Option<String> {
    let held = work.weight_bytes + work.kv_bytes;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let parts = format!("{:.1} MB of weights, {:.1} MB of keys and values", mb(work.weight_bytes), mb(work.kv_bytes));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    (held > 0).then(|| match peak {
        Some(kib) => {
            let peak = 1024 * kib;
            format!("{:.1} MB at most, {parts}: {:.2} times these", mb(peak), peak as f64 / held as f64)
        }
        None => parts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_runs_are_counted_and_those_of_the_batch_are_named() {
        let files = ["runs/a/world.md", "runs/a/log", "batch.json", "runs/b/world.md", "images/a.png"];
        let files = files.map(|file| PathBuf::from("data/out").join(file));
        let text = wrote(&RunFolder::at("data/out"), &files);
        assert_eq!(
            text,
            "wrote      data/out/runs/ (3 files)\nwrote      data/out/batch.json\nwrote      data/out/images/a.png\n"
        );
        let many: Vec<PathBuf> = (0..9).map(|n| PathBuf::from(format!("data/generated/{n}.json"))).collect();
        assert_eq!(wrote(&RunFolder::at("data/out"), &many), "wrote      data/generated/ (9 files)\n");
    }
}
