//! The forward pass as a list of launches, the same for recorded steps and prefill. Per block: QKV product; norm, RoPE and page write;
//! attention; output product; residual; gate-up product with SwiGLU; down product; residual with dot products of the axes. The spec decides
//! which norms apply.
//!
//! The residual stream is f32 and stays on the device. A row's bits depend on its own inputs alone.

use tiltmeter_kernels::gpu::{
    Element, Gpu, Result, Span,
    attention::{self, AttentionScratch, AttentionShape, Reach, Sequences},
    linear::{LinearScratch, Output, linear},
    rows::{self, Dots, Finish, Next, Norm, Place},
};

use crate::{
    backend::cuda::draws::DrawMemory,
    backend::cuda::memory::{Activations, KvMemory, RopeTables},
    backend::cuda::probes::Probes,
    backend::cuda::weights::{DeviceWeights, LayerWeights, NormWeight, Product},
    spec::{ArchSpec, AttentionSpec},
};
use tiltmeter_model::probe::Site;

/// A model on a device.
pub struct DeviceModel {
    pub gpu: Gpu,
    pub config: ArchSpec,
    pub weights: DeviceWeights,
    pub ropes: RopeTables,
    pub kv: KvMemory,
    pub activations: Activations,
    pub draws: DrawMemory,
}

/// The device addresses of a pass's inputs.
#[derive(Clone, Copy)]
pub struct PassRows<'a> {
    pub rows: usize,
    pub sequences: usize,
    pub reach: Reach,
    pub ids: Span<'a>,
    pub positions: Span<'a>,
    pub owners: Span<'a>,
    pub first_rows: Span<'a>,
    pub counts: Span<'a>,
    pub starts: Span<'a>,
    /// Of the full layers and of those with a window.
    pub tables: [Span<'a>; 2],
    pub stride: usize,
    pub scratch: AttentionScratch<'a>,
}

/// What is read of a pass.
#[derive(Clone, Copy)]
pub struct PassReads<'a> {
    /// `[rows][probes.width()]`, if any projection is requested.
    pub dots: Option<Span<'a>>,
    /// `[sites][rows][hidden]` of f32, if any states are requested.
    pub states: Option<Span<'a>>,
    /// How many rows' logits, and which rows; `None` is all of them in order.
    pub logits: (usize, Option<Span<'a>>),
}

/// Tokens of one sequence up to which decoding's attention is the faster one.
pub const FEW_TOKENS: usize = 8;

impl DeviceModel {
    fn element(&self) -> Element {
        self.weights.element
    }

    fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    /// One pass over `rows`. Logits `[count, vocab]` are left in `activations.logits`.
    pub fn forward(&self, pass: &PassRows, reads: &PassReads, probes: &Probes) -> Result<()> {
        let (hidden, rows, acts) = (self.hidden(), pass.rows, &self.activations);
        let (table, residual) = (self.weights.embeddings.all(), acts.residual.all());
        rows::embed(&self.gpu, self.element(), table, pass.ids, residual, rows, hidden, self.config.vocab_size)?;
        self.keep_states(Site::Embed, pass, reads, probes)?;
        let first = self.weights.layers.first().map(|layer| self.norm_in(layer.pre_norm.as_ref()));
        self.finish(pass, None, None, reads, probes, Some(Site::Embed), first)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attend(index, layer, pass)?;
            let parts = self.product(&layer.out, acts.attended.all(), rows, Output::Parts(acts.parts.all()))?;
            let middle = self.norm_in(layer.pre_mlp_norm.as_ref());
            self.finish(pass, Some(parts), norm_out(layer.post_norm.as_ref()), reads, probes, None, Some(middle))?;
            self.product(&layer.gate_up, acts.x.all(), rows, Output::SwiGlu(acts.inner.all()))?;
            let parts = self.product(&layer.down, acts.inner.all(), rows, Output::Parts(acts.parts.all()))?;
            let site = Site::BlockOut(index);
            let next = self.weights.layers.get(index + 1).map(|layer| self.norm_in(layer.pre_norm.as_ref()));
            self.finish(pass, Some(parts), norm_out(layer.post_mlp_norm.as_ref()), reads, probes, Some(site), next)?;
            self.keep_states(site, pass, reads, probes)?;
        }
        self.end(pass, reads, probes)
    }

    /// Draws from the logits of so many rows.
    pub fn draw(&self, draws: Span, count: usize, tokens: Span) -> Result<()> {
        self.draws.draw(&self.gpu, self.activations.logits.all(), draws, count, tokens)
    }

    /// Final norm and head.
    fn end(&self, pass: &PassRows, reads: &PassReads, probes: &Probes) -> Result<()> {
        let acts = &self.activations;
        self.keep_states(Site::FinalNorm, pass, reads, probes)?;
        let last = self.norm_in(Some(&self.weights.norm));
        let (count, sources) = reads.logits;
        let measured = reads.dots.is_some() && probes.axes_of(Site::FinalNorm).is_some();
        if measured || sources.is_none() {
            self.finish(pass, None, None, reads, probes, Some(Site::FinalNorm), Some(last))?;
        }
        if count == 0 {
            return Ok(());
        }
        let mut input = acts.x.all();
        if let Some(sources) = sources {
            input = acts.last.all();
            let work = Finish {
                rows: count,
                width: self.hidden(),
                residual: acts.residual.all(),
                partials: None,
                post: None,
                steering: None,
                dots: None,
                next: Some(Next { out: input, ..last }),
                sources: Some(sources),
            };
            rows::finish(&self.gpu, self.element(), &work)?;
        }
        self.product(&self.weights.head, input, count, Output::Wide(acts.logits.all())).map(drop)
    }

    /// q, k and v of all rows into place, and what they see.
    fn attend(&self, index: usize, layer: &LayerWeights, pass: &PassRows) -> Result<()> {
        let (config, acts) = (&self.config, &self.activations);
        let parts = self.product(&layer.qkv, acts.x.all(), pass.rows, Output::Parts(acts.parts.all()))?;
        let (pool, pages) = self.kv.layer(index);
        let (cos, sin) = self.ropes.of(index);
        let place = Place {
            rows: pass.rows,
            heads: config.attention().heads,
            kv_heads: config.attention().kv_heads,
            head_dim: config.attention().head_dim,
            partials: (acts.parts.all(), parts),
            norms: layer.qk_norms.as_ref().map(|[q, k]| (q.norm(), k.norm())),
            cos,
            sin,
            positions_end: self.ropes.positions,
            positions: pass.positions,
            sequences: pass.owners,
            tables: pass.tables[pool],
            tables_stride: pass.stride,
            pages: rows::Pages { keys: pages.k, values: pages.v, stride: pages.stride, count: pages.count },
            q: acts.q.all(),
        };
        rows::place(&self.gpu, self.element(), &place)?;
        let sequences = Sequences {
            count: pass.sequences,
            first_row: pass.first_rows,
            tokens: pass.counts,
            start: pass.starts,
            table: pass.tables[pool],
            table_stride: pass.stride,
        };
        let shape = shape_of(config, index);
        let (q, out, element, reach) = (acts.q.all(), acts.attended.all(), self.element(), pass.reach);
        if reach.tokens <= FEW_TOKENS {
            attention::decode(&self.gpu, element, &shape, pages, sequences, reach, q, out, pass.scratch)
        } else {
            attention::prefill(&self.gpu, element, &shape, pages, sequences, reach, q, out)
        }
    }

    fn product(&self, product: &Product, x: Span, rows: usize, output: Output) -> Result<usize> {
        let acts = &self.activations;
        let scratch = LinearScratch { partials: acts.sums.all(), arrivals: acts.arrivals.all() };
        linear(&self.gpu, self.element(), product.shape, product.packed.all(), x, rows, output, scratch)
    }

    /// The end of a sublayer with so many parts; the dot products of a site; the next input.
    fn finish(
        &self,
        pass: &PassRows,
        parts: Option<usize>,
        post: Option<Norm>,
        reads: &PassReads,
        probes: &Probes,
        site: Option<Site>,
        next: Option<Next>,
    ) -> Result<()> {
        let axes = site.and_then(|site| probes.axes_of(site));
        let dots = match (axes, reads.dots, &probes.axes) {
            (Some(axes), Some(out), Some(table)) => Some(Dots {
                axes: table.part::<f32>(axes.first * self.hidden(), axes.count * self.hidden()),
                count: axes.count,
                out: out.part::<f32>(axes.first, (pass.rows - 1) * probes.width() + axes.count),
                stride: probes.width(),
                of_next: site == Some(Site::FinalNorm),
            }),
            _ => None,
        };
        if parts.is_none() && dots.is_none() && next.is_none() {
            return Ok(());
        }
        let work = Finish {
            rows: pass.rows,
            width: self.hidden(),
            residual: self.activations.residual.all(),
            partials: parts.map(|parts| (self.activations.parts.all(), parts)),
            post,
            steering: None,
            dots,
            next,
            sources: None,
        };
        rows::finish(&self.gpu, self.element(), &work)
    }

    /// What a sublayer takes in: the residual stream, or its norm.
    fn norm_in<'a>(&'a self, norm: Option<&'a NormWeight>) -> Next<'a> {
        Next {
            out: self.activations.x.all(),
            norm: norm.map(NormWeight::norm),
            round_first: norm.is_some_and(|norm| norm.round_first),
        }
    }

    /// Copies the residual stream if states are requested. At the final norm it is what the norm takes in: a row's norm is quickly
    /// done on the other side.
    fn keep_states(&self, site: Site, pass: &PassRows, reads: &PassReads, probes: &Probes) -> Result<()> {
        let index = probes.states().iter().position(|&wanted| wanted == site);
        let (Some(index), Some(states)) = (index, reads.states) else { return Ok(()) };
        let count = pass.rows * self.hidden();
        let from = self.activations.residual.part::<f32>(0, count);
        from.copy_to(states.part::<f32>(index * count, count))
    }
}

/// The norm of a branch's output.
fn norm_out(norm: Option<&NormWeight>) -> Option<Norm<'_>> {
    norm.map(NormWeight::norm)
}

/// Heads of a layer and what they see.
pub fn shape_of(arch: &ArchSpec, layer: usize) -> AttentionShape {
    let AttentionSpec { heads, kv_heads, head_dim, window, scale, .. } = arch.blocks[layer].attention;
    AttentionShape { heads, kv_heads, head_dim, window, scale }
}
