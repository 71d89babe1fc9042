//! CSV and TSV with a header: each record is an example whose keys are the header's names, and
//! every value is text.

use std::io::{BufRead, Read};

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use super::Row;
use crate::{Error, Place, Result};

/// The records of one file.
pub(super) struct Table {
    reader: csv::Reader<Tail>,
    header: Vec<String>,
    record: ByteRecord,
    crlf: bool,
    ended: bool,
}

/// The input, with the last byte of it that is no line end.
struct Tail {
    input: Box<dyn BufRead + Send>,
    last: u8,
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        let text = buffer[..count].iter().rev();
        if let Some(last) = text.copied().find(|b| !b.is_ascii_whitespace()) {
            self.last = last;
        }
        Ok(count)
    }
}

/// How a table is written.
pub(super) struct Style {
    /// What stands between values.
    delimiter: u8,
    /// Lines end with CR LF: the csv crate then counts a record's first line before the LF.
    crlf: bool,
}

/// How the table in a file is written, from its name and first line, where the name says that it is
/// one: a tab between values in `.tsv`; in `.csv` a comma, or what spreadsheets write where the
/// comma is the decimal point.
pub(super) fn style(name: &str, head: &[u8]) -> Option<Style> {
    let name = name.to_ascii_lowercase();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let delimiter = match (name.ends_with(".tsv"), name.ends_with(".csv")) {
        (true, _) => b'\t',
        (_, true) => {
            let known = [b',', b';', b'\t'];
            let first = known.into_iter().find(|d| line.contains(d));
            first.unwrap_or(b',')
        }
        _ => return None,
    };
    Some(Style {
        delimiter,
        crlf: line.ends_with(b"\r"),
    })
}

impl Table {
    pub(super) fn open(file: &str, input: Box<dyn BufRead + Send>, style: &Style) -> Result<Self> {
        let mut reader = ReaderBuilder::new()
            .delimiter(style.delimiter)
            .from_reader(Tail { input, last: b'\n' });
        let names = reader
            .byte_headers()
            .map_err(|e| Error::file(file, format!("its header cannot be read: {e}")))?;
        let mut header: Vec<String> = Vec::new();
        for name in names {
            let name = std::str::from_utf8(name)
                .map_err(|_| Error::file(file, "its header is not UTF-8"))?
                .trim();
            if header.iter().any(|other| other == name) {
                let what = format!("two columns are called `{}`", name.escape_debug());
                return Err(Error::file(file, what));
            }
            header.push(name.to_owned());
        }
        Ok(Self {
            reader,
            header,
            record: ByteRecord::new(),
            crlf: style.crlf,
            ended: false,
        })
    }

    pub(super) fn next(&mut self, file: &str) -> Option<Result<Row>> {
        if self.ended {
            return None;
        }
        let within_quotes = self
            .record
            .iter()
            .next_back()
            .is_some_and(|v| v.contains(&b'\n'));
        let answer = self.reader.read_byte_record(&mut self.record);
        let line = self.record.position().map_or(0, |p| p.line());
        let place = Place {
            file: file.to_owned(),
            line: usize::try_from(line).unwrap_or(usize::MAX) + usize::from(self.crlf),
        };
        let error = match answer {
            Ok(true) => return Some(self.row(place)),
            Ok(false) => {
                self.ended = true;
                let open = within_quotes && self.reader.get_ref().last != b'"';
                return open.then(|| {
                    let what = "a quote that is never closed took the rest of the file";
                    Err(Error::broken(&place, what))
                });
            }
            Err(error) => error,
        };
        if let ErrorKind::UnequalLengths { len, .. } = error.kind() {
            let what = format!("{len} values, but the header has {}", self.header.len());
            return Some(Err(Error::example(&place, what)));
        }
        self.ended = true;
        Some(Err(match error.into_kind() {
            ErrorKind::Io(source) => Error::io(file, source),
            other => Error::broken(&place, format!("not CSV: {other:?}")),
        }))
    }

    fn row(&self, place: Place) -> Result<Row> {
        let mut map = Map::new();
        for (name, value) in self.header.iter().zip(&self.record) {
            let value = std::str::from_utf8(value).map_err(|_| {
                let what = format!("`{}` is not UTF-8", name.escape_debug());
                Error::example(&place, what)
            })?;
            map.insert(name.clone(), Value::String(value.to_owned()));
        }
        Ok(Row::new(place, Value::Object(map)))
    }
}
