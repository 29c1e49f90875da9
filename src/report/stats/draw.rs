//! Random draws for permutations and bootstraps: SplitMix64 (Steele, Lea & Flood 2014) and unbiased bounded integers
//! (Lemire 2019). The generator is part of this crate because a published p value must not change with the version of a
//! library.

/// A stream of draws, fixed by its seed.
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    /// The stream of `seed`. The seed is scrambled first; otherwise consecutive seeds would give the same
    /// draws, shifted by one.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: scramble(seed ^ 0xA076_1D64_78BD_642F) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.state)
    }

    /// A whole number below `bound`, each equally likely; `bound` is at least 1.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        // Values of the low half under this would make some results likelier than others.
        let unfair = bound.wrapping_neg() % bound;
        loop {
            let wide = u128::from(self.next()) * u128::from(bound);
            if wide as u64 >= unfair {
                return (wide >> 64) as usize;
            }
        }
    }

    /// Brings `count` random items, without order, to the front of `items` (the first steps of Fisher-Yates).
    pub(super) fn choose(&mut self, items: &mut [usize], count: usize) {
        for i in 0..count {
            let j = i + self.below(items.len() - i);
            items.swap(i, j);
        }
    }
}

fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
