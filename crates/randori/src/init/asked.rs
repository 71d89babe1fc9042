//! What [`init`](crate::init) is asked for.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::aim::Aim;
use crate::mistaken::{self, Looks};
use crate::recipe::{Named, kind};
use crate::request::Request;
use crate::shell::quoted;
use crate::splits::{sharded, stem};

/// A recipe that is wanted.
#[derive(Clone)]
pub struct Init {
    /// Who is told; linked plugins; keys that the recipe is to have ([`Request::set`]). It names no
    /// recipe.
    pub request: Request,
    /// A model as `model.source` takes it, relative paths from the working directory.
    pub model: String,
    /// Data as `data.train` takes it, likewise.
    pub data: String,
    /// Columns under names of their own, by what they are read as: `("prompt", "question")`;
    /// where none is given they are found.
    pub columns: Vec<(String, String)>,
    /// What for.
    pub aim: Aim,
    /// The file to write; `None`: named after the data, in the working directory.
    pub out: Option<PathBuf>,
    /// Bytes that may be used; `None`: what is free.
    pub memory: Option<u64>,
}

impl Init {
    /// The file to write, which must not be there yet, in a folder that must.
    ///
    /// # Errors
    /// A file that is there, or a folder that is not.
    pub(super) fn file(&self) -> Result<PathBuf> {
        let file = match &self.out {
            Some(file) => file.clone(),
            None => PathBuf::from(format!("{}.toml", after(&self.data))),
        };
        let shown = file.display();
        ensure!(
            file.file_name().is_some(),
            "--out must name a file to write, got {shown}"
        );
        // a link that leads nowhere is there too
        if file.symlink_metadata().is_ok() {
            bail!("{shown} is there already, and init overwrites nothing: name another with --out");
        }
        if let Some(folder) = folder(&file).filter(|folder| !folder.is_dir()) {
            bail!("--out {shown}: there is no folder {}", folder.display());
        }
        Ok(file)
    }

    /// Refuses a model or data that are neither here nor anything that can be elsewhere.
    ///
    /// # Errors
    /// What is not there.
    pub(super) fn check_there(&self) -> Result<()> {
        let (model, data) = (&self.model, &self.data);
        let inside = model.starts_with("builtin:") || model.starts_with("random:");
        let is_model =
            |text: &str| text.ends_with(".gguf") || Path::new(text).join("config.json").is_file();
        if is_model(data) && !is_model(model) {
            let (model, data) = (quoted(data), quoted(model));
            bail!("MODEL comes first, then DATA: randori init {model} {data}");
        }
        if !inside {
            mistaken::refuse_for_model(Path::new(model))?;
        }
        let repo = model.split('@').next().unwrap_or(model);
        let named = Named::parse(repo).is_some_and(|named| named.pattern.is_none());
        ensure!(
            inside || Path::new(model).exists() || (named && !model.ends_with(".gguf")),
            "MODEL must be a Hugging Face folder, a .gguf file or org/name on the hub; {model} is \
             not there"
        );
        ensure!(
            mistaken::looks(Path::new(data)) != Some(Looks::Recipe),
            "DATA must be a file, a folder of data files or org/name on the hub; {data} is a recipe"
        );
        ensure!(
            data.starts_with("builtin:")
                || Path::new(data).exists()
                || Named::parse(data).is_some(),
            "DATA must be a file, a folder of data files or org/name on the hub; {data} is not \
             there"
        );
        Ok(())
    }

    /// A model or data as the recipe in `file` has to name it: what is here, from where that lies.
    pub(super) fn named_from(&self, file: &Path, text: &str) -> String {
        match folder(file) {
            Some(_) if Path::new(text).exists() => {
                let whole = std::path::absolute(text);
                whole.map_or_else(|_| text.to_owned(), |path| path.display().to_string())
            }
            _ => text.to_owned(),
        }
    }
}

/// The folder that a file's path names; `None` where it names none.
fn folder(file: &Path) -> Option<&Path> {
    file.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
}

/// A name for what is made of this data: the file's without endings, or where that only says a
/// split, the folder's.
fn after(data: &str) -> String {
    const SPLITS: [&str; 8] = [
        "train",
        "training",
        "validation",
        "valid",
        "dev",
        "test",
        "data",
        "main",
    ];
    let named = Named::parse(data).filter(|_| !Path::new(data).exists());
    let whole = named.map_or_else(|| data.to_owned(), |named| named.repo);
    let parts = whole.split(['/', '\\']).filter(|part| !part.is_empty());
    let parts: Vec<&str> = parts.collect();
    let own = |part: &&&str| {
        let name = bare(part);
        !SPLITS.contains(&name) && sharded(name).is_none() && !name.starts_with('.')
    };
    let part = parts.iter().rev().take(2).find(own).or(parts.last());
    plain(bare(part.copied().unwrap_or_default()))
}

/// A data file's name without its endings; a folder's as it is.
fn bare(name: &str) -> &str {
    match kind(name) {
        Some(_) => stem(name),
        None => name,
    }
}

/// `text` as a recipe's name can be: other characters become `-`.
pub fn plain(text: &str) -> String {
    let plain = |c: char| match c.is_alphanumeric() || "-_.".contains(c) {
        true => c,
        false => '-',
    };
    let name: String = text.chars().map(plain).collect();
    match name.trim_start_matches(['.', '-']) {
        "" => "mine".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_called_after_its_data() {
        for (data, name) in [
            ("configs/gsm8k/train.jsonl", "gsm8k"),
            ("chats.jsonl.gz", "chats"),
            ("train.csv", "train"),
            ("my chats/", "my-chats"),
            ("here/train-00000-of-00002.parquet", "here"),
            ("org/ultra_chat@v1:train_sft", "ultra_chat"),
            ("../train.jsonl", "train"),
            ("builtin:demo", "builtin-demo"),
            ("/", "mine"),
        ] {
            assert_eq!(after(data), name, "{data}");
        }
    }

    #[test]
    fn a_name_is_a_plain_folder_name() {
        for (text, name) in [("my recipe", "my-recipe"), (".x", "x"), ("", "mine")] {
            assert_eq!(plain(text), name);
            let recipe = format!("name = \"{name}\"");
            crate::recipe::Recipe::parse("r", &recipe, Path::new(""), &[]).unwrap();
        }
    }
}
