//! Writes safetensors files: an 8-byte little-endian length, that many bytes of JSON (dtype, shape and offsets per tensor, metadata
//! under `__metadata__`), then the data. Equal content gives equal bytes; the `safetensors` crate does not guarantee that, because it
//! keeps the metadata in a hash map.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::write_atomic;
use tiltmeter_model::problem::Problem;

/// Values of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: TensorData,
}

impl Tensor {
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, data: TensorData) -> Self {
        Self { name: name.into(), shape: shape.into(), data }
    }
}

/// Writes the file atomically. Metadata and tensors keep their order, except that i64 tensors come first for alignment.
pub fn write_tensors(path: &Path, texts: &[(&str, &str)], tensors: &[Tensor]) -> Result<(), Problem> {
    write_atomic(path, &bytes_of(texts, tensors))
}

fn bytes_of(texts: &[(&str, &str)], tensors: &[Tensor]) -> Vec<u8> {
    let texts: Map<String, Value> = texts.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(texts))]);
    let mut data = Vec::new();
    let (wide, narrow): (Vec<&Tensor>, Vec<&Tensor>) =
        tensors.iter().partition(|tensor| matches!(tensor.data, TensorData::I64(_)));
    for tensor in wide.into_iter().chain(narrow) {
        let start = data.len();
        let dtype = match &tensor.data {
            TensorData::F32(values) => {
                data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                "F32"
            }
            TensorData::I64(values) => {
                data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                "I64"
            }
        };
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    // The format requires the data to be aligned to 8 bytes and allows spaces after the header.
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice(), &data].concat()
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    #[test]
    fn the_safetensors_crate_reads_the_file() {
        let tensors = [
            Tensor::new("b", [2, 1], TensorData::F32(vec![1.5, f32::NAN])),
            Tensor::new("a", [3], TensorData::I64(vec![-1, 0, i64::MAX])),
            Tensor::new("none", [0, 4], TensorData::F32(Vec::new())),
        ];
        let texts = [("format", "x"), ("layout", "\"quoted\"\n"), ("a", "")];
        let bytes = bytes_of(&texts, &tensors);
        assert_eq!(bytes, bytes_of(&texts, &tensors));
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), 3);
        let (a, b) = (read.tensor("a").unwrap(), read.tensor("b").unwrap());
        assert_eq!((a.dtype(), a.shape(), &a.data()[16..]), (Dtype::I64, &[3][..], &i64::MAX.to_le_bytes()[..]));
        assert_eq!((b.dtype(), b.shape(), &b.data()[..4]), (Dtype::F32, &[2, 1][..], &1.5_f32.to_le_bytes()[..]));
        assert_eq!(read.tensor("none").unwrap().shape(), [0, 4]);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["layout"], "\"quoted\"\n");
    }
}
