//! A checkpoint's tensors: memory-mapped safetensors shards. Every tensor is read by the architecture or the checkpoint is refused.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use tiltmeter_kernels::{KvType, PackedLinear};

use crate::spec::{ArchSpec, TensorSpec};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use tiltmeter_model::input::{self, open_regular};
use tiltmeter_model::problem::Problem;

/// The type that weights are held in; sums are f32 in either.
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
    /// The tensor whose type is the record's.
    final_norm: String,
}

/// Buffers that old checkpoints store and that follow from config.json.
const DERIVED: &[&str] = &["rotary_emb.inv_freq"];

impl Weights {
    /// Maps the shards.
    ///
    /// # Errors
    /// A file that is cut short or is not safetensors; tensors that `arch` names and the shards lack, or have in another shape; and
    /// tensors that `arch` does not read.
    pub fn open(files: &[PathBuf], held: Option<WeightType>, arch: &ArchSpec) -> Result<Self, Problem> {
        let mut shards = Vec::new();
        let mut entries = HashMap::new();
        for (shard, path) in files.iter().enumerate() {
            let unreadable = |error: String| {
                Problem::new(format!("the weights cannot be read: {error}"))
                    .at(path.display().to_string())
                    .hint("the file may be cut short by an interrupted download: fetch it again and compare its size")
            };
            let file = open_regular(path, u64::MAX).map_err(|error| unreadable(error.to_string()))?;
            // SAFETY: the mapping is read only. A writer that changes the file meanwhile would change what is read, as with
            // every memory-mapped checkpoint; the fingerprint in the manifest shows which bytes were meant.
            let map = unsafe { Mmap::map(&file) }.map_err(|error| unreadable(error.to_string()))?;
            if map.starts_with(input::LFS_POINTER) {
                return Err(unreadable(input::LFS_MESSAGE.to_owned()).hint("fetch the file itself: git lfs pull"));
            }
            let tensors = SafeTensors::deserialize(&map).map_err(|error| unreadable(error.to_string()))?;
            if let Some(name) = named_twice(&map) {
                return Err(unreadable(format!("its header names the tensor `{name}` twice")));
            }
            for (name, view) in tensors.iter() {
                if let Some(Entry { shard: first, .. }) = entries.get(name) {
                    let first: &PathBuf = &files[*first];
                    return Err(Problem::new(format!("the tensor `{name}` is in two files: {}", first.display()))
                        .at(path.display().to_string())
                        .hint("shards of two saves are mixed: remove the older ones, or save the model again"));
                }
                let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
                let bytes = start..start + view.data().len();
                entries
                    .insert(name.to_owned(), Entry { shard, dtype: view.dtype(), shape: view.shape().to_vec(), bytes });
            }
            shards.push((path.clone(), map));
        }
        let weights = Self { shards, entries, held, final_norm: arch.final_norm.weight_name() };
        weights.check(arch)?;
        Ok(weights)
    }

    fn check(&self, arch: &ArchSpec) -> Result<(), Problem> {
        let mut read = HashSet::new();
        for TensorSpec { name, shape } in arch.tensors() {
            self.entry(&name, &shape)?;
            read.insert(name);
        }
        let derived = |name: &String| DERIVED.iter().any(|suffix| name.ends_with(suffix));
        let mut unread: Vec<&String> =
            self.entries.keys().filter(|name| !read.contains(*name) && !derived(name)).collect();
        if arch.embed.tied {
            // A copy of what the head is tied to is the same model.
            let embeddings = self.bytes(&self.entries[&arch.embed.weight()]);
            unread.retain(|name| *name != "lm_head.weight" || self.bytes(&self.entries[*name]) != embeddings);
        }
        if unread.is_empty() {
            return Ok(());
        }
        unread.sort_unstable();
        let names: Vec<String> = unread.iter().map(|name| format!("`{name}`")).collect();
        Err(Problem::new(format!("the architecture of config.json does not read these tensors: {}", names.join(", ")))
            .at(self.place())
            .hint("the weights are of another architecture, or of an adapter: running without them would be another model"))
    }

    /// `f32`, `bf16` or `f16`: the type that the weights are held in, as the final norm's.
    pub fn dtype(&self) -> &'static str {
        match (self.held, self.entries[&self.final_norm].dtype) {
            (Some(WeightType::F32), _) => "f32",
            (Some(WeightType::Bf16), _) | (None, Dtype::BF16) => "bf16",
            (None, Dtype::F16) => "f16",
            (None, _) => "f32",
        }
    }

    fn place(&self) -> String {
        self.shards.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].1[entry.bytes.clone()]
    }

    /// The default type of keys and values: bf16 where the weights are bf16, else f32. An f16 model has more digits than bf16.
    pub fn kv_type(&self) -> KvType {
        match self.dtype() {
            "bf16" => KvType::Bf16,
            _ => KvType::F32,
        }
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<(&Entry, &[u8]), Problem> {
        let entry = self.entries.get(name).ok_or_else(|| {
            Problem::new(format!("the checkpoint has no tensor `{name}`"))
                .at(self.place())
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
        Ok((entry, self.bytes(entry)))
    }

    /// A tensor as f32, in row-major order.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Problem> {
        let (entry, bytes) = self.entry(name, shape)?;
        let values = widen(entry.dtype, bytes);
        self.finite(name, values.iter().all(|x| x.is_finite()))?;
        Ok(match self.held {
            Some(WeightType::Bf16) => values.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect(),
            _ => values,
        })
    }

    /// The bits of a tensor as bf16, or as f16; rounded to nearest even where it is stored as something else.
    pub fn two_byte(&self, name: &str, shape: &[usize], as_bf16: bool) -> Result<Vec<u16>, Problem> {
        let (entry, bytes) = self.entry(name, shape)?;
        let same = if as_bf16 { Dtype::BF16 } else { Dtype::F16 };
        let bits: Vec<u16> = if entry.dtype == same {
            bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
        } else {
            let round = |x: f32| if as_bf16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() };
            widen(entry.dtype, bytes).into_iter().map(round).collect()
        };
        // After rounding: f16 holds no more than 65504.
        let exponent = if as_bf16 { 0x7f80 } else { 0x7c00 };
        self.finite(name, bits.iter().all(|bits| bits & exponent != exponent))?;
        Ok(bits)
    }

    /// A projection `[n_out, k_in]`, packed for the matrix kernel.
    pub fn linear(&self, name: &str, n_out: usize, k_in: usize) -> Result<Arc<PackedLinear>, Problem> {
        let (entry, bytes) = self.entry(name, &[n_out, k_in])?;
        self.finite(name, all_finite(entry.dtype, bytes))?;
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
        self.evict(entry);
        Ok(Arc::new(packed))
    }

    /// A tensor in bf16, in row-major order; `None` where it is held in f32.
    pub fn bf16(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<bf16>>, Problem> {
        let (entry, bytes) = self.entry(name, shape)?;
        self.finite(name, all_finite(entry.dtype, bytes))?;
        let values = self.is_bf16(entry).then(|| match entry.dtype {
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect(),
            _ => widen(entry.dtype, bytes).into_iter().map(bf16::from_f32).collect(),
        });
        self.evict(entry);
        Ok(values)
    }

    fn finite(&self, name: &str, finite: bool) -> Result<(), Problem> {
        if finite {
            return Ok(());
        }
        Err(Problem::new(format!("tensor `{name}` holds NaN or infinity")).at(self.place()).hint(
            "the checkpoint is damaged, or its training diverged: fetch or save it again; f16 holds at most 65504",
        ))
    }

    fn is_bf16(&self, entry: &Entry) -> bool {
        match self.held {
            Some(held) => held == WeightType::Bf16,
            None => entry.dtype == Dtype::BF16,
        }
    }

    /// Advises the system that a tensor's pages need not stay in memory, since its packed copy is used from here on.
    fn evict(&self, entry: &Entry) {
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

fn all_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    let half = |exponent: u16| bytes.chunks_exact(2).all(|b| u16::from_le_bytes([b[0], b[1]]) & exponent != exponent);
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        Dtype::BF16 => half(0x7f80),
        _ => half(0x7c00),
    }
}

/// A name that the header of a safetensors file has twice; readers of JSON keep the last.
fn named_twice(file: &[u8]) -> Option<String> {
    let length = u64::from_le_bytes(*file.first_chunk::<8>()?);
    let header = file.get(8..8usize.checked_add(usize::try_from(length).ok()?)?)?;
    let Names(names) = serde_json::from_slice(header).ok()?;
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(name.clone()))
}

/// The keys of a JSON object in their order, repeated ones too.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
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
