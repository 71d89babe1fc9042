//! A task's documents: the rows of a split of its data set, from files of this machine or from the
//! hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use randori_data::Rows;
use randori_engine::hub::{Kind, Snapshot};
use randori_eval::task::{Dataset, Doc};
use serde_json::Value;

use crate::data_folder;
use crate::recipe::kind;
use crate::splits::{ABOUT, belongs, listed, sharded, stem};

/// Marks what a file holds and no JSON value can ([`Rows`]).
const NO_VALUE: char = '\u{ffff}';

/// The rows of a split.
///
/// # Errors
/// No files of it, or what is wrong with them.
pub fn rows(of: &Dataset, split: &str, data: Option<&Path>) -> Result<Vec<Doc>> {
    let mut docs = Vec::new();
    for file in files(of, split, data)? {
        docs.extend(read(&file)?);
    }
    Ok(docs)
}

/// The files of a split.
fn files(of: &Dataset, split: &str, data: Option<&Path>) -> Result<Vec<PathBuf>> {
    if !of.files.is_empty() {
        let named = of.files.iter().find(|(name, _)| name == split);
        let (_, files) = named.with_context(|| format!("data_files has no split `{split}`"))?;
        let place = |file: &String| match data.map(|data| data.join(file)) {
            Some(place) if place.is_file() => place,
            _ => PathBuf::from(file),
        };
        return Ok(files.iter().map(place).collect());
    }
    let name = of.path.rsplit('/').next().unwrap_or(&of.path);
    if let Some(data) = data {
        let folders = [data.join(&of.path), data.join(name)];
        let folder = folders.iter().find(|folder| folder.is_dir());
        let folder = folder.with_context(|| {
            let (data, path) = (data.display(), &of.path);
            format!(
                "--data {data}: it has neither a folder {path} nor {name}, for the data set {path}"
            )
        })?;
        let all = data_folder::below(folder)?;
        let chosen = chosen(&all, of.name.as_deref(), split, false)
            .with_context(|| folder.display().to_string())?;
        return Ok(chosen.iter().map(|file| folder.join(file)).collect());
    }
    let snapshot = Snapshot::open(Kind::Dataset, &of.path, "main")?;
    let all: Vec<String> = snapshot.names().map(str::to_owned).collect();
    let chosen = chosen(&all, of.name.as_deref(), split, true).with_context(|| of.path.clone())?;
    let each = chosen.iter().map(|file| Ok(snapshot.get(file)?));
    each.collect()
}

/// The files of a split, of a data set's configuration where it has several; `strict`: its files
/// must say that they are of this configuration.
fn chosen(all: &[String], config: Option<&str>, split: &str, strict: bool) -> Result<Vec<String>> {
    let is_data = |file: &&String| {
        let name = file.rsplit('/').next().unwrap_or(file);
        kind(&file.to_ascii_lowercase()).is_some() && !ABOUT.contains(&name)
    };
    let data: Vec<&String> = all.iter().filter(is_data).collect();
    let folders = |file: &str| file.rsplit_once('/').map_or("", |(of, _)| of).to_owned();
    let mut own = data.clone();
    if let Some(config) = config {
        own.retain(|file| folders(file).split('/').any(|folder| folder == config));
        if own.is_empty() && !strict {
            own = data.clone();
        }
    }
    let says = |file: &str| {
        sharded(stem(file)) == Some(split)
            || stem(file) == split
            || folders(file).split('/').any(|folder| folder == split)
    };
    let exact: Vec<&String> = own.iter().copied().filter(|file| says(file)).collect();
    let mut files: Vec<String> = match exact.is_empty() {
        false => exact.into_iter().cloned().collect(),
        true => own
            .into_iter()
            .filter(|file| belongs(file, split))
            .cloned()
            .collect(),
    };
    // `dev` beside `val` is a split of its own, as in MMLU
    let other = |file: &String| stem(file) == "dev" && split == "validation";
    if files.iter().any(|file| !other(file)) {
        files.retain(|file| !other(file));
    }
    files.sort();
    let shown = config.map_or(String::new(), |config| format!(" of `{config}`"));
    ensure!(
        !files.is_empty(),
        "no file of the split `{split}`{shown}, of {}",
        listed(&data)
    );
    let kinds = |file: &String| kind(&file.to_ascii_lowercase());
    let same =
        |file: &String| folders(file) == folders(&files[0]) && kinds(file) == kinds(&files[0]);
    if !files.iter().all(same) {
        bail!(
            "several files of the split `{split}`{shown} may be one twice, or of several data \
             sets: {}",
            listed(&files)
        );
    }
    Ok(files)
}

/// A file's rows.
fn read(file: &Path) -> Result<Vec<Doc>> {
    let mut docs = Vec::new();
    for row in Rows::open(file)? {
        let (place, value) = row?;
        let Value::Object(doc) = value else {
            bail!("{place}: a row must be an object");
        };
        ensure!(
            !serde_json::to_string(&doc)?.contains(NO_VALUE),
            "{place}: holds a value that is no text, and no number of 64 bits"
        );
        docs.push(doc);
    }
    let name = file.to_string_lossy().to_ascii_lowercase();
    if kind(&name).is_some_and(|kind| kind == ".csv" || kind == ".tsv") {
        numbers(&mut docs);
    }
    Ok(docs)
}

/// Makes whole numbers of the columns that have nothing else, as pandas reads a table.
fn numbers(docs: &mut [Doc]) {
    let columns: Vec<String> = docs
        .first()
        .into_iter()
        .flat_map(Doc::keys)
        .cloned()
        .collect();
    for column in columns {
        let number = |doc: &Doc| doc.get(&column)?.as_str()?.parse::<i64>().ok();
        let Some(numbers) = docs.iter().map(number).collect::<Option<Vec<i64>>>() else {
            continue;
        };
        for (doc, number) in docs.iter_mut().zip(numbers) {
            doc.insert(column.clone(), number.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[&str], config: Option<&str>, split: &str, strict: bool) -> Result<Vec<String>> {
        let all: Vec<String> = all.iter().map(|f| (*f).to_owned()).collect();
        chosen(&all, config, split, strict)
    }

    #[test]
    fn which_files_are_a_splits() {
        let hub = [
            "ARC-Challenge/test-00000-of-00001.parquet",
            "ARC-Challenge/train-00000-of-00001.parquet",
            "ARC-Easy/test-00000-of-00001.parquet",
            "README.md",
        ];
        let found = files(&hub, Some("ARC-Challenge"), "test", true).unwrap();
        assert_eq!(found, [hub[0]]);
        assert!(files(&hub, Some("ARC-Other"), "test", true).is_err());
        let several = files(&hub, None, "test", true).unwrap_err().to_string();
        assert!(several.contains("may be one twice"), "{several}");
        let own = ["test.jsonl", "train.jsonl", "LICENSE"];
        assert_eq!(
            files(&own, Some("main"), "test", false).unwrap(),
            ["test.jsonl"]
        );
        assert!(files(&own, Some("main"), "validation", false).is_err());
        let dev = ["anatomy/dev.csv", "anatomy/val.csv", "law/dev.csv"];
        assert_eq!(
            files(&dev, Some("anatomy"), "dev", false).unwrap(),
            [dev[0]]
        );
        assert_eq!(
            files(&dev, Some("anatomy"), "validation", false).unwrap(),
            [dev[1]]
        );
    }

    #[test]
    fn columns_of_whole_numbers_in_a_table() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.csv");
        std::fs::write(&file, "a,b,c\n1,2,x\n3,,4\n").unwrap();
        let docs = read(&file).unwrap();
        assert_eq!((&docs[1]["a"], &docs[1]["c"]), (&3.into(), &"4".into()));
        assert!(docs[0]["b"].is_string());
    }
}
