//! `game_logs.jsonl`: one record per finished run.

use std::path::PathBuf;

use super::Batch;
use tiltmeter_experiments::RunEnd;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::write_text_atomic;

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    // Records are only ever appended to a dataset, so runs that may still change are left out.
    let done = batch.runs.iter().filter(|run| run.end == RunEnd::Done);
    let lines: String =
        done.filter_map(|run| batch.kind.record(run)).map(|record| format!("{}\n", record.value)).collect();
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let path = batch.folder.game_logs();
    write_text_atomic(&path, &lines)?;
    Ok(vec![path])
}
