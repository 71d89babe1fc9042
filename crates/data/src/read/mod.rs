//! Data sets as records: JSON Lines, a JSON array, or Parquet, told apart by their first bytes; one record at a
//! time, so that a large file is never held as text.

mod array;
mod conversation;
mod pages;
mod rewards;
mod rows;
mod shapes;
mod values;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use parquet::file::reader::ChunkReader;
use serde_json::Value;

use crate::{Error, Place, Record, Result};
pub use shapes::Format;

/// Which assistant turns of a conversation become records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turns {
    /// The last one; what came before is its prompt.
    #[default]
    Last,
    /// Each one, with everything before it as its prompt.
    Every,
}

/// What happens to GSM8K's calculator annotations (`<<48/2=24>>`) in responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calculator {
    /// They stay.
    #[default]
    Keep,
    /// They go.
    Remove,
}

/// How to read a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The shape of the examples; `Auto` tells it from each example's keys.
    pub format: Format,
    /// Which turns of a conversation are trained.
    pub turns: Turns,
    /// Calculator annotations.
    pub calculator: Calculator,
    /// Stop after this many records.
    pub limit: Option<usize>,
}

/// All records of a file. See [`Reader`] for one at a time.
///
/// # Errors
/// The first line that is not an example, as `file:line: the rule it breaks`; a file that cannot be read, or holds
/// no example.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Vec<Record>> {
    collect(Reader::open(path, options)?)
}

/// All records of a file's bytes; `name` stands for the file in errors.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Vec<Record>> {
    collect(Reader::from_bytes(name, bytes.to_vec(), options)?)
}

fn collect(mut reader: Reader) -> Result<Vec<Record>> {
    let records = reader.by_ref().collect::<Result<Vec<_>>>()?;
    if records.is_empty() && reader.options.limit != Some(0) {
        return Err(Error::file(reader.file, "no example in it"));
    }
    Ok(records)
}

/// The records of a file, one at a time. An error does not end it: the next call goes on with the next example, so
/// a caller may report and skip.
pub struct Reader {
    options: ReadOptions,
    file: String,
    source: Source,
    ready: VecDeque<Record>,
    given: usize,
}

enum Source {
    Lines {
        input: Box<dyn BufRead + Send>,
        line: usize,
    },
    Elements(array::Elements),
    Rows(rows::Rows),
    Ended,
}

impl Reader {
    /// Opens a file and tells its kind.
    ///
    /// # Errors
    /// When it cannot be read, or is Parquet that cannot be understood.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Error::io(&name, e))?;
        if path.is_dir() {
            return Err(Error::file(name, "is a folder, not a data file"));
        }
        let again = file.try_clone().map_err(|e| Error::io(&name, e))?;
        Self::new(
            name,
            BufReader::with_capacity(1 << 16, file),
            again,
            options,
        )
    }

    /// Reads bytes in memory; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>, options: &ReadOptions) -> Result<Self> {
        let rows = bytes::Bytes::from(bytes.clone());
        Self::new(name.to_owned(), Cursor::new(bytes), rows, options)
    }

    fn new<I, C>(file: String, mut input: I, whole: C, options: &ReadOptions) -> Result<Self>
    where
        I: BufRead + Seek + Send + 'static,
        C: ChunkReader + 'static,
    {
        let source = match first_bytes(&mut input).map_err(|e| Error::io(&file, e))? {
            Kind::Parquet => Source::Rows(rows::Rows::open(&file, whole)?),
            Kind::Array => {
                let mut text = Vec::new();
                input
                    .read_to_end(&mut text)
                    .map_err(|e| Error::io(&file, e))?;
                Source::Elements(array::Elements::new(text))
            }
            Kind::Lines => Source::Lines {
                input: Box::new(input),
                line: 0,
            },
        };
        Ok(Self {
            options: *options,
            file,
            source,
            ready: VecDeque::new(),
            given: 0,
        })
    }

    /// The next example's place and value, whatever the source.
    fn next_value(&mut self) -> Option<Result<(Place, Value)>> {
        match &mut self.source {
            Source::Lines { input, line } => {
                let answer = next_line(input, line, &self.file);
                if let Some(Err(Error::Io { .. })) = answer {
                    self.source = Source::Ended;
                }
                answer
            }
            Source::Elements(elements) => elements.next(&self.file),
            Source::Rows(rows) => rows.next(&self.file),
            Source::Ended => None,
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.options.limit.is_some_and(|limit| self.given >= limit) {
            return None;
        }
        while self.ready.is_empty() {
            let records = self
                .next_value()?
                .and_then(|(place, value)| shapes::records(&place, &value, &self.options));
            match records {
                Ok(records) => self.ready.extend(records),
                Err(error) => return Some(Err(error)),
            }
        }
        self.given += 1;
        self.ready.pop_front().map(Ok)
    }
}

enum Kind {
    Lines,
    Array,
    Parquet,
}

/// Tells the kind from the first bytes and puts the input behind a byte-order mark, if there is one.
fn first_bytes<I: Read + Seek>(input: &mut I) -> std::io::Result<Kind> {
    let mut head = Vec::new();
    input.by_ref().take(256).read_to_end(&mut head)?;
    let mark = if head.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    input.seek(std::io::SeekFrom::Start(mark as u64))?;
    if head.starts_with(b"PAR1") {
        return Ok(Kind::Parquet);
    }
    match head[mark..].iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'[') => Ok(Kind::Array),
        _ => Ok(Kind::Lines),
    }
}

/// The next line that is not blank.
fn next_line(
    input: &mut dyn BufRead,
    line: &mut usize,
    file: &str,
) -> Option<Result<(Place, Value)>> {
    let mut text = Vec::new();
    loop {
        text.clear();
        match input.read_until(b'\n', &mut text) {
            Ok(0) => return None,
            Ok(_) => *line += 1,
            Err(e) => return Some(Err(Error::io(file, e))),
        }
        if !text.trim_ascii().is_empty() {
            let place = Place {
                file: file.to_owned(),
                line: *line,
            };
            return Some(json(&place, &text).map(|value| (place, value)));
        }
    }
}

/// One example's JSON.
fn json(place: &Place, text: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(text).map_err(|e| {
        Error::example(
            place,
            format!("not UTF-8: a wrong byte at column {}", e.valid_up_to() + 1),
        )
    })?;
    serde_json::from_str(text.trim()).map_err(|e| {
        let said = e.to_string();
        let said = said.split(" at line ").next().unwrap_or(&said);
        let hint = if e.is_eof() {
            "; one whole JSON object is expected on each line"
        } else {
            ""
        };
        Error::example(
            place,
            format!("not JSON: {said} at column {}{hint}", e.column()),
        )
    })
}
