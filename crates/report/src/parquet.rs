//! Apache Parquet (<https://parquet.apache.org/docs/file-format/>): the same columns with their types, for
//! pandas, polars, DuckDB and their kin. Every column is optional; texts are UTF-8 strings, instants are
//! timestamps in microseconds, in UTC or without a zone. Names that repeat are dictionary-encoded by the format itself.

use crate::export::{Column, Kind, columns};
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use record::summary::{Row, Summary};
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;

const EPOCH: jiff::civil::DateTime = jiff::civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// Rows that are held as columns at once: bounds the memory, and lets readers work in parallel.
const ROW_GROUP: usize = 1 << 16;

/// Writes the file.
///
/// # Errors
/// If `to` cannot be written to.
pub fn write(summary: &Summary, to: impl Write + Send) -> std::io::Result<()> {
    write_columns(summary, to).map_err(|error| match error {
        ParquetError::External(inner) => std::io::Error::other(inner),
        other => std::io::Error::other(other),
    })
}

fn write_columns(summary: &Summary, to: impl Write + Send) -> Result<(), ParquetError> {
    let columns = columns(summary);
    let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    let schema = Type::group_type_builder("row").with_fields(fields).build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(concat!("trainmark ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let mut file = SerializedFileWriter::new(to, Arc::new(schema), Arc::new(properties))?;
    for rows in summary.rows.chunks(ROW_GROUP) {
        let mut group = file.next_row_group()?;
        for column in &columns {
            write_column(&mut group, summary, rows, column)?;
        }
        group.close()?;
    }
    file.close()?;
    Ok(())
}

fn field(column: &Column) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Integer => (Physical::INT64, None),
        Kind::Real => (Physical::DOUBLE, None),
        Kind::Flag => (Physical::BOOLEAN, None),
        Kind::Moment | Kind::Civil => {
            let is_utc = column.kind == Kind::Moment;
            (Physical::INT64, Some(LogicalType::timestamp(is_utc, TimeUnit::MICROS)))
        }
    };
    let field = Type::primitive_type_builder(&column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()?;
    Ok(Arc::new(field))
}

fn write_column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    summary: &Summary,
    rows: &[Row],
    column: &Column,
) -> Result<(), ParquetError> {
    let cells = rows.iter().map(|row| column.cell(summary, row));
    match column.kind {
        Kind::Text => typed::<W, ByteArrayType>(group, cells, |it| Some(it.as_str()?.into())),
        Kind::Integer => typed::<W, Int64Type>(group, cells, |it| it.as_i64()),
        Kind::Real => typed::<W, DoubleType>(group, cells, |it| it.as_f64()),
        Kind::Flag => typed::<W, BoolType>(group, cells, |it| it.as_bool()),
        Kind::Civil => typed::<W, Int64Type>(group, cells, |it| {
            let time: jiff::civil::DateTime = it.as_str()?.parse().ok()?;
            i64::try_from(time.duration_since(EPOCH).as_micros()).ok()
        }),
        Kind::Moment => typed::<W, Int64Type>(group, cells, |it| {
            Some(it.as_str()?.parse::<jiff::Timestamp>().ok()?.as_microsecond())
        }),
    }
}

/// A column of values that are there, and for each row whether its value is.
fn typed<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    cells: impl Iterator<Item = Value>,
    value: impl Fn(&Value) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let mut values = Vec::new();
    let mut levels = Vec::new();
    for cell in cells {
        let value = value(&cell);
        levels.push(i16::from(value.is_some()));
        values.extend(value);
    }
    let mut writer = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("more columns than the schema has".to_owned()))?;
    writer.typed::<T>().write_batch(&values, Some(&levels), None)?;
    writer.close()
}
