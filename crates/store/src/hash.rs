//! SHA-256 of a file, or of a folder: of its files' relative names and hashes, sorted.

use std::{fmt::Write, fs::File, io::Read, path::Path};

use sha2::{Digest, Sha256};

use crate::{Error, Result, disk};

/// SHA-256 and size of a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Size in bytes, of all files together.
    pub bytes: u64,
}

/// Hashes a file or a folder.
pub fn hash(path: &Path) -> Result<Hash> {
    let mut sha = Sha256::new();
    let bytes = match path.is_dir() {
        false => feed_file(&mut sha, path)?,
        true => feed_folder(&mut sha, path, "")?,
    };
    Ok(Hash {
        sha256: hexadecimal(&sha.finalize()),
        bytes,
    })
}

/// SHA-256 of byte slices taken as one stream, in hexadecimal.
pub fn hash_bytes<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut sha = Sha256::new();
    parts.into_iter().for_each(|part| sha.update(part));
    hexadecimal(&sha.finalize())
}

fn feed_file(sha: &mut Sha256, path: &Path) -> Result<u64> {
    let mut file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut block = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let n = file
            .read(&mut block)
            .map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            return Ok(bytes);
        }
        sha.update(&block[..n]);
        bytes += n as u64;
    }
}

fn feed_folder(sha: &mut Sha256, folder: &Path, prefix: &str) -> Result<u64> {
    let mut bytes = 0;
    for entry in disk::list(folder)? {
        let name = format!(
            "{prefix}{}",
            entry.file_name().unwrap_or_default().to_string_lossy()
        );
        if entry.is_dir() {
            bytes += feed_folder(sha, &entry, &format!("{name}/"))?;
            continue;
        }
        let mut file = Sha256::new();
        bytes += feed_file(&mut file, &entry)?;
        sha.update(name.as_bytes());
        sha.update([0]);
        sha.update(file.finalize());
    }
    Ok(bytes)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4's examples, and a folder whose hash must depend on names as well as bytes.
    #[test]
    fn known_values() {
        let dir = tempfile::tempdir().unwrap();
        let check = |bytes: &[u8], expect: &str| {
            let path = dir.path().join("x");
            std::fs::write(&path, bytes).unwrap();
            let got = hash(&path).unwrap();
            assert_eq!(
                (got.sha256.as_str(), got.bytes),
                (expect, bytes.len() as u64)
            );
        };
        check(
            b"",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        );
        check(
            b"abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        );

        let before = hash(dir.path()).unwrap();
        std::fs::rename(dir.path().join("x"), dir.path().join("y")).unwrap();
        assert_ne!(hash(dir.path()).unwrap().sha256, before.sha256);
    }
}
