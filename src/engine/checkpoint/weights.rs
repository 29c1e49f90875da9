//! Owns the weights of a checkpoint: memory-mapped safetensors shards, looked up by name, checked for shape before use.
//! Must not know: what a tensor is for, batching.

use std::{collections::HashMap, fs::File, ops::Range, path::PathBuf, sync::Arc};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use tiltmeter_kernels::{KvType, PackedLinear};

use tiltmeter_model::problem::Problem;

/// In what type the weights are held; sums are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    F32,
    Bf16,
}

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// The tensors of a checkpoint.
pub struct Weights {
    shards: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
    /// `None`: as the checkpoint has them.
    held: Option<WeightType>,
}

impl Weights {
    /// Maps the shards. A file that is cut short or is no safetensors file is refused here, before anything is computed.
    pub fn open(files: &[PathBuf], held: Option<WeightType>) -> Result<Self, Problem> {
        let mut shards = Vec::new();
        let mut entries = HashMap::new();
        for (shard, path) in files.iter().enumerate() {
            let unreadable = |error: String| {
                Problem::new(format!("the weights cannot be read: {error}"))
                    .at(path.display().to_string())
                    .hint("the file may be cut short by an interrupted download: fetch it again and compare its size")
            };
            let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
            // SAFETY: the mapping is read only. A writer that changes the file meanwhile would change what is read, as with
            // every memory-mapped checkpoint; the fingerprint in the manifest shows which bytes were meant.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| unreadable(error.to_string()))?;
            let tensors = SafeTensors::deserialize(&map).map_err(|error| unreadable(error.to_string()))?;
            for (name, view) in tensors.iter() {
                let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
                let bytes = start..start + view.data().len();
                entries
                    .insert(name.to_owned(), Entry { shard, dtype: view.dtype(), shape: view.shape().to_vec(), bytes });
            }
            shards.push((path.clone(), map));
        }
        Ok(Self { shards, entries, held })
    }

    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// `f32`, `bf16` or `f16`: what a tensor is held in, for the record.
    pub fn dtype_of(&self, name: &str) -> Option<&'static str> {
        let stored = match self.entries.get(name)?.dtype {
            Dtype::F32 => "f32",
            Dtype::BF16 => "bf16",
            Dtype::F16 => "f16",
            _ => return None,
        };
        Some(match self.held {
            Some(WeightType::F32) => "f32",
            Some(WeightType::Bf16) => "bf16",
            None => stored,
        })
    }

    /// What keys and values are kept as unless somebody asks for something else: as the weights are, if these are bf16. A model in f16
    /// has more digits than bf16 has.
    pub fn kv_type(&self) -> KvType {
        match self.dtype_of("model.norm.weight") {
            Some("bf16") => KvType::Bf16,
            _ => KvType::F32,
        }
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&Entry, &[u8]), Problem> {
        let entry = self.entries.get(name).ok_or_else(|| {
            let place = self.shards.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Problem::new(format!("the checkpoint has no tensor `{name}`"))
                .at(place)
                .hint("config.json names another architecture than the weights have, or a shard is missing")
        })?;
        let path = || self.shards[entry.shard].0.display().to_string();
        if entry.shape != shape {
            return Err(Problem::new(format!(
                "tensor `{name}` has shape {:?}, but config.json says {shape:?}",
                entry.shape
            ))
            .at(path())
            .hint("config.json and the weights are not of the same model"));
        }
        if !matches!(entry.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
            return Err(Problem::new(format!("tensor `{name}` has type {:?}, which is not supported", entry.dtype))
                .at(path())
                .hint("convert the checkpoint to f32, bf16 or f16"));
        }
        Ok((entry, &self.shards[entry.shard].1[entry.bytes.clone()]))
    }

    /// A tensor as f32, in row-major order.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Problem> {
        let (entry, bytes) = self.entry(name, shape)?;
        let values = widen(entry.dtype, bytes);
        Ok(match self.held {
            Some(WeightType::Bf16) => values.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect(),
            _ => values,
        })
    }

    /// The bits of a tensor as bf16, or as f16; rounded to nearest even where it is stored as something else.
    pub fn two_byte(&self, name: &str, shape: &[usize], as_bf16: bool) -> Result<Vec<u16>, Problem> {
        let (entry, bytes) = self.entry(name, shape)?;
        let same = if as_bf16 { Dtype::BF16 } else { Dtype::F16 };
        if entry.dtype == same {
            return Ok(bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect());
        }
        let round = |x: f32| if as_bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() };
        Ok(widen(entry.dtype, bytes).into_iter().map(round).collect())
    }

    /// A projection `[n_out, k_in]`, packed for the matrix kernel.
    pub fn linear(&self, name: &str, n_out: usize, k_in: usize) -> Result<Arc<PackedLinear>, Problem> {
        let (entry, bytes) = self.entry(name, &[n_out, k_in])?;
        let packed = if self.is_bf16(entry) {
            match (entry.dtype, bytemuck::try_cast_slice::<u8, bf16>(bytes)) {
                (Dtype::BF16, Ok(weights)) => PackedLinear::from_bf16(weights, n_out, k_in),
                _ => {
                    let rounded: Vec<bf16> = widen(entry.dtype, bytes).into_iter().map(bf16::from_f32).collect();
                    PackedLinear::from_bf16(&rounded, n_out, k_in)
                }
            }
        } else {
            match (entry.dtype, bytemuck::try_cast_slice::<u8, f32>(bytes)) {
                (Dtype::F32, Ok(weights)) => PackedLinear::from_f32(weights, n_out, k_in),
                _ => PackedLinear::from_f32(&widen(entry.dtype, bytes), n_out, k_in),
            }
        };
        self.let_go(entry);
        Ok(Arc::new(packed))
    }

    /// A tensor in bf16, in row-major order; `None` where it is held in f32.
    pub fn bf16(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<bf16>>, Problem> {
        let (entry, bytes) = self.entry(name, shape)?;
        let values = self.is_bf16(entry).then(|| match entry.dtype {
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect(),
            _ => widen(entry.dtype, bytes).into_iter().map(bf16::from_f32).collect(),
        });
        self.let_go(entry);
        Ok(values)
    }

    fn is_bf16(&self, entry: &Entry) -> bool {
        match self.held {
            Some(held) => held == WeightType::Bf16,
            None => entry.dtype == Dtype::BF16,
        }
    }

    /// Tells the system that a tensor's part of the file need not stay in memory: what was packed from it is what is used. Read again,
    /// it comes from the file again.
    fn let_go(&self, entry: &Entry) {
        #[cfg(unix)]
        // SAFETY: the mapping is of a file and never written to, so nothing can be lost.
        unsafe {
            let map = &self.shards[entry.shard].1;
            // Advice alone: where it is refused, memory is given back when the file is closed.
            let _ =
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, entry.bytes.start, entry.bytes.len());
        }
    }
}

/// Every stored type as f32; exact, since f32 holds all bf16 and f16 values.
fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}
