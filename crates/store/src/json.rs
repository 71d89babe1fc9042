//! Typed JSON and JSON Lines: whole files atomically, logs by appending; errors name file and line.
//!
//! JSON has no NaN and no infinity: serde_json writes them as `null`, and reading `null` into a
//! number is an error.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{BoxError, Disk, Error, Result};

/// Reads one JSON value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| parse_error(path, e.line(), &e))
}

/// Reads one value per line. A last line without its line feed is an error here;
/// [`Appender::resume`] drops it.
pub fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read_text(path)?;
    if !text.is_empty() && !text.ends_with('\n') {
        let what = "the last line is cut short".to_owned();
        return Err(Error::Parse {
            path: path.to_owned(),
            line: text.lines().count(),
            what,
        });
    }
    parse_rows(path, &text)
}

/// Writes one JSON value, indented, atomically.
pub fn write_json<T: Serialize>(disk: &Disk, path: &Path, value: &T) -> Result<()> {
    disk.replace(path, |fresh| save_json(fresh, value))
}

/// Writes one value per line, atomically.
pub fn write_rows<'a, T: Serialize + 'a>(
    disk: &Disk,
    path: &Path,
    rows: impl IntoIterator<Item = &'a T>,
) -> Result<()> {
    disk.replace(path, |fresh| save_rows(fresh, rows))
}

/// An append-only log, one JSON value per line.
#[derive(Debug)]
pub struct Appender {
    disk: Disk,
    path: PathBuf,
    file: File,
}

impl Appender {
    /// Opens a log for appending and returns the rows kept: those before the first that `stays`
    /// refuses. That row and all after it are truncated, as is a last line that a crash left
    /// half-written. So no row can appear twice when steps are repeated.
    pub fn resume<T: DeserializeOwned>(
        disk: &Disk,
        path: &Path,
        mut stays: impl FnMut(&T) -> bool,
    ) -> Result<(Vec<T>, Appender)> {
        let text = match path.exists() {
            true => read_text(path)?,
            false => String::new(),
        };
        let (rows, length) = first_rows(path, &text, &mut stays)?;
        if length < text.len() {
            disk.cut(path, length as u64)?;
        }
        let file = disk.append(path)?;
        Ok((
            rows,
            Appender {
                disk: disk.clone(),
                path: path.to_owned(),
                file,
            },
        ))
    }

    /// Returns the rows that [`Appender::resume`] would keep, without changing the file.
    pub(crate) fn peek<T: DeserializeOwned>(
        path: &Path,
        mut stays: impl FnMut(&T) -> bool,
    ) -> Result<Vec<T>> {
        Ok(first_rows(path, &read_text(path)?, &mut stays)?.0)
    }

    /// Appends a row. It is passed to the operating system at once, and on disk after
    /// [`Appender::sync`].
    pub fn push<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let mut line =
            serde_json::to_vec(row).map_err(|e| Error::artefact("save", &self.path, e.into()))?;
        line.push(b'\n');
        self.disk.push(&mut self.file, &self.path, &line)
    }

    /// Syncs all rows to disk.
    pub fn sync(&mut self) -> Result<()> {
        self.disk.sync(&self.file, &self.path)
    }
}

/// Writes one JSON value, indented, to a new file.
pub(crate) fn save_json<T: Serialize>(path: &Path, value: &T) -> std::result::Result<(), BoxError> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(fs::write(path, bytes)?)
}

/// Writes one value per line to a new file.
pub(crate) fn save_rows<'a, T: Serialize + 'a>(
    path: &Path,
    rows: impl IntoIterator<Item = &'a T>,
) -> std::result::Result<(), BoxError> {
    let mut out = BufWriter::new(File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Returns the rows before the first that is refused or half-written, and their length in bytes.
fn first_rows<T: DeserializeOwned>(
    path: &Path,
    text: &str,
    stays: &mut dyn FnMut(&T) -> bool,
) -> Result<(Vec<T>, usize)> {
    let mut rows = Vec::new();
    let mut length = 0;
    for (index, line) in text
        .split_inclusive('\n')
        .take_while(|line| line.ends_with('\n'))
        .enumerate()
    {
        let row = serde_json::from_str(line).map_err(|e| parse_error(path, index + 1, &e))?;
        if !stays(&row) {
            break;
        }
        rows.push(row);
        length += line.len();
    }
    Ok((rows, length))
}

fn parse_rows<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>> {
    let parse =
        |(index, line)| serde_json::from_str(line).map_err(|e| parse_error(path, index + 1, &e));
    text.lines().enumerate().map(parse).collect()
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        Error::Parse {
            path: path.to_owned(),
            line,
            what: "not UTF-8".into(),
        }
    })
}

fn parse_error(path: &Path, line: usize, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let what = match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} (column {})", error.column()),
        None => text,
    };
    match error.io_error_kind() {
        Some(kind) => Error::io("read", path, io::Error::from(kind)),
        None => Error::Parse {
            path: path.to_owned(),
            line,
            what,
        },
    }
}
