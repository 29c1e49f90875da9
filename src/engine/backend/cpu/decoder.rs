//! The decoder on the CPU: embeddings, blocks, final norm, head.

use std::sync::Arc;

use tiltmeter_kernels::{AttentionShape, Pool};

use super::{
    PARTS,
    attention::Attention,
    block::{Block, Loader, States},
    ops::{Embedding, Linear, RmsNorm, RopeTable},
};
use crate::{
    backend::{Batch, check},
    checkpoint::weights::Weights,
    kv_cache::{PagePool, PagedCache},
    spec::{ArchSpec, AttentionSpec, RopeSpec},
};
use tiltmeter_model::{probe::Site, problem::Problem};

/// Memory for the values of a pass, which the next one uses again.
#[derive(Debug, Default)]
pub struct Workspace {
    values: Vec<f32>,
    logits: Vec<f32>,
}

/// Bytes.
const CACHE_LINE: usize = 64;

/// The widths of the values of a pass, in the order of `States`.
struct Widths([usize; 8]);

impl Widths {
    fn of(arch: &ArchSpec) -> Self {
        let (q, kv) = (arch.attention().q_width(), arch.attention().kv_width());
        let (hidden, wide) = (arch.hidden_size, arch.intermediate_size().max(q));
        Self([hidden, hidden, hidden, q, kv, kv, wide, wide])
    }
}

/// The values of a pass over `rows` rows; they stay between two calls for as many.
fn states<'a>(memory: &'a mut Vec<f32>, rows: usize, widths: &Widths) -> States<'a> {
    let widths = widths.0;
    let len = rows * widths.iter().sum::<usize>() + CACHE_LINE;
    if memory.len() < len {
        // Nothing of it is kept, so it need not be copied.
        *memory = Vec::new();
        memory.resize(len, 0.0);
    }
    // Two threads seldom write to one cache line if rows begin with one.
    let unaligned = memory.as_ptr().align_offset(CACHE_LINE);
    let mut rest = &mut memory[unaligned..];
    let [h, x, branch, q, k, v, a, b] = widths.map(|width| {
        let (part, others) = std::mem::take(&mut rest).split_at_mut(rows * width);
        rest = others;
        part
    });
    States { h, x, branch, q, k, v, wide: [a, b] }
}

/// A whole model.
pub struct Decoder {
    pub arch: ArchSpec,
    embed: Embedding,
    blocks: Vec<Block>,
    widths: Widths,
    norm: RmsNorm,
    head: Linear,
    pool: Arc<Pool>,
}

impl Decoder {
    /// # Errors
    /// A tensor of another shape or type than `arch` names, and parts that the kernels do not compute.
    pub fn load(arch: ArchSpec, weights: &Weights, pool: Arc<Pool>) -> Result<Self, Problem> {
        check(&arch, PARTS, "the CPU")?;
        let loader = Loader { weights, pool: &pool };
        let (embeddings, shape) = (arch.embed.weight(), [arch.vocab_size, arch.hidden_size]);
        let embed = match weights.bf16(&embeddings, &shape)? {
            Some(table) => Embedding::Bf16(table),
            None => Embedding::F32(weights.f32(&embeddings, &shape)?),
        };
        // Layers of the same frequencies share one table.
        let mut tables: Vec<(RopeSpec, Arc<RopeTable>)> = Vec::new();
        let mut blocks = Vec::new();
        for spec in &arch.blocks {
            let AttentionSpec { rope, head_dim, .. } = &spec.attention;
            let known = tables.iter().find(|(spec, _)| spec == rope).map(|(_, table)| table.clone());
            let table = known.unwrap_or_else(|| Arc::new(RopeTable::new(rope, *head_dim)));
            blocks.push(loader.block(spec, table.clone())?);
            tables.push((*rope, table));
        }
        Ok(Self {
            embed,
            blocks,
            widths: Widths::of(&arch),
            norm: loader.norm(&arch.final_norm)?,
            head: loader.linear(&arch.head)?,
            pool: pool.clone(),
            arch,
        })
    }

    /// Bytes of the linear layers and the embeddings.
    pub fn weight_bytes(&self) -> u64 {
        self.bytes_per_weight() * self.arch.linear_weights() + self.embed.bytes() as u64
    }

    /// Bytes of a weight in the linear layers.
    pub fn bytes_per_weight(&self) -> u64 {
        let head = &self.head.weights;
        (head.bytes() / (head.n_out() * head.k_in()).max(1)) as u64
    }

    /// One pass over `batch`; `observe` is called with the states `[rows, hidden]` of each site in `sites`, in the order
    /// of the forward pass. Returns the logits `[logit_rows, vocab]`.
    pub fn forward<'a>(
        &self,
        batch: &Batch,
        caches: &mut [&mut PagedCache],
        pages: &PagePool,
        sites: &[Site],
        observe: &mut dyn FnMut(Site, &[f32]),
        space: &'a mut Workspace,
    ) -> Result<&'a [f32], Problem> {
        let mut show = |site: Site, h: &[f32]| {
            if sites.contains(&site) {
                observe(site, h);
            }
        };
        let (rows, hidden, widths) = (batch.tokens.len(), self.arch.hidden_size, &self.widths);
        let Workspace { values, logits } = space;
        let h = states(values, rows, widths).h;
        self.embed.forward(&batch.tokens, hidden, h)?;
        show(Site::Embed, h);
        for (layer, block) in self.blocks.iter().enumerate() {
            let AttentionSpec { heads, scale, window, .. } = self.arch.blocks[layer].attention;
            let shape = AttentionShape { n_heads: heads, pages: pages.shape(), scale, window };
            let rope = &*block.rope;
            let mut attention = Attention { layer, shape, rope, batch, caches, pool: &self.pool };
            block.forward(states(values, rows, widths), &mut attention);
            show(Site::BlockOut(layer), states(values, rows, widths).h);
        }
        let States { h, x, branch, .. } = states(values, rows, widths);
        if sites.contains(&Site::FinalNorm) {
            self.norm.forward(h, x);
            show(Site::FinalNorm, x);
        }
        let last = &mut branch[..batch.logit_rows.len() * hidden];
        for (&row, last) in batch.logit_rows.iter().zip(last.chunks_exact_mut(hidden)) {
            last.copy_from_slice(&h[row as usize * hidden..][..hidden]);
        }
        let normal = &mut x[..last.len()];
        self.norm.forward(last, normal);
        logits.resize(batch.logit_rows.len() * self.arch.vocab_size, 0.0);
        self.head.forward(normal, logits);
        Ok(logits)
    }
}
