//! [`Tensor`]: the raw numbers of an imported file, with strides, and their conversion to f32 in row-major order.

use half::{bf16, f16};

use tiltmeter_model::problem::Problem;

/// Bytes. Far above any axis, but below a whole model given by mistake.
pub(super) const LARGEST_FILE: u64 = 512 << 20;

/// Number format, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    F16,
    BF16,
    F32,
    F64,
    /// Not floating point; the name is the file format's own.
    Other(String),
}

impl Numbers {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Numbers::F16 | Numbers::BF16 => 2,
            Numbers::F32 => 4,
            Numbers::F64 | Numbers::Other(_) => 8,
        }
    }
}

pub(super) struct Tensor {
    /// Empty if the format has no names.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) numbers: Numbers,
    /// In numbers, one per dimension.
    pub(super) strides: Vec<usize>,
    /// Of the first element, in numbers.
    pub(super) offset: usize,
    pub(super) data: Vec<u8>,
}

impl Tensor {
    /// A row-major tensor that starts at the first byte.
    pub(super) fn contiguous(name: String, shape: Vec<usize>, numbers: Numbers, data: Vec<u8>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        Self { name, shape, numbers, strides, offset: 0, data }
    }

    /// `` `name` (float32 [33, 4096]) ``
    pub(super) fn describe(&self) -> String {
        let numbers = match &self.numbers {
            Numbers::F16 => "float16",
            Numbers::BF16 => "bfloat16",
            Numbers::F32 => "float32",
            Numbers::F64 => "float64",
            Numbers::Other(name) => name,
        };
        let name = if self.name.is_empty() { "the tensor".to_owned() } else { format!("`{}`", self.name) };
        format!("{name} ({numbers} {:?})", self.shape)
    }

    /// The numbers in row-major order.
    ///
    /// # Errors
    /// Numbers that are not floats, or fewer bytes than the shape requires.
    pub(super) fn values(&self) -> Result<Vec<f32>, Problem> {
        let read: fn(&[u8]) -> f32 = match self.numbers {
            Numbers::F16 => |b| f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Numbers::BF16 => |b| bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Numbers::F32 => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Numbers::F64 => |b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
            Numbers::Other(_) => {
                return Err(Problem::new(format!("{} is not a floating-point tensor", self.describe()))
                    .hint("save the axis as float32"));
            }
        };
        let truncated = || Problem::new(format!("{} is truncated", self.describe())).hint("download or save it again");
        let size = self.numbers.bytes();
        let count = self.shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
        // A stride of 0 repeats numbers, so that a small file can state a huge shape.
        let count = count.filter(|&count| count <= 1 << 28).ok_or_else(truncated)?;
        let at = |mut index: usize| {
            let mut position = self.offset;
            for (&n, &stride) in self.shape.iter().zip(&self.strides).rev() {
                position = position.checked_add((index % n).checked_mul(stride)?)?;
                index /= n;
            }
            let start = position.checked_mul(size)?;
            self.data.get(start..start.checked_add(size)?)
        };
        (0..count).map(|index| at(index).map(read).ok_or_else(truncated)).collect()
    }
}
