//! `Checkpoint`: a partial outcome as the journal stores it.

use serde::{Deserialize, Serialize};

use tiltmeter_store::Outcome;

/// Name of the step that saves a partial outcome.
pub const CHECKPOINT: &str = "checkpoint";

/// A partial outcome as the journal has it: turns are stored as the difference to the previous checkpoint.
#[derive(Serialize, Deserialize)]
pub struct Checkpoint {
    /// Number of leading turns taken over from the previous checkpoint.
    after: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Checkpoint {
    /// The difference to the turns `before`; the whole outcome if it does not extend them.
    pub fn since(before: &[serde_json::Value], outcome: &Outcome) -> Self {
        let after = if outcome.turns.starts_with(before) { before.len() } else { 0 };
        let Outcome { labels, metrics, series, transcript, turns } = outcome;
        let (labels, metrics, series) = (labels.clone(), metrics.clone(), series.clone());
        let outcome =
            Outcome { labels, metrics, series, transcript: transcript.clone(), turns: turns[after..].to_vec() };
        Self { after, outcome }
    }

    /// The whole outcome, given the turns of the previous checkpoint.
    pub fn whole(mut self, mut before: Vec<serde_json::Value>) -> Outcome {
        before.truncate(self.after);
        before.append(&mut self.outcome.turns);
        Outcome { turns: before, ..self.outcome }
    }
}
