//! Owns the identity of a run (`RunKey`) and what a finished run leaves behind (`Outcome`).
//! Must not know: what a label or a metric means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use tiltmeter_model::Message;

/// Cell coordinates and repetition: the same run keeps its id when the matrix around it is amended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunKey {
    /// Name of the experiment; safe in a file name.
    pub experiment: String,
    /// Name of the cell (a condition, a variation); safe in a file name.
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

/// A measured sequence, one entry per turn. A turn whose status is not `ok` keeps its value (if it has one) and its status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Unique in its outcome.
    pub name: String,
    /// One entry per turn.
    pub values: Vec<Option<f64>>,
    /// One entry per turn.
    pub statuses: Vec<String>,
}

/// What a finished run leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What the run is grouped and filtered by.
    pub labels: BTreeMap<String, String>,
    /// Finite numbers; what could not be measured is left out.
    pub metrics: BTreeMap<String, f64>,
    /// Measured sequences.
    pub series: Vec<Series>,
    /// The conversation as it went.
    pub transcript: Vec<Message>,
    /// One object per turn, in order: everything that is known of it.
    pub turns: Vec<serde_json::Value>,
}
