//! Sources of rows: JSON Lines, a JSON array, CSV or TSV, each optionally compressed with gzip or
//! zstd, and Parquet. All but CSV and TSV are detected by their first bytes, not by the file's
//! name.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};

use flate2::bufread::GzDecoder;

use super::Row;
use super::array::Elements;
use super::columns::Columns;
use super::json::{json, last};
use super::rows::ParquetRows;
use super::table::{Table, style};
use crate::{Error, Place, Result};

/// Number of bytes read to detect a file's type.
const HEAD: u64 = 4096;

/// Iterator over the rows of one file.
pub(super) enum Source {
    /// One JSON object per line.
    Lines {
        input: Box<dyn BufRead + Send>,
        line: usize,
    },
    /// One JSON array.
    Elements(Elements),
    /// CSV or TSV.
    Table(Table),
    /// Parquet.
    Parquet(ParquetRows),
    /// The end.
    Ended,
}

/// Unsupported file types by their first bytes, with what to do about them.
const OTHERS: [(&[u8], &str); 8] = [
    (b"PARE", "an encrypted Parquet file"),
    (
        b"ARROW1",
        "an Arrow file; save it as Parquet (`to_parquet`)",
    ),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream; save it as Parquet (`to_parquet`)",
    ),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"\xfd7zXZ\0", "compressed with xz; unpack it"),
    (b"SQLite format 3\0", "an SQLite database"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    ),
];

impl Source {
    /// Opens a file on disk.
    pub(super) fn of_file(name: &str, mut file: File, columns: &Columns) -> Result<Self> {
        let io = |e| Error::io(name, e);
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD)
            .read_to_end(&mut head)
            .map_err(io)?;
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet(ParquetRows::open(name, file)?));
        }
        // no seeking: it may be a pipe
        let whole = Cursor::new(head).chain(file);
        let input = BufReader::with_capacity(1 << 16, whole);
        Self::of_stream(name, Box::new(input), columns)
    }

    /// Opens bytes in memory.
    pub(super) fn of_bytes(name: &str, bytes: Vec<u8>, columns: &Columns) -> Result<Self> {
        Self::of_stream(name, Box::new(Cursor::new(bytes)), columns)
    }

    fn of_stream(name: &str, input: Box<dyn BufRead + Send>, columns: &Columns) -> Result<Self> {
        let io = |e| Error::io(name, e);
        let (head, input) = peek(input).map_err(io)?;
        let unpacked: Box<dyn Read + Send> = if head.starts_with(b"\x1f\x8b") {
            Box::new(Gzip::new(input))
        } else if is_zstd(&head) {
            Box::new(zstd::Decoder::with_buffer(input).map_err(io)?)
        } else {
            return Self::of_plain(name, &head, input, columns);
        };
        let unpacked = Box::new(BufReader::with_capacity(1 << 16, unpacked));
        let (head, unpacked) = peek(unpacked).map_err(io)?;
        Self::of_plain(name, &head, unpacked, columns)
    }

    fn of_plain(
        name: &str,
        head: &[u8],
        mut input: Box<dyn BufRead + Send>,
        columns: &Columns,
    ) -> Result<Self> {
        let io = |e| Error::io(name, e);
        if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Error::file(name, format!("it is {what}")));
        }
        if head.starts_with(b"PAR1") {
            let mut whole = Vec::new();
            input.read_to_end(&mut whole).map_err(io)?;
            return Ok(Self::Parquet(ParquetRows::open(
                name,
                bytes::Bytes::from(whole),
            )?));
        }
        let head = match head.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) => {
                input.read_exact(&mut [0; 3]).map_err(io)?;
                rest
            }
            None => head,
        };
        if let Some(style) = style(name, head) {
            return Ok(Self::Table(Table::open(name, input, &style, columns)?));
        }
        if head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
            let mut text = Vec::new();
            input.read_to_end(&mut text).map_err(io)?;
            return Ok(Self::Elements(Elements::new(text)));
        }
        Ok(Self::Lines { input, line: 0 })
    }

    /// The next row. An [`Error::Example`] concerns one row; after any other error there are no
    /// more.
    pub(super) fn next(&mut self, file: &str) -> Option<Result<Row>> {
        let answer = match self {
            Self::Lines { input, line } => next_line(input, line, file),
            Self::Elements(elements) => elements.next(file),
            Self::Table(table) => table.next(file),
            Self::Parquet(rows) => rows.next(file),
            Self::Ended => None,
        };
        if !matches!(answer, Some(Ok(_) | Err(Error::Example { .. }))) {
            *self = Self::Ended;
        }
        answer
    }
}

/// Whether bytes begin a zstd file: with its magic number, or that of a skippable frame.
fn is_zstd(head: &[u8]) -> bool {
    let skipped = matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    skipped || head.starts_with(b"\x28\xb5\x2f\xfd")
}

/// Concatenated members of a gzip file; zero bytes after a member are padding, as in Python.
struct Gzip {
    member: Option<GzDecoder<Box<dyn BufRead + Send>>>,
}

impl Gzip {
    fn new(input: Box<dyn BufRead + Send>) -> Self {
        let member = Some(GzDecoder::new(input));
        Self { member }
    }
}

impl Read for Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(mut input) = self.member.take().map(GzDecoder::into_inner) else {
                break;
            };
            loop {
                let waiting = input.fill_buf()?;
                let zeros = waiting.iter().take_while(|b| **b == 0).count();
                let (all, padding) = (waiting.len(), zeros);
                input.consume(padding);
                if all > padding {
                    self.member = Some(GzDecoder::new(input));
                    break;
                }
                if all == 0 {
                    break;
                }
            }
        }
        Ok(0)
    }
}

/// Reads an input's first bytes and returns them with the input rewound.
fn peek(mut input: Box<dyn BufRead + Send>) -> std::io::Result<(Vec<u8>, Box<dyn BufRead + Send>)> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(input))))
}

/// The next line that is not blank.
fn next_line(input: &mut dyn BufRead, line: &mut usize, file: &str) -> Option<Result<Row>> {
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
            return Some(match text.ends_with(b"\n") {
                true => json(place, &text),
                false => last(place, &text),
            });
        }
    }
}
