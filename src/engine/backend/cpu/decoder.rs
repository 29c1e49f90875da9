//! Owns the decoder: embeddings, a stack of blocks of one family, final norm, head; and the attention that all families share.
//! One file a family, each reads like its paper. A family supplies a `Block`; nothing else differs.
//! Must not know: batching, what is captured and why.

mod llama;
mod olmo;

use std::{collections::HashMap, sync::Arc};

use tiltmeter_kernels::{AttentionJob, AttentionShape, KvPage, KvWrite, PageShape, Pool, attention, write_kv};

use crate::{
    backend::Batch,
    backend::cpu::ops::{Embedding, Linear, Mlp, RmsNorm, RopeTable},
    checkpoint::config::{Family, ModelConfig},
    checkpoint::weights::Weights,
    kv_cache::{PagePool, PagedCache},
};
use tiltmeter_model::probe::Site;
use tiltmeter_model::problem::Problem;

/// One decoder block: what it adds to the residual stream.
trait Block: Send + Sync {
    fn forward(&self, states: States, attention: &mut Attention);
}

/// The values of a pass, `[rows, their width]`. All but the residual stream is anybody's.
struct States<'a> {
    /// The residual stream.
    h: &'a mut [f32],
    /// As wide as the residual stream: what a branch starts from, and what it adds.
    x: &'a mut [f32],
    branch: &'a mut [f32],
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    /// As wide as the queries or the feed-forward, whichever is more.
    wide: [&'a mut [f32]; 2],
}

/// Memory for the values of a pass, which the next one uses again.
#[derive(Debug, Default)]
pub struct Workspace {
    values: Vec<f32>,
    logits: Vec<f32>,
}

/// Bytes.
const CACHE_LINE: usize = 64;

/// The values of a pass over `rows` rows; they stay between two calls for as many.
fn states<'a>(memory: &'a mut Vec<f32>, rows: usize, config: &ModelConfig) -> States<'a> {
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let (hidden, wide) = (config.hidden_size, config.intermediate_size.max(q));
    let widths = [hidden, hidden, hidden, q, kv, kv, wide, wide];
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

/// Attention of one block over the cached keys and values of each sequence.
struct Attention<'a, 'b> {
    layer: usize,
    shape: AttentionShape,
    rope: &'a RopeTable,
    batch: &'a Batch,
    caches: &'a mut [&'b mut PagedCache],
    pool: &'a Pool,
}

impl Attention<'_, '_> {
    /// Rotates q and k, stores k and v, attends. q and out: `[rows, n_heads * head_dim]`, k and v: `[rows, n_kv_heads * head_dim]`.
    fn forward(&mut self, q: &mut [f32], k: &mut [f32], v: &[f32], out: &mut [f32]) {
        let AttentionShape { n_heads, pages: PageShape { n_kv_heads, .. }, .. } = self.shape;
        let positions = &self.batch.positions;
        self.rope.rotate(q, positions, n_heads, self.pool);
        self.rope.rotate(k, positions, n_kv_heads, self.pool);
        self.attend(q, k, v, out);
    }

    fn attend(&mut self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let AttentionShape { n_heads, pages: PageShape { n_kv_heads, head_dim, .. }, .. } = self.shape;
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let layer = self.layer;
        let mut writes: Vec<KvWrite> = Vec::with_capacity(self.batch.sequences.len());
        let mut row = 0;
        // The caches stand in the order of the sequences, so that each is lent once.
        let mut caches = self.caches.iter_mut().enumerate();
        for rows in &self.batch.sequences {
            let kv = row * kv_width..(row + rows.len) * kv_width;
            let (_, cache) = caches.find(|(at, _)| *at == rows.cache).expect("caches in the order of their sequences");
            writes.extend(cache.writes(layer, rows.first, &k[kv.clone()], &v[kv], kv_width));
            row += rows.len;
        }
        write_kv(&self.shape.pages, &mut writes, self.pool);
        drop(writes);
        let pages: Vec<(usize, Vec<&KvPage>)> =
            self.batch.sequences.iter().map(|rows| self.caches[rows.cache].pages(layer)).collect();
        let (mut q, mut out) = (q, out);
        let mut jobs = Vec::with_capacity(pages.len());
        for (rows, (first_page, pages)) in self.batch.sequences.iter().zip(&pages) {
            let (q_rows, q_rest) = q.split_at(rows.len * q_width);
            let (out_rows, out_rest) = out.split_at_mut(rows.len * q_width);
            (q, out) = (q_rest, out_rest);
            jobs.push(AttentionJob { q: q_rows, out: out_rows, first_pos: rows.first, pages, first_page: *first_page });
        }
        attention(&self.shape, &mut jobs, self.pool);
    }
}

/// A whole model.
pub struct Decoder {
    pub config: ModelConfig,
    embed: Embedding,
    blocks: Vec<Box<dyn Block>>,
    ropes: Vec<Arc<RopeTable>>,
    norm: RmsNorm,
    head: Linear,
    pool: Arc<Pool>,
}

impl Decoder {
    /// Builds the model and checks every tensor's shape on the way.
    pub fn load(config: ModelConfig, weights: &Weights, pool: Arc<Pool>) -> Result<Self, Problem> {
        let parts = Parts { weights, config: &config, pool: &pool };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embed = match weights.bf16(EMBEDDINGS, &[vocab, hidden])? {
            Some(table) => Embedding::Bf16(table),
            None => Embedding::F32(weights.f32(EMBEDDINGS, &[vocab, hidden])?),
        };
        let head = if config.tie_embeddings { EMBEDDINGS } else { "lm_head.weight" };
        let blocks = (0..config.num_layers)
            .map(|layer| match config.family {
                Family::Olmo2 | Family::Olmo3 => olmo::OlmoBlock::load(&parts, layer).map(|b| Box::new(b) as _),
                Family::Llama => llama::LlamaBlock::load(&parts, layer).map(|b| Box::new(b) as _),
            })
            .collect::<Result<Vec<Box<dyn Block>>, Problem>>()?;
        // Layers with the same frequencies share one table.
        let mut tables: HashMap<String, Arc<RopeTable>> = HashMap::new();
        let ropes = config
            .rope
            .iter()
            .map(|spec| {
                let table = || Arc::new(RopeTable::new(spec, config.head_dim));
                tables.entry(format!("{spec:?}")).or_insert_with(table).clone()
            })
            .collect();
        Ok(Self {
            embed,
            blocks,
            ropes,
            norm: parts.norm("model.norm.weight", hidden)?,
            head: parts.linear(head, vocab, hidden)?,
            pool: pool.clone(),
            config,
        })
    }

    /// Bytes of the linear layers and the embeddings.
    pub fn weight_bytes(&self) -> u64 {
        self.bytes_per_weight() * self.config.linear_weights() + self.embed.bytes() as u64
    }

    /// Bytes of a weight in the linear layers.
    pub fn bytes_per_weight(&self) -> u64 {
        let head = &self.head.weights;
        (head.bytes() / (head.n_out() * head.k_in()).max(1)) as u64
    }

    /// One pass over `batch`; `seen` is shown the hidden state `[rows, hidden]` of each site in `sites` as it passes by.
    /// Gives the logits `[logit_rows, vocab]`.
    pub fn forward<'a>(
        &self,
        batch: &Batch,
        caches: &mut [&mut PagedCache],
        pages: &PagePool,
        sites: &[Site],
        seen: &mut dyn FnMut(Site, &[f32]),
        space: &'a mut Workspace,
    ) -> Result<&'a [f32], Problem> {
        let mut show = |site: Site, h: &[f32]| {
            if sites.contains(&site) {
                seen(site, h);
            }
        };
        let config = &self.config;
        let (rows, hidden) = (batch.tokens.len(), config.hidden_size);
        let Workspace { values, logits } = space;
        let h = states(values, rows, config).h;
        self.embed.forward(&batch.tokens, hidden, h)?;
        show(Site::Embed, h);
        for (layer, block) in self.blocks.iter().enumerate() {
            let shape = AttentionShape {
                n_heads: config.num_heads,
                pages: pages.shape(),
                scale: 1.0 / (config.head_dim as f32).sqrt(),
                window: config.layer_windows[layer],
            };
            let rope = &self.ropes[layer];
            let mut attention = Attention { layer, shape, rope, batch, caches, pool: &self.pool };
            block.forward(states(values, rows, config), &mut attention);
            show(Site::BlockOut(layer), states(values, rows, config).h);
        }
        let States { h, x, branch, .. } = states(values, rows, config);
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
        logits.resize(batch.logit_rows.len() * config.vocab_size, 0.0);
        self.head.forward(normal, logits);
        Ok(logits)
    }
}

const EMBEDDINGS: &str = "model.embed_tokens.weight";

/// What a block is built from.
struct Parts<'a> {
    weights: &'a Weights,
    config: &'a ModelConfig,
    pool: &'a Arc<Pool>,
}

impl Parts<'_> {
    fn linear(&self, name: &str, n_out: usize, k_in: usize) -> Result<Linear, Problem> {
        Ok(Linear { weights: self.weights.linear(name, n_out, k_in)?, pool: self.pool.clone() })
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, Problem> {
        let weight = self.weights.f32(name, &[width])?;
        Ok(RmsNorm { weight, eps: self.config.rms_norm_eps as f32, pool: self.pool.clone() })
    }

    /// `model.layers.{layer}.self_attn.{q,k,v,o}_proj`.
    fn projections(&self, layer: usize) -> Result<[Linear; 4], Problem> {
        let config = self.config;
        let (hidden, q) = (config.hidden_size, config.num_heads * config.head_dim);
        let kv = config.num_kv_heads * config.head_dim;
        let name = |which: &str| format!("model.layers.{layer}.self_attn.{which}_proj.weight");
        Ok([
            self.linear(&name("q"), q, hidden)?,
            self.linear(&name("k"), kv, hidden)?,
            self.linear(&name("v"), kv, hidden)?,
            self.linear(&name("o"), hidden, q)?,
        ])
    }

    /// `model.layers.{layer}.mlp.{gate,up,down}_proj`.
    fn mlp(&self, layer: usize) -> Result<Mlp, Problem> {
        let (hidden, inter) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |which: &str| format!("model.layers.{layer}.mlp.{which}_proj.weight");
        Ok(Mlp {
            gate: self.linear(&name("gate"), inter, hidden)?,
            up: self.linear(&name("up"), inter, hidden)?,
            down: self.linear(&name("down"), hidden, inter)?,
        })
    }
}
