//! A folder of data files in a recipe: `train = "data/"`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use randori_store::Manifest;

use crate::recipe::{KINDS, kind};
use crate::request::Split;
use crate::splits::{ABOUT, belongs, listed, usual};

/// Endings of packed files that no reader opens.
const PACKED: [&str; 4] = [".bz2", ".xz", ".zip", ".lz4"];

/// The data files of a folder that are of `split`, by their paths below it, in order. Where no
/// file's name (or a folder's) says a split, all are meant.
///
/// # Errors
/// A folder that cannot be listed, has no data file, or in which it is not clear which are meant:
/// those of several kinds or folders, or only some of which say their split.
pub fn files(folder: &Path, split: Split) -> Result<Vec<String>> {
    let shown = folder.display();
    let all = below(folder)?;
    let packed = |name: &&String| {
        let plain = PACKED.iter().find_map(|end| name.strip_suffix(*end));
        plain.is_some_and(|plain| kind(plain).is_some())
    };
    if let Some(name) = all.iter().find(packed) {
        bail!("{shown}: `{name}` is packed in a way that is not read; unpack it");
    }
    let data: Vec<&String> = all.iter().filter(|name| is_data(name)).collect();
    ensure!(
        !data.is_empty(),
        "{shown}: no data file is in it ({}){}",
        KINDS.join(", "),
        match all.is_empty() {
            true => String::new(),
            false => format!("; it has {}", listed(&all)),
        }
    );
    let says = |name: &str| ["train", "validation", "test"].map(|split| belongs(name, split));
    let silent = data.iter().find(|name| says(name) == [false; 3]);
    let chosen: Vec<String> = match data.iter().any(|name| says(name) != [false; 3]) {
        false => data.into_iter().cloned().collect(),
        true => {
            let (split, has) = (usual(split), listed(&data));
            ensure!(
                silent.is_none(),
                "{shown}: some of its files say their split, `{}` does not: name files, of {has}",
                silent.map_or("", |name| name.as_str())
            );
            let of_split = data.into_iter().filter(|name| belongs(name, split));
            let of_split: Vec<String> = of_split.cloned().collect();
            ensure!(
                !of_split.is_empty(),
                "{shown}: no file of the split `{split}` is in it: name files, of {has}"
            );
            of_split
        }
    };
    let kinds = |name: &str| kind(&name.to_ascii_lowercase());
    let folders = |name: &str| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let first = &chosen[..1];
    for (what, same) in [
        ("kinds", all_same(&chosen, first, kinds)),
        ("folders", all_same(&chosen, first, folders)),
    ] {
        ensure!(
            same,
            "{shown}: data files of several {what}, which may be one data set twice: name those \
             that are meant, of {}",
            listed(&chosen)
        );
    }
    Ok(chosen)
}

/// The files that a path in a recipe's data may stand for: itself, or all data files of a folder.
pub fn all(path: &Path) -> Vec<PathBuf> {
    let inside = match path.is_dir() {
        true => below(path).unwrap_or_default(), // whoever reads it says what is wrong
        false => return vec![path.to_owned()],
    };
    let data = inside.iter().filter(|name| is_data(name));
    data.map(|name| path.join(name)).collect()
}

fn is_data(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    kind(&name.to_ascii_lowercase()).is_some() && !ABOUT.contains(&file)
}

/// Whether all names are in `of` what the first is.
fn all_same<T: PartialEq>(names: &[String], first: &[String], of: impl Fn(&str) -> T) -> bool {
    let first: Vec<T> = first.iter().map(|name| of(name)).collect();
    names.iter().all(|name| first.contains(&of(name)))
}

/// All files below a folder, by their paths from it, in order; without hidden ones, the runs below
/// it, and what an export wrote: else a run that is kept there would change its own data.
///
/// # Errors
/// A folder that cannot be listed.
pub fn below(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(inside) = waiting.pop() {
        let place = folder.join(&inside);
        if !inside.is_empty() && Manifest::is_in(&place) {
            continue;
        }
        let exported = randori_store::exported(&place);
        let at = || place.display().to_string();
        for entry in std::fs::read_dir(&place).with_context(at)? {
            let entry = entry.with_context(at)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || exported.contains(&name) {
                continue;
            }
            let name = format!("{inside}{name}");
            // a link to a folder may lead in a circle
            match entry.file_type().with_context(at)?.is_dir() {
                true => waiting.push(format!("{name}/")),
                false if entry.path().is_file() => found.push(name),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a folder with these files; `Err`: what is said of it.
    fn read(names: &[&str], split: Split) -> std::result::Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let shown = format!("{}: ", dir.path().display());
        files(dir.path(), split).map_err(|e| e.to_string().replacen(&shown, "", 1))
    }

    #[test]
    fn all_data_files_in_order_or_those_of_the_split() {
        let plain = [
            "b.jsonl",
            "a.jsonl.gz",
            ".hidden.jsonl",
            "README.md",
            ".git/c.jsonl",
        ];
        for split in [Split::Train, Split::HeldOut] {
            assert_eq!(read(&plain, split).unwrap(), ["a.jsonl.gz", "b.jsonl"]);
        }
        let named = ["my_train.csv", "test.csv", "TRAIN-2.CSV", "dev.csv"];
        let train = read(&named, Split::Train).unwrap();
        assert_eq!(train, ["TRAIN-2.CSV", "my_train.csv"]);
        assert_eq!(read(&named, Split::Validation).unwrap(), ["dev.csv"]);
        assert_eq!(read(&named, Split::HeldOut).unwrap(), ["test.csv"]);
        let folders = [
            "train/1.json",
            "train/0.json",
            "test/0.json",
            "dataset_info.json",
        ];
        let train = read(&folders, Split::Train).unwrap();
        assert_eq!(train, ["train/0.json", "train/1.json"]);
        let sharded = [
            "train-00000-of-00001.parquet",
            "test-00000-of-00001.parquet",
        ];
        assert_eq!(read(&sharded, Split::HeldOut).unwrap(), [sharded[1]]);
    }

    #[test]
    fn folders_in_which_it_is_not_clear_what_is_meant() {
        for (names, why) in [
            (&["notes.txt"][..], "; it has notes.txt"),
            (&[], "no data file is in it (.parquet, "),
            (
                &["a.jsonl", "b.jsonl.xz"],
                "`b.jsonl.xz` is packed in a way that is not read",
            ),
            (
                &["a.jsonl", "a.csv"],
                "data files of several kinds, which may be one data set twice",
            ),
            (&["x/a.jsonl", "y/a.jsonl"], "data files of several folders"),
            (
                &["train.jsonl", "more.jsonl"],
                "its files say their split, `more.jsonl` does not",
            ),
            (
                &["test.jsonl"],
                "no file of the split `train` is in it: name files, of test.jsonl",
            ),
        ] {
            let said = read(names, Split::Train).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    /// Whatever the program itself puts into a data folder is no data: a run, a folder or a file
    /// that was exported.
    #[test]
    fn what_we_wrote_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("a.jsonl", "");
        put("runs/r/manifest.json", "{\"format\": 999}"); // of a later version
        put("runs/r/iter-0/pairs.jsonl", "");
        put("hf/exported.json", "{\"files\": {\"config.json\": []}}");
        put("hf/config.json", "");
        put("m.exported.json", "{\"files\": {\"m.fidelity.json\": []}}");
        put("m.fidelity.json", "");
        let found = files(dir.path(), Split::Train).unwrap();
        assert_eq!(found, ["a.jsonl"]);
        // one that is no list of ours is anybody's
        put("n.exported.json", "[]");
        let said = files(dir.path(), Split::Train).unwrap_err().to_string();
        assert!(said.contains("data files of several kinds"), "{said}");
    }

    #[test]
    fn a_path_stands_for_itself_or_for_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jsonl");
        assert_eq!(all(&file), std::slice::from_ref(&file));
        assert_eq!(all(dir.path()), Vec::<PathBuf>::new());
        std::fs::write(&file, "").unwrap();
        assert_eq!(all(dir.path()), [file]);
    }
}
