//! Weights on the device in the layout of the kernels: packed; q, k and v as one product; gate and up as another, with alternating rows. A
//! checkpoint of another dtype is rounded once, here.

use half::{bf16, f16};
use tiltmeter_kernels::gpu::{Element, Gpu, Memory, Result as GpuResult, linear::LinearShape, rows::Norm};

use crate::{
    backend::{cuda::failure, not_yet},
    checkpoint::weights::Weights,
    spec::{ArchSpec, AttentionSpec, BlockSpec, GatedMlp, LinearSpec, MlpSpec, NormCast, NormSpec, Part},
};
use tiltmeter_model::problem::Problem;

/// The weight of an RMS norm.
pub struct NormWeight {
    memory: Memory,
    eps: f32,
    /// The normalised row is rounded before it is multiplied by the weight.
    pub round_first: bool,
}

impl NormWeight {
    fn new(memory: Memory, spec: &NormSpec) -> Self {
        Self { memory, eps: spec.eps as f32, round_first: spec.cast == NormCast::Before }
    }

    pub fn norm(&self) -> Norm<'_> {
        Norm { weight: self.memory.all(), eps: self.eps }
    }
}

/// The packed weight of a product.
pub struct Product {
    pub shape: LinearShape,
    pub packed: Memory,
}

pub struct LayerWeights {
    pub qkv: Product,
    pub out: Product,
    pub gate_up: Product,
    pub down: Product,
    /// Of q and k, over their whole width, where the family has them.
    pub qk_norms: Option<[NormWeight; 2]>,
    pub pre_norm: Option<NormWeight>,
    pub post_norm: Option<NormWeight>,
    pub pre_mlp_norm: Option<NormWeight>,
    pub post_mlp_norm: Option<NormWeight>,
}

pub struct DeviceWeights {
    pub element: Element,
    /// `[vocab, hidden]`, as it is.
    pub embeddings: Memory,
    pub layers: Vec<LayerWeights>,
    pub norm: NormWeight,
    pub head: Product,
}

/// The shapes of a layer's products.
pub struct Shapes {
    pub qkv: LinearShape,
    pub out: LinearShape,
    pub gate_up: LinearShape,
    pub down: LinearShape,
    pub head: LinearShape,
}

impl Shapes {
    pub fn of(config: &ArchSpec) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size());
        let (q, kv) = (
            config.attention().heads * config.attention().head_dim,
            config.attention().kv_heads * config.attention().head_dim,
        );
        Self {
            qkv: LinearShape { n: q + 2 * kv, k: hidden },
            out: LinearShape { n: hidden, k: q },
            gate_up: LinearShape { n: 2 * inner, k: hidden },
            down: LinearShape { n: hidden, k: inner },
            head: LinearShape { n: config.vocab_size, k: hidden },
        }
    }

    pub fn all(&self) -> [LinearShape; 5] {
        [self.qkv, self.out, self.gate_up, self.down, self.head]
    }
}

/// Bytes that the weights of a model take on a device.
pub fn bytes_needed(config: &ArchSpec) -> u64 {
    let shapes = Shapes::of(config);
    let layer: usize = [shapes.qkv, shapes.out, shapes.gate_up, shapes.down].iter().map(LinearShape::packed_len).sum();
    let table = config.vocab_size * config.hidden_size;
    2 * (config.num_layers() * layer + shapes.head.packed_len() + table) as u64
}

impl DeviceWeights {
    /// Brings a checkpoint to the device.
    pub fn load(gpu: &Gpu, config: &ArchSpec, weights: &Weights, element: Element) -> Result<Self, Problem> {
        let loader = Loader { gpu, weights, element };
        let shapes = Shapes::of(config);
        let table = loader.numbers(&config.embed.weight(), config.vocab_size, config.hidden_size)?;
        Ok(Self {
            element,
            embeddings: gpu.upload(&table).map_err(failure)?,
            layers: config.blocks.iter().map(|block| loader.layer(block, &shapes)).collect::<Result<_, _>>()?,
            norm: loader.norm(&config.final_norm)?,
            head: loader.product(&[&config.head], shapes.head, false)?,
        })
    }

    /// Synthetic weights, made on the device, for benchmarks: time does not depend on their values.
    pub fn synthetic(gpu: &Gpu, config: &ArchSpec, element: Element) -> GpuResult<Self> {
        let shapes = Shapes::of(config);
        let noise = Noise::new(gpu, element)?;
        let norm = |spec: &NormSpec| -> GpuResult<NormWeight> {
            let ones = vec![element_bits(1.0, element); spec.width];
            Ok(NormWeight::new(gpu.upload(&ones)?, spec))
        };
        let optional = |spec: &Option<NormSpec>| spec.as_ref().map(&norm).transpose();
        let packed = |shape: LinearShape| -> GpuResult<Product> {
            let packed = gpu.alloc(2 * shape.packed_len())?;
            noise.fill(&packed)?;
            Ok(Product { shape, packed })
        };
        let layer = |block: &BlockSpec| -> GpuResult<LayerWeights> {
            let qk_norms = block.attention.qk_norm.as_ref().map(|qk| Ok([norm(&qk.q)?, norm(&qk.k)?])).transpose()?;
            Ok(LayerWeights {
                qkv: packed(shapes.qkv)?,
                out: packed(shapes.out)?,
                gate_up: packed(shapes.gate_up)?,
                down: packed(shapes.down)?,
                qk_norms,
                pre_norm: optional(&block.pre_norm)?,
                post_norm: optional(&block.post_norm)?,
                pre_mlp_norm: optional(&block.pre_mlp_norm)?,
                post_mlp_norm: optional(&block.post_mlp_norm)?,
            })
        };
        let embeddings = gpu.alloc(2 * config.vocab_size * config.hidden_size)?;
        noise.fill(&embeddings)?;
        Ok(Self {
            element,
            embeddings,
            layers: config.blocks.iter().map(layer).collect::<GpuResult<_>>()?,
            norm: norm(&config.final_norm)?,
            head: packed(shapes.head)?,
        })
    }
}

/// A block of normal numbers of the scale that weights have, repeated over whatever is to be filled.
struct Noise {
    block: Memory,
}

impl Noise {
    /// Numbers of the block: no multiple of any width, so that rows do not repeat each other.
    const COUNT: usize = (1 << 22) + 8 * 1009;

    fn new(gpu: &Gpu, element: Element) -> GpuResult<Self> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        // The sum of four uniform numbers is near enough to a normal one.
        let mut draw = || {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let sum: u64 = (0..4).map(|i| state >> (16 * i) & 0xffff).sum();
            (sum as f32 / 65536.0 - 2.0) * 0.03
        };
        let numbers: Vec<u16> = (0..Self::COUNT).map(|_| element_bits(draw(), element)).collect();
        Ok(Self { block: gpu.upload(&numbers)? })
    }

    fn fill(&self, memory: &Memory) -> GpuResult<()> {
        let count = memory.bytes() / 2;
        for first in (0..count).step_by(Self::COUNT) {
            let part = Self::COUNT.min(count - first);
            self.block.part::<u16>(0, part).copy_to(memory.part::<u16>(first, part))?;
        }
        Ok(())
    }
}

fn element_bits(x: f32, element: Element) -> u16 {
    match element {
        Element::Bf16 => bf16::from_f32(x).to_bits(),
        Element::F16 => f16::from_f32(x).to_bits(),
    }
}

struct Loader<'a> {
    gpu: &'a Gpu,
    weights: &'a Weights,
    element: Element,
}

impl Loader<'_> {
    fn numbers(&self, name: &str, rows: usize, width: usize) -> Result<Vec<u16>, Problem> {
        self.weights.two_byte(name, &[rows, width], self.element == Element::Bf16)
    }

    fn norm(&self, spec: &NormSpec) -> Result<NormWeight, Problem> {
        let numbers = self.weights.two_byte(&spec.weight_name(), &[spec.width], self.element == Element::Bf16)?;
        Ok(NormWeight::new(self.gpu.upload(&numbers).map_err(failure)?, spec))
    }

    /// Linear layers below each other as one product; `alternate`: their rows by turns.
    fn product(&self, parts: &[&LinearSpec], shape: LinearShape, alternate: bool) -> Result<Product, Problem> {
        let mut tensors = Vec::new();
        for spec in parts {
            tensors.push(self.numbers(&spec.weight(), spec.n_out, shape.k)?);
        }
        let rows: Vec<&[u16]> = match alternate {
            false => tensors.iter().flat_map(|tensor| tensor.chunks_exact(shape.k)).collect(),
            true => {
                let rows = tensors[0].chunks_exact(shape.k).zip(tensors[1].chunks_exact(shape.k));
                rows.flat_map(|(gate, up)| [gate, up]).collect()
            }
        };
        let packed = self.gpu.upload(&shape.pack(|row| rows[row])).map_err(failure)?;
        Ok(Product { shape, packed })
    }

    fn layer(&self, block: &BlockSpec, shapes: &Shapes) -> Result<LayerWeights, Problem> {
        let AttentionSpec { q, k, v, o, qk_norm, .. } = &block.attention;
        let MlpSpec::Gated(GatedMlp { gate, up, down, .. }) = &block.mlp else {
            return Err(not_yet(Part::MixtureOfExperts, "CUDA"));
        };
        let norm = |spec: &Option<NormSpec>| spec.as_ref().map(|spec| self.norm(spec)).transpose();
        Ok(LayerWeights {
            qkv: self.product(&[q, k, v], shapes.qkv, false)?,
            out: self.product(&[o], shapes.out, false)?,
            gate_up: self.product(&[gate, up], shapes.gate_up, true)?,
            down: self.product(&[down], shapes.down, false)?,
            qk_norms: qk_norm
                .as_ref()
                .map(|qk| Ok::<_, Problem>([self.norm(&qk.q)?, self.norm(&qk.k)?]))
                .transpose()?,
            pre_norm: norm(&block.pre_norm)?,
            post_norm: norm(&block.post_norm)?,
            pre_mlp_norm: norm(&block.pre_mlp_norm)?,
            post_mlp_norm: norm(&block.post_mlp_norm)?,
        })
    }
}
