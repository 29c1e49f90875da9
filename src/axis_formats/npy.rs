//! NumPy's `.npy` (versions 1 to 3: magic, version, header length, a Python dict as text, data) and `.npz`, a zip archive of them.
//!
//! The `npyz` crate is not used: it allocates the header length a file states (up to 4 GiB) before reading, and its parser of Python literals
//! brings 13 crates, one of which compiles C.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use crate::tensor::{LARGEST_FILE, Numbers, Tensor};
use tiltmeter_model::problem::Problem;

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

fn damaged(what: impl std::fmt::Display) -> Problem {
    Problem::new(format!("the NumPy file is damaged: {what}")).hint("save it again with numpy.save")
}

/// The array of a .npy file.
pub(super) fn read(name: String, bytes: &[u8]) -> Result<Tensor, Problem> {
    let cut = || damaged("its header is truncated");
    if !bytes.starts_with(MAGIC) {
        return Err(damaged("it does not start with the magic bytes"));
    }
    let (length_bytes, version) = match bytes.get(6).copied().ok_or_else(cut)? {
        1 => (2, 1),
        version @ (2 | 3) => (4, version),
        other => return Err(damaged(format!("its format version is {other}"))),
    };
    let length = bytes.get(8..8 + length_bytes).ok_or_else(cut)?;
    let length = length.iter().rev().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
    let start = 8 + length_bytes;
    let header = bytes.get(start..start.saturating_add(length)).ok_or_else(cut)?;
    let header =
        std::str::from_utf8(header).map_err(|_| damaged(format!("its header (version {version}) is not UTF-8")))?;
    let kind = quoted(entry(header, "descr")?).ok_or_else(|| {
        Problem::new("the NumPy file contains records instead of numbers")
            .hint("save the axis as a plain float32 array")
    })?;
    let numbers = match kind {
        "<f2" => Numbers::F16,
        "<f4" => Numbers::F32,
        "<f8" => Numbers::F64,
        other => Numbers::Other(other.to_owned()),
    };
    let shape = shape(entry(header, "shape")?)?;
    let fortran = entry(header, "fortran_order")?.starts_with("True");
    let data = bytes[start + length..].to_vec();
    let mut tensor = Tensor::contiguous(name, shape, numbers, data);
    if fortran {
        let mut stride_below = 1usize;
        for (stride, &n) in tensor.strides.iter_mut().zip(&tensor.shape) {
            *stride = stride_below;
            stride_below = stride_below.saturating_mul(n);
        }
    }
    Ok(tensor)
}

/// The arrays of a .npz file, named without `.npy`.
pub(super) fn read_archive(bytes: &[u8]) -> Result<Vec<Tensor>, Problem> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut tensors = Vec::new();
    // Of all arrays: compression hides any size.
    let mut unpacked = 0;
    for i in 0..archive.len() {
        let file = archive.by_index(i).map_err(damaged)?;
        let path = file.name().map_err(damaged)?.into_owned();
        let Some(name) = path.strip_suffix(".npy") else { continue };
        let room = LARGEST_FILE - unpacked;
        let mut array = Vec::new();
        file.take(room + 1).read_to_end(&mut array).map_err(damaged)?;
        if array.len() as u64 > room {
            return Err(Problem::new(format!(
                "the arrays have more than {} MiB: too large for an axis",
                LARGEST_FILE >> 20
            ))
            .hint("save the axis alone: one array of shape [layers, hidden_size] or [hidden_size]"));
        }
        unpacked += array.len() as u64;
        tensors.push(read(name.to_owned(), &array)?);
    }
    Ok(tensors)
}

/// The text after a key of the header's dict.
fn entry<'a>(header: &'a str, key: &str) -> Result<&'a str, Problem> {
    let after = header.split_once(&format!("'{key}'")).map(|(_, after)| after.trim_start());
    let value = after.and_then(|after| after.strip_prefix(':'));
    value.map(str::trim_start).ok_or_else(|| damaged(format!("its header has no `{key}`")))
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(inside, _)| inside)
}

fn shape(text: &str) -> Result<Vec<usize>, Problem> {
    let inside = text.strip_prefix('(').and_then(|text| text.split_once(')')).map(|(inside, _)| inside);
    let inside = inside.ok_or_else(|| damaged("its shape is not a tuple"))?;
    let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().map_err(|_| damaged(format!("its shape contains `{size}`")))).collect()
}
