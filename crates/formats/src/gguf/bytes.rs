//! Sequential reader of a file's bytes, a page at a time; every requested length is checked against
//! the bytes left.

use crate::ByteSource;

/// Result with an error message that lacks the file's name.
pub(super) type Read<T> = std::result::Result<T, String>;

/// Bytes fetched at a time.
const PAGE: u64 = 1 << 20;
/// Maximum length of a string; none that describes a model is longer.
const LONGEST_TEXT: u64 = 1 << 26;

pub(super) struct Bytes<'a> {
    source: &'a ByteSource,
    pub(super) at: u64,
    page: Vec<u8>,
    page_start: u64,
}

impl<'a> Bytes<'a> {
    pub(super) fn of(source: &'a ByteSource) -> Self {
        Bytes {
            source,
            at: 0,
            page: Vec::new(),
            page_start: 0,
        }
    }

    /// Reads a string preceded by its length.
    pub(super) fn text(&mut self, what: &str) -> Read<String> {
        let n = self.u64()?;
        if n > LONGEST_TEXT || n > self.left() {
            return Err(format!(
                "{what} declares {n} characters, more than the file can hold or a text can need"
            ));
        }
        // some writers end a string with zeros
        let bytes = self.take(n)?;
        Ok(String::from_utf8_lossy(&bytes)
            .trim_end_matches('\0')
            .to_string())
    }

    pub(super) fn left(&self) -> u64 {
        self.source.size() - self.at
    }

    pub(super) fn take(&mut self, n: u64) -> Read<Vec<u8>> {
        if n > self.left() {
            return Err(format!("the header is cut short at byte {}", self.at));
        }
        let start = self.at;
        self.at += n;
        if n > PAGE {
            return self.source.read(start, n).map_err(|e| e.to_string());
        }
        let within =
            |r: &Self| start >= r.page_start && start + n <= r.page_start + r.page.len() as u64;
        if !within(self) {
            let len = PAGE.min(self.source.size() - start);
            self.page = self.source.read(start, len).map_err(|e| e.to_string())?;
            self.page_start = start;
        }
        let first = (start - self.page_start) as usize;
        Ok(self
            .page
            .get(first..first + n as usize)
            .unwrap_or_default()
            .to_vec())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N as u64)?
            .try_into()
            .map_err(|_| format!("the header is cut short at byte {}", self.at))
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn f32(&mut self) -> Read<f32> {
        self.array().map(f32::from_le_bytes)
    }
}
