//! `CudaBackend`: a model on a GPU. A pass is one graph launch for decoding sequences and individual launches for prompts. The next step is
//! launched before the results of this one are read, with tokens that are still on the device. A row computed ahead for a sequence that ended
//! is discarded; rows are independent, so no result changes.

use std::collections::HashMap;

use tiltmeter_kernels::gpu::{
    Gpu, Graph, Result,
    attention::{AttentionScratch, Reach},
};

use crate::{
    backend::cuda::draws::{self, DRAW_WORDS},
    backend::cuda::failure,
    backend::cuda::input::{Extent, Input, Section},
    backend::cuda::layers::{DeviceModel, FEW_TOKENS, PassReads, PassRows},
    backend::cuda::memory::AttentionMemory,
    backend::cuda::outcome::{Fetch, Numbers, Outcome},
    backend::cuda::pages::{Pools, SequencePages},
    backend::cuda::probes::{ProbeRequest, Probes},
    backend::cuda::slots::{MOST_ROWS, Slots, Ticket, bucket},
    backend::{Backend, BackendInfo, Batch, Drawn, PageCounts},
    kv_cache::PAGE_LEN,
    sequence::Sequence,
    spec::ArchSpec,
};
use tiltmeter_model::problem::Problem;

/// An unassigned row.
const NOBODY: u32 = u32::MAX;
/// Keys for which the first graphs are recorded; longer conversations double it.
const FIRST_REACH: usize = 1024;

/// One row of a recorded step.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepRow {
    pub row: usize,
    pub ticket: Ticket,
    /// Where the token is fed.
    pub position: usize,
    /// Which of the pass's sequences it is of.
    pub which: usize,
}

/// A step under way.
pub(super) struct Flight {
    pub rows: Vec<StepRow>,
    pub fetch: Fetch,
    pub bucket: usize,
}

pub struct CudaBackend {
    pub(super) model: DeviceModel,
    pub(super) pools: Pools,
    facts: BackendInfo,
    pub(super) probes: Probes,
    pub(super) slots: Slots,
    /// Graphs by their rows, for the probes, memory and reach of now.
    graphs: HashMap<usize, Graph>,
    /// The step that was launched ahead.
    pub(super) ahead: Option<Flight>,
    step_input: Input,
    pub(super) step_outcome: Outcome,
    pass_input: Input,
    pub(super) pass_outcome: Outcome,
    attention: AttentionMemory,
    /// Keys of the longest conversation that fits the inputs and the scratch.
    reach: usize,
    pub(super) most_rows: usize,
    pub(super) next_ticket: Ticket,
    /// The final norm's weight, for whole states at it.
    pub(super) final_norm: Vec<f32>,
    pub counts: Counts,
}

/// What was launched; for tests and for measuring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replays: u64,
    pub recorded: u64,
    pub passes: u64,
    /// Rows computed ahead, and those of them that were discarded.
    pub ahead: u64,
    pub discarded: u64,
}

/// Rows of a sequence in a pass of launches one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Which of the pass's sequences, and where its first row stands in the batch.
    pub which: usize,
    pub from: usize,
    /// Position of the first row.
    pub first: usize,
    pub len: usize,
    /// Its last row's logits are wanted, or those of all its rows.
    pub logits: Wanted,
    /// Whole states of its rows are wanted.
    pub states: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Last,
    All,
}

impl CudaBackend {
    /// `capacity`: pages; `most_rows`: rows of a pass.
    pub fn new(
        model: DeviceModel,
        capacity: PageCounts,
        most_rows: usize,
        facts: BackendInfo,
        final_norm: Vec<f32>,
    ) -> Result<Self> {
        let window = model.config.windows().flatten().max();
        let gpu = model.gpu.clone();
        let most_rows = most_rows.max(MOST_ROWS);
        let reach = FIRST_REACH.min(model.config.max_positions.next_multiple_of(PAGE_LEN));
        let [step_input, pass_input] = inputs(&gpu, reach, most_rows)?;
        let [step_outcome, pass_outcome] = outcomes(&gpu, &model.config, &Probes::default(), most_rows)?;
        let attention = AttentionMemory::new(&gpu, &model.config, scratch_reach(reach))?;
        Ok(Self {
            model,
            pools: Pools::new(capacity, window),
            facts,
            probes: Probes::default(),
            slots: Slots::default(),
            graphs: HashMap::new(),
            ahead: None,
            step_input,
            step_outcome,
            pass_input,
            pass_outcome,
            attention,
            reach,
            most_rows,
            next_ticket: 0,
            final_norm,
            counts: Counts::default(),
        })
    }

    /// Makes sure of everything that a pass over these sequences needs: copies of pages, probes, reach.
    pub(super) fn prepare(&mut self, batch: &Batch, sequences: &Sequences) -> Result<()> {
        for (pool, from, to) in self.pools.take_copies() {
            self.model.kv.copy_page(pool, from, to)?;
        }
        let mut wish = ProbeRequest::default();
        for sequence in sequences {
            sequence.recorder.iter().for_each(|recorder| wish.plan(recorder.plan()));
            sequence.raw.iter().for_each(|raw| wish.states.extend(&raw.sites));
        }
        if !self.probes.cover(&wish) {
            self.probes.merge(&self.model.gpu, &wish)?;
            // It projected on earlier requests; its rows are computed again.
            self.ahead = None;
            self.renew_outcomes()?;
        }
        // The step ahead feeds one more.
        let longest = batch.sequences.iter().map(|rows| rows.first + rows.len + 1).max().unwrap_or(0);
        if longest > self.reach { self.extend_reach(longest) } else { Ok(()) }
    }

    /// Outcomes of other sizes, with the tokens that are still to be fed.
    fn renew_outcomes(&mut self) -> Result<()> {
        self.graphs.clear();
        let [step, pass] = outcomes(&self.model.gpu, &self.model.config, &self.probes, self.most_rows)?;
        self.step_outcome.tokens().copy_to(step.tokens())?;
        // Copies that are under way come from memory that is about to be freed.
        self.model.gpu.synchronize()?;
        (self.step_outcome, self.pass_outcome) = (step, pass);
        Ok(())
    }

    fn extend_reach(&mut self, longest: usize) -> Result<()> {
        self.graphs.clear();
        self.model.gpu.synchronize()?;
        let most = self.model.config.max_positions.next_multiple_of(PAGE_LEN);
        let reach = longest.next_power_of_two().min(most).max(longest.next_multiple_of(PAGE_LEN));
        [self.step_input, self.pass_input] = inputs(&self.model.gpu, reach, self.most_rows)?;
        self.attention = AttentionMemory::new(&self.model.gpu, &self.model.config, scratch_reach(reach))?;
        self.reach = reach;
        Ok(())
    }

    /// Launches a step over these rows; the others of its bucket rest. What they feed lies where the step before drew it, unless `ids`
    /// says it.
    pub(super) fn step(&mut self, rows: Vec<StepRow>, ids: Option<&[u32]>, sequences: &Sequences) -> Result<Flight> {
        let highest = rows.iter().map(|row| row.row).max().unwrap_or(0);
        let bucket = bucket(highest + 1);
        let input = &mut self.step_input;
        input.section(Section::Owners).fill(NOBODY);
        input.section(Section::Counts).fill(0);
        for words in input.section(Section::Draws).chunks_exact_mut(DRAW_WORDS) {
            words.copy_from_slice(&draws::words(None, 0));
        }
        for (row, first) in input.section(Section::FirstRows)[..MOST_ROWS].iter_mut().enumerate() {
            *first = row as u32;
        }
        for &StepRow { row, position, which, .. } in &rows {
            let sequence = &sequences[which];
            input.section(Section::Owners)[row] = row as u32;
            input.section(Section::Counts)[row] = 1;
            input.section(Section::Starts)[row] = position as u32;
            input.section(Section::Positions)[row] = position as u32;
            // The token that this row draws follows the one it feeds.
            let index = (position + 1).saturating_sub(sequence.prompt_len);
            let words = draws::words(sequence.next_draw().map(|(drawing, _)| drawing), index);
            input.section(Section::Draws)[row * DRAW_WORDS..][..DRAW_WORDS].copy_from_slice(&words);
            fill_tables(input, row, &sequence.cache);
        }
        for (row, &id) in rows.iter().zip(ids.unwrap_or_default()) {
            input.section(Section::Ids)[row.row] = id;
        }
        input.send()?;
        for row in rows.iter().take(ids.map_or(0, <[u32]>::len)) {
            input.span(Section::Ids).part::<u32>(row.row, 1).copy_to(self.step_outcome.token(row.row))?;
        }
        let graph = match self.graphs.remove(&bucket) {
            Some(graph) => graph,
            None => self.record(bucket)?,
        };
        graph.replay()?;
        self.graphs.insert(bucket, graph);
        self.counts.replays += 1;
        let fetch = self.step_outcome.fetch(bucket, true, true)?;
        Ok(Flight { rows, fetch, bucket })
    }

    fn record(&mut self, rows: usize) -> Result<Graph> {
        self.counts.recorded += 1;
        let (input, outcome, model) = (&self.step_input, &self.step_outcome, &self.model);
        let reach = step_reach(rows, self.reach);
        let pass = PassRows { ids: outcome.tokens(), ..pass_rows(input, &self.attention, rows, rows, reach) };
        let reads = PassReads { dots: outcome.dots(), states: outcome.states(), logits: (rows, None) };
        model.gpu.capture(|| {
            model.forward(&pass, &reads, &self.probes)?;
            model.draw(input.span(Section::Draws), rows, outcome.tokens())
        })
    }

    /// Launches a pass over rows of some sequences, one kernel after the other. The tokens are known on this side. Token i of its
    /// outcome is that of the i-th row whose logits are wanted.
    pub(super) fn launch(&mut self, batch: &Batch, parts: &[Part], sequences: &Sequences) -> Result<usize> {
        self.counts.passes += 1;
        let input = &mut self.pass_input;
        let (mut rows, mut draws) = (0, 0);
        for (number, part) in parts.iter().enumerate() {
            let (at, from) = (rows..rows + part.len, part.from..part.from + part.len);
            input.section(Section::Ids)[at.clone()].copy_from_slice(&batch.tokens[from.clone()]);
            input.section(Section::Positions)[at.clone()].copy_from_slice(&batch.positions[from]);
            input.section(Section::Owners)[at.clone()].fill(number as u32);
            input.section(Section::FirstRows)[number] = rows as u32;
            input.section(Section::Counts)[number] = part.len as u32;
            input.section(Section::Starts)[number] = part.first as u32;
            let sequence = &sequences[part.which];
            fill_tables(input, number, &sequence.cache);
            let wanted = match part.logits {
                Wanted::Nothing => at.end..at.end,
                Wanted::Last => at.end - 1..at.end,
                Wanted::All => at.clone(),
            };
            for row in wanted {
                let (drawing, index) = sequence.next_draw().unzip();
                let words = draws::words(drawing, index.unwrap_or(0));
                input.section(Section::Draws)[draws * DRAW_WORDS..][..DRAW_WORDS].copy_from_slice(&words);
                input.section(Section::Sources)[draws] = row as u32;
                draws += 1;
            }
            rows = at.end;
        }
        input.send()?;
        let (input, outcome, model) = (&self.pass_input, &self.pass_outcome, &self.model);
        let longest = parts.iter().map(|part| part.len).max().unwrap_or(0);
        // Attention of decoding has scratch for so many rows; more of them are prefill's.
        let tokens = if rows > MOST_ROWS { longest.max(MOST_ROWS) } else { longest };
        let reach = Reach { rows, tokens, keys: self.reach };
        let pass = pass_rows(input, &self.attention, rows, parts.len(), reach);
        let logits = (draws, Some(input.span(Section::Sources)));
        let states = if parts.iter().any(|part| part.states) { outcome.states() } else { None };
        let reads = PassReads { dots: outcome.dots(), states, logits };
        model.forward(&pass, &reads, &self.probes)?;
        model.draw(input.span(Section::Draws), draws, outcome.tokens())?;
        Ok(draws)
    }
}

/// What a pass's sequences are handed around as.
pub(super) type Sequences<'a> = [&'a mut Sequence<SequencePages>];

/// What a recorded step can do.
fn step_reach(rows: usize, keys: usize) -> Reach {
    Reach { rows, tokens: 1, keys }
}

/// Limits of decode attention: recorded steps, and short tails of prompts.
fn scratch_reach(keys: usize) -> Reach {
    Reach { rows: MOST_ROWS, tokens: FEW_TOKENS, keys }
}

fn inputs(gpu: &Gpu, reach: usize, most_rows: usize) -> Result<[Input; 2]> {
    let stride = reach.div_ceil(PAGE_LEN);
    let step = Extent { rows: MOST_ROWS, sequences: MOST_ROWS, draws: MOST_ROWS, draw_words: DRAW_WORDS, stride };
    Ok([Input::new(gpu, step)?, Input::new(gpu, Extent { rows: most_rows, ..step })?])
}

fn outcomes(gpu: &Gpu, config: &ArchSpec, probes: &Probes, most_rows: usize) -> Result<[Outcome; 2]> {
    let step = Numbers {
        tokens: MOST_ROWS,
        rows: MOST_ROWS,
        dots: probes.width(),
        states: probes.states().len(),
        state_rows: MOST_ROWS,
        hidden: config.hidden_size,
    };
    Ok([Outcome::new(gpu, step)?, Outcome::new(gpu, Numbers { rows: most_rows, ..step })?])
}

fn fill_tables(input: &mut Input, row: usize, cache: &SequencePages) {
    for pool in 0..2 {
        let (first, pages) = cache.table(pool);
        let count = pages.len();
        let table = &mut input.table(pool, row)[first..first + count];
        table.iter_mut().zip(pages).for_each(|(to, page)| *to = page);
    }
}

fn pass_rows<'a>(
    input: &'a Input,
    attention: &'a AttentionMemory,
    rows: usize,
    sequences: usize,
    reach: Reach,
) -> PassRows<'a> {
    PassRows {
        rows,
        sequences,
        reach,
        ids: input.span(Section::Ids),
        positions: input.span(Section::Positions),
        owners: input.span(Section::Owners),
        first_rows: input.span(Section::FirstRows),
        counts: input.span(Section::Counts),
        starts: input.span(Section::Starts),
        tables: [input.span(Section::Tables0), input.span(Section::Tables1)],
        stride: input.extent.stride,
        scratch: AttentionScratch { partials: attention.partials.all(), states: attention.states.all() },
    }
}

impl Backend for CudaBackend {
    type Cache = SequencePages;

    fn arch(&self) -> &ArchSpec {
        &self.model.config
    }

    fn facts(&self) -> BackendInfo {
        self.facts.clone()
    }

    fn capacity(&self) -> PageCounts {
        self.pools.capacity()
    }

    fn available(&self) -> PageCounts {
        self.pools.available()
    }

    fn pages_for(&self, len: usize, anchor: usize) -> PageCounts {
        self.pools.pages_for(len, anchor)
    }

    fn pages_held(&self, cache: &SequencePages) -> PageCounts {
        cache.pages_held()
    }

    fn extend(&mut self, cache: &mut SequencePages, tokens: &[u32]) {
        cache.extend(tokens, &mut self.pools);
    }

    fn truncate(&mut self, cache: &mut SequencePages, len: usize) {
        cache.truncate(len, &mut self.pools);
    }

    fn evict_window(&mut self, cache: &mut SequencePages, anchor: usize) {
        cache.evict_window(anchor, &mut self.pools);
    }

    fn clear(&mut self, cache: &mut SequencePages) {
        cache.clear(&mut self.pools);
    }

    fn shareable(&self, cache: &SequencePages, tokens: &[u32]) -> usize {
        cache.shareable(tokens, &self.pools)
    }

    fn fork_prefix(&self, cache: &SequencePages, len: usize) -> SequencePages {
        cache.fork_prefix(len)
    }

    fn pass(&mut self, batch: &Batch, sequences: &mut Sequences) -> std::result::Result<Vec<Drawn>, Problem> {
        let outcome = self.pass_of(batch, sequences).map_err(failure);
        if outcome.is_err() {
            self.ahead = None;
        }
        outcome
    }
}
