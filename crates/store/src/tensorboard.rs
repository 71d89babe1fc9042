//! TensorBoard's event file format, scalars only, which takes less code than a protobuf library.
//!
//! The file is a list of TFRecords: length (u64, little-endian), masked CRC-32C of the length
//! (u32), data, masked CRC-32C of the data (u32). The data is a protobuf `Event`: `1: wall_time
//! (double), 2: step (int64), 3: file_version (string), 5: summary { 1: value { 1: tag (string), 2:
//! simple_value (float) } }`.

use std::{fs::File, io::Write, path::Path};

use crate::{Error, Result};

/// An event file open for writing.
#[derive(Debug)]
pub struct EventFile {
    path: std::path::PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a file, or truncates an old one. Its name must contain `tfevents` for TensorBoard to
    /// find it.
    pub fn create(path: &Path, wall_time: f64) -> Result<EventFile> {
        let file = File::create(path).map_err(|e| Error::io("make", path, e))?;
        let mut events = EventFile {
            path: path.to_owned(),
            file,
        };
        let mut event = Vec::new();
        double(&mut event, 1, wall_time);
        bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event)?;
        Ok(events)
    }

    /// Appends one point of one curve. `wall_time` is in seconds since 1970.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64, wall_time: f64) -> Result<()> {
        let mut point = Vec::new();
        bytes(&mut point, 1, tag.as_bytes());
        float(&mut point, 2, value as f32);
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &point);
        let mut event = Vec::new();
        double(&mut event, 1, wall_time);
        varint_field(&mut event, 2, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc32c(data).to_le_bytes());
        self.file
            .write_all(&record)
            .map_err(|e| Error::io("append to", &self.path, e))
    }
}

/// TFRecord's masked checksum: CRC-32C, rotated and offset, so that data which contains checksums
/// can be checksummed safely.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, bit by bit: event files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3); // wire type 0
    varint(out, value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn float(out: &mut Vec<u8>, field: u64, value: f32) {
    varint(out, field << 3 | 5);
    out.extend(value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn crc_known_values() {
        let check = |bytes: &[u8], expect: u32| assert_eq!(crc32c(bytes), expect, "{bytes:02x?}");
        check(b"", 0);
        check(b"123456789", 0xe306_9283);
        check(&[0; 32], 0x8a91_36aa);
        check(&[0xff; 32], 0x62a8_ab43);
        check(&(0..32).collect::<Vec<u8>>(), 0x46dd_794e);
        check(&(0..32).rev().collect::<Vec<u8>>(), 0x113f_db5c);
    }

    /// The first record that TensorFlow writes to every event file has 24 bytes of data; this is
    /// the checksum of its length field, as in any file of theirs.
    #[test]
    fn masked_crc_of_a_length() {
        assert_eq!(masked_crc32c(&24u64.to_le_bytes()), 0x224b_7fa3);
    }

    #[test]
    fn one_record_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.out.tfevents.test");
        let mut events = EventFile::create(&path, 1.5).unwrap();
        events.scalar("train/loss", 300, 0.5, 2.5).unwrap();
        let file = std::fs::read(&path).unwrap();
        let mut expect = vec![9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f]; // wall_time 1.5
        expect.extend([26, 13]); // file_version
        expect.extend(b"brain.Event:2");
        assert_eq!(file[12..12 + expect.len()], expect);
        let mut expect = vec![9, 0, 0, 0, 0, 0, 0, 4, 0x40]; // wall_time 2.5
        expect.extend([16, 0xac, 2]); // step 300
        expect.extend([42, 19, 10, 17, 10, 10]); // summary { value { tag, 10 bytes
        expect.extend(b"train/loss");
        expect.extend([21, 0, 0, 0, 0x3f]); // simple_value 0.5
        assert_eq!(file[12 + 24 + 4 + 12..file.len() - 4], expect);
    }
}
