//! Models split over several files, `NAME-00001-of-00003.gguf` and so on: all metadata is in the
//! first, and each has a share of the tensors. They are found by name; their headers must agree.

use std::path::{Path, PathBuf};

use super::header::Header;
use crate::{ByteSource, Error, Result};

/// A part's place, by its file's name.
struct Place<'a> {
    stem: &'a str,
    /// From 1.
    number: usize,
    count: usize,
}

impl Place<'_> {
    /// Name of another part.
    fn name(&self, number: usize) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// Reads a part's place from its file's name; `None` for the name of no part.
fn place(path: &Path) -> Option<Place<'_>> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let digits = |text: &str| {
        let number = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        number.then(|| text.parse().ok()).flatten()
    };
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let (number, count) = (digits(number)?, digits(count)?);
    (1..=count).contains(&number).then_some(Place {
        stem,
        number,
        count,
    })
}

/// The files of a model, by the name of its first or only one.
pub fn parts(path: &Path) -> Vec<PathBuf> {
    match place(path) {
        Some(place) => (1..=place.count)
            .map(|number| path.with_file_name(place.name(number)))
            .collect(),
        None => vec![path.to_path_buf()],
    }
}

/// Opens a model's files, one at least, and reads their headers as one: the first file's metadata,
/// the tensors of all.
///
/// # Errors
/// A part other than the first, a missing or damaged one, counts that disagree with each other or
/// with the names.
pub(super) fn read(path: &Path) -> Result<(Header, Vec<ByteSource>)> {
    if let Some(place) = place(path).filter(|place| place.number > 1) {
        return Err(Error::rule(format!(
            "{} is part {} of {}; give the first, {}",
            path.display(),
            place.number,
            place.count,
            path.with_file_name(place.name(1)).display()
        )));
    }
    let first = ByteSource::open(path)?;
    let mut header = Header::read(&first)?;
    let paths = parts(path);
    agree(&header, &first, 0, paths.len())?;
    let mut files = vec![first];
    for (i, path) in paths.iter().enumerate().skip(1) {
        let source = ByteSource::open(path).map_err(|e| {
            Error::rule(format!(
                "{} is one of {} parts, of which part {} cannot be opened: {e}",
                files[0].name,
                paths.len(),
                i + 1
            ))
        })?;
        let part = Header::read(&source)?;
        agree(&part, &source, i, paths.len())?;
        for (name, mut tensor) in part.tensors {
            tensor.file = i;
            if let Some(other) = header.tensors.insert(name.clone(), tensor) {
                return Err(Error::rule(format!(
                    "{} has {name}, and so has {}",
                    source.name, files[other.file].name
                )));
            }
        }
        files.push(source);
    }
    let (found, file) = (header.tensors.len(), &files[0].name);
    match number(&header, &files[0], "split.tensors.count")? {
        Some(count) if count != found => Err(Error::rule(format!(
            "{file}: split.tensors.count is {count}, but its parts have {found} tensors"
        ))),
        _ => Ok((header, files)),
    }
}

/// Holds a part's counts against its place, from 0, among as many as the names say.
fn agree(header: &Header, source: &ByteSource, at: usize, count: usize) -> Result<()> {
    let file = &source.name;
    let said = number(header, source, "split.count")?.unwrap_or(1).max(1);
    if said != count {
        return Err(Error::rule(match count {
            1 => format!(
                "{file} is one of {said} parts (split.count), which are found by their names, NAME-00001-of-{said:05}.gguf: give it its name back"
            ),
            _ => format!("{file} is named as one of {count} parts, but its split.count is {said}"),
        }));
    }
    match number(header, source, "split.no")? {
        Some(no) if no != at => Err(Error::rule(format!(
            "{file} is named as part {} of {count}, but its split.no is {no}, which counts from 0",
            at + 1
        ))),
        _ => Ok(()),
    }
}

fn number(header: &Header, source: &ByteSource, key: &str) -> Result<Option<usize>> {
    let read = header.whole(key);
    read.map_err(|what| Error::rule(format!("{}: {what}", source.name)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{
        Dtype,
        gguf::{self, Kind, TensorSpec, Value},
    };

    /// Writes part `no` of `count` (its header's numbers) with tensors of one number each.
    fn part(path: &Path, no: i128, count: i128, all: i128, names: &[&str]) {
        let mut keys = vec![
            ("split.no".to_string(), Value::Int(no)),
            ("split.count".into(), Value::Int(count)),
            ("split.tensors.count".into(), Value::Int(all)),
        ];
        if no == 0 {
            keys.push(("general.name".into(), Value::Text("small".into())));
        }
        let tensors: Vec<(TensorSpec, Vec<u8>)> = names
            .iter()
            .map(|name| {
                let spec = TensorSpec::new(name, &[1], Kind::Dense(Dtype::F32));
                (spec, (no as f32).to_le_bytes().to_vec())
            })
            .collect();
        gguf::write(path, true, &keys, &tensors).unwrap();
    }

    #[test]
    fn parts_are_read_as_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: usize| dir.path().join(format!("a-b-0000{n}-of-00003.gguf"));
        part(&at(1), 0, 3, 4, &["x", "z"]);
        part(&at(2), 1, 3, 4, &["w"]);
        part(&at(3), 2, 3, 4, &["y"]);
        assert_eq!(parts(&at(1)), [at(1), at(2), at(3)]);
        let (header, files) = read(&at(1)).unwrap();
        assert_eq!(header.text("general.name").unwrap(), Some("small"));
        let read_of = |name: &str| {
            let stored = &header.tensors[name];
            stored.numbers(name, &files[stored.file]).unwrap()[0]
        };
        assert_eq!(["x", "z", "w", "y"].map(read_of), [0.0, 0.0, 1.0, 2.0]);
        let plain = dir.path().join("plain.gguf");
        part(&plain, 0, 1, 1, &["x"]);
        assert_eq!(read(&plain).unwrap().1.len(), 1);
        assert_eq!(parts(&plain), [plain]);
    }

    #[test]
    fn what_disagrees_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: usize| dir.path().join(format!("m-0000{n}-of-00002.gguf"));
        let fails = |path: &Path, words: &[&str]| {
            let e = read(path).unwrap_err().to_string();
            assert!(words.iter().all(|word| e.contains(word)), "{e}");
        };
        part(&at(1), 0, 2, 2, &["x"]);
        fails(&at(1), &["00001-of-00002.gguf is one of 2 parts", "part 2"]);
        part(&at(2), 1, 2, 2, &["y"]);
        assert!(read(&at(1)).is_ok());
        fails(
            &at(2),
            &["is part 2 of 2; give the first", "m-00001-of-00002"],
        );
        let alone = dir.path().join("alone.gguf");
        std::fs::copy(at(1), &alone).unwrap();
        fails(&alone, &["one of 2 parts", "NAME-00001-of-00002.gguf"]);
        part(&at(2), 0, 2, 2, &["y"]);
        fails(&at(1), &["named as part 2 of 2", "split.no is 0"]);
        part(&at(2), 1, 3, 2, &["y"]);
        fails(&at(1), &["one of 2 parts", "split.count is 3"]);
        part(&at(2), 1, 2, 2, &["x"]);
        fails(&at(1), &["00002-of-00002.gguf has x", "00001-of-00002"]);
        part(&at(1), 0, 2, 3, &["x"]);
        part(&at(2), 1, 2, 3, &["y"]);
        fails(&at(1), &["split.tensors.count is 3", "2 tensors"]);
    }
}
