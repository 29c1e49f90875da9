//! Trajectories: a measure over the turns of conversations, by condition (`Comparison`), independent of its source.

pub mod analysis;
pub mod figure;
pub mod load;
pub mod tables;

use tiltmeter_model::problem::Problem;

/// The status of a cell that is as it should be. Every other word is a reason to look twice.
pub const OK: &str = "ok";

/// The status that a cell without a measurement gets if nothing else is said of it.
const MISSING: &str = "missing";

/// Groups of samples of measured turns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Heading of figure and report.
    pub title: String,
    /// What was measured, as `axis@site`, and so the label of the figure's vertical axis.
    pub unit: String,
    /// What one position of a sequence is, `reply`; `None`: a turn.
    pub step: Option<String>,
    /// The conditions, the control first.
    pub groups: Vec<GroupData>,
    /// One trajectory to compare by eye, per turn; it is never tested.
    pub reference: Option<Vec<Option<f64>>>,
    /// Mean measurements (at the axis' negative pole, at its positive pole), to express differences in.
    pub span: Option<(f64, f64)>,
    /// What the reader has to know of the data.
    pub notes: Vec<String>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupData {
    /// Name of the condition, unique in a comparison.
    pub label: String,
    /// What it is, in words: told once, in a key.
    pub title: Option<String>,
    /// Independent repetitions.
    pub samples: Vec<SampleData>,
    /// The system prompt as it was asked for.
    pub system_prompt: Option<String>,
    /// The first prompt as the model saw it.
    pub rendered_prompt: Option<String>,
}

/// One repetition: a measured conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleData {
    /// Measurement per turn, `None` where there is none.
    pub values: Vec<Option<f64>>,
    /// Status per turn; empty if all are ok.
    pub statuses: Vec<String>,
}

/// A cell that is not ok.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flag {
    /// What is wrong with it.
    pub status: String,
    /// Turn, from 0.
    pub turn: usize,
    /// Sample, from 0.
    pub sample: usize,
}

impl SampleData {
    /// Status of `turn` (from 0). A cell without a measurement is never ok.
    pub fn status(&self, turn: usize) -> &str {
        match self.statuses.get(turn).map_or(OK, String::as_str) {
            OK if self.values[turn].is_none() => MISSING,
            status => status,
        }
    }
}

impl GroupData {
    /// Number of turns.
    pub fn turns(&self) -> usize {
        self.samples.first().map_or(0, |sample| sample.values.len())
    }

    /// Cells that are not ok, by status, then turn, then sample.
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags: Vec<Flag> = Vec::new();
        for (index, sample) in self.samples.iter().enumerate() {
            for turn in 0..sample.values.len() {
                let status = sample.status(turn);
                if status != OK {
                    flags.push(Flag { status: status.to_owned(), turn, sample: index });
                }
            }
        }
        flags.sort();
        flags
    }

    fn check(&self) -> Result<(), Problem> {
        let here = |sample: usize| format!("condition `{}`, sample {sample} (from 0)", self.label);
        if self.samples.is_empty() {
            return Err(Problem::new(format!("condition `{}` has no samples", self.label))
                .hint("leave it out, or finish a run of it first"));
        }
        let turns = self.turns();
        if turns == 0 {
            return Err(Problem::new("a sample without turns").at(here(0)).hint("leave the sample out"));
        }
        for (index, sample) in self.samples.iter().enumerate() {
            let length = sample.values.len();
            if length != turns {
                return Err(Problem::new(format!("{length} turns, where sample 0 has {turns}"))
                    .at(here(index))
                    .hint("write null for turns without a measurement"));
            }
            if !sample.statuses.is_empty() && sample.statuses.len() != turns {
                return Err(Problem::new(format!("{} statuses for {turns} turns", sample.statuses.len()))
                    .at(here(index))
                    .hint("give one status per turn, or none at all"));
            }
            if let Some(turn) = sample.values.iter().position(|x| x.is_some_and(|x| !x.is_finite())) {
                return Err(Problem::new("a measurement is not a finite number")
                    .at(format!("{}, turn {} (from 1)", here(index), turn + 1))
                    .hint("write null for a cell without a measurement"));
            }
        }
        Ok(())
    }
}

impl Comparison {
    /// What one position of a sequence is.
    pub fn step(&self) -> &str {
        self.step.as_deref().unwrap_or("turn")
    }

    /// Turns of the longest condition.
    pub fn turns(&self) -> usize {
        self.groups.iter().map(GroupData::turns).max().unwrap_or(0)
    }

    /// Whether the parts fit together: there are conditions, labels differ, samples of a condition have equally many
    /// turns, statuses fit, every number is finite.
    pub fn check(&self) -> Result<(), Problem> {
        if self.groups.is_empty() {
            return Err(Problem::new("there are no conditions to compare").hint("name one JSON file per condition"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            group.check()?;
            if self.groups[..index].iter().any(|other| other.label == group.label) {
                return Err(Problem::new(format!("two conditions are called `{}`", group.label))
                    .hint("give every condition its own name"));
            }
        }
        if self.reference.iter().flatten().flatten().any(|x| !x.is_finite()) {
            return Err(Problem::new("the reference holds a number that is not finite").hint("write null instead"));
        }
        if let Some((low, high)) = self.span
            && !((high - low).is_finite() && high != low)
        {
            return Err(Problem::new(format!("the axis spans {low} to {high}"))
                .hint("leave the span out if the axis has no two poles"));
        }
        Ok(())
    }
}
