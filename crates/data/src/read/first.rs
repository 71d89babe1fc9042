//! A file's columns, before any is read as something.

use std::path::Path;

use super::Rows;
use crate::Result;

/// The names of a file's columns: the keys of its first row. None of a file without rows, or whose
/// first row is no object.
///
/// # Errors
/// A file that is unreadable, of an unsupported type, or whose first row is invalid.
pub fn column_names(path: &Path) -> Result<Vec<String>> {
    let row = Rows::open(path)?.next().transpose()?;
    let keys = row.as_ref().and_then(|(_, row)| row.as_object());
    Ok(keys.map_or_else(Vec::new, |map| map.keys().cloned().collect()))
}
