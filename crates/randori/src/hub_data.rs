//! Data sets of the hub in a recipe: `org/name`, `org/name@revision:split`,
//! `hub:org/name/path/*.parquet`; and which of a repository's files are meant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use randori_engine::hub::{Kind, Snapshot, is_commit};

use crate::data_folder;
use crate::recipe::{KINDS, Named, Recipe, Validation, kind};
use crate::request::Split;
use crate::splits::{ABOUT, belongs, listed, sharded, stem, usual};

/// The files of this machine that a name in a recipe's data stands for (those in a folder, those of
/// a data set of the hub, which are fetched), with their names for messages and manifests. `key` is
/// where it stands: it says which split is meant.
///
/// # Errors
/// What the hub answered; a repository or a folder where it is not clear which files are meant.
pub fn files(recipe: &Recipe, text: &str, key: &str) -> Result<Vec<(String, PathBuf)>> {
    let split = match key {
        "data.train" => Split::Train,
        "data.validation" => Split::Validation,
        _ => Split::HeldOut,
    };
    let Some(named) = named(recipe, text) else {
        let path = recipe.path(text);
        if !path.is_dir() {
            return Ok(vec![(text.to_owned(), path)]);
        }
        let inside = data_folder::files(&path, split)?.into_iter();
        let inside = inside.map(|name| (format!("{text} {name}"), path.join(&name)));
        return Ok(inside.collect());
    };
    let snapshot = Snapshot::open(Kind::Dataset, &named.repo, &named.revision)?;
    let all: Vec<String> = snapshot.names().map(str::to_owned).collect();
    let wanted = named.files(&all, split)?;
    if !snapshot.is_listed() && named.pattern.is_none() {
        whole(&named.repo, &wanted)?;
    }
    wanted
        .into_iter()
        .map(|name| Ok((format!("{text} {name}"), snapshot.get(&name)?)))
        .collect()
}

/// Puts the commit in the place of each data set's branch or tag, once: the one that the run in
/// hand was begun with (`kept` of its manifest), or else the one that it is today.
///
/// # Errors
/// What the hub answered.
pub fn settle(recipe: &mut Recipe, kept: &BTreeMap<String, String>) -> Result<()> {
    let d = recipe.data.clone();
    let mut settled = |key: &str, texts: &[String]| -> Result<Vec<String>> {
        let mut each = Vec::new();
        for text in texts {
            let moves = named(recipe, text).filter(|named| !is_commit(&named.revision));
            let Some(named) = moves else {
                each.push(text.clone());
                continue;
            };
            let asked = format!("data {}@{}", named.repo, named.revision);
            let known = kept.get(&asked).or(recipe.resolved.get(&asked)).cloned();
            let commit = match known {
                Some(commit) => commit,
                None => Snapshot::open(Kind::Dataset, &named.repo, &named.revision)
                    .with_context(|| format!("{}: {key}", recipe.place(key)))?
                    .commit()
                    .to_string(),
            };
            each.push(named.at(&commit));
            recipe.resolved.insert(asked, commit);
        }
        Ok(each)
    };
    let train = settled("data.train", &d.train.0)?;
    let validation = settled("data.validation", d.validation.sets())?;
    let held_out = settled("data.held_out", &d.held_out.0)?;
    recipe.data.train.0 = train;
    if let Validation::Sets(sets) = &mut recipe.data.validation {
        sets.0 = validation;
    }
    recipe.data.held_out.0 = held_out;
    Ok(())
}

/// The data set that a text names, unless it is a file that is there.
fn named(recipe: &Recipe, text: &str) -> Option<Named> {
    Named::parse(text).filter(|_| !recipe.path(text).exists())
}

/// Whether a text in a recipe's data names a data set of the hub, and no file that is there.
pub fn is_of_hub(recipe: &Recipe, text: &str) -> bool {
    named(recipe, text).is_some()
}

impl Named {
    /// The files that are meant, of those that the repository has; `split` is what the recipe's key
    /// asks for.
    ///
    /// # Errors
    /// Where none fits, or where they are several data sets or several spellings of one.
    pub fn files(&self, all: &[String], split: Split) -> Result<Vec<String>> {
        let mut files: Vec<&String> = all
            .iter()
            .filter(|f| kind(f).is_some() && !f.split('/').any(|part| part.starts_with('.')))
            .filter(|f| !ABOUT.contains(&f.rsplit('/').next().unwrap_or(f)))
            .filter(|f| {
                self.pattern
                    .as_deref()
                    .is_none_or(|p| fits(p.as_bytes(), f.as_bytes()))
            })
            .collect();
        files.sort();
        let repo = &self.repo;
        ensure!(
            !files.is_empty(),
            "{repo} has no {}",
            match &self.pattern {
                Some(pattern) => format!("data file `{pattern}`; it has {}", listed(all)),
                None => format!("data file ({})", KINDS.join(", ")),
            }
        );
        let of = |split: &str| -> Vec<String> {
            let those = files.iter().filter(|f| belongs(f, split));
            those.map(|f| (*f).clone()).collect()
        };
        let mut chosen = match &self.split {
            Some(split) => of(split),
            None => of(usual(split)),
        };
        if chosen.is_empty() {
            let known = ["train", "validation", "test"]
                .iter()
                .any(|s| !of(s).is_empty());
            let wanted = self.split.as_deref().unwrap_or(usual(split));
            let by_pattern = self.split.is_none() && self.pattern.is_some();
            let whole = (by_pattern || wanted == "train")
                && !known
                && files.iter().all(|f| sharded(stem(f)).is_none());
            ensure!(
                whole,
                "{repo} has no files of the split `{wanted}`: name one ({repo}:SPLIT) of {}",
                listed(&files)
            );
            chosen = files.into_iter().cloned().collect();
        }
        self.one_set(&chosen)?;
        Ok(chosen)
    }

    /// Several folders are several data sets, several kinds of file are often one data set twice.
    fn one_set(&self, files: &[String]) -> Result<()> {
        let repo = &self.repo;
        let folder = |f: &String| {
            f.rsplit_once('/')
                .map_or("", |(folder, _)| folder)
                .to_owned()
        };
        for (what, of) in [
            ("folders", &folder as &dyn Fn(&String) -> String),
            ("kinds of file", &|f| kind(f).unwrap_or_default().to_owned()),
        ] {
            let first = files.first().map(of);
            if self.pattern.is_none() && files.iter().any(|f| Some(of(f)) != first) {
                bail!(
                    "{repo} has data in several {what}: name one, as hub:{repo}/{} ({})",
                    files.first().map_or("", |f| f.as_str()),
                    listed(files)
                );
            }
        }
        Ok(())
    }
}

/// Refuses files of which some say that they are more: `train-00000-of-00003` alone.
fn whole(repo: &str, files: &[String]) -> Result<()> {
    for file in files {
        let Some(split) = sharded(stem(file)) else {
            continue;
        };
        let parts = stem(file).split_once("-of-");
        let parts = parts.and_then(|(_, after)| after.split('-').next()?.parse().ok());
        let same = |f: &&String| sharded(stem(f)) == Some(split);
        let (have, want) = (files.iter().filter(same).count(), parts.unwrap_or(0));
        ensure!(
            have >= want,
            "{repo}: the cache has {have} of the {want} files of the split `{split}`, and no network to fetch the others"
        );
    }
    Ok(())
}

/// Whether a path fits a pattern: `*` stands for any part of a name, `**` for anything.
fn fits(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|n| fits(rest, &path[n..])),
        [b'*', rest @ ..] => {
            let name = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
            (0..=name).any(|n| fits(rest, &path[n..]))
        }
        [first, rest @ ..] => path.first() == Some(first) && fits(rest, &path[1..]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod tests {
    use super::*;

    fn files(text: &str, all: &[&str], split: Split) -> Result<Vec<String>, String> {
        let all: Vec<String> = all.iter().map(|f| (*f).to_owned()).collect();
        let named = Named::parse(text).unwrap();
        named.files(&all, split).map_err(|e| e.to_string())
    }

    #[test]
    fn what_names_a_data_set_and_what_a_file() {
        let named = Named::parse("org/name@v1.0:train_sft").unwrap();
        assert_eq!(
            (
                named.repo.as_str(),
                named.revision.as_str(),
                named.split.as_deref()
            ),
            ("org/name", "v1.0", Some("train_sft"))
        );
        let named = Named::parse("org/name/main/*.parquet").unwrap();
        assert_eq!(named.pattern.as_deref(), Some("main/*.parquet"));
        assert_eq!(named.revision, "main");
        assert!(Named::parse("hub:org/name/main/train.jsonl").is_some());
        for file in [
            "train.jsonl",
            "data/train.jsonl",
            "data/train.csv.gz",
            "./data/train",
            "../data/train",
            "/data/train",
            "data/more/train.jsonl",
            "data/more/train",
            "C:/data",
            "builtin:demo",
            "org/",
            "org/na me",
        ] {
            assert_eq!(Named::parse(file), None, "{file}");
        }
    }

    #[test]
    fn a_name_at_a_commit_is_the_same_data_set() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for text in [
            "o/n",
            "o/n@v1:dev",
            "hub:o/n/main/train.jsonl",
            "o/n/a/*.csv:x",
        ] {
            let named = Named::parse(text).unwrap();
            let fixed = Named::parse(&named.at(commit)).unwrap();
            let revision = commit.to_owned();
            assert_eq!(fixed, Named { revision, ..named }, "{text}");
        }
    }

    #[test]
    fn files_of_a_split() {
        let sharded = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train_gen-00000-of-00001-abc0.parquet",
            "dataset_infos.json",
        ];
        let train = [
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
        ];
        assert_eq!(files("o/n", &sharded, Split::Train).unwrap(), train);
        assert_eq!(
            files("o/n", &sharded, Split::HeldOut).unwrap(),
            [sharded[1]]
        );
        assert_eq!(
            files("o/n:train_gen", &sharded, Split::Train).unwrap(),
            [sharded[4]]
        );
        let none = files("o/n", &sharded, Split::Validation).unwrap_err();
        assert!(
            none.starts_with("o/n has no files of the split `validation`"),
            "{none}"
        );
        let plain = ["my_train.jsonl", "dev.jsonl.gz"];
        assert_eq!(
            files("o/n", &plain, Split::Train).unwrap(),
            ["my_train.jsonl"]
        );
        assert_eq!(
            files("o/n", &plain, Split::Validation).unwrap(),
            ["dev.jsonl.gz"]
        );
        assert_eq!(
            files("o/n", &["alpaca.json"], Split::Train).unwrap(),
            ["alpaca.json"]
        );
        assert!(files("o/n", &["alpaca.json"], Split::HeldOut).is_err());
        // whatever asks for `train`
        for split in [Split::Train, Split::HeldOut] {
            let all = files("o/n:train", &["alpaca.json"], split).unwrap();
            assert_eq!(all, ["alpaca.json"]);
        }
        for (named, other) in [("o/n:test", "alpaca.json"), ("o/n:train", "test.json")] {
            let why = files(named, &[other], Split::Train).unwrap_err();
            assert!(why.contains("has no files of the split"), "{why}");
        }
        assert!(files("o/n", &["README.md"], Split::Train).is_err());
    }

    #[test]
    fn a_split_of_which_parts_are_missing() {
        let files: Vec<String> = [0, 2]
            .map(|i| format!("data/train-0000{i}-of-00003.parquet"))
            .to_vec();
        let e = whole("o/n", &files).unwrap_err().to_string();
        assert!(e.contains("2 of the 3 files of the split `train`"), "{e}");
        let all = [files, vec!["data/train-00001-of-00003.parquet".into()]].concat();
        whole("o/n", &all).unwrap();
        whole("o/n", &["a.jsonl".to_owned()]).unwrap();
    }

    #[test]
    fn several_data_sets_in_one_repository_are_not_mixed() {
        let gsm8k = [
            "main/test-00000-of-00001.parquet",
            "main/train-00000-of-00001.parquet",
            "socratic/train-00000-of-00001.parquet",
        ];
        let why = files("o/n", &gsm8k, Split::Train).unwrap_err();
        assert!(
            why.contains("several folders: name one, as hub:o/n/main/train-"),
            "{why}"
        );
        assert_eq!(
            files("o/n/main/*", &gsm8k, Split::Train).unwrap(),
            [gsm8k[1]]
        );
        assert_eq!(
            files("o/n/**.parquet", &gsm8k, Split::HeldOut).unwrap(),
            [gsm8k[0]]
        );
        let twice = ["train.csv", "train.parquet"];
        assert!(files("o/n", &twice, Split::Train).is_err());
        assert_eq!(
            files("o/n/*.csv", &twice, Split::Train).unwrap(),
            ["train.csv"]
        );
    }
}
