//! [`import`]: detects the format, selects the tensor and assigns its rows to sites.

use std::{collections::BTreeMap, fs, path::PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::npy;
use crate::tensor::{LARGEST_FILE, Numbers, Tensor};
use crate::torch;
use tiltmeter_model::input;
use tiltmeter_model::probe::{AxisFile, AxisOrigin, AxisStats, LayerConvention, Site, SiteAxis};
use tiltmeter_model::problem::Problem;

/// A file to import, with what the file itself does not state.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// The file; its extension decides only if the content does not.
    pub path: PathBuf,
    /// Name of the tensor; required if the file holds several.
    pub tensor: Option<String>,
    /// How the rows of a matrix are counted.
    pub index_base: Option<LayerConvention>,
    /// The site of a single vector, or the only row of a matrix to import.
    pub site: Option<Site>,
    /// Name of the axis [default: the file's stem].
    pub name: Option<String>,
    /// Number of blocks of the model the axis was built with.
    pub num_layers: Option<usize>,
    /// `sha256:<hex>` of that model's weights.
    pub fingerprint: Option<String>,
}

/// Imports a file as an axis. If it is already an axis file, the request's name, number of blocks and fingerprint replace its own.
///
/// # Errors
/// A file that cannot be read or parsed, or a request that leaves a choice open; the hint lists the choices.
pub fn import(request: &ImportRequest) -> Result<AxisFile, Problem> {
    let place = request.path.display().to_string();
    read(request).map_err(|problem| if problem.place.is_some() { problem } else { problem.at(place) })
}

fn read(request: &ImportRequest) -> Result<AxisFile, Problem> {
    let unreadable = |error| Problem::new(format!("cannot read the file: {error}")).hint("check its path");
    let size = fs::metadata(&request.path).map_err(unreadable)?.len();
    if size > LARGEST_FILE {
        return Err(Problem::new(format!("the file has {} MiB: too large for an axis", size >> 20))
            .hint("export the axis alone: one tensor of shape [layers, hidden_size] or [hidden_size]"));
    }
    let bytes = input::read_bytes(&request.path, LARGEST_FILE).map_err(unreadable)?;
    if AxisFile::is_axis_file(&bytes) {
        return Ok(restamp(AxisFile::from_bytes(&bytes)?, request));
    }
    let tensor = choose(tensors(request, &bytes)?, request.tensor.as_deref())?;
    let (hidden_size, directions) = place_rows(&tensor, request)?;
    let file_name = request.path.file_name().unwrap_or_default().to_string_lossy();
    let of_tensor = if tensor.name.is_empty() { String::new() } else { format!(", tensor `{}`", tensor.name) };
    let site_axis = |direction| SiteAxis { direction, stats: AxisStats::default() };
    let file = AxisFile {
        name: request.name.clone().unwrap_or_else(|| {
            request.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
        }),
        origin: AxisOrigin { method: format!("imported from {file_name}{of_tensor}"), ..AxisOrigin::default() },
        fingerprint: request.fingerprint.clone(),
        hidden_size,
        num_layers: request.num_layers,
        sites: directions.into_iter().map(|(site, direction)| (site, site_axis(direction))).collect(),
        sha256: String::new(),
    };
    let file = file.with_sha256();
    // Some rows may be unusable, such as equal embeddings, but not all.
    let usable = |&site: &Site| file.axis(Some(site)).and_then(|axis| axis.unit());
    let mut units = file.sites.keys().map(usable);
    let first = units.next();
    match first {
        Some(Err(problem)) if units.all(|unit| unit.is_err()) => Err(problem),
        _ => Ok(file),
    }
}

fn restamp(mut file: AxisFile, request: &ImportRequest) -> AxisFile {
    if let Some(name) = &request.name {
        file.name = name.clone();
    }
    file.fingerprint = request.fingerprint.clone().or(file.fingerprint);
    file.num_layers = request.num_layers.or(file.num_layers);
    file.with_sha256()
}

/// Every tensor of a file. The format is detected by content first, because file extensions can be wrong.
fn tensors(request: &ImportRequest, bytes: &[u8]) -> Result<Vec<Tensor>, Problem> {
    let ending = request.path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    if bytes.starts_with(npy::MAGIC) {
        return Ok(vec![npy::read(String::new(), bytes)?]);
    }
    if bytes.starts_with(b"PK") {
        return if ending == "npz" { npy::read_archive(bytes) } else { torch::read(bytes) };
    }
    match ending.as_str() {
        "safetensors" => safetensors(bytes),
        "npy" | "npz" => Err(Problem::new("not a NumPy file, or damaged").hint("save it again with numpy.save")),
        "pt" | "pth" | "bin" => Err(Problem::new("not a PyTorch file, or older than PyTorch 1.6")
            .hint("load it with torch.load and save it again with torch.save")),
        _ => Err(Problem::new("unknown file format").hint("supported are .npy, .npz, .pt and .safetensors")),
    }
}

fn safetensors(bytes: &[u8]) -> Result<Vec<Tensor>, Problem> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| {
        Problem::new(format!("not a safetensors file, or damaged ({error})")).hint("download or save it again")
    })?;
    let read = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        let numbers = match view.dtype() {
            Dtype::F16 => Numbers::F16,
            Dtype::BF16 => Numbers::BF16,
            Dtype::F32 => Numbers::F32,
            Dtype::F64 => Numbers::F64,
            other => Numbers::Other(format!("{other:?}")),
        };
        Tensor::contiguous(name.to_owned(), view.shape().to_vec(), numbers, view.data().to_vec())
    };
    Ok(tensors.iter().map(read).collect())
}

/// The tensor called `name`, or the only one of floats.
fn choose(mut tensors: Vec<Tensor>, name: Option<&str>) -> Result<Tensor, Problem> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let list = |tensors: &[Tensor]| tensors.iter().map(Tensor::describe).collect::<Vec<_>>().join(", ");
    if tensors.is_empty() {
        return Err(
            Problem::new("the file contains no tensor").hint("save the axis as a tensor, or as a dict of tensors")
        );
    }
    let Some(name) = name else {
        let is_float = |tensor: &Tensor| !matches!(tensor.numbers, Numbers::Other(_));
        return match tensors.iter().filter(|tensor| is_float(tensor)).count() {
            1 => Ok(tensors.swap_remove(tensors.iter().position(is_float).unwrap_or(0))),
            0 => Err(Problem::new(format!("the file contains no floating-point tensor, only {}", list(&tensors)))
                .hint("save the axis as float32")),
            n => Err(Problem::new(format!("the file contains {n} tensors"))
                .hint(format!("select one with `--tensor`: {}", list(&tensors)))),
        };
    };
    match tensors.iter().position(|tensor| tensor.name == name) {
        Some(i) => Ok(tensors.swap_remove(i)),
        None if tensors.len() == 1 && tensors[0].name.is_empty() => {
            Err(Problem::new(format!("the file has no tensor `{name}`: its only tensor has no name"))
                .hint("remove `--tensor`"))
        }
        None => {
            Err(Problem::new(format!("the file has no tensor `{name}`")).hint(format!("it has {}", list(&tensors))))
        }
    }
}

type Directions = BTreeMap<Site, Vec<f32>>;

/// Hidden size, and directions by site, of a vector `[d]` or a matrix `[rows, d]`.
fn place_rows(tensor: &Tensor, request: &ImportRequest) -> Result<(usize, Directions), Problem> {
    let values = tensor.values()?;
    let (rows, width) = match *tensor.shape.as_slice() {
        // A matrix of one row with a given site is a vector.
        [width] => (None, width),
        [1, width] if request.index_base.is_none() && request.site.is_some() => (None, width),
        [rows, width] => (Some(rows), width),
        _ => {
            return Err(Problem::new(format!("{} is neither a vector nor a matrix", tensor.describe()))
                .hint("an axis is one tensor of shape [hidden_size] or [layers, hidden_size]"));
        }
    };
    if width == 0 || rows == Some(0) {
        return Err(Problem::new(format!("{} is empty", tensor.describe())).hint("build the axis again"));
    }
    let Some(rows) = rows else {
        let site = request.site.ok_or_else(|| {
            Problem::new(format!("the file contains one vector of {width} dimensions but not its site"))
                .hint("add `--site`: embed, block.{i}.out (i counts from 0) or final_norm")
        })?;
        if let Some(num_layers) = request.num_layers {
            site.check(num_layers)?;
        }
        return Ok((width, BTreeMap::from([(site, values)])));
    };
    let sites = sites_of_rows(rows, request)?;
    let mut directions: Directions = sites.into_iter().zip(values.chunks_exact(width).map(<[f32]>::to_vec)).collect();
    if let Some(site) = request.site {
        let row = directions.remove(&site).ok_or_else(|| {
            let list = directions.keys().map(Site::to_string).collect::<Vec<_>>().join(", ");
            Problem::new(format!("the file has no row for {site}")).hint(format!("it has rows for {list}"))
        })?;
        directions = BTreeMap::from([(site, row)]);
    }
    Ok((width, directions))
}

fn sites_of_rows(rows: usize, request: &ImportRequest) -> Result<Vec<Site>, Problem> {
    let Some(base) = request.index_base else {
        let last = rows - 1;
        return Err(Problem::new(format!("the file has {rows} rows but not their layers")).hint(format!(
            "add `--index-base block` (row 0 is block.0.out, row {last} is block.{last}.out) or `--index-base hidden_states` \
             (row 0 is the embeddings; {rows} rows cover a model of {last} blocks)"
        )));
    };
    let wrong = |expected: usize, num_layers: usize, other: &str| {
        Problem::new(format!(
            "the file has {rows} rows, but a model of {num_layers} blocks needs {expected} with this index base"
        ))
        .hint(format!("check the model, or use `--index-base {other}`"))
    };
    match (base, request.num_layers) {
        (LayerConvention::Block, Some(num_layers)) if rows != num_layers => {
            Err(wrong(num_layers, num_layers, "hidden_states"))
        }
        (LayerConvention::Block, _) => Ok((0..rows).map(Site::BlockOut).collect()),
        (LayerConvention::HiddenStates, None) => {
            Err(Problem::new(format!("the last of {rows} rows of hidden_states may be the final norm or a block"))
                .hint("add `--model NAME` or `--num-layers N`"))
        }
        (LayerConvention::HiddenStates, Some(num_layers)) if rows != num_layers + 1 => {
            Err(wrong(num_layers + 1, num_layers, "block"))
        }
        (LayerConvention::HiddenStates, Some(num_layers)) => {
            (0..rows).map(|row| Site::from_layer(row, base, num_layers)).collect()
        }
    }
}
