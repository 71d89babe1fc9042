//! Parquet rows as JSON values, through the crate's record interface: nested lists and groups
//! become arrays and objects, one row group at a time.

use std::collections::HashSet;

use parquet::basic::{Compression, ConvertedType, LogicalType, Type as Physical};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Columns};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Value};

use super::json::NUMBER;
use super::pages::Checked;
use super::{NO_TEXT, Row};
use crate::contain::contain;
use crate::{Error, Place, Result};

/// Why a string in a row read here is invalid.
const BYTES: &str = "bytes that are not UTF-8";
/// Likewise for a decimal or a time that the parquet crate cannot format: it panics.
const BEYOND: &str = "a time beyond the calendar, or a decimal beyond its type";
/// Likewise for a time that Python's `datetime` does not keep.
const NANOS: &str = "a time of nanoseconds";

/// Iterator over the rows of one file.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    /// Of each column.
    times: Vec<Times>,
    row: usize,
    broken: bool,
}

impl ParquetRows {
    pub(super) fn open<C: ChunkReader + 'static>(file: &str, whole: C) -> Result<Self> {
        let open = || {
            let reader =
                SerializedFileReader::new(whole).map_err(|e| Opening::Damaged(e.to_string()))?;
            supported(reader.metadata())?;
            let times = times(reader.metadata().file_metadata().schema_descr());
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
    let mut groups = group.get_fields().iter().filter(|field| field.is_group());
    groups.find_map(|field| twice(field))
}

/// What the parquet crate does not say of the times in a column's values.
#[derive(Clone, Copy)]
struct Times {
    /// They are times of the zone UTC; without a zone otherwise.
    utc: bool,
    /// Whole numbers are times, in nanoseconds.
    nanos: bool,
}

fn times(schema: &SchemaDescriptor) -> Vec<Times> {
    let unknown = Times {
        utc: true,
        nanos: true,
    };
    let mut times = vec![unknown; schema.root_schema().get_fields().len()];
    for (i, leaf) in schema.columns().iter().enumerate() {
        let of = &mut times[schema.get_column_root_idx(i)];
        let (physical, converted) = (leaf.physical_type(), leaf.converted_type());
        if let Some(LogicalType::Timestamp(kind)) = leaf.logical_type_ref() {
            of.utc &= kind.is_adjusted_to_u_t_c;
            continue;
        }
        // as in pyarrow: files of this older kind have no zones
        let older = [
            ConvertedType::TIMESTAMP_MILLIS,
            ConvertedType::TIMESTAMP_MICROS,
        ];
        of.utc &= physical != Physical::INT96 && !older.contains(&converted);
        of.nanos &= physical != Physical::INT64 || older.contains(&converted);
    }
    times
}

/// A row's columns; NaN becomes null, which is pandas' meaning of it.
fn columns_of(row: &Columns, times: &[Times], no_text: &mut Option<&'static str>) -> Value {
    let columns = row.get_column_iter().zip(times);
    let columns = columns.map(|((name, field), times)| {
        let value = match field {
            Field::Double(x) if x.is_nan() => Value::Null,
            Field::Float(x) if x.is_nan() => Value::Null,
            Field::Float16(x) if x.is_nan() => Value::Null,
            field => value(field, *times, no_text),
        };
        (name.clone(), value)
    });
    Value::Object(columns.collect())
}

fn object(row: &Columns, times: Times, no_text: &mut Option<&'static str>) -> Value {
    Value::Object(
        row.get_column_iter()
            .map(|(name, field)| (name.clone(), value(field, times, no_text)))
            .collect(),
    )
}

fn value(field: &Field, times: Times, no_text: &mut Option<&'static str>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::Bool(*x),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) if times.nanos && x % 1000 == 0 => {
            printed(&Field::TimestampMicros(x / 1000), times, no_text)
        }
        Field::Long(_) if times.nanos => {
            *no_text = Some(NANOS);
            NO_TEXT.to_string().into()
        }
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
        Field::Group(row) => object(row, times, no_text),
        Field::ListInternal(list) => {
            let items = list.elements().iter();
            items.map(|x| value(x, times, no_text)).collect()
        }
        Field::MapInternal(map) => {
            let mut out = Map::new();
            for (k, v) in map.entries() {
                let key = match value(k, times, no_text) {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                out.insert(key, value(v, times, no_text));
            }
            Value::Object(out)
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => printed(field, times, no_text),
    }
}

/// A decimal, date or time as Python's `str` prints what pyarrow makes of it.
fn printed(field: &Field, times: Times, no_text: &mut Option<&'static str>) -> Value {
    let Ok(text) = contain(|| field.to_string()) else {
        *no_text = Some(BEYOND);
        return NO_TEXT.to_string().into();
    };
    if let Field::Decimal(_) | Field::Date(_) = field {
        return text.into();
    }
    // `2024-07-26 12:00:00.500 +00:00`: always with a fraction, of a time of day without a zone
    let (time, zone) = match text.strip_suffix(" +00:00") {
        Some(time) if times.utc => (time, "+00:00"),
        Some(time) => (time, ""),
        None => (text.as_str(), ""),
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let fraction = match fraction.trim_end_matches('0') {
        "" => String::new(),
        _ => format!(".{fraction:0<6}"),
    };
    format!("{whole}{fraction}{zone}").into()
}

/// A float; NaN and infinities are marked as in the JSON reader.
fn float(x: f64, no_text: &mut Option<&'static str>) -> Value {
    if x.is_finite() {
        return x.into();
    }
    no_text.get_or_insert(NUMBER);
    format!("{NO_TEXT}{x}").into()
}
