//! What the tests of all kernels share: reproducible numbers and comparison by bits.

/// A small generator (SplitMix64, Steele et al. 2014), so that tests need no crate.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Numbers(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In 0..limit.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Near enough to a normal distribution: the sum of four uniform numbers, with variance 1.
    pub(crate) fn normal(&mut self, count: usize) -> Vec<f32> {
        let mut one = || ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 3f64.sqrt();
        (0..count).map(|_| one() as f32).collect()
    }
}

/// The bits of numbers, to compare what must be identical.
pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}
