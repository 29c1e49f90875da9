//! Writes a table as CSV with the `csv` crate: one header line, one line a row, missing values empty, floats in the shortest form that reads back the same.

use std::io;

use super::table::{ColumnData, Table};

pub(super) fn write(table: &Table, file: impl io::Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(io::BufWriter::new(file));
    writer.write_record(table.columns.iter().map(|column| guarded(&column.name)))?;
    for row in 0..table.rows() {
        writer.write_record(table.columns.iter().map(|column| cell(&column.data, row)))?;
    }
    writer.flush()
}

fn cell(data: &ColumnData, row: usize) -> String {
    match data {
        ColumnData::Text(entries) => entries[row].as_deref().map(guarded),
        ColumnData::Int(entries) => entries[row].map(|value| value.to_string()),
        ColumnData::Float(entries) => entries[row].map(|value| format!("{value:?}")),
        ColumnData::FloatF32(entries) => entries[row].map(|value| format!("{value:?}")),
        ColumnData::Bool(entries) => entries[row].map(|value| value.to_string()),
    }
    .unwrap_or_default()
}

/// A spreadsheet evaluates a cell that begins with one of these as a formula, and the text may come from a model.
fn guarded(text: &str) -> String {
    let numeric = text.parse::<f64>().is_ok_and(f64::is_finite);
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !numeric { format!("'{text}") } else { text.to_owned() }
}
