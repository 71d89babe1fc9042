//! CSV and TSV with a header: each record is an example whose keys are the header's names, and
//! every value is a string.

use std::io::{BufRead, Read};

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use super::Row;
use super::columns::Columns;
use super::json::cell;
use crate::{Error, Place, Result};

/// Iterator over the records of one file.
pub(super) struct Table {
    reader: csv::Reader<Tail>,
    header: Vec<String>,
    /// Whether the column of that name may hold messages, as JSON in a cell.
    may_hold: Vec<bool>,
    record: ByteRecord,
    ends: LineEnds,
    /// Records read so far.
    rows: usize,
    ended: bool,
}

/// An input that follows the quotes around its values, as the csv crate does, and remembers whether
/// its end was reached.
struct Tail {
    input: Box<dyn BufRead + Send>,
    delimiter: u8,
    at: At,
    ended: bool,
}

/// What stands before a byte of a table.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Nothing of a value.
    Start,
    /// A value without quotes, or what follows its closing one.
    Bare,
    /// A value whose quote is open.
    Quoted,
    /// A quote within such a value: its end, or half of a quote in its text.
    Quote,
}

impl At {
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Start | Self::Quote, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (_, b'\r' | b'\n') => Self::Start,
            (_, byte) if byte == delimiter => Self::Start,
            _ => Self::Bare,
        }
    }
}

impl Tail {
    /// Whether the input ended within quotes.
    fn unclosed(&self) -> bool {
        self.ended && self.at == At::Quoted
    }
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        for byte in &buffer[..count] {
            self.at = self.at.after(*byte, self.delimiter);
        }
        self.ended |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

/// Dialect of a table.
pub(super) struct Style {
    /// Separator between values.
    delimiter: u8,
    ends: LineEnds,
}

/// How lines end.
#[derive(Clone, Copy, PartialEq)]
enum LineEnds {
    Lf,
    /// Before the LF, on which the csv crate counts a record's first line.
    CrLf,
    /// CR alone, on which the csv crate counts no lines.
    Cr,
}

/// What is wrong with a table that ends within quotes: how much of it they took in is unknown.
const UNCLOSED: &str = "a quote that is never closed took the rest of the file";

/// What columns that may hold a message or a list of messages, as JSON in a cell, are read as.
/// (Columns that only hold messages are parsed in any format.)
const MESSAGES: [&str; 9] = [
    "prompt",
    "question",
    "response",
    "completion",
    "answer",
    "chosen",
    "rejected",
    "real",
    "generated",
];

/// Detects a table's dialect from the file's name and first line: tabs in `.tsv`; in `.csv` commas,
/// or else the semicolons or tabs that spreadsheets write where the comma is the decimal point.
/// `None` for other names.
pub(super) fn style(name: &str, head: &[u8]) -> Option<Style> {
    let name = name.to_ascii_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    let line = head.split(|b| b"\r\n".contains(b)).next();
    let line = line.unwrap_or_default();
    let delimiter = match (name.ends_with(".tsv"), name.ends_with(".csv")) {
        (true, _) => b'\t',
        (_, true) => {
            // separators within quotes belong to a name
            let mut quoted = false;
            let bare = line.iter().filter(|&&b| {
                quoted ^= b == b'"';
                !quoted
            });
            let bare: Vec<u8> = bare.copied().collect();
            let known = [b',', b';', b'\t'];
            let first = known.into_iter().find(|d| bare.contains(d));
            first.unwrap_or(b',')
        }
        _ => return None,
    };
    let rest = &head[line.len()..];
    let ends = match (rest.starts_with(b"\r\n"), rest.starts_with(b"\r")) {
        (true, _) => LineEnds::CrLf,
        (false, true) => LineEnds::Cr,
        (false, false) => LineEnds::Lf,
    };
    Some(Style { delimiter, ends })
}

impl Table {
    pub(super) fn open(
        file: &str,
        input: Box<dyn BufRead + Send>,
        style: &Style,
        columns: &Columns,
    ) -> Result<Self> {
        let mut reader = ReaderBuilder::new()
            .delimiter(style.delimiter)
            .from_reader(Tail {
                input,
                delimiter: style.delimiter,
                at: At::Start,
                ended: false,
            });
        let names = reader
            .byte_headers()
            .map_err(|e| Error::file(file, format!("its header cannot be read: {e}")))?
            .clone();
        if reader.get_ref().unclosed() {
            return Err(Error::file(file, format!("its header: {UNCLOSED}")));
        }
        let mut header: Vec<String> = Vec::new();
        for name in &names {
            let name = std::str::from_utf8(name)
                .map_err(|_| Error::file(file, "its header is not UTF-8"))?
                .trim();
            if header.iter().any(|other| other == name) {
                let what = format!("two columns are called `{}`", name.escape_debug());
                return Err(Error::file(file, what));
            }
            header.push(name.to_owned());
        }
        let may_hold = |name: &String| MESSAGES.contains(&columns.read_as(name));
        Ok(Self {
            reader,
            may_hold: header.iter().map(may_hold).collect(),
            header,
            record: ByteRecord::new(),
            ends: style.ends,
            rows: 0,
            ended: false,
        })
    }

    pub(super) fn next(&mut self, file: &str) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        let answer = self.reader.read_byte_record(&mut self.record);
        self.rows += 1;
        let line = self.record.position().map_or(0, |p| p.line());
        let line = usize::try_from(line).unwrap_or(usize::MAX);
        let place = Place {
            file: file.to_owned(),
            line: match self.ends {
                LineEnds::Lf => line,
                LineEnds::CrLf => line.saturating_add(1),
                LineEnds::Cr => self.rows + 1,
            },
        };
        let tail = self.reader.get_ref();
        if tail.unclosed() {
            self.ended = true;
            return Some(Err(Error::broken(&place, UNCLOSED)));
        }
        let error = match answer {
            Ok(true) => return Some(self.row(place)),
            Ok(false) => {
                self.ended = true;
                return None;
            }
            Err(error) => error,
        };
        if let ErrorKind::UnequalLengths { len, .. } = error.kind() {
            let wanted = self.header.len();
            let what = format!("{len} values, but the header has {wanted}");
            // the input was read to its end for this record: no line end follows it
            if !tail.ended || *len as usize > wanted {
                return Some(Err(Error::example(&place, what)));
            }
            self.ended = true;
            let what = format!("{what}; the file breaks off here");
            return Some(Err(Error::broken(&place, what)));
        }
        self.ended = true;
        Some(Err(match error.into_kind() {
            ErrorKind::Io(source) => Error::io(file, source),
            other => Error::broken(&place, format!("not CSV: {other:?}")),
        }))
    }

    fn row(&self, place: Place) -> Result<Row> {
        let mut map = Map::new();
        let mut no_text = None;
        let columns = self.header.iter().zip(&self.may_hold);
        for ((name, &may_hold), value) in columns.zip(&self.record) {
            let value = std::str::from_utf8(value).map_err(|_| {
                let what = format!("`{}` is not UTF-8", name.escape_debug());
                Error::example(&place, what)
            })?;
            if may_hold && printed_by_python(value) {
                let what = format!("`{name}` holds messages as Python prints them, not as JSON");
                return Err(Error::example(&place, what));
            }
            let held = may_hold.then(|| cell(value));
            let value = match held.flatten() {
                Some((messages, why)) => {
                    no_text = no_text.or(why);
                    messages
                }
                None => Value::String(value.to_owned()),
            };
            map.insert(name.clone(), value);
        }
        Ok(Row {
            no_text,
            ..Row::new(place, Value::Object(map))
        })
    }
}

/// Whether a cell is Python's `str` of messages, as pandas writes a column of lists: its texts have
/// single quotes, so that it is no JSON.
fn printed_by_python(text: &str) -> bool {
    let text = text.trim_start();
    let inside = text.strip_prefix('[').unwrap_or(text).trim_start();
    let Some(first) = inside.strip_prefix("{'") else {
        return false;
    };
    let has = |keys: [&str; 2]| {
        let key = |key: &str| inside.contains(&format!("'{key}':"));
        keys.into_iter().any(key)
    };
    let begins = ["role", "from", "content", "value"];
    begins
        .iter()
        .any(|key| first.starts_with(&format!("{key}':")))
        && has(["role", "from"])
        && has(["content", "value"])
}
