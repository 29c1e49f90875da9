//! `vectors.safetensors`: the mean hidden state of each turn.

use std::path::PathBuf;

use super::Batch;
use tiltmeter_experiments::NamedTensor;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{Tensor, TensorData, write_tensors};

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let tensors = &batch.exports.tensors;
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    let tensor = |(name, values): &NamedTensor| {
        Tensor::new(name, values.shape(), TensorData::F32(values.iter().copied().collect()))
    };
    let metadata =
        [("format", "tiltmeter-vectors-v1"), ("layout", "[samples, turns, hidden]; NaN where a turn was not measured")];
    let path = batch.folder.vectors();
    write_tensors(&path, &metadata, &tensors.iter().map(tensor).collect::<Vec<_>>())?;
    Ok(vec![path])
}
