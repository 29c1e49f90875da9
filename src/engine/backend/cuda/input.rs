//! The inputs of a pass: tokens, positions, block tables, sampling parameters. One block of 32-bit words, filled on the host and sent in one
//! asynchronous copy; sections are aligned to four words.

use std::ops::Range;

use tiltmeter_kernels::gpu::{Gpu, Memory, Result, Span, Staging};

/// What stands in a block, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Tokens of the rows.
    Ids,
    Positions,
    /// Which sequence of the block tables a row is of.
    Owners,
    /// Of a sequence: its first row, its rows, and the position of the first.
    FirstRows,
    Counts,
    Starts,
    /// Rows whose logits are wanted.
    Sources,
    /// How their tokens are drawn.
    Draws,
    /// Pages of the full layers and of those with a window, by absolute index.
    Tables0,
    Tables1,
}

/// How many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub rows: usize,
    pub sequences: usize,
    pub draws: usize,
    /// Words of one row's sampling parameters.
    pub draw_words: usize,
    /// Pages of a sequence.
    pub stride: usize,
}

const SECTIONS: [Section; 10] = [
    Section::Ids,
    Section::Positions,
    Section::Owners,
    Section::FirstRows,
    Section::Counts,
    Section::Starts,
    Section::Sources,
    Section::Draws,
    Section::Tables0,
    Section::Tables1,
];

impl Extent {
    fn len(&self, section: Section) -> usize {
        match section {
            Section::Ids | Section::Positions | Section::Owners => self.rows,
            Section::FirstRows | Section::Counts | Section::Starts => self.sequences,
            Section::Sources => self.draws,
            Section::Draws => self.draws * self.draw_words,
            Section::Tables0 | Section::Tables1 => self.sequences * self.stride,
        }
    }

    /// The words of a section.
    pub fn range(&self, section: Section) -> Range<usize> {
        let before = SECTIONS.iter().take_while(|s| **s != section);
        let begin = before.map(|&s| self.len(s).next_multiple_of(4)).sum();
        begin..begin + self.len(section)
    }

    pub fn words(&self) -> usize {
        SECTIONS.iter().map(|&s| self.len(s).next_multiple_of(4)).sum()
    }
}

/// A block on both sides. Two copies can be in flight: the next step's inputs are sent while one runs.
pub struct Input {
    pub extent: Extent,
    words: Vec<u32>,
    memory: Memory,
    staging: [Staging; 2],
    turn: usize,
}

impl Input {
    pub fn new(gpu: &Gpu, extent: Extent) -> Result<Self> {
        let bytes = extent.words() * 4;
        let staging = [gpu.staging(bytes)?, gpu.staging(bytes)?];
        Ok(Self { extent, words: vec![0; extent.words()], memory: gpu.alloc(bytes)?, staging, turn: 0 })
    }

    pub fn section(&mut self, section: Section) -> &mut [u32] {
        &mut self.words[self.extent.range(section)]
    }

    /// The pages of a sequence in one of the tables.
    pub fn table(&mut self, pool: usize, sequence: usize) -> &mut [u32] {
        let stride = self.extent.stride;
        let section = if pool == 0 { Section::Tables0 } else { Section::Tables1 };
        &mut self.section(section)[sequence * stride..(sequence + 1) * stride]
    }

    /// Copies the block to the device, after all work submitted so far.
    pub fn send(&mut self) -> Result<()> {
        self.turn = 1 - self.turn;
        let staging = &mut self.staging[self.turn];
        staging.numbers::<u32>(self.words.len())?.copy_from_slice(&self.words);
        staging.send(self.memory.part::<u32>(0, self.words.len()))
    }

    /// A section as the device has it.
    pub fn span(&self, section: Section) -> Span<'_> {
        let range = self.extent.range(section);
        self.memory.part::<u32>(range.start, range.len())
    }
}

#[cfg(test)]
mod tests {
    use tiltmeter_kernels::gpu::emulated::Emulated;

    use super::*;

    #[test]
    fn sections_lie_apart_and_arrive_where_they_belong() {
        let extent = Extent { rows: 5, sequences: 3, draws: 2, draw_words: 7, stride: 6 };
        let ranges: Vec<_> = SECTIONS.iter().map(|&section| extent.range(section)).collect();
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start && pair[1].start % 4 == 0));
        let gpu = Emulated::gpu();
        let mut input = Input::new(&gpu, extent).unwrap();
        for round in 0..3u32 {
            for (mark, section) in SECTIONS.into_iter().enumerate() {
                input.section(section).fill(10 * round + mark as u32);
            }
            input.table(1, 2)[5] = 77;
            input.send().unwrap();
            for (mark, section) in SECTIONS.into_iter().enumerate() {
                let count = extent.range(section).len();
                let there = input.span(section).read::<u32>(count).unwrap();
                let same = there.iter().filter(|&&word| word == 10 * round + mark as u32).count();
                assert_eq!(same, count - usize::from(section == Section::Tables1), "{section:?}");
            }
            assert_eq!(input.span(Section::Tables1).read::<u32>(18).unwrap()[17], 77);
        }
    }
}
