//! `generated_transcripts/<experiment>_<label>.json`: the kind's JSON documents.

use std::path::PathBuf;

use super::Batch;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{safe_name, write_json_atomic};

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let mut paths = Vec::new();
    for (stem, document) in &batch.exports.documents {
        let path = batch.folder.transcripts_dir().join(safe_name(&format!("{stem}.json"))?);
        write_json_atomic(&path, document)?;
        paths.push(path);
    }
    Ok(paths)
}
