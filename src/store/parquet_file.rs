//! Writes a table as Parquet with the low-level column writers, every column optional (definition level 1 = present), Snappy, statistics.

use std::{fs::File, io, sync::Arc};

use parquet::{
    basic::{Compression, LogicalType, Repetition, Type as Physical},
    data_type::{BoolType, ByteArrayType, DataType, DoubleType, FloatType, Int64Type},
    errors::{ParquetError, Result},
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::{Type, TypePtr},
};

use super::table::{Column, ColumnData, Table};

/// A reader that wants a few runs of a long table need not open all of it.
pub(super) const ROWS_PER_GROUP: usize = 256 * 1024;

pub(super) fn write(table: &Table, file: &mut File) -> Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("tiltmeter ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let mut writer = SerializedFileWriter::new(file, schema(table)?, Arc::new(properties))?;
    let mut start = 0;
    while start < table.rows() {
        let end = table.rows().min(start + ROWS_PER_GROUP);
        let mut group = writer.next_row_group()?;
        for column in &table.columns {
            match &column.data {
                ColumnData::Text(entries) => {
                    write_column::<ByteArrayType, _>(&mut group, &entries[start..end], |text| text.as_str().into())?
                }
                ColumnData::Int(entries) => write_column::<Int64Type, _>(&mut group, &entries[start..end], |n| *n)?,
                ColumnData::Float(entries) => write_column::<DoubleType, _>(&mut group, &entries[start..end], |x| *x)?,
                ColumnData::FloatF32(entries) => {
                    write_column::<FloatType, _>(&mut group, &entries[start..end], |x| *x)?
                }
                ColumnData::Bool(entries) => write_column::<BoolType, _>(&mut group, &entries[start..end], |b| *b)?,
            }
        }
        group.close()?;
        start = end;
    }
    writer.close()?;
    Ok(())
}

/// The disk's own error inside one of the library's, if that is what it is.
pub(super) fn io_cause(error: &ParquetError) -> Option<io::Error> {
    let ParquetError::External(source) = error else { return None };
    let source = source.downcast_ref::<io::Error>()?;
    Some(match source.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(source.kind(), source.to_string()),
    })
}

fn schema(table: &Table) -> Result<TypePtr> {
    let fields = table.columns.iter().map(field).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Type::group_type_builder(&table.name).with_fields(fields).build()?))
}

fn field(column: &Column) -> Result<TypePtr> {
    let (physical, logical) = match column.data {
        ColumnData::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        ColumnData::Int(_) => (Physical::INT64, None),
        ColumnData::Float(_) => (Physical::DOUBLE, None),
        ColumnData::FloatF32(_) => (Physical::FLOAT, None),
        ColumnData::Bool(_) => (Physical::BOOLEAN, None),
    };
    let field = Type::primitive_type_builder(&column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(field))
}

fn write_column<D: DataType, T>(
    group: &mut SerializedRowGroupWriter<'_, &mut File>,
    entries: &[Option<T>],
    convert: impl Fn(&T) -> D::T,
) -> Result<()> {
    let levels: Vec<i16> = entries.iter().map(|entry| i16::from(entry.is_some())).collect();
    let values: Vec<D::T> = entries.iter().flatten().map(convert).collect();
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("the schema has fewer columns than the table".to_owned()));
    };
    column.typed::<D>().write_batch(&values, Some(&levels), None)?;
    column.close()
}
