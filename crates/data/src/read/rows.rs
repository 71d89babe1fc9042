//! Parquet rows as JSON values, through the crate's record interface: nested lists and groups become arrays and
//! objects, row group by row group.

use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::pages::Checked;
use crate::contain::contain;
use crate::{Error, Place, Result};

/// The rows of one file.
pub(super) struct Rows {
    rows: RowIter<'static>,
    row: usize,
    broken: bool,
}

impl Rows {
    pub(super) fn open<C: ChunkReader + 'static>(file: &str, whole: C) -> Result<Self> {
        let open = || {
            let reader = SerializedFileReader::new(whole).map_err(|e| e.to_string())?;
            Ok(RowIter::from_file_into(
                Box::new(Checked(reader)) as Box<dyn FileReader>
            ))
        };
        let rows = contain(open).and_then(|rows| rows);
        Ok(Self {
            rows: rows.map_err(|e| Error::file(file, format!("not Parquet: {e}")))?,
            row: 0,
            broken: false,
        })
    }

    pub(super) fn next(&mut self, file: &str) -> Option<Result<(Place, Value)>> {
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
            Ok(row) => Ok((place, object(&row))),
            Err(e) => {
                self.broken = true; // what follows a damaged page is not trustworthy
                Err(Error::example(&place, format!("damaged Parquet: {e}")))
            }
        })
    }
}

fn object(row: &Row) -> Value {
    Value::Object(
        row.get_column_iter()
            .map(|(name, field)| (name.clone(), value(field)))
            .collect(),
    )
}

fn value(field: &Field) -> Value {
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
        Field::Float(x) => (*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(x) => Value::String(x.clone()),
        // Old writers leave text without its annotation.
        Field::Bytes(x) => x
            .as_utf8()
            .map_or(Value::Null, |text| Value::String(text.to_owned())),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(k, v)| {
                    (
                        value(k)
                            .as_str()
                            .map_or_else(|| k.to_string(), str::to_owned),
                        value(v),
                    )
                })
                .collect::<Map<_, _>>(),
        ),
        other => Value::String(other.to_string()),
    }
}
