//! `Table`: named columns of equal length, written as Parquet or CSV.

use std::path::Path;

use super::{csv_file, files, parquet_file};
use tiltmeter_model::problem::Problem;

/// Named columns of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Name of the table, for messages and for the schema.
    pub name: String,
    /// In the order of the file.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Unique in its table.
    pub name: String,
    /// One entry per row.
    pub data: ColumnData,
}

/// The entries of a column; `None` is a missing value.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnData {
    /// UTF-8.
    Text(Vec<Option<String>>),
    /// 64-bit whole numbers.
    Int(Vec<Option<i64>>),
    /// 64-bit floats.
    Float(Vec<Option<f64>>),
    /// 32-bit floats, for per-token values that were computed in f32.
    FloatF32(Vec<Option<f32>>),
    /// Truth values.
    Bool(Vec<Option<bool>>),
}

impl Column {
    /// A column.
    pub fn new(name: impl Into<String>, data: ColumnData) -> Self {
        Self { name: name.into(), data }
    }
}

impl ColumnData {
    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(entries) => entries.len(),
            Self::Int(entries) => entries.len(),
            Self::Float(entries) => entries.len(),
            Self::FloatF32(entries) => entries.len(),
            Self::Bool(entries) => entries.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    /// An empty table.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), columns: Vec::new() }
    }

    /// Adds a column.
    pub fn with(mut self, name: impl Into<String>, data: ColumnData) -> Self {
        self.columns.push(Column::new(name, data));
        self
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |column| column.data.len())
    }

    /// Writes the table as Parquet (Snappy, with statistics), whole or not at all.
    pub fn write_parquet(&self, path: &Path) -> Result<(), Problem> {
        self.check().map_err(|problem| problem.at(path.display().to_string()))?;
        let mut failure = None;
        let written = files::replace(path, |file| {
            parquet_file::write(self, file).map_err(|error| {
                // The library wraps the disk's error; what it says about itself is kept beside it.
                let inner = parquet_file::io_cause(&error).unwrap_or_else(|| std::io::Error::other(error.to_string()));
                failure = Some(error);
                inner
            })
        });
        written.map_err(|error| match failure {
            Some(parquet) if error.kind() == std::io::ErrorKind::Other => {
                Problem::new(format!("cannot write Parquet: {parquet}")).at(path.display().to_string())
            }
            _ => files::cannot_write(path, &error),
        })
    }

    /// The table as CSV. Text that a spreadsheet would evaluate as a formula gets a leading apostrophe.
    pub fn to_csv(&self) -> Result<String, Problem> {
        self.check()?;
        let broken =
            |error: &dyn std::fmt::Display| Problem::new(format!("table {:?} cannot be CSV: {error}", self.name));
        let mut bytes = Vec::new();
        csv_file::write(self, &mut bytes).map_err(|error| broken(&error))?;
        String::from_utf8(bytes).map_err(|error| broken(&error))
    }

    /// Columns of unequal length would shift rows against each other, so nothing is written then.
    fn check(&self) -> Result<(), Problem> {
        let Some(first) = self.columns.first() else {
            return Err(Problem::new(format!("table {:?} has no columns", self.name)));
        };
        let mut names = std::collections::HashSet::new();
        for column in &self.columns {
            if column.data.len() != first.data.len() {
                return Err(Problem::new(format!(
                    "table {:?}: column {:?} has {} rows and {:?} has {}",
                    self.name,
                    first.name,
                    first.data.len(),
                    column.name,
                    column.data.len()
                )));
            }
            if !names.insert(&column.name) {
                return Err(Problem::new(format!("table {:?} has two columns {:?}", self.name, column.name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::RowAccessor,
    };

    use super::*;

    fn sample() -> Table {
        Table::new("turns")
            .with("run", ColumnData::Text(vec![Some("a-000".into()), None, Some("=1+1".into())]))
            .with("turn", ColumnData::Int(vec![Some(1), Some(-2), None]))
            .with("projection", ColumnData::Float(vec![None, Some(0.1), Some(f64::NAN)]))
            .with("token", ColumnData::FloatF32(vec![Some(0.5), None, Some(-1.5)]))
            .with("ok", ColumnData::Bool(vec![Some(true), Some(false), None]))
    }

    #[test]
    fn parquet_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turns.parquet");
        sample().write_parquet(&path).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].get_string(0).unwrap(), "a-000");
        assert_eq!(rows[1].get_long(1).unwrap(), -2);
        assert_eq!(rows[1].get_double(2).unwrap(), 0.1);
        assert_eq!(rows[2].get_float(3).unwrap(), -1.5);
        assert!(!rows[1].get_bool(4).unwrap());
        assert!(rows[1].get_string(0).is_err() && rows[2].get_long(1).is_err(), "missing values stay missing");
    }

    #[test]
    fn long_tables_are_split_into_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.parquet");
        let n = parquet_file::ROWS_PER_GROUP + 10;
        let table = Table::new("tokens")
            .with("i", ColumnData::Int((0..n as i64).map(Some).collect()))
            .with("even", ColumnData::Int((0..n as i64).map(|i| (i % 2 == 0).then_some(i)).collect()));
        table.write_parquet(&path).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        for (i, row) in reader.get_row_iter(None).unwrap().enumerate() {
            let row = row.unwrap();
            assert_eq!(row.get_long(0).unwrap(), i as i64);
            assert_eq!(row.get_long(1).ok(), (i % 2 == 0).then_some(i as i64));
        }
    }

    #[test]
    fn csv_guards_formulas_and_leaves_numbers() {
        let cells = ["=1+1", "-1.5", "+x", "-", "@a", "plain, \"quoted\"", "-1e3", "-inf"];
        let table = Table::new("t")
            .with("text", ColumnData::Text(cells.iter().map(|cell| Some(cell.to_string())).collect()))
            .with("n", ColumnData::Float(vec![Some(-0.1), None, Some(1e300), Some(2.0), None, None, None, None]));
        let expected =
            "text,n\n'=1+1,-0.1\n-1.5,\n'+x,1e300\n'-,2.0\n'@a,\n\"plain, \"\"quoted\"\"\",\n-1e3,\n'-inf,\n";
        assert_eq!(table.to_csv().unwrap(), expected);
    }

    #[test]
    fn a_crooked_table_is_refused() {
        let path = Path::new("never.parquet");
        let ragged = sample().with("x", ColumnData::Int(vec![None]));
        assert!(ragged.write_parquet(path).unwrap_err().what.contains("has 1"));
        let twice = sample().with("turn", ColumnData::Int(vec![None; 3]));
        assert!(twice.to_csv().unwrap_err().what.contains("two columns"));
        assert!(Table::new("t").to_csv().is_err());
        assert!(!path.exists());
    }
}
