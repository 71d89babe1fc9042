//! A file's columns, before any is read as something.

use std::fs::File;
use std::path::Path;

use super::columns::Columns;
use super::source::Source;
use crate::{Error, Result};

/// The names of a file's columns: the keys of its first row. None of a file without rows, or whose
/// first row is no object.
///
/// # Errors
/// A file that is unreadable, of an unsupported type, or whose first row is invalid.
pub fn column_names(path: &Path) -> Result<Vec<String>> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::io(&name, e))?;
    if path.is_dir() {
        return Err(Error::file(name, "is a folder, not a data file"));
    }
    let row = Source::of_file(&name, file, &Columns::default())?.next(&name);
    let row = row.transpose()?;
    let keys = row.as_ref().and_then(|row| row.value.as_object());
    Ok(keys.map_or_else(Vec::new, |map| map.keys().cloned().collect()))
}
