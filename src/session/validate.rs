//! Compares a run folder with its plan: runs, defects, drift, and the hashes in the manifest.

use std::path::Path;

use super::collect::{find_folder, runs};
use super::methods::interruptions;
use tiltmeter_experiments::kind_of;
use tiltmeter_model::problem::Problem;
use tiltmeter_scheduler::{Plan, RunEnd, recorded};
use tiltmeter_store::{FileEntry, Manifest, RunFolder};

/// Result of `validate`.
pub struct Validation {
    /// Checks that passed, one line each.
    pub sound: Vec<String>,
    /// Checks that failed.
    pub defects: Vec<Problem>,
}

/// Checks that every planned run is done and without defects, that the plan never changed, and that all files match the manifest.
pub fn validate(path: &Path) -> Result<Validation, Problem> {
    let folder = find_folder(path)?;
    let recorded = recorded(&folder)?;
    let (mut sound, mut defects) = (Vec::new(), Vec::new());
    sound.push(format!("the journal is intact: {} runs, every checksum matches", recorded.runs.len()));
    match Plan::read(&folder.plan()) {
        Ok(plan) if plan.hash() == recorded.plan.hash() => {
            sound.push(format!("plan.json is the journal's plan, {}", plan.hash()));
        }
        Ok(plan) => defects.push(
            Problem::new(format!("plan.json is {}, the journal's plan is {}", plan.hash(), recorded.plan.hash()))
                .at(folder.plan().display().to_string())
                .hint("delete it: `tiltmeter collect` writes it again"),
        ),
        Err(problem) => defects.push(problem),
    }
    match recorded.accepted_drifts.as_slice() {
        [] => sound.push("the plan never changed".to_owned()),
        drifts => defects.extend(drifts.iter().map(|drift| {
            Problem::new(format!("the plan changed between sessions: {drift}"))
                .hint("results before and after follow different plans; begin again for a publication")
        })),
    }
    let kind = kind_of(recorded.plan.document())?;
    let runs = runs(kind.as_ref(), &recorded);
    let done = runs.iter().filter(|run| run.end == RunEnd::Done).count();
    if done == recorded.planned {
        sound.push(format!("all {done} planned runs are done"));
    } else {
        defects.push(
            Problem::new(format!("{done} of {} planned runs are done", recorded.planned))
                .hint("finish them: tiltmeter run FILE --resume"),
        );
    }
    for run in &runs {
        if let RunEnd::Failed(problem) = &run.end {
            defects.push(Problem { what: format!("{} failed: {}", run.key.id(), problem.what), ..problem.clone() });
        }
    }
    let flawed: Vec<Problem> = runs.iter().flat_map(|run| kind.defects(run)).collect();
    if flawed.is_empty() {
        sound.push("no run has a defect".to_owned());
    }
    defects.extend(flawed);
    files(&folder, &mut sound, &mut defects);
    let stops = interruptions(&recorded.ledger.sessions);
    if stops.is_empty() {
        sound.push("never interrupted".to_owned());
    } else {
        sound.push(format!("interrupted sessions: {} (see methods.md): {}", stops.len(), stops.join("; ")));
    }
    Ok(Validation { sound, defects })
}

/// Compares the hashes in the manifest with the files.
fn files(folder: &RunFolder, sound: &mut Vec<String>, defects: &mut Vec<Problem>) {
    let hint = || format!("tiltmeter collect {} writes it again", folder.dir().display());
    let manifest = match Manifest::read(&folder.manifest()) {
        Ok(manifest) => manifest,
        Err(problem) => return defects.push(problem.hint(hint())),
    };
    let mut same = 0;
    for entry in &manifest.files {
        let path = folder.dir().join(&entry.path);
        if !path.is_file() {
            defects.push(Problem::new("the file is missing").at(entry.path.clone()).hint(hint()));
            continue;
        }
        match FileEntry::of(&path, &[folder.dir()]) {
            Ok(now) if now.sha256 == entry.sha256 => same += 1,
            Ok(_) => defects.push(Problem::new("the file has changed").at(entry.path.clone()).hint(hint())),
            Err(problem) => defects.push(problem),
        }
    }
    sound.push(format!("{same} of {} files match the manifest", manifest.files.len()));
}
