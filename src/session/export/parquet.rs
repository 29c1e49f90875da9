//! `turns.parquet`, `tokens.parquet`, `runs.parquet`: the kind's tables.

use std::path::PathBuf;

use super::Batch;
use tiltmeter_model::problem::Problem;

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let mut paths = Vec::new();
    for table in &batch.exports.tables {
        let path = batch.folder.dir().join(format!("{}.parquet", table.name));
        table.write_parquet(&path)?;
        paths.push(path);
    }
    Ok(paths)
}
