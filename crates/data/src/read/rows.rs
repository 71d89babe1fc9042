//! Parquet rows as JSON values, through the crate's record interface: nested lists and groups
//! become arrays and objects, one row group at a time.

use std::collections::HashSet;

use parquet::basic::{Compression, LogicalType};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Columns};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::json::NUMBER;
use super::pages::Checked;
use super::{NO_TEXT, Row};
use crate::contain::contain;
use crate::{Error, Place, Result};

/// Why a string in a row read here is invalid.
const BYTES: &str = "bytes that are not UTF-8";
/// Likewise for a date or time, whose words follow the mark: it is neither text nor a number, and
/// whether it has a zone is not among the values.
pub(super) const TIME: &str = "a date or time";
/// Likewise for a decimal that the parquet crate cannot format: it panics.
const DECIMAL: &str = "a decimal number that its type does not allow";

/// Iterator over the rows of one file.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    /// Whether each column holds times.
    times: Vec<bool>,
    row: usize,
    broken: bool,
}

impl ParquetRows {
    pub(super) fn open<C: ChunkReader + 'static>(file: &str, whole: C) -> Result<Self> {
        let open = || {
            let reader =
                SerializedFileReader::new(whole).map_err(|e| Opening::Damaged(e.to_string()))?;
            supported(reader.metadata())?;
            let schema = reader.metadata().file_metadata().schema();
            let times = schema.get_fields().iter().map(|column| is_time(column));
            let times: Vec<bool> = times.collect();
            let reader = Box::new(Checked(reader)) as Box<dyn FileReader>;
            Ok((RowIter::from_file_into(reader), times))
        };
        let opened = contain(open)
            .map_err(Opening::Damaged)
            .and_then(|opened| opened);
        let (rows, times) = opened.map_err(|e| match e {
            Opening::Damaged(e) => Error::file(file, format!("not Parquet: {e}")),
            Opening::Unsupported(what) => Error::file(file, what),
        })?;
        Ok(Self {
            rows,
            times,
            row: 0,
            broken: false,
        })
    }

    pub(super) fn next(&mut self, file: &str) -> Option<Result<Row>> {
        if self.broken {
            return None;
        }
        let row = match contain(|| self.rows.next()) {
            Ok(row) => row?.map_err(|e| e.to_string()),
            Err(panic) => Err(panic),
        };
        self.row += 1;
        let place = Place {
            file: file.to_owned(),
            line: self.row,
        };
        Some(match row {
            Ok(columns) => {
                let mut no_text = None;
                let value = columns_of(&columns, &self.times, &mut no_text);
                Ok(Row {
                    no_text,
                    ..Row::new(place, value)
                })
            }
            Err(e) => {
                self.broken = true; // what follows a damaged page is not trustworthy
                Err(Error::broken(&place, format!("damaged Parquet: {e}")))
            }
        })
    }
}

enum Opening {
    Damaged(String),
    Unsupported(String),
}

/// Refuses two columns of one name and unsupported compression (LZO) before any page is read.
fn supported(file: &ParquetMetaData) -> std::result::Result<(), Opening> {
    if let Some(name) = twice(file.file_metadata().schema()) {
        let name = name.escape_debug();
        return Err(Opening::Unsupported(format!(
            "two columns are called `{name}`"
        )));
    }
    for column in file.row_groups().iter().flat_map(|group| group.columns()) {
        if let Compression::LZO = column.compression() {
            return Err(Opening::Unsupported(format!(
                "the column `{}` is compressed with LZO, which is not supported",
                column.column_path().string().escape_debug()
            )));
        }
    }
    Ok(())
}

/// The name of two fields in one group, at any depth.
fn twice(group: &Type) -> Option<&str> {
    let mut seen = HashSet::new();
    for field in group.get_fields() {
        if !seen.insert(field.name()) {
            return Some(field.name());
        }
    }
    let groups = group.get_fields().iter().filter(|field| field.is_group());
    groups.map(|field| twice(field)).find_map(|name| name)
}

/// Whether a column's numbers are times: the parquet crate hands on those in nanoseconds as whole
/// numbers.
fn is_time(column: &Type) -> bool {
    let kind = column.get_basic_info().logical_type_ref();
    matches!(kind, Some(LogicalType::Time(_) | LogicalType::Timestamp(_)))
}

/// A row's columns; NaN becomes null, which is pandas' meaning of it.
fn columns_of(row: &Columns, times: &[bool], no_text: &mut Option<&'static str>) -> Value {
    let columns = row.get_column_iter().zip(times);
    let columns = columns.map(|((name, field), is_time)| {
        let value = match field {
            Field::Double(x) if x.is_nan() => Value::Null,
            Field::Float(x) if x.is_nan() => Value::Null,
            Field::Float16(x) if x.is_nan() => Value::Null,
            Field::Long(_) if *is_time => time(no_text),
            field => value(field, no_text),
        };
        (name.clone(), value)
    });
    Value::Object(columns.collect())
}

fn object(row: &Columns, no_text: &mut Option<&'static str>) -> Value {
    Value::Object(
        row.get_column_iter()
            .map(|(name, field)| (name.clone(), value(field, no_text)))
            .collect(),
    )
}

fn value(field: &Field, no_text: &mut Option<&'static str>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::Bool(*x),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float16(x) => float(x.to_f64(), no_text),
        // converted to f64 as pyarrow does: 0.1 is 0.10000000149011612
        Field::Float(x) => float(f64::from(*x), no_text),
        Field::Double(x) => float(*x, no_text),
        Field::Str(x) => Value::String(x.clone()),
        // Old writers do not annotate text; other binary columns (images, audio) matter only if
        // they are read.
        Field::Bytes(x) => Value::String(match x.as_utf8() {
            Ok(text) => text.to_owned(),
            Err(_) => {
                *no_text = Some(BYTES);
                NO_TEXT.to_string()
            }
        }),
        Field::Group(row) => object(row, no_text),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|x| value(x, no_text)).collect())
        }
        Field::MapInternal(map) => {
            let mut out = Map::new();
            for (k, v) in map.entries() {
                let key = match value(k, no_text) {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                out.insert(key, value(v, no_text));
            }
            Value::Object(out)
        }
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => time(no_text),
        Field::Decimal(_) => Value::String(contain(|| field.to_string()).unwrap_or_else(|_| {
            *no_text = Some(DECIMAL);
            NO_TEXT.to_string()
        })),
    }
}

/// The mark for a date or time. It is in many files' columns that nobody reads, so another reason
/// goes before it.
fn time(no_text: &mut Option<&'static str>) -> Value {
    no_text.get_or_insert(TIME);
    format!("{NO_TEXT}{TIME}").into()
}

/// A float; NaN and infinities are marked as in the JSON reader.
fn float(x: f64, no_text: &mut Option<&'static str>) -> Value {
    if x.is_finite() {
        return x.into();
    }
    if no_text.is_none_or(|why| why == TIME) {
        *no_text = Some(NUMBER);
    }
    format!("{NO_TEXT}{x}").into()
}
