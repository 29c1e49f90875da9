//! `RunKey` and `Outcome`: identity and result of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use tiltmeter_model::Message;

/// Cell and repetition. A run keeps its id when cells are added to the experiment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunKey {
    /// Name of the experiment, valid in a file name.
    pub experiment: String,
    /// Name of the cell (a condition or variation), valid in a file name.
    pub cell: String,
    /// Repetition within the cell, from 0.
    pub sample: usize,
}

impl RunKey {
    /// `<cell>-<sample>`, unique within an experiment.
    pub fn id(&self) -> String {
        format!("{}-{:03}", self.cell, self.sample)
    }

    /// The key of a run with this id; `None` if the id does not end in a number.
    pub fn from_id(experiment: &str, id: &str) -> Option<Self> {
        let (cell, sample) = id.rsplit_once('-')?;
        Some(Self { experiment: experiment.to_owned(), cell: cell.to_owned(), sample: sample.parse().ok()? })
    }
}

/// A measured sequence with one entry per turn. A turn whose status is not `ok` may have a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name, unique in its outcome.
    pub name: String,
    /// One value per turn.
    pub values: Vec<Option<f64>>,
    /// One status per turn.
    pub statuses: Vec<String>,
}

/// Result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Labels for grouping and filtering.
    pub labels: BTreeMap<String, String>,
    /// Finite numbers; metrics that could not be measured are absent.
    pub metrics: BTreeMap<String, f64>,
    /// Measured sequences.
    pub series: Vec<Series>,
    /// The conversation.
    pub transcript: Vec<Message>,
    /// One object per turn, in order, with all data of the turn.
    pub turns: Vec<serde_json::Value>,
}
