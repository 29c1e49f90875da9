//! Continuous batching: admits sequences, schedules prefill chunks and decode steps, reuses prefixes, and keeps the caches of
//! conversations between turns. Scheduling affects time, never results.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use crate::{
    backend::{Backend, Batch, PageCounts, Rows, SequenceCache},
    kv_cache::PAGE_LEN,
    sequence::{Draft, Sequence},
    speculative::Drafter,
};
use tiltmeter_model::problem::Problem;
use tiltmeter_model::{ConversationId, EngineStats};

/// How much one pass and the cache may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Prompt tokens of one sequence in one pass.
    pub prefill_chunk: usize,
    /// Tokens of all sequences in one pass; decoding sequences are never held back by it.
    pub step_tokens: usize,
    /// Whether to use speculative decoding where it pays.
    pub draft_tokens: bool,
}

pub struct Batcher<M: Backend> {
    backend: M,
    limits: Limits,
    waiting: VecDeque<Sequence<M::Cache>>,
    running: Vec<Sequence<M::Cache>>,
    /// Conversations between two turns.
    idle: BTreeMap<ConversationId, M::Cache>,
    /// What each conversation has ever fed, to tell new work from repeated work.
    fed: HashMap<ConversationId, Vec<u32>>,
    /// `None` without speculative decoding.
    drafter: Option<Drafter>,
    work: EngineStats,
    /// Where others read it; up to date before an answer goes out.
    published: Arc<Mutex<EngineStats>>,
    /// Notes for the user, and whether the one about scarce memory was given.
    notes: Notes,
    said_held_back: bool,
}

/// Notes for the user of the engine.
pub type Notes = Arc<Mutex<Vec<String>>>;

impl<M: Backend> Batcher<M> {
    pub fn new(backend: M, limits: Limits, published: Arc<Mutex<EngineStats>>) -> Self {
        let drafter = (limits.draft_tokens && backend.cost_of_rows(1).is_some()).then(Drafter::default);
        let work = EngineStats { weight_bytes: backend.weight_bytes(), ..EngineStats::default() };
        Self {
            backend,
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            idle: BTreeMap::new(),
            fed: HashMap::new(),
            drafter,
            work,
            published,
            notes: Notes::default(),
            said_held_back: false,
        }
    }

    /// Says what a person should know there.
    pub fn telling(self, notes: Notes) -> Self {
        Self { notes, ..self }
    }

    pub fn work(&self) -> EngineStats {
        self.work
    }

    pub fn backend(&self) -> &M {
        &self.backend
    }

    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// Takes a sequence in; it keeps what its conversation's cache has in common with its prompt.
    pub fn submit(&mut self, sequence: Sequence) {
        let mut sequence = sequence.holding(M::Cache::default());
        if let Some(mut cache) = sequence.conversation.and_then(|id| self.idle.remove(&id)) {
            let common = cache.tokens().iter().zip(&sequence.tokens).take_while(|(a, b)| a == b).count();
            // At least one token must be fed, or there are no logits; measured tokens must be fed in this very turn.
            let measured = sequence.recorder.as_ref().map_or(usize::MAX, |recorder| recorder.first_position());
            let keep = common.min(sequence.prompt_len - 1).min(measured);
            self.backend.truncate(&mut cache, keep);
            sequence.cache = cache;
        }
        self.waiting.push_back(sequence);
    }

    /// Frees the cache of a conversation.
    pub fn close(&mut self, conversation: ConversationId) {
        self.fed.remove(&conversation);
        if let Some(mut cache) = self.idle.remove(&conversation) {
            self.backend.clear(&mut cache);
        }
    }

    /// Pages that a sequence may come to hold beyond those it has.
    fn growth(&self, sequence: &Sequence<M::Cache>) -> PageCounts {
        let anchor = sequence.anchor().saturating_sub(self.limits.prefill_chunk);
        self.backend.pages_for(sequence.longest(), anchor) - self.backend.pages_held(&sequence.cache)
    }

    /// What a sequence that holds nothing yet has in common with another one that is running or kept.
    fn prefix(&self, sequence: &Sequence<M::Cache>) -> Prefix<M::Cache> {
        let most = sequence.may_adopt();
        if sequence.cache.len() > 0 || most < PAGE_LEN {
            return Prefix::None;
        }
        let tokens = &sequence.tokens[..most];
        let alike = |other: &[u32]| other.len() >= PAGE_LEN && other[..PAGE_LEN] == tokens[..PAGE_LEN];
        let mut best: Option<(usize, &M::Cache)> = None;
        let running = self.running.iter().map(|other| (&other.tokens[..other.prompt_len], &other.cache));
        let kept = self.idle.values().map(|cache| (cache.tokens(), cache));
        for (others, cache) in running.chain(kept).filter(|(others, _)| alike(others)) {
            let there = self.backend.shareable(cache, tokens);
            let to_come = others.iter().zip(tokens).take_while(|(a, b)| a == b).count() / PAGE_LEN * PAGE_LEN;
            if to_come > there && cache.len() < to_come {
                return Prefix::ToCome;
            }
            if there > best.as_ref().map_or(0, |(len, _)| *len) {
                best = Some((there, cache));
            }
        }
        best.map_or(Prefix::None, |(len, cache)| Prefix::There(self.backend.fork_prefix(cache, len)))
    }

    /// Lets waiting sequences run while their groups and the memory allow it. PageCounts is reserved for the longest reply, so a running
    /// sequence never has to stop; conversations that hold a cache go first. Who begins like one that is still being prefilled waits
    /// for it and takes over what they have in common.
    fn admit(&mut self) {
        let mut reserved: PageCounts = self.running.iter().map(|sequence| self.growth(sequence)).sum();
        let mut kept = VecDeque::new();
        let (with_cache, without): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|sequence| sequence.cache.len() > 0);
        for mut sequence in with_cache.into_iter().chain(without) {
            let adopted = match self.prefix(&sequence) {
                Prefix::None => false,
                Prefix::There(cache) => {
                    sequence.cache = cache;
                    true
                }
                Prefix::ToCome => {
                    kept.push_back(sequence);
                    continue;
                }
            };
            let need = self.growth(&sequence);
            let in_group = |other: &&Sequence<M::Cache>| other.group.map(|g| g.id) == sequence.group.map(|g| g.id);
            let free_place =
                sequence.group.is_none_or(|group| self.running.iter().filter(in_group).count() < group.cap.max(1));
            if free_place && (need + reserved).fits(self.backend.available()) {
                reserved = reserved + need;
                sequence.reused_tokens = sequence.cache.len();
                if let (true, Some(id)) = (adopted, sequence.conversation) {
                    // Fed by another, so that it is no new work when it has to be fed again.
                    self.fed.entry(id).or_insert_with(|| sequence.cache.tokens().to_vec());
                }
                self.running.push(sequence);
            } else {
                if adopted {
                    self.backend.clear(&mut sequence.cache);
                }
                if free_place && !self.running.is_empty() {
                    self.say_held_back();
                }
                kept.push_back(sequence);
            }
        }
        self.waiting = kept;
    }

    /// Once: fewer run at a time than could; no result depends on it.
    fn say_held_back(&mut self) {
        if !self.said_held_back {
            self.said_held_back = true;
            let running = self.running.len();
            if let Ok(mut notes) = self.notes.lock() {
                notes.push(format!(
                    "the memory for keys and values has room for {running} conversations at the moment; the others wait their turn"
                ));
            }
        }
    }

    /// Nothing runs and the first in the queue does not fit: drop kept caches, the youngest conversation's first, until it does.
    /// A sequence that does not fit an empty cache is refused.
    fn make_room(&mut self) {
        while self.running.is_empty() && !self.waiting.is_empty() {
            let youngest_waiting = (1..self.waiting.len()).rev().find(|&i| self.waiting[i].cache.len() > 0);
            if let Some((_, mut cache)) = self.idle.pop_last() {
                self.backend.clear(&mut cache);
            } else if let Some(i) = youngest_waiting {
                self.backend.clear(&mut self.waiting[i].cache);
            } else if let Some(mut first) = self.waiting.pop_front() {
                self.backend.clear(&mut first.cache);
                if self.growth(&first).fits(self.backend.available()) {
                    self.waiting.push_front(first);
                } else {
                    let (need, have) = (self.growth(&first).total(), self.backend.capacity().total());
                    let longest = first.longest();
                    first.fail(
                        Problem::new(format!(
                            "a conversation of up to {longest} tokens needs {need} cache pages and there are {have}"
                        ))
                        .hint("lower max_seq_len or max_new_tokens, or give the cache more memory"),
                    );
                }
            }
            self.admit();
        }
    }

    /// One pass over everything that runs. Answers go out through the sequences.
    pub fn step(&mut self) -> Result<(), Problem> {
        self.admit();
        self.make_room();
        let (batch, owners) = self.plan_batch();
        if batch.tokens.is_empty() {
            return Ok(());
        }
        self.work.steps += 1;
        self.work.kv_bytes = self.work.kv_bytes.max(self.backend.kv_bytes());
        self.forward(&batch, &owners)?;
        if let Ok(mut published) = self.published.lock() {
            *published = self.work;
        }
        self.retire();
        Ok(())
    }

    /// Chooses the rows of the next pass and makes room for their keys. `owners[i]` is the running sequence of `sequences[i]`.
    fn plan_batch(&mut self) -> (Batch, Vec<usize>) {
        let mut batch = Batch::default();
        let mut owners = Vec::new();
        let decoding = self.running.iter().filter(|sequence| sequence.pending().len() == 1).count();
        let mut room = self.limits.step_tokens.saturating_sub(decoding).max(1);
        let draft_tokens = self.draft_tokens();
        for (owner, sequence) in self.running.iter_mut().enumerate() {
            let pending = sequence.pending().len();
            let take = if pending == 1 { 1 } else { pending.min(self.limits.prefill_chunk).min(room) };
            if take == 0 {
                continue;
            }
            if pending > 1 {
                room -= take;
            }
            let first = sequence.cache.len();
            let mut tokens = sequence.pending()[..take].to_vec();
            let row = batch.tokens.len() as u32;
            let all_logits = sequence.raw.as_ref().is_some_and(|raw| raw.with_logits);
            note_work(&mut self.work, &mut self.fed, sequence.conversation, first, &tokens);
            let draft_tokens = draft_tokens.min(sequence.max_draft_tokens());
            if let (Some(drafter), true) = (&self.drafter, draft_tokens > 0) {
                sequence.draft.tokens = drafter.draft(&sequence.tokens, draft_tokens);
                tokens.extend_from_slice(&sequence.draft.tokens);
            }
            let take = tokens.len();
            if all_logits || take > pending {
                batch.logit_rows.extend(row..row + take as u32);
            } else if take == pending && sequence.draws() {
                batch.logit_rows.push(row + take as u32 - 1);
            }
            let anchor = sequence.anchor();
            self.backend.evict_window(&mut sequence.cache, anchor);
            self.backend.extend(&mut sequence.cache, &tokens);
            batch.positions.extend(first as u32..(first + take) as u32);
            batch.tokens.extend(tokens);
            batch.sequences.push(Rows { cache: owners.len(), first, len: take });
            owners.push(owner);
        }
        (batch, owners)
    }

    /// Runs the pass; a sequence without pending tokens continues with its sampled token.
    fn forward(&mut self, batch: &Batch, owners: &[usize]) -> Result<(), Problem> {
        let chosen = |(i, _): &(usize, &mut Sequence<M::Cache>)| owners.binary_search(i).is_ok();
        let mut sequences: Vec<_> =
            self.running.iter_mut().enumerate().filter(chosen).map(|(_, sequence)| sequence).collect();
        let drawn = self.backend.pass(batch, &mut sequences)?;
        let mut failed = Vec::new();
        for ((&owner, rows), drawn) in owners.iter().zip(&batch.sequences).zip(drawn) {
            let known = rows.first + rows.len - self.running[owner].draft.tokens.len();
            self.settle(owner, rows);
            self.work.generated_tokens += u64::from(drawn.is_some());
            match drawn {
                None => continue,
                Some(Ok(token)) => self.running[owner].take(token),
                Some(Err(problem)) => failed.push((owner, problem)),
            }
            if let Some(drafter) = &mut self.drafter {
                drafter.learn(&self.running[owner].tokens, known);
            }
        }
        for (owner, problem) in failed.into_iter().rev() {
            let mut cache = self.running.remove(owner).fail(problem);
            self.backend.clear(&mut cache);
        }
        Ok(())
    }

    /// The number of draft tokens per sampled token.
    fn draft_tokens(&self) -> usize {
        let Some(drafter) = &self.drafter else { return 0 };
        let decoding = self.running.iter().filter(|sequence| sequence.max_draft_tokens() > 0);
        let lengths: Vec<usize> = decoding.map(|sequence| sequence.tokens.len()).collect();
        let cost = |rows| self.backend.cost_of_rows(rows).unwrap_or(f64::INFINITY);
        let attention = lengths.iter().map(|len| self.backend.cost_of_attention(*len)).sum();
        drafter.worthwhile(lengths.len(), attention, cost)
    }

    /// Counts the rows of a pass and the accepted draft tokens, and rolls back rejected ones.
    fn settle(&mut self, owner: usize, rows: &Rows) {
        let sequence = &mut self.running[owner];
        let Draft { tokens, states, right } = std::mem::take(&mut sequence.draft);
        let (kept, width) = (rows.len - tokens.len() + right, self.backend.arch().hidden_size);
        if let Some(recorder) = &mut sequence.recorder {
            recorder.advance(rows.first, kept);
            states
                .iter()
                .for_each(|(site, rows_of)| recorder.observe(*site, rows.first, &rows_of[..kept * width], width));
        }
        if tokens.is_empty() {
            return;
        }
        self.backend.truncate(&mut sequence.cache, rows.first + kept);
        note_work(&mut self.work, &mut self.fed, sequence.conversation, rows.first + 1, &tokens[..right]);
        self.work.generated_tokens += right as u64;
        self.work.draft_tokens += tokens.len() as u64;
        self.work.accepted_draft_tokens += right as u64;
    }

    /// Returns finished sequences; their caches stay with their conversations.
    fn retire(&mut self) {
        let (done, running): (Vec<_>, Vec<_>) = self.running.drain(..).partition(|sequence| sequence.is_done());
        self.running = running;
        for sequence in done {
            let (conversation, mut cache) = sequence.complete();
            match conversation {
                Some(id) => drop(self.idle.insert(id, cache)),
                None => self.backend.clear(&mut cache),
            }
        }
    }

    /// Ends everything with one error.
    pub fn fail_all(&mut self, problem: &Problem) {
        for sequence in self.running.drain(..).chain(self.waiting.drain(..)) {
            self.backend.clear(&mut sequence.fail(problem.clone()));
        }
    }
}

/// What is at hand of the fork_prefix of a sequence that holds nothing.
enum Prefix<C> {
    None,
    /// Another sequence's first pages.
    There(C),
    /// Another sequence is about to have more of it.
    ToCome,
}

/// Counts passes, and among them those of a token that its conversation has not fed at that position before.
fn note_work(
    work: &mut EngineStats,
    fed: &mut HashMap<ConversationId, Vec<u32>>,
    conversation: Option<ConversationId>,
    first: usize,
    tokens: &[u32],
) {
    work.forward_tokens += tokens.len() as u64;
    let Some(id) = conversation else {
        work.unique_tokens += tokens.len() as u64;
        return;
    };
    let known = fed.entry(id).or_default();
    for (position, &token) in (first..).zip(tokens) {
        if known.get(position) != Some(&token) {
            work.unique_tokens += 1;
            known.truncate(position);
            known.push(token);
        }
    }
}
