//! Counts runs by end and by label, in all and by variant.

use serde_json::{Map, Value, json};

use crate::{RunEnd, RunRecord};

/// Runs counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: usize,
    pub successful: usize,
    pub failed: usize,
    pub pending: usize,
}

impl Tally {
    pub fn of<'a>(runs: impl IntoIterator<Item = &'a RunRecord>) -> Self {
        let mut tally = Self::default();
        for run in runs {
            tally.total += 1;
            match run.end {
                RunEnd::Done => tally.successful += 1,
                RunEnd::Failed(_) => tally.failed += 1,
                RunEnd::Pending => tally.pending += 1,
            }
        }
        tally
    }

    pub fn json(&self) -> Map<String, Value> {
        let Self { total, successful, failed, pending } = self;
        let counts = [("total_runs", total), ("successful", successful), ("failed", failed), ("pending", pending)];
        counts.into_iter().map(|(key, count)| (key.to_owned(), json!(count))).collect()
    }
}

/// How often each value of a label was found in finished runs, the most frequent first, equals in the order of the menu.
pub fn distribution<'a>(
    runs: impl IntoIterator<Item = &'a RunRecord>,
    label: &str,
    menu: &[String],
) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = menu.iter().map(|value| (value.clone(), 0)).collect();
    for run in runs.into_iter().filter(|run| run.end == RunEnd::Done) {
        let Some(found) = run.outcome.as_ref().and_then(|outcome| outcome.labels.get(label)) else { continue };
        match counts.iter_mut().find(|(value, _)| value == found) {
            Some((_, count)) => *count += 1,
            None => counts.push((found.clone(), 1)),
        }
    }
    counts.retain(|(_, count)| *count > 0);
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}
