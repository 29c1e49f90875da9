//! One pass on a GPU: which sequences a recorded step computes and which individual launches, what is launched ahead, and the delivery of
//! results.

use tiltmeter_kernels::gpu::Result;

use crate::{
    backend::cuda::card::{CudaBackend, Flight, Part, Sequences, StepRow, Wanted},
    backend::cuda::outcome::Fetch,
    backend::cuda::pages::SequencePages,
    backend::cuda::slots::{MOST_ROWS, Ticket},
    backend::{Batch, Drawn, Rows, SequenceCache},
    capture::Recorder,
    sequence::{Sequence, not_finite},
};
use tiltmeter_model::probe::Site;

/// In place of a token: no logit of the row is finite.
const NO_TOKEN: u32 = u32::MAX;

/// A pass of launches that is under way.
struct Launched {
    parts: Vec<Part>,
    fetch: Fetch,
    rows: usize,
}

impl CudaBackend {
    pub(super) fn pass_of(&mut self, batch: &Batch, sequences: &mut Sequences) -> Result<Vec<Drawn>> {
        self.prepare(batch, sequences)?;
        let (decoding, parts) = self.divide(batch, sequences);

        // Frees the rows of finished sequences and closes gaps.
        let tickets: Vec<Ticket> = decoding.iter().map(|row| row.ticket).collect();
        for gap in self.slots.keep(&tickets) {
            self.step_outcome.token(gap.from).copy_to(self.step_outcome.token(gap.to))?;
        }
        let ahead = self.ahead.take();
        let covers = |row: &StepRow| {
            let same = |other: &StepRow| (other.ticket, other.position) == (row.ticket, row.position);
            ahead.as_ref().is_some_and(|flight| flight.rows.iter().any(same))
        };
        let mut missing: Vec<StepRow> = decoding.iter().filter(|row| !covers(row)).copied().collect();
        for row in &mut missing {
            row.row = self.slots.row_of(row.ticket).unwrap_or(row.row);
        }
        let mut flights: Vec<Flight> = ahead.into_iter().collect();
        if !missing.is_empty() {
            let tokens = tokens_of(batch, sequences.len());
            let ids: Vec<u32> = missing.iter().map(|row| tokens[row.which]).collect();
            flights.push(self.step(missing, Some(&ids), sequences)?);
        }

        let mut drawn: Vec<Drawn> = sequences.iter().map(|_| None).collect();
        let mut launched = self.launch_parts(batch, parts, sequences, &mut drawn)?;
        self.ahead = self.launch_ahead(sequences)?;

        for flight in flights {
            self.land(flight, &decoding, sequences, &mut drawn)?;
        }
        for pass in launched.drain(..) {
            self.read(pass, sequences, &mut drawn)?;
        }
        Ok(drawn)
    }

    /// Splits sequences into those that decode in a recorded step and those computed by individual launches.
    fn divide(&mut self, batch: &Batch, sequences: &Sequences) -> (Vec<StepRow>, Vec<Part>) {
        let (mut decoding, mut parts) = (Vec::new(), Vec::new());
        let mut from = 0;
        for (which, (rows, sequence)) in batch.sequences.iter().zip(sequences.iter()).enumerate() {
            let slotted = sequence.cache.ticket.and_then(|ticket| Some((ticket, self.slots.row_of(ticket)?)));
            // Only a drawn token lies in a row; the prompt of a new turn does not.
            let is_drawn = rows.len == 1 && rows.first >= sequence.prompt_len && sequence.raw.is_none();
            match slotted {
                Some((ticket, row)) if is_drawn => {
                    decoding.push(StepRow { row, ticket, position: rows.first, which });
                }
                _ => {
                    let due = sequence.pending().is_empty() && sequence.draws();
                    let all = sequence.raw.as_ref().is_some_and(|raw| raw.with_logits);
                    let logits = if all {
                        Wanted::All
                    } else if due {
                        Wanted::Last
                    } else {
                        Wanted::Nothing
                    };
                    // All logits or states of a part are kept at once, so such parts are short.
                    let states = self.wants_states(sequence, rows.first, rows.len);
                    let step = if all || states { MOST_ROWS } else { self.most_rows };
                    for skip in (0..rows.len).step_by(step) {
                        let len = step.min(rows.len - skip);
                        let last = skip + len == rows.len;
                        let logits = if logits == Wanted::Last && !last { Wanted::Nothing } else { logits };
                        let states = self.wants_states(sequence, rows.first + skip, len);
                        parts.push(Part { which, from: from + skip, first: rows.first + skip, len, logits, states });
                    }
                }
            }
            from += rows.len;
        }
        (decoding, parts)
    }

    /// Whether states of these positions are requested.
    fn wants_states(&self, sequence: &Sequence<SequencePages>, first: usize, len: usize) -> bool {
        let vectors = |recorder: &Recorder| !recorder.plan().vectors.is_empty() && recorder.measures(first, len);
        sequence.raw.as_ref().is_some_and(|raw| !raw.sites.is_empty())
            || sequence.recorder.as_ref().is_some_and(vectors)
    }

    /// Launches all parts, as many at once as fit; a sequence that samples and continues gets a row of the recorded steps.
    fn launch_parts(
        &mut self,
        batch: &Batch,
        parts: Vec<Part>,
        sequences: &mut Sequences,
        drawn: &mut [Drawn],
    ) -> Result<Vec<Launched>> {
        let mut launched: Vec<Launched> = Vec::new();
        let mut rest = &parts[..];
        while !rest.is_empty() {
            let count = self.fitting(rest);
            let (now, later) = rest.split_at(count);
            rest = later;
            self.launch(batch, now, sequences)?;
            let rows = now.iter().map(|part| part.len).sum();
            let mut draw = 0;
            for part in now {
                draw += match part.logits {
                    Wanted::Nothing => 0,
                    Wanted::Last => 1,
                    Wanted::All => part.len,
                };
                let sequence = &mut sequences[part.which];
                if part.logits == Wanted::Last && sequence.raw.is_none() {
                    self.give_row(sequence, draw - 1)?;
                }
            }
            let measured = now.iter().any(|part| is_measured(sequences[part.which], part.first, part.len));
            let states = now.iter().any(|part| part.states);
            let fetch = self.pass_outcome.fetch(rows, measured, states)?;
            let pass = Launched { parts: now.to_vec(), fetch, rows };
            // Logits lie where the next pass puts its own, so they are read before.
            if now.iter().any(|part| part.logits == Wanted::All) {
                self.read_logits(now, sequences)?;
                self.read(pass, sequences, drawn)?;
            } else {
                launched.push(pass);
            }
        }
        Ok(launched)
    }

    /// How many of the parts go into one pass.
    fn fitting(&self, parts: &[Part]) -> usize {
        let (mut rows, mut draws, mut count) = (0, 0, 0);
        let mut most = self.most_rows;
        for part in parts {
            rows += part.len;
            if part.states {
                most = MOST_ROWS;
            }
            draws += if part.logits == Wanted::All { part.len } else { 1 };
            // Parts of one sequence go one after the other.
            let again = parts[..count].iter().any(|other| other.which == part.which);
            if count > 0 && (rows > most || draws > MOST_ROWS || count == MOST_ROWS || again) {
                break;
            }
            count += 1;
        }
        count
    }

    /// A row for a sequence whose token `draw` of the pass just launched will be fed next.
    fn give_row(&mut self, sequence: &mut Sequence<SequencePages>, draw: usize) -> Result<()> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(row) = self.slots.take(ticket) {
            sequence.cache.ticket = Some(ticket);
            self.pass_outcome.token(draw).copy_to(self.step_outcome.token(row))?;
        }
        Ok(())
    }

    /// Launches the next step before this pass is read: every sequence with a row that samples now computes that token next, unless it is known
    /// that it will not be fed.
    fn launch_ahead(&mut self, sequences: &mut Sequences) -> Result<Option<Flight>> {
        let mut rows = Vec::new();
        for (which, sequence) in sequences.iter_mut().enumerate() {
            let due = sequence.draws() && sequence.pending().is_empty();
            let Some((drawing, index)) = sequence.next_draw().filter(|_| due) else { continue };
            let goes_on = index + 1 < drawing.max_new_tokens || sequence.recorder.is_some();
            let position = sequence.tokens.len();
            let Some(ticket) = sequence.cache.ticket.filter(|_| goes_on) else { continue };
            // A sequence keeps its ticket after its row is gone to somebody else.
            let Some(row) = self.slots.row_of(ticket) else { continue };
            sequence.cache.reserve_next(&mut self.pools);
            rows.push(StepRow { row, ticket, position, which });
        }
        if rows.is_empty() {
            return Ok(None);
        }
        for (pool, from, to) in self.pools.take_copies() {
            self.model.kv.copy_page(pool, from, to)?;
        }
        self.counts.ahead += rows.len() as u64;
        self.step(rows, None, sequences).map(Some)
    }

    /// Reads a step's tokens and projections.
    fn land(
        &mut self,
        mut flight: Flight,
        decoding: &[StepRow],
        sequences: &mut Sequences,
        drawn: &mut [Drawn],
    ) -> Result<()> {
        let tokens = flight.fetch.tokens()?;
        for row in &flight.rows {
            let asked = |other: &&StepRow| (other.ticket, other.position) == (row.ticket, row.position);
            let Some(asked) = decoding.iter().find(asked) else {
                self.counts.discarded += 1;
                continue;
            };
            let sequence = &mut sequences[asked.which];
            self.measure(sequence, row.position, 1, row.row, flight.bucket, &mut flight.fetch)?;
            if sequence.draws() {
                drawn[asked.which] = Some(token(tokens[row.row]));
            }
        }
        self.step_outcome.put_back(flight.fetch);
        Ok(())
    }

    /// Reads a pass of launches.
    fn read(&mut self, mut pass: Launched, sequences: &mut Sequences, drawn: &mut [Drawn]) -> Result<()> {
        let tokens = pass.fetch.tokens()?;
        let (mut row, mut draw) = (0, 0);
        for part in &pass.parts {
            let sequence = &mut sequences[part.which];
            if is_measured(sequence, part.first, part.len) {
                self.measure(sequence, part.first, part.len, row, pass.rows, &mut pass.fetch)?;
            }
            row += part.len;
            draw += match part.logits {
                Wanted::Nothing => 0,
                Wanted::Last => 1,
                Wanted::All => part.len,
            };
            let due = sequence.draws() && sequence.pending().is_empty();
            let ends_here = part.first + part.len == sequence.cache.len();
            if part.logits != Wanted::Nothing && due && ends_here {
                drawn[part.which] = Some(token(tokens[draw - 1]));
            }
        }
        self.pass_outcome.put_back(pass.fetch);
        Ok(())
    }

    /// Gives a sequence what was measured at `len` of its positions, which are the rows from `row` on.
    fn measure(
        &self,
        sequence: &mut Sequence<SequencePages>,
        first: usize,
        len: usize,
        row: usize,
        rows: usize,
        fetch: &mut Fetch,
    ) -> Result<()> {
        let width = self.probes.width();
        if let Some(recorder) = &mut sequence.recorder {
            let columns = self.probes.columns(recorder.plan()).to_vec();
            if !columns.is_empty() {
                let dots = fetch.dots()?;
                recorder.project(first, len, |offset, probe| dots[(row + offset) * width + columns[probe]]);
            }
        }
        let hidden = self.model.config.hidden_size;
        let sites = self.probes.states();
        if !self.wants_states(sequence, first, len) {
            return Ok(());
        }
        let states = fetch.states()?;
        for (index, &site) in sites.iter().enumerate() {
            let begin = (index * rows + row) * hidden;
            let own = &states[begin..begin + len * hidden];
            let normed = (site == Site::FinalNorm).then(|| self.final_norm_of(own));
            let own = normed.as_deref().unwrap_or(own);
            if let Some(recorder) = &mut sequence.recorder {
                recorder.observe_vectors(site, first, own, hidden);
            }
            if let Some(raw) = &mut sequence.raw {
                raw.observe(site, own);
            }
        }
        Ok(())
    }

    /// `x / rms(x) · w` of whole states.
    fn final_norm_of(&self, states: &[f32]) -> Vec<f32> {
        let eps = self.model.config.final_norm.eps as f32;
        let rows = states.chunks_exact(self.final_norm.len());
        rows.flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            row.iter().zip(&self.final_norm).map(move |(x, w)| x * scale * w)
        })
        .collect()
    }

    /// The logits of all rows of sequences that capture them.
    fn read_logits(&self, parts: &[Part], sequences: &mut Sequences) -> Result<()> {
        let vocab = self.model.config.vocab_size;
        let mut draw = 0;
        for part in parts {
            let count = match part.logits {
                Wanted::Nothing => 0,
                Wanted::Last => 1,
                Wanted::All => part.len,
            };
            if let (Wanted::All, Some(raw)) = (part.logits, &mut sequences[part.which].raw) {
                let logits = self.model.activations.logits.part::<f32>(draw * vocab, count * vocab);
                raw.logits.extend(logits.read::<f32>(count * vocab)?);
            }
            draw += count;
        }
        Ok(())
    }
}

/// The first token that each sequence of a pass feeds.
fn tokens_of(batch: &Batch, sequences: usize) -> Vec<u32> {
    let mut from = 0;
    let first = |rows: &Rows| {
        from += rows.len;
        batch.tokens[from - rows.len]
    };
    batch.sequences[..sequences].iter().map(first).collect()
}

/// Whether anything at these positions is captured.
fn is_measured(sequence: &Sequence<SequencePages>, first: usize, len: usize) -> bool {
    sequence.raw.is_some() || sequence.recorder.as_ref().is_some_and(|recorder| recorder.measures(first, len))
}

fn token(drawn: u32) -> std::result::Result<u32, tiltmeter_model::problem::Problem> {
    if drawn == NO_TOKEN { Err(not_finite()) } else { Ok(drawn) }
}
