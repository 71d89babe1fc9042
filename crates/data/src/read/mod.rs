//! Readers of data sets: records one at a time, so that a large file is never in memory as text,
//! with counts of what was left out or not read.

mod array;
mod columns;
mod conversation;
mod first;
mod format;
mod json;
mod left;
mod pages;
mod rewards;
mod rows;
mod shapes;
mod source;
mod table;
mod unread;
mod values;

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::{Counts, Error, Place, Record, Result};
pub use columns::Columns;
use columns::Renamed;
pub use first::column_names;
pub use format::Format;
pub use left::Left;
pub(crate) use left::is_none;
use source::Source;

/// Placeholder in a row's strings for invalid characters, and before a number that cannot be
/// represented; [`Row::no_text`] then says why.
const NO_TEXT: char = '\u{ffff}';

/// One row of a file, before its format is known.
struct Row {
    place: Place,
    value: Value,
    /// Why a string with [`NO_TEXT`] in it is invalid: an error if it is read.
    no_text: Option<&'static str>,
}

impl Row {
    fn new(place: Place, value: Value) -> Self {
        Self {
            place,
            value,
            no_text: None,
        }
    }
}

/// Which assistant turns of a conversation become records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turns {
    /// The last one; the messages before it are its prompt.
    #[default]
    Last,
    /// Each one, with all messages before it as its prompt.
    Every,
}

/// What to do with GSM8K's calculator annotations (`<<48/2=24>>`) in responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calculator {
    /// Keep them.
    #[default]
    Keep,
    /// Remove them.
    Remove,
}

/// What to do with an invalid row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadRows {
    /// Stop with an error that names it.
    #[default]
    Error,
    /// Leave it out and count it in [`Left`].
    Drop,
}

/// Options for reading a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Format of the examples; `Auto` detects it from each example's keys.
    pub format: Format,
    /// Columns that have names of their own.
    pub columns: Columns,
    /// Turns of a conversation to train.
    pub turns: Turns,
    /// Treatment of calculator annotations.
    pub calculator: Calculator,
    /// Treatment of invalid rows.
    pub bad_rows: BadRows,
    /// Maximum number of records.
    pub limit: Option<usize>,
}

/// Reads all records of a file, with counts of what was left out. See [`Reader`] for one at a time.
///
/// # Errors
/// The first invalid row, as `file:line: the rule it breaks`, unless such rows are dropped; a file
/// that is unreadable, truncated, or holds no example; [`Error::NothingLeft`] if everything in it
/// was left out.
pub fn read(path: &Path, options: &ReadOptions) -> Result<(Vec<Record>, Left)> {
    collect(Reader::open(path, options)?)
}

/// Reads all records of bytes in memory; `name` stands for the file in errors, and its extension
/// marks CSV.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<(Vec<Record>, Left)> {
    collect(Reader::from_bytes(name, bytes.to_vec(), options)?)
}

fn collect(mut reader: Reader) -> Result<(Vec<Record>, Left)> {
    let records = reader.by_ref().collect::<Result<Vec<_>>>()?;
    if records.is_empty() && reader.options.limit != Some(0) {
        return Err(match reader.left.rows() {
            0 => Error::file(reader.file, "no example in it"),
            read => Error::NothingLeft(Box::new(Counts {
                read,
                left: reader.left,
                ..Counts::default()
            })),
        });
    }
    Ok((records, reader.left))
}

/// Iterator over the rows of a file as JSON, whatever their keys: for rows of another meaning than
/// an example. A string of which U+FFFF is a part, and a number spelt after it, is a value that
/// cannot be represented. After an [`Error::Example`] the next call continues with the next row.
pub struct Rows {
    file: String,
    source: Source,
}

impl Rows {
    /// Opens a file and detects its type.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let (file, source) = opened(path, &Columns::default())?;
        Ok(Self { file, source })
    }
}

impl Iterator for Rows {
    type Item = Result<(Place, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.source.next(&self.file)?;
        Some(row.map(|row| (row.place, row.value)))
    }
}

fn opened(path: &Path, columns: &Columns) -> Result<(String, Source)> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::io(&name, e))?;
    if path.is_dir() {
        return Err(Error::file(name, "is a folder, not a data file"));
    }
    let source = Source::of_file(&name, file, columns)?;
    Ok((name, source))
}

/// Iterator over the records of a file. After an [`Error::Example`] the next call continues with
/// the next row, so a caller may report and skip.
pub struct Reader {
    options: ReadOptions,
    file: String,
    source: Source,
    renamed: Renamed,
    ready: VecDeque<Record>,
    given: usize,
    left: Left,
}

impl Reader {
    /// Opens a file and detects its type.
    ///
    /// # Errors
    /// A file that is unreadable, of an unsupported type, or invalid Parquet.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self> {
        let (name, source) = opened(path, &options.columns)?;
        Ok(Self::new(name, source, options))
    }

    /// Reads bytes in memory; `name` stands for the file in errors, and its extension marks CSV.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>, options: &ReadOptions) -> Result<Self> {
        let source = Source::of_bytes(name, bytes, &options.columns)?;
        Ok(Self::new(name.to_owned(), source, options))
    }

    fn new(file: String, source: Source, options: &ReadOptions) -> Self {
        Self {
            options: options.clone(),
            file,
            source,
            renamed: Renamed::new(&options.columns),
            ready: VecDeque::new(),
            given: 0,
            left: Left::default(),
        }
    }

    /// Counts of what was left out so far.
    pub fn left(&self) -> &Left {
        &self.left
    }

    /// The records of one row; counts in `left` what it leaves out.
    fn records(&mut self, row: &mut Row) -> Result<Vec<Record>> {
        let mut left = Left::default();
        let columns = &self.options.columns;
        self.renamed
            .row(columns, &row.place, &mut row.value, &mut left)?;
        let records = shapes::records(&row.place, &row.value, &self.options, &mut left)?;
        if let Some(why) = row.no_text {
            for record in &records {
                text_alone(row, record, why)?;
            }
        }
        if records.is_empty() {
            (left.untrained, left.untrained_rows) = (0, 1);
        }
        self.left.add(left);
        Ok(records)
    }
}

/// The error for a value that cannot be represented as in the file, under these keys.
fn unkept(place: &Place, keys: &str, why: &'static str, value: &Value) -> Error {
    if why != json::NUMBER {
        let what = format!("{keys} has {why}, which no text can have");
        return Error::example(place, what);
    }
    let text = value.to_string();
    let (_, number) = text.split_once(NO_TEXT).unwrap_or_default();
    let number = number.split('"').next().unwrap_or_default();
    let what =
        format!("{keys} has the number {number}, which 64 bits do not keep: write it as text");
    Error::example(place, what)
}

/// Refuses a record that uses an invalid string of its row.
fn text_alone(row: &Row, record: &Record, why: &'static str) -> Result<()> {
    let spelt = |value: serde_json::Result<String>| value.is_ok_and(|v| v.contains(NO_TEXT));
    if !spelt(serde_json::to_string(record)) {
        return Ok(());
    }
    let map = row.value.as_object().into_iter().flatten();
    let (keys, values): (Vec<String>, Vec<&Value>) = map
        .filter(|(_, value)| spelt(serde_json::to_string(value)))
        .map(|(key, value)| (format!("`{}`", key.escape_debug()), value))
        .unzip();
    let first = values.first().copied().unwrap_or(&row.value);
    Err(unkept(&row.place, &keys.join(" or "), why, first))
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.options.limit.is_some_and(|limit| self.given >= limit) {
            return None;
        }
        while self.ready.is_empty() {
            let Some(row) = self.source.next(&self.file) else {
                return self.renamed.end(&self.file).map(Err);
            };
            match row.and_then(|mut row| self.records(&mut row)) {
                Ok(records) => self.ready.extend(records),
                Err(error @ Error::Example { .. }) if self.options.bad_rows == BadRows::Drop => {
                    self.left.bad_rows += 1;
                    self.left.first_bad.get_or_insert_with(|| error.to_string());
                }
                Err(error) => return Some(Err(error)),
            }
        }
        self.given += 1;
        self.ready.pop_front().map(Ok)
    }
}
