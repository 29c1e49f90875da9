//! The page allocator against a simple model: for any sequence of operations, a page has one owner or several readers, every query finds the
//! keys that were written, and no page leaks.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What a page holds: per position the token that was written there, and whether it follows from what stands before.
type Memory = HashMap<(usize, u32), [Option<u64>; PAGE_LEN]>;

/// A mark of everything up to and with `position`: keys depend on all tokens before them.
fn mark(tokens: &[u32], position: usize) -> u64 {
    tokens[..=position].iter().fold(position as u64, |mark, &token| {
        (mark.rotate_left(5) ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

struct World {
    pools: Pools,
    window: usize,
    memory: Memory,
    sequences: Vec<SequencePages>,
}

impl World {
    fn new(window: usize) -> Self {
        let pools = Pools::new(PageCounts([200, 200]), Some(window));
        Self { pools, window, memory: Memory::new(), sequences: (0..4).map(|_| SequencePages::default()).collect() }
    }

    fn copy_pages(&mut self) {
        for (pool, from, to) in self.pools.take_copies() {
            let content = self.memory[&(pool, from)];
            self.memory.insert((pool, to), content);
        }
    }

    fn page(&self, which: usize, pool: usize, position: usize) -> Option<u32> {
        let (first, mut pages) = self.sequences[which].table(pool);
        (position / PAGE_LEN).checked_sub(first).and_then(|at| pages.nth(at))
    }

    /// What a pass does: reads all that the new tokens see, writes them.
    fn feed(&mut self, which: usize, tokens: &[u32]) {
        let from = self.sequences[which].tokens().len();
        let (sequence, pools) = (&mut self.sequences[which], &mut self.pools);
        sequence.evict_window(from, pools);
        sequence.extend(tokens, pools);
        self.copy_pages();
        let all = self.sequences[which].tokens().to_vec();
        for position in from..all.len() {
            for pool in 0..2 {
                let page = self.page(which, pool, position).expect("a new token has its page");
                self.memory.entry((pool, page)).or_default()[position % PAGE_LEN] = Some(mark(&all, position));
                let first = if pool == 1 { (position + 1).saturating_sub(self.window) } else { 0 };
                for seen in first..=position {
                    let page = self.page(which, pool, seen).expect("what a query sees is held");
                    let there = self.memory[&(pool, page)][seen % PAGE_LEN];
                    assert_eq!(there, Some(mark(&all, seen)), "pool {pool}, position {seen}");
                }
            }
        }
    }

    /// Every page in use has a holder, and the counts agree.
    fn check(&self) {
        for pool in 0..2 {
            let mut holders: HashMap<u32, usize> = HashMap::new();
            for sequence in &self.sequences {
                let mut own: Vec<u32> = sequence.table(pool).1.collect();
                let held = own.len();
                own.iter().for_each(|page| *holders.entry(*page).or_default() += 1);
                own.sort_unstable();
                own.dedup();
                assert_eq!(own.len(), held, "a sequence holds no page twice");
            }
            assert_eq!(holders.len(), self.pools.pools[pool].in_use, "pool {pool}");
            let free = &self.pools.pools[pool].free;
            assert!(free.iter().all(|page| !holders.contains_key(&page.0)), "a freed page has a holder");
            assert_eq!(free.len() + holders.len(), self.pools.pools[pool].fresh as usize, "no page is lost");
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Feed { which: usize, count: usize, word: u32 },
    Reserve { which: usize },
    RollBack { which: usize, share: usize },
    Share { from: usize, to: usize },
    Clear { which: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let which = 0..4usize;
    prop_oneof![
        4 => (which.clone(), 1..90usize, 0..3u32).prop_map(|(which, count, word)| Act::Feed { which, count, word }),
        1 => which.clone().prop_map(|which| Act::Reserve { which }),
        2 => (which.clone(), 0..100usize).prop_map(|(which, share)| Act::RollBack { which, share }),
        2 => (which.clone(), which.clone()).prop_map(|(from, to)| Act::Share { from, to }),
        1 => which.prop_map(|which| Act::Clear { which }),
    ]
}

proptest! {
    // A failure is printed; a file beside the sources would outlive it.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_pages_hold_what_their_sequences_see(
        window in prop_oneof![Just(32usize), Just(48), Just(100)],
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut world = World::new(window);
        for act in acts {
            match act {
                Act::Feed { which, count, word } => {
                    let tokens: Vec<u32> = (0..count as u32).map(|i| word + i % 2).collect();
                    world.feed(which, &tokens);
                }
                Act::Reserve { which } => {
                    world.sequences[which].reserve_next(&mut world.pools);
                    world.copy_pages();
                }
                Act::RollBack { which, share } => {
                    let len = world.sequences[which].tokens().len() * share / 100;
                    let before = world.sequences[which].tokens().to_vec();
                    world.sequences[which].truncate(len, &mut world.pools);
                    let after = world.sequences[which].tokens();
                    prop_assert!(after == &before[..len] || after.is_empty());
                }
                Act::Share { from, to } if from != to => {
                    let tokens = world.sequences[from].tokens().to_vec();
                    let len = world.sequences[from].shareable(&tokens, &world.pools);
                    let shared = world.sequences[from].fork_prefix(len);
                    let mut old = std::mem::replace(&mut world.sequences[to], shared);
                    old.clear(&mut world.pools);
                }
                Act::Share { .. } => {}
                Act::Clear { which } => world.sequences[which].clear(&mut world.pools),
            }
            world.check();
        }
    }
}

/// A conversation that is decoded far past its window holds a window's pages when its next turn begins, and never more than promised.
#[test]
fn what_is_promised_is_enough() {
    let mut pools = Pools::new(PageCounts([100, 100]), Some(64));
    let mut sequence = SequencePages::default();
    let (prompt, chunk, longest) = (500, 70, 700);
    let promised = pools.pages_for(longest, 0);
    let mut fed = 0;
    while fed < longest {
        let anchor = fed.min(prompt);
        sequence.evict_window(anchor, &mut pools);
        let take = if fed < prompt { chunk.min(prompt - fed) } else { 1 };
        sequence.extend(&vec![1; take], &mut pools);
        fed += take;
        assert!(sequence.pages_held().fits(promised));
        assert!((pools.available() + sequence.pages_held()).fits(pools.capacity()));
    }
    assert_eq!(sequence.pages_held(), PageCounts([22, 22 - (501 - 64) / PAGE_LEN]));
    sequence.evict_window(longest, &mut pools);
    assert_eq!(sequence.pages_held(), PageCounts([22, 22 - (701 - 64) / PAGE_LEN]));
    assert_eq!(
        Pools::new(PageCounts([10, 0]), None).pages_for(100, 0),
        PageCounts([4, 0]),
        "a pool that no layer uses is asked nothing"
    );
}
