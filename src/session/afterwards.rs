//! Owns finding a run folder, and what can be made of it without its models: its files again from the journal, a batch's analysis,
//! the methods section, and whether everything is as it was planned.
//! Must not know: flags, terminal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::exports;
use super::keeping::write_file;
use super::pages::write_report;
use tiltmeter_experiments::{BatchAnalysis, Kind, RunEnd, RunRecord, kind_of};
use tiltmeter_model::problem::Problem;
use tiltmeter_report::Options;
use tiltmeter_scheduler::{Plan, Recorded, Snapshot, recorded, status};
use tiltmeter_store::{FileEntry, Manifest, RunFolder, Session, SessionEnd, SourceVersion, write_text_atomic};

/// A run folder; the folder of an experiment stands for the newest run in it.
pub fn find_folder(path: &Path) -> Result<RunFolder, Problem> {
    let folder = RunFolder::at(path);
    if folder.holds_journal()? {
        return Ok(folder);
    }
    let runs = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| RunFolder::at(entry.path()));
    // Names begin with the time, so the greatest is the newest.
    let newest = runs.filter(|run| run.holds_journal().unwrap_or(false)).max_by_key(|run| run.dir().to_owned());
    newest.ok_or_else(|| {
        if !path.exists() {
            return Problem::new("there is no such folder")
                .at(path.display().to_string())
                .hint("check the path; it is relative to the current folder");
        }
        Problem::new("no run is recorded in this folder")
            .at(path.display().to_string())
            .hint("give a run folder, as `tiltmeter run` names it at its end")
    })
}

/// Writes every file again that the journal can give.
pub fn collect(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    super::declare_source();
    let folder = find_folder(path)?;
    let recorded = recorded(&folder)?;
    let runs = runs(&recorded);
    let kind = kind_of(recorded.plan.document())?;
    let mut files = exports::records(&folder, &runs, &recorded.ledger, kind.as_ref(), None)?;
    write_text_atomic(&folder.methods(), &methods(kind.as_ref(), &recorded.plan, &runs, &recorded.ledger.sessions))?;
    files.push(folder.methods());
    if let Some(reported) = super::report::of_folder(&folder, &Options::default())? {
        let name = recorded.plan.document()["experiment"].as_str().unwrap_or("experiment").to_owned();
        write_report(&name, &folder, &reported, &mut files)?;
    }
    Ok(files)
}

/// What the analysis of a batch found, and where it was written.
pub struct Analysed {
    pub analysis: BatchAnalysis,
    /// How far the batch is: `{"folder": …, "under_way": false, "runs_planned": 40, "runs_completed": 38, "runs_failed": 1}`.
    pub standing: Map<String, Value>,
    /// What a reader has to know besides.
    pub notes: Vec<Problem>,
    pub files: Vec<PathBuf>,
}

/// Computes the analysis of a batch from its journal and writes its files; the page for people only if asked for. Of a
/// batch that is still being written runs that are not over are left out.
///
/// # Errors
/// No run to analyse; a kind that has no analysis of its own.
pub fn analyse(path: &Path, page: bool) -> Result<Analysed, Problem> {
    let folder = find_folder(path)?;
    let under_way = status(&folder)?.writer_active;
    let recorded = recorded(&folder)?;
    let mut runs = runs(&recorded);
    if under_way {
        runs.retain(|run| run.end != RunEnd::Pending);
    }
    let place = || folder.dir().display().to_string();
    let document = recorded.plan.document();
    let Some(analysis) = kind_of(document)?.analysis(&runs, &recorded.ledger) else {
        let kind = document["kind"].as_str().unwrap_or_default();
        return Err(Problem::new(format!("`kind: {kind}` has no analysis of its own"))
            .at(place())
            .hint(format!("its numbers are in its report: tiltmeter report {}", place())));
    };
    if runs.iter().all(|run| run.end == RunEnd::Pending && run.outcome.is_none()) {
        let hint = match under_way {
            true => "it is still being written: wait for its first run",
            false => "go on with it: tiltmeter run FILE --resume",
        };
        return Err(Problem::new("no run of this batch is over yet, so there is nothing to analyse")
            .at(place())
            .hint(hint));
    }
    let count = |end: fn(&RunEnd) -> bool| runs.iter().filter(|run| end(&run.end)).count();
    let (done, failed) = (count(|end| *end == RunEnd::Done), count(|end| matches!(end, RunEnd::Failed(_))));
    let planned = recorded.planned;
    let mut notes = Vec::new();
    if under_way {
        let what = format!("the batch is still being written: {done} of {planned} runs are done, {failed} failed");
        notes.push(Problem::new(what).hint("the others are left out; analyze it again when they are over"));
    } else if done < planned {
        let what = format!("the batch is not complete: {done} of {planned} runs are done, {failed} failed");
        notes.push(Problem::new(what).hint("go on with it: tiltmeter run FILE --resume"));
    }
    let mut files = Vec::new();
    for file in analysis.files().chain(page.then(|| analysis.page.clone())) {
        files.push(write_file(&folder, None, &file)?);
    }
    let standing = [
        ("folder", json!(place())),
        ("under_way", json!(under_way)),
        ("runs_planned", json!(planned)),
        ("runs_completed", json!(done)),
        ("runs_failed", json!(failed)),
    ];
    let standing = standing.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Analysed { analysis, standing, notes, files })
}

/// The runs of a journal as a kind's recorder takes them: cell by cell in the order of the plan, as a sitting has them.
pub fn runs(recorded: &Recorded) -> Vec<RunRecord> {
    let plan = recorded.plan.document();
    let list = |key: &str| plan[key].as_array().map(Vec::as_slice).unwrap_or_default();
    // A kind whose cells are no conditions to compare lists their names alone.
    let names = list("conditions").iter().map(|condition| &condition["label"]).chain(list("cells"));
    let names = names.filter_map(Value::as_str).enumerate();
    let places: HashMap<&str, usize> = names.map(|(place, name)| (name, place)).collect();
    let place = |cell: &str| places.get(cell).copied().unwrap_or(places.len());
    let mut runs = recorded.runs.clone();
    runs.sort_by_cached_key(|run| (place(&run.key.cell), run.key.cell.clone(), run.key.sample));
    runs
}

/// What a sitting that is under way last said of itself; `None` if nobody writes the folder.
pub fn live(folder: &RunFolder) -> Result<Option<Snapshot>, Problem> {
    if !status(folder)?.writer_active {
        return Ok(None);
    }
    let text = std::fs::read_to_string(folder.progress()).unwrap_or_default();
    Ok(serde_json::from_str(&text).ok())
}

/// What `validate` found.
pub struct Validation {
    /// One line each, what holds.
    pub sound: Vec<String>,
    /// What does not.
    pub defects: Vec<Problem>,
}

/// Whether a folder holds what its plan promised: every run done and without defects, no drift, files as they were written.
pub fn validate(path: &Path) -> Result<Validation, Problem> {
    let folder = find_folder(path)?;
    let recorded = recorded(&folder)?;
    let (mut sound, mut defects) = (Vec::new(), Vec::new());
    sound.push(format!("the journal is whole: {} runs, every line with its checksum", recorded.runs.len()));
    match Plan::read(&folder.plan()) {
        Ok(plan) if plan.hash() == recorded.plan.hash() => {
            sound.push(format!("plan.json is the journal's plan, {}", plan.hash()));
        }
        Ok(plan) => defects.push(
            Problem::new(format!("plan.json is {}, the journal's plan is {}", plan.hash(), recorded.plan.hash()))
                .at(folder.plan().display().to_string())
                .hint("delete it: `tiltmeter run --resume` writes it again"),
        ),
        Err(problem) => defects.push(problem),
    }
    match recorded.accepted_drifts.as_slice() {
        [] => sound.push("the plan never changed".to_owned()),
        drifts => defects.extend(drifts.iter().map(|drift| {
            Problem::new(format!("the plan was changed under way: {drift}"))
                .hint("results before and after are not of one plan; begin again for a publication")
        })),
    }
    let runs = runs(&recorded);
    let done = runs.iter().filter(|run| run.end == RunEnd::Done).count();
    if done == recorded.planned {
        sound.push(format!("all {done} planned runs are done"));
    } else {
        defects.push(
            Problem::new(format!("{done} of {} planned runs are done", recorded.planned))
                .hint("go on with tiltmeter run FILE --resume"),
        );
    }
    for run in &runs {
        if let RunEnd::Failed(problem) = &run.end {
            defects.push(Problem { what: format!("{} failed: {}", run.key.id(), problem.what), ..problem.clone() });
        }
    }
    let kind = kind_of(recorded.plan.document())?;
    let flawed: Vec<Problem> = runs.iter().flat_map(|run| kind.defects(run)).collect();
    if flawed.is_empty() {
        sound.push("no run has a defect that its kind knows".to_owned());
    }
    defects.extend(flawed);
    files(&folder, &mut sound, &mut defects);
    let stops = interruptions(&recorded.ledger.sessions);
    if stops.is_empty() {
        sound.push("never interrupted".to_owned());
    } else {
        sound.push(format!("interrupted {} times (told in methods.md): {}", stops.len(), stops.join("; ")));
    }
    Ok(Validation { sound, defects })
}

/// Whether the files of the manifest are as they were written.
fn files(folder: &RunFolder, sound: &mut Vec<String>, defects: &mut Vec<Problem>) {
    let manifest = match Manifest::read(&folder.manifest()) {
        Ok(manifest) => manifest,
        Err(problem) => return defects.push(problem.hint("tiltmeter run --resume writes it again")),
    };
    let roots = [folder.dir(), Path::new(".")];
    let mut same = 0;
    for entry in &manifest.files {
        let found = roots.iter().map(|root| root.join(&entry.path)).find(|path| path.is_file());
        match found.map(|path| FileEntry::of(&path, &roots)) {
            Some(Ok(now)) if now.sha256 == entry.sha256 => same += 1,
            Some(Ok(_)) => defects.push(
                Problem::new("the file is not as it was written").at(entry.path.clone()).hint("tiltmeter collect DIR"),
            ),
            Some(Err(problem)) => defects.push(problem),
            None => defects.push(Problem::new("the file is gone").at(entry.path.clone()).hint("tiltmeter collect DIR")),
        }
    }
    sound.push(format!("{same} of {} files are as the manifest has them", manifest.files.len()));
}

/// Sessions that ended before their work, for people.
fn interruptions(sessions: &[Session]) -> Vec<String> {
    let ended = |session: &Session| {
        let how = match session.how {
            SessionEnd::Finished => return None,
            SessionEnd::Drained => "asked to end after the runs under way",
            SessionEnd::Stopped => "stopped between two steps",
            SessionEnd::Aborted => "stopped at once",
            SessionEnd::Unknown => "ended without a word",
        };
        Some(match &session.ended {
            Some(ended) => format!("begun {}, {how} at {ended}", session.started),
            None => format!("begun {}, {how}", session.started),
        })
    };
    sessions.iter().filter_map(ended).collect()
}

/// The methods section: what was done, by whom, with what, and what deviated.
pub fn methods(kind: &dyn Kind, plan: &Plan, runs: &[RunRecord], sessions: &[Session]) -> String {
    let document = plan.document();
    let mut text = format!("# Methods: {}\n\n", document["experiment"].as_str().unwrap_or("experiment"));
    for paragraph in kind.methods() {
        text += &format!("{paragraph}\n\n");
    }
    let of = |end: fn(&RunEnd) -> bool| runs.iter().filter(|run| end(&run.end)).count();
    let (done, failed) = (of(|end| *end == RunEnd::Done), of(|end| matches!(end, RunEnd::Failed(_))));
    let open = runs.len() - done - failed;
    text += &format!(
        "Of {} runs that were begun or planned, {done} are complete, {failed} failed, {open} are open.\n\n",
        runs.len()
    );
    for run in runs {
        if let RunEnd::Failed(problem) = &run.end {
            text += &format!("- {} failed: {}\n", run.key.id(), problem.what);
        }
    }
    if failed > 0 {
        text.push('\n');
    }
    let commit =
        match document["code_commit"].as_str().or(SourceVersion::of_program().map(|source| source.commit.as_str())) {
            Some(commit) => format!(", source {commit}"),
            None => String::new(),
        };
    text += &format!(
        "The runs were carried out with tiltmeter {}{commit}. Everything that decides the results was frozen before the first run, \
         under the hash {} (plan.json).\n\n",
        env!("CARGO_PKG_VERSION"),
        plan.hash()
    );
    text += "## Interruptions\n\n";
    match interruptions(sessions).as_slice() {
        [] => text += "None.\n",
        stops => {
            text += &stops.iter().map(|stop| format!("- {stop}\n")).collect::<String>();
            text += "\nAfter each, the runs went on from their last finished step; no finished step was carried out again.\n";
        }
    }
    let settings = serde_json::to_string_pretty(&shortened(document)).unwrap_or_default();
    text + &format!("\n## Settings\n\n```json\n{settings}\n```\n")
}

/// The plan without what fills pages: those texts are in plan.json.
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
