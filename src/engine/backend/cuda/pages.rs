//! Allocates pages of device memory to positions of sequences. There are two pools: full-attention layers, and sliding-window layers, whose
//! pages are freed when they leave the window. A page has the same number in every layer of its pool, so a sequence has one list of pages per
//! pool.
//!
//! Sequences with a common prefix share its pages read-only; a shared page is never written.

use std::sync::Arc;

use crate::{
    backend::{PageCounts, SequenceCache},
    kv_cache::PAGE_LEN,
};

/// The right to one page of a pool. There is never a second one of the same number.
#[derive(Debug)]
struct Page(u32);

/// Copies of pages that must be made before the next pass writes: `(pool, from, to)`.
pub type Copies = Vec<(usize, u32, u32)>;

struct Pool {
    /// How many keys a query of these layers sees; `None` is all.
    window: Option<usize>,
    capacity: usize,
    /// Numbers that were never handed out begin here.
    fresh: u32,
    free: Vec<Page>,
    in_use: usize,
}

impl Pool {
    fn take(&mut self) -> Arc<Page> {
        self.in_use += 1;
        Arc::new(self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            Page(self.fresh - 1)
        }))
    }

    /// Frees the page unless another sequence holds it.
    fn give_back(&mut self, page: Arc<Page>) {
        if let Ok(page) = Arc::try_unwrap(page) {
            self.in_use -= 1;
            self.free.push(page);
        }
    }

    fn pages_for(&self, len: usize, anchor: usize) -> usize {
        match self.capacity {
            0 => 0,
            _ => len.div_ceil(PAGE_LEN) - first_needed_page(self.window, anchor.min(len)),
        }
    }
}

/// The first page that a query at position `next` or later still reads. It sees the positions (next - window, next].
fn first_needed_page(window: Option<usize>, next: usize) -> usize {
    window.map_or(0, |window| (next + 1).saturating_sub(window) / PAGE_LEN)
}

/// Both pools, the one of full layers first.
pub struct Pools {
    pools: [Pool; 2],
    copies: Copies,
}

/// How many pages beyond its capacity a pool must have memory for: a shared page that is written to after all is copied, and a
/// sequence that was promised its pages never waits for them.
pub const SPARE_PAGES: usize = 8;

impl Pools {
    /// `capacity`: pages of each pool; a pool that no layer uses has none. `window` is that of the second pool.
    pub fn new(capacity: PageCounts, window: Option<usize>) -> Self {
        let pool = |capacity, window| Pool { window, capacity, fresh: 0, free: Vec::new(), in_use: 0 };
        Self { pools: [pool(capacity.0[0], None), pool(capacity.0[1], window)], copies: Vec::new() }
    }

    pub fn capacity(&self) -> PageCounts {
        PageCounts([self.pools[0].capacity, self.pools[1].capacity])
    }

    pub fn available(&self) -> PageCounts {
        let left = |pool: &Pool| pool.capacity.saturating_sub(pool.in_use);
        PageCounts([left(&self.pools[0]), left(&self.pools[1])])
    }

    /// Most pages that a sequence holds on its way to `len` tokens if everything after `anchor` must stay reachable.
    pub fn pages_for(&self, len: usize, anchor: usize) -> PageCounts {
        PageCounts([self.pools[0].pages_for(len, anchor), self.pools[1].pages_for(len, anchor)])
    }

    /// The copies that became due since the last call.
    pub fn take_copies(&mut self) -> Copies {
        std::mem::take(&mut self.copies)
    }
}

/// Pages of one pool.
#[derive(Debug, Default)]
struct Held {
    /// Absolute index of `pages[0]`; earlier pages have left the window.
    first: usize,
    pages: Vec<Arc<Page>>,
}

impl Held {
    /// Whether all that a query at `next` reads is still held.
    fn reaches(&self, window: Option<usize>, next: usize) -> bool {
        self.first <= first_needed_page(window, next)
    }
}

/// What is kept of one sequence: its token ids and the pages that a later query can see.
#[derive(Debug, Default)]
pub struct SequencePages {
    held: [Held; 2],
    tokens: Vec<u32>,
    /// Under which it has a row in the recorded steps.
    pub ticket: Option<u64>,
}

impl SequenceCache for SequencePages {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl SequencePages {
    pub fn pages_held(&self) -> PageCounts {
        PageCounts([self.held[0].pages.len(), self.held[1].pages.len()])
    }

    /// The absolute index of the first page held of a pool, and the pages from there on.
    pub fn table(&self, pool: usize) -> (usize, impl ExactSizeIterator<Item = u32>) {
        let held = &self.held[pool];
        (held.first, held.pages.iter().map(|page| page.0))
    }

    /// Makes room for `tokens`, which follow those held.
    pub fn extend(&mut self, tokens: &[u32], pools: &mut Pools) {
        let next = self.tokens.len() / PAGE_LEN;
        self.tokens.extend_from_slice(tokens);
        self.reserve(next, self.tokens.len(), pools);
    }

    /// Makes room for a token that is not known yet: it is drawn by the pass before the one that feeds it.
    pub fn reserve_next(&mut self, pools: &mut Pools) {
        self.reserve(self.tokens.len() / PAGE_LEN, self.tokens.len() + 1, pools);
    }

    fn reserve(&mut self, next: usize, len: usize, pools: &mut Pools) {
        for (which, (held, pool)) in self.held.iter_mut().zip(&mut pools.pools).enumerate() {
            if pool.capacity == 0 {
                continue;
            }
            // After a roll-back the next token may go into a page that another sequence holds too.
            if let Some(page) = next.checked_sub(held.first).and_then(|at| held.pages.get_mut(at))
                && Arc::get_mut(page).is_none()
            {
                let own = pool.take();
                pools.copies.push((which, page.0, own.0));
                pool.give_back(std::mem::replace(page, own));
            }
            while held.first + held.pages.len() < len.div_ceil(PAGE_LEN) {
                held.pages.push(pool.take());
            }
        }
    }

    /// How many of these tokens could be taken over from this sequence: whole pages of what both begin with.
    pub fn shareable(&self, tokens: &[u32], pools: &Pools) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let len = common / PAGE_LEN * PAGE_LEN;
        if self.reaches(len, pools) { len } else { 0 }
    }

    fn reaches(&self, len: usize, pools: &Pools) -> bool {
        self.held.iter().zip(&pools.pools).all(|(held, pool)| held.reaches(pool.window, len))
    }

    /// A sequence that holds the first `len` tokens of this one, `len` being `shareable`.
    pub fn fork_prefix(&self, len: usize) -> Self {
        if len == 0 {
            // No common prefix: the other sequence never needs the pages that left this one's window.
            return Self::default();
        }
        let part = |held: &Held| {
            let count = (len / PAGE_LEN).saturating_sub(held.first).min(held.pages.len());
            Held { first: held.first, pages: held.pages[..count].to_vec() }
        };
        Self { held: [part(&self.held[0]), part(&self.held[1])], tokens: self.tokens[..len].to_vec(), ticket: None }
    }

    /// Frees what no query at `anchor` or later can see. A later roll-back must not go below `anchor`.
    pub fn evict_window(&mut self, anchor: usize, pools: &mut Pools) {
        for (held, pool) in self.held.iter_mut().zip(&mut pools.pools) {
            let gone = first_needed_page(pool.window, anchor).saturating_sub(held.first).min(held.pages.len());
            held.first += gone;
            held.pages.drain(..gone).for_each(|page| pool.give_back(page));
        }
    }

    /// Forgets the positions from `len` on. If a window's pages below `len` are gone already, everything is forgotten and the
    /// sequence starts over: slower, never wrong.
    pub fn truncate(&mut self, len: usize, pools: &mut Pools) {
        if len >= self.tokens.len() {
            return;
        }
        if len == 0 || !self.reaches(len, pools) {
            return self.clear(pools);
        }
        self.tokens.truncate(len);
        for (held, pool) in self.held.iter_mut().zip(&mut pools.pools) {
            let keep = len.div_ceil(PAGE_LEN).saturating_sub(held.first).min(held.pages.len());
            held.pages.drain(keep..).for_each(|page| pool.give_back(page));
        }
    }

    /// Gives every page back.
    pub fn clear(&mut self, pools: &mut Pools) {
        self.tokens.clear();
        for (held, pool) in self.held.iter_mut().zip(&mut pools.pools) {
            held.pages.drain(..).for_each(|page| pool.give_back(page));
            held.first = 0;
        }
    }
}

#[cfg(test)]
mod tests;
