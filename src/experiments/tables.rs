//! Columns of `runs.parquet` and `turns.parquet`.

use crate::reply_record::ReplyRecord;
use crate::{RunRecord, finished};
use tiltmeter_store::{Column, ColumnData, Outcome, RunKey, Table};

/// A finished run and its parsed details.
pub struct FinishedRun<'a, P> {
    pub key: &'a RunKey,
    pub outcome: &'a Outcome,
    pub parsed: P,
}

/// Rows of a table; each method returns one column.
pub struct Rows<T>(pub Vec<T>);

impl<'a, P> Rows<FinishedRun<'a, P>> {
    pub fn of(runs: &'a [RunRecord], parse: impl Fn(&Outcome) -> P) -> Self {
        Self(finished(runs).map(|(key, outcome)| FinishedRun { key, outcome, parsed: parse(outcome) }).collect())
    }

    pub fn label(&self, name: &str) -> ColumnData {
        self.text(|run| run.outcome.labels.get(name).cloned())
    }

    pub fn metric(&self, name: &str) -> ColumnData {
        ColumnData::Float(self.0.iter().map(|run| run.outcome.metrics.get(name).copied()).collect())
    }

    pub fn count(&self, name: &str) -> ColumnData {
        self.int(|run| run.outcome.metrics.get(name).map(|value| *value as i64))
    }

    /// Whether the metric is 1.
    pub fn flag(&self, name: &str) -> ColumnData {
        ColumnData::Bool(self.0.iter().map(|run| run.outcome.metrics.get(name).map(|value| *value == 1.0)).collect())
    }
}

impl<T> Rows<T> {
    pub fn text(&self, cell: impl Fn(&T) -> Option<String>) -> ColumnData {
        ColumnData::Text(self.0.iter().map(cell).collect())
    }

    pub fn int(&self, cell: impl Fn(&T) -> Option<i64>) -> ColumnData {
        ColumnData::Int(self.0.iter().map(cell).collect())
    }

    /// Adds the token counts of replies.
    pub fn add_tokens(&self, table: Table, reply: impl Fn(&T) -> &ReplyRecord) -> Table {
        table
            .with("prompt_tokens", self.int(|row| Some(reply(row).usage.prompt_tokens as i64)))
            .with("generated_tokens", self.int(|row| Some(reply(row).usage.completion_tokens as i64)))
    }

    /// Adds a column of mean projections for each of `series`, which are named `<axis>@<site>`.
    pub fn add_projections(&self, table: &mut Table, series: &[String], reply: impl Fn(&T) -> &ReplyRecord) {
        for name in series {
            let mean = |row: &T| {
                let readout = reply(row).readout.as_ref()?;
                readout.projections.iter().find(|p| format!("{}@{}", p.name, p.site) == *name).map(|p| p.mean)
            };
            let values = self.0.iter().map(mean).collect();
            table.columns.push(Column::new(format!("projection.{name}"), ColumnData::FloatF32(values)));
        }
    }
}
