//! The results of a pass: sampled tokens and dot products in one block, hidden states in another, and their copy to the host. Tokens also stay
//! on the device, where the next recorded step reads them.

use tiltmeter_kernels::gpu::{Gpu, Memory, Result, Span, Staging};

/// Numbers of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Most tokens that are drawn.
    pub tokens: usize,
    /// Most rows.
    pub rows: usize,
    /// Dot products of a row.
    pub dots: usize,
    /// Sites whose states are kept, rows of a pass that keeps any, and numbers of a state.
    pub states: usize,
    pub state_rows: usize,
    pub hidden: usize,
}

impl Numbers {
    fn first_dot(&self) -> usize {
        self.tokens.next_multiple_of(4)
    }

    fn words(&self) -> usize {
        self.first_dot() + self.rows * self.dots
    }

    fn state_numbers(&self) -> usize {
        self.states * self.state_rows * self.hidden
    }
}

/// The blocks on the device.
pub struct Outcome {
    pub numbers: Numbers,
    block: Memory,
    states: Option<Memory>,
    /// Copies on this side that are not in use.
    idle: Vec<Fetch>,
    gpu: Gpu,
}

/// A copy on this side.
pub struct Fetch {
    numbers: Numbers,
    block: Staging,
    states: Option<Staging>,
    /// Rows of the pass.
    rows: usize,
}

impl Outcome {
    pub fn new(gpu: &Gpu, numbers: Numbers) -> Result<Self> {
        let states = match numbers.state_numbers() {
            0 => None,
            count => Some(gpu.alloc(4 * count)?),
        };
        Ok(Self { numbers, block: gpu.alloc(4 * numbers.words())?, states, idle: Vec::new(), gpu: gpu.clone() })
    }

    pub fn tokens(&self) -> Span<'_> {
        self.block.part::<u32>(0, self.numbers.tokens)
    }

    /// One of the drawn tokens.
    pub fn token(&self, index: usize) -> Span<'_> {
        self.block.part::<u32>(index, 1)
    }

    pub fn dots(&self) -> Option<Span<'_>> {
        let Numbers { rows, dots, .. } = self.numbers;
        (dots > 0).then(|| self.block.part::<f32>(self.numbers.first_dot(), rows * dots))
    }

    pub fn states(&self) -> Option<Span<'_>> {
        self.states.as_ref().map(Memory::all)
    }

    /// Requests the tokens of a pass over `rows` rows, after all work submitted so far; `measured`: its dot products too; `states`:
    /// its states too.
    pub fn fetch(&mut self, rows: usize, measured: bool, states: bool) -> Result<Fetch> {
        let numbers = self.numbers;
        let mut fetch = match self.idle.pop() {
            Some(fetch) => fetch,
            None => {
                let states = match numbers.state_numbers() {
                    0 => None,
                    count => Some(self.gpu.staging(4 * count)?),
                };
                Fetch { numbers, block: self.gpu.staging(4 * numbers.words())?, states, rows: 0 }
            }
        };
        fetch.rows = rows;
        let words = if measured { numbers.first_dot() + rows * numbers.dots } else { numbers.tokens };
        fetch.block.fetch(self.block.part::<u32>(0, words))?;
        if let (true, Some(to), Some(from)) = (states, &mut fetch.states, &self.states) {
            to.fetch(from.part::<f32>(0, numbers.states * rows * numbers.hidden))?;
        }
        Ok(fetch)
    }

    /// Takes a copy back that was read.
    pub fn put_back(&mut self, fetch: Fetch) {
        if fetch.numbers == self.numbers {
            self.idle.push(fetch);
        }
    }
}

impl Fetch {
    /// Waits, and gives the tokens.
    pub fn tokens(&mut self) -> Result<Vec<u32>> {
        Ok(self.block.numbers::<u32>(self.numbers.tokens)?.to_vec())
    }

    /// The dot products `[rows][dots]`.
    pub fn dots(&mut self) -> Result<&[f32]> {
        let first = self.numbers.first_dot();
        let all = self.block.numbers::<f32>(first + self.rows * self.numbers.dots)?;
        Ok(&all[first..])
    }

    /// The states `[sites][rows][hidden]`.
    pub fn states(&mut self) -> Result<&[f32]> {
        match &mut self.states {
            None => Ok(&[]),
            Some(states) => Ok(states.numbers::<f32>(self.numbers.states * self.rows * self.numbers.hidden)?),
        }
    }
}
