//! `turns.jsonl`: the rows of the table of turns as JSON Lines, one object per turn with the table's columns as keys.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Batch;
use tiltmeter_model::problem::Problem;
use tiltmeter_store::{ColumnData, Table, write_text_atomic};

pub fn write(batch: &Batch) -> Result<Vec<PathBuf>, Problem> {
    let Some(turns) = batch.exports.tables.iter().find(|table| table.name == "turns") else { return Ok(Vec::new()) };
    let path = batch.folder.dir().join("turns.jsonl");
    write_text_atomic(&path, &lines(turns))?;
    Ok(vec![path])
}

fn lines(table: &Table) -> String {
    let row = |row: usize| -> Map<String, Value> {
        table.columns.iter().map(|column| (column.name.clone(), entry(&column.data, row))).collect()
    };
    (0..table.rows()).map(|index| format!("{}\n", Value::Object(row(index)))).collect()
}

/// One entry; null where it is missing or not finite.
fn entry(data: &ColumnData, row: usize) -> Value {
    match data {
        ColumnData::Text(entries) => json!(entries[row]),
        ColumnData::Int(entries) => json!(entries[row]),
        ColumnData::Float(entries) => json!(entries[row]),
        // The shortest decimal that reads back as the same f32, which converting to f64 would not give.
        ColumnData::FloatF32(entries) => {
            let shortest = entries[row].and_then(|value| value.to_string().parse::<f64>().ok());
            json!(shortest)
        }
        ColumnData::Bool(entries) => json!(entries[row]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_one_object_and_f32_values_keep_their_bits() {
        let table = Table::new("turns")
            .with("reply", ColumnData::Text(vec![Some("a\n\"b\"".into()), None]))
            .with("turn", ColumnData::Int(vec![Some(0), Some(1)]))
            .with("projection", ColumnData::FloatF32(vec![Some(0.1), Some(f32::NAN)]));
        let text = lines(&table);
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0], json!({"reply": "a\n\"b\"", "turn": 0, "projection": 0.1}));
        assert_eq!(rows[1], json!({"reply": null, "turn": 1, "projection": null}));
    }
}
