//! PyTorch's `.pt` since 1.6: a zip archive of one pickle, `data.pkl`, and one file per storage, `data/<key>`. Reads a tensor or nested dicts
//! of tensors, whose names are joined by dots. The pickle is parsed by candle and never executed; candle's own walk over the result
//! skips bare tensors and nested dicts, so the walk is here.

use std::{
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
};

use candle_core::pickle::{Object, Stack};
use zip::ZipArchive;

use crate::pickle_limits;
use crate::tensor::{LARGEST_FILE, Numbers, Tensor};
use tiltmeter_model::problem::Problem;

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Deepest nesting of dicts.
const DEEPEST: usize = 16;

fn damaged(what: impl std::fmt::Display) -> Problem {
    Problem::new(format!("the PyTorch file is damaged: {what}")).hint("save it again with torch.save")
}

/// Every tensor of a .pt file.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Tensor>, Problem> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(damaged)?;
    let folder = names.iter().find_map(|name| name.strip_suffix("data.pkl")).ok_or_else(|| {
        Problem::new("a zip file, but not a PyTorch file").hint("supported are .npy, .npz, .pt and .safetensors")
    })?;
    let byte_order = format!("{folder}byteorder");
    if names.contains(&byte_order) && file(&mut archive, &byte_order)? != b"little" {
        return Err(Problem::new("the PyTorch file was written on a big-endian machine")
            .hint("load it with torch.load on a little-endian machine and save it again"));
    }
    let pickle = file(&mut archive, &format!("{folder}data.pkl"))?;
    let root = unpickle(&pickle)?;
    let mut found = Vec::new();
    walk(&root, "", 0, &mut found);
    let mut room = LARGEST_FILE;
    let mut tensors = Vec::new();
    for (name, tensor_ref) in found {
        let tensor = tensor_ref.load(name, folder, &mut archive)?;
        // Many tensors may be views of one storage, each with a copy of it.
        room = room.checked_sub(tensor.data.len() as u64).ok_or_else(|| {
            Problem::new(format!("the tensors have more than {} MiB: too large for an axis", LARGEST_FILE >> 20))
                .hint("save the axis alone: torch.save(tensor.clone(), path)")
        })?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn file(archive: &mut Archive<'_>, name: &str) -> Result<Vec<u8>, Problem> {
    let entry = archive.by_name(name).map_err(|error| damaged(format!("{name}: {error}")))?;
    let mut bytes = Vec::new();
    bytes.reserve_exact(entry.size().min(LARGEST_FILE) as usize);
    entry.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(|error| damaged(format!("{name}: {error}")))?;
    Ok(bytes)
}

fn unpickle(pickle: &[u8]) -> Result<Object, Problem> {
    pickle_limits::check(pickle).map_err(|what| {
        Problem::new(format!("the PyTorch file is too large to be read safely: {what}"))
            .hint("save only the axis: torch.save(tensor, path)")
    })?;
    // candle panics on integers of more than 8 bytes; a malicious file must not abort the program.
    let run = || {
        let mut stack = Stack::empty();
        let mut reader = pickle;
        stack.read_loop(&mut reader)?;
        stack.finalize()
    };
    let refused = |why: String| {
        Problem::new(format!("the PyTorch file contains more than tensors ({why})"))
            .hint("save only the axis: torch.save(tensor, path), or torch.save({\"axis\": tensor}, path)")
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(root)) => Ok(root),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused("an integer is too large".to_owned())),
    }
}

/// A tensor as described by the pickle.
struct TensorRef {
    key: String,
    numbers: Numbers,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

fn walk(object: &Object, name: &str, depth: usize, found: &mut Vec<(String, TensorRef)>) {
    if let Some(tensor_ref) = TensorRef::of(object) {
        found.push((name.to_owned(), tensor_ref));
        return;
    }
    let entries: Vec<(String, &Object)> = match object {
        Object::Dict(entries) => entries.iter().filter_map(|(key, value)| Some((key_text(key)?, value))).collect(),
        Object::List(items) | Object::Tuple(items) => {
            items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect()
        }
        _ => return,
    };
    for (key, value) in entries.into_iter().filter(|_| depth < DEEPEST) {
        let name = if name.is_empty() { key } else { format!("{name}.{key}") };
        walk(value, &name, depth + 1, found);
    }
}

fn key_text(key: &Object) -> Option<String> {
    match key {
        Object::Unicode(text) => Some(text.clone()),
        Object::Int(number) => Some(number.to_string()),
        Object::Long(number) => Some(number.to_string()),
        _ => None,
    }
}

impl TensorRef {
    /// `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, …)`, bare or wrapped as a parameter or a subclass.
    fn of(object: &Object) -> Option<Self> {
        let Object::Reduce { callable, args } = object else { return None };
        let (Object::Class { module_name, class_name }, Object::Tuple(args)) = (&**callable, &**args) else {
            return None;
        };
        match (module_name.as_str(), class_name.as_str()) {
            ("torch._utils", "_rebuild_tensor_v2") => Self::rebuilt(args),
            ("torch._utils", "_rebuild_parameter") => Self::of(args.first()?),
            ("torch._tensor", "_rebuild_from_type_v2") => {
                let (callable, args) = (args.first()?.clone(), args.get(2)?.clone());
                Self::of(&Object::Reduce { callable: Box::new(callable), args: Box::new(args) })
            }
            _ => None,
        }
    }

    fn rebuilt(args: &[Object]) -> Option<Self> {
        let [Object::PersistentLoad(storage), offset, shape, strides, ..] = args else { return None };
        let Object::Tuple(storage) = &**storage else { return None };
        let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = storage.as_slice() else { return None };
        let numbers = match class_name.as_str() {
            "HalfStorage" => Numbers::F16,
            "BFloat16Storage" => Numbers::BF16,
            "FloatStorage" => Numbers::F32,
            "DoubleStorage" => Numbers::F64,
            other => Numbers::Other(other.trim_end_matches("Storage").to_lowercase()),
        };
        Some(Self {
            key: key.clone(),
            numbers,
            offset: count(offset)?,
            shape: counts(shape)?,
            strides: counts(strides)?,
        })
    }

    fn load(self, name: String, folder: &str, archive: &mut Archive<'_>) -> Result<Tensor, Problem> {
        let Self { key, numbers, offset, shape, strides } = self;
        if shape.len() != strides.len() {
            return Err(damaged("the numbers of strides and dimensions of a tensor differ"));
        }
        let data = file(archive, &format!("{folder}data/{key}"))?;
        Ok(Tensor { name, shape, numbers, strides, offset, data })
    }
}

fn count(object: &Object) -> Option<usize> {
    match *object {
        Object::Int(n) => usize::try_from(n).ok(),
        Object::Long(n) => usize::try_from(n).ok(),
        _ => None,
    }
}

fn counts(object: &Object) -> Option<Vec<usize>> {
    match object {
        Object::Tuple(items) => items.iter().map(count).collect(),
        _ => None,
    }
}
