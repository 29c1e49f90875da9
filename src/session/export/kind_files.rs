//! The kind's own files: of the plan, of runs, of the batch.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Batch;
use tiltmeter_model::problem::Problem;

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let Batch { kind, runs, ledger, .. } = batch;
    let mut files = kind.plan_files();
    files.extend(runs.iter().flat_map(|run| kind.run_files(run)));
    files.extend(kind.batch_files(runs));
    // These replace files of the same path.
    files.extend(kind.accounts(runs, ledger));
    let (mut paths, mut written) = (Vec::new(), BTreeSet::new());
    for file in &files {
        let path = batch.write(file)?;
        if written.insert(path.clone()) {
            paths.push(path);
        }
    }
    Ok(paths)
}
