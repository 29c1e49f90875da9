//! The block printed at the end of a run: results, work, memory, cost, files, upload, failures, and how to continue.

use std::path::{Component, Path, PathBuf};

use super::{
    Exit, Failure, errors,
    terminal::{counted, escape, path_text, stdout},
    view,
};
use crate::session::{Reported, RunReport, Uploaded};
use tiltmeter_model::{EngineStats, Problem};
use tiltmeter_report::{distribution_terminal, response_terminal, terminal as tables};
use tiltmeter_scheduler::HaltReason;
use tiltmeter_store::RunFolder;

/// Prints the summary of a session. `resume` is the command that continues after a stop.
pub(super) fn print(report: &RunReport, resume: &str) -> Result<Exit, Failure> {
    if let Some(reported) = &report.reported {
        stdout(&format!("\n{}", results(reported, false)))?;
    }
    stdout(&work(&report.work))?;
    stdout(&memory(&report.work))?;
    let summary = &report.summary;
    let spending = &summary.ledger.spending;
    if spending.held_micro_usd() > 0 || spending.limit_micro_usd.is_some() {
        stdout(&format!("spent      {}\n", view::money(spending)))?;
    }
    stdout(&format!("folder     {}\n", path_text(report.folder.dir())))?;
    stdout(&written(&report.folder, &report.files))?;
    if let Some(closing) = &report.closing {
        stdout(&format!("\n{}\n", escape(closing.trim_end())))?;
    }
    let uploaded = report.uploaded.as_ref().map_or(Ok(true), upload)?;
    for run in &summary.runs {
        if let Some(problem) = run.failure() {
            errors::print(&[Problem { what: format!("{}: {}", run.key.id(), problem.what), ..problem.clone() }]);
        }
    }
    if let Some(halt) = &summary.halt {
        let hint = halt.problem.hint.clone().unwrap_or_default();
        errors::print(&[halt.problem.clone().hint(format!("{hint}: {resume}"))]);
        return Ok(match halt.reason {
            HaltReason::Budget | HaltReason::RunBudget => Exit::Budget,
            HaltReason::Quota | HaltReason::RateLimit => Exit::Quota,
        });
    }
    if summary.interrupted {
        let finished = counted(summary.completed as u64, "run");
        let stopped = format!("stopped: {finished} finished, {} pending", summary.pending);
        errors::print_notes(&[Problem::new(stopped).hint(format!("finished turns are saved; continue with {resume}"))]);
        return Ok(Exit::Interrupted);
    }
    Ok(if summary.failed > 0 || !uploaded { Exit::SomeFailed } else { Exit::Done })
}

/// Tables of every measure, distribution and response, separated by blank lines. `full` adds the per-turn tables.
pub(super) fn results(reported: &Reported, full: bool) -> String {
    let measures = reported.measures.iter().map(|(comparison, analysis)| tables(comparison, analysis, full));
    let mut blocks: Vec<String> = measures.collect();
    blocks.extend(reported.key());
    blocks.extend(reported.distributions.iter().map(|(data, analysis)| distribution_terminal(data, analysis)));
    blocks.extend(reported.responses.iter().map(|(data, analysis)| response_terminal(data, analysis)));
    blocks.join("\n")
}

fn work(stats: &EngineStats) -> String {
    if stats.unique_tokens == 0 {
        return String::new();
    }
    let ratio = stats.forward_tokens as f64 / stats.unique_tokens as f64;
    let mut text = format!(
        "\nwork       {} forward token-passes for {} unique tokens: {ratio:.3} per token, {} generated, {} steps\n",
        stats.forward_tokens, stats.unique_tokens, stats.generated_tokens, stats.steps
    );
    if stats.draft_tokens > 0 {
        let (accepted, rejected) = (stats.accepted_draft_tokens, stats.draft_tokens - stats.accepted_draft_tokens);
        text += &format!("           {accepted} draft tokens accepted, {rejected} rejected\n");
    }
    text
}

/// Peak memory of the process, compared with that of weights and KV cache.
fn memory(stats: &EngineStats) -> String {
    let held = stats.weight_bytes + stats.kv_bytes;
    if held == 0 {
        return String::new();
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let parts = format!("{:.1} MB weights + {:.1} MB KV cache", mb(stats.weight_bytes), mb(stats.kv_bytes));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    match peak_kib {
        Some(kib) => {
            let peak = 1024 * kib;
            format!("memory     {:.1} MB peak = {:.2} x ({parts})\n", mb(peak), peak as f64 / held as f64)
        }
        None => format!("memory     {parts}\n"),
    }
}

/// The written files, one per line; a folder with many files, or with folders, takes one line.
pub(super) fn written(folder: &RunFolder, files: &[PathBuf]) -> String {
    const MANY: usize = 8;
    let top = |path: &Path| {
        let within = path.strip_prefix(folder.dir()).ok()?;
        (within.components().count() > 2)
            .then(|| folder.dir().join(within.components().next().unwrap_or(Component::CurDir)))
    };
    let mut by_folder: Vec<(PathBuf, bool, Vec<&Path>)> = Vec::new();
    for path in files {
        let nested = top(path);
        let is_nested = nested.is_some();
        let parent = nested.unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned());
        match by_folder.iter_mut().find(|(known, nested, _)| (known, *nested) == (&parent, is_nested)) {
            Some((.., list)) => list.push(path),
            None => by_folder.push((parent, is_nested, vec![path])),
        }
    }
    let mut text = String::new();
    for (parent, is_nested, list) in by_folder {
        // Files at the top of the run folder are always listed by name.
        if is_nested || list.len() > MANY && parent != folder.dir() {
            text += &format!("wrote      {}/ ({})\n", path_text(&parent), counted(list.len() as u64, "file"));
        } else {
            text.extend(list.iter().map(|path| format!("wrote      {}\n", path_text(path))));
        }
    }
    text
}

/// Prints the result of an upload; `false` if it failed.
pub(super) fn upload(uploaded: &Uploaded) -> Result<bool, Failure> {
    let (folder, repo_id) = (path_text(&uploaded.folder), escape(&uploaded.repo_id));
    match &uploaded.result {
        Ok(done) => {
            let commit = done.commit.as_ref().map(|commit| format!(", commit {}", escape(commit))).unwrap_or_default();
            let before = match done.already_there {
                0 => String::new(),
                n => format!(" ({n} already there)"),
            };
            let added = counted(done.added as u64, "record");
            stdout(&format!("Successfully uploaded {added} to {repo_id}{before}{commit}\n"))?;
            Ok(true)
        }
        Err(problem) => {
            let hint = problem.hint.as_ref().map(|hint| format!("{hint}; ")).unwrap_or_default();
            errors::print(&[Problem {
                what: format!("Upload failed: {}", problem.what),
                place: problem.place.clone().or(Some(repo_id.into_owned())),
                hint: Some(format!(
                    "{hint}all records are saved in {folder}; send them with: tiltmeter upload {folder}"
                )),
            }]);
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_runs_are_counted_and_top_level_files_are_named() {
        let files = ["runs/a/world.md", "runs/a/log", "batch.json", "runs/b/world.md", "images/a.png"];
        let files = files.map(|file| PathBuf::from("data/out").join(file));
        let text = written(&RunFolder::at("data/out"), &files);
        assert_eq!(
            text,
            "wrote      data/out/runs/ (3 files)\nwrote      data/out/batch.json\nwrote      data/out/images/a.png\n"
        );
        let many: Vec<PathBuf> = (0..9).map(|n| PathBuf::from(format!("data/generated/{n}.json"))).collect();
        assert_eq!(written(&RunFolder::at("data/out"), &many), "wrote      data/generated/ (9 files)\n");
    }
}
