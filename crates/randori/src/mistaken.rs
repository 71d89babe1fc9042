//! A model, data or a run's file that is given where a recipe is wanted: what it is, and the
//! command that takes it.

use std::io::Read;
use std::path::Path;

use anyhow::{Result, bail};
use randori_store::Manifest;

use crate::recipe::kind;
use crate::shell::quoted;

/// Endings of files of weights that are no model alone.
const WEIGHTS: [&str; 4] = [".safetensors", ".bin", ".pt", ".pth"];

/// What a file or folder is by its name and its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// A GGUF file or a Hugging Face folder.
    Model,
    /// A file of a Hugging Face folder.
    ModelsFile,
    /// Rows, or a folder of files of them.
    Data,
    /// A recipe.
    Recipe,
    /// A run's folder.
    Run,
    /// A file in a run's folder, the recipe that stands there excepted.
    RunsFile,
}

/// What is at `path`; `None` where nothing is, or nothing that is known.
pub fn looks(path: &Path) -> Option<Looks> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let folder = path.parent().unwrap_or(path);
    if path.is_dir() {
        return match () {
            _ if Manifest::is_in(path) => Some(Looks::Run),
            _ if path.join("recipe.toml").is_file() => Some(Looks::Run),
            _ if path.join("config.json").is_file() => Some(Looks::Model),
            _ => has_data(path).then_some(Looks::Data),
        };
    }
    if !path.is_file() {
        return None;
    }
    match name.as_str() {
        name if name.ends_with(".gguf") || is_gguf(path) => Some(Looks::Model),
        name if name.ends_with(".toml") => Some(Looks::Recipe),
        _ if Manifest::is_in(folder) => Some(Looks::RunsFile),
        name if WEIGHTS.iter().any(|end| name.ends_with(end)) => Some(Looks::ModelsFile),
        "config.json" | "tokenizer.json" | "tokenizer_config.json" => Some(Looks::ModelsFile),
        name => kind(name).map(|_| Looks::Data),
    }
}

/// Whether a file begins as a GGUF file does.
fn is_gguf(path: &Path) -> bool {
    let mut first = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == *b"GGUF"
}

fn has_data(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = files.map(|entry| entry.file_name());
    names.any(|name| kind(&name.to_string_lossy().to_ascii_lowercase()).is_some())
}

/// Refuses what is no recipe, nor a run that stands for one.
///
/// # Errors
/// What it is, and the command that takes it.
pub fn refuse_for_recipe(path: &Path) -> Result<()> {
    let (shown, given) = (path.display(), quoted(&path.display().to_string()));
    let above = path.parent().unwrap_or(path).display().to_string();
    match looks(path) {
        Some(Looks::Model) => bail!(
            "{shown}: a model, and a recipe is wanted: randori init {given} DATA writes one, for \
             data of yours"
        ),
        Some(Looks::ModelsFile) => bail!(
            "{shown}: a file of a model, and a recipe is wanted: randori init {} DATA writes one, \
             for the model's folder and data of yours",
            quoted(if above.is_empty() { "." } else { &above })
        ),
        Some(Looks::Data) => bail!(
            "{shown}: data, and a recipe is wanted: randori init MODEL {given} writes one, for a \
             model of yours"
        ),
        Some(Looks::RunsFile) => bail!(
            "{shown}: a file of a run, and a recipe or the run's folder is wanted: give {}",
            quoted(if above.is_empty() { "." } else { &above })
        ),
        Some(Looks::Recipe | Looks::Run) | None => Ok(()),
    }
}

/// Refuses what is no model where one is wanted.
///
/// # Errors
/// What it is, and what to give instead.
pub fn refuse_for_model(path: &Path) -> Result<()> {
    let (shown, given) = (path.display(), quoted(&path.display().to_string()));
    let wanted = "a Hugging Face folder, a .gguf file or org/name on the hub";
    let above = path.parent().unwrap_or(path).display().to_string();
    match looks(path) {
        Some(Looks::Recipe) => bail!(
            "MODEL must be {wanted}; {shown} is a recipe already, for randori inspect {given} and \
             what comes after it"
        ),
        Some(Looks::Run) => bail!(
            "MODEL must be {wanted}; {shown} is a run: randori export {given} --to hf --out FOLDER \
             makes a model of it"
        ),
        Some(Looks::ModelsFile) => bail!(
            "MODEL must be {wanted}; {shown} is one file of a model: give its folder, {}",
            quoted(if above.is_empty() { "." } else { &above })
        ),
        Some(Looks::Data) => bail!("MODEL must be {wanted}; {shown} is data"),
        Some(Looks::Model | Looks::RunsFile) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn files_and_folders_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["model", "data", "run", "empty"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for (name, bytes, looks_as) in [
            ("m.gguf", &b""[..], Some(Looks::Model)),
            ("renamed", b"GGUF\x03\0", Some(Looks::Model)),
            ("model/config.json", b"{}", Some(Looks::ModelsFile)),
            ("model/model.safetensors", b"", Some(Looks::ModelsFile)),
            ("data/Rows.JSONL.gz", b"", Some(Looks::Data)),
            ("rows.parquet", b"PAR1", Some(Looks::Data)),
            ("run/recipe.toml", b"", Some(Looks::Recipe)),
            ("a recipe", b"name = \"r\"\n", None),
        ] {
            std::fs::write(at(name), bytes).unwrap();
            assert_eq!(looks(&at(name)), looks_as, "{name}");
        }
        assert_eq!(looks(&at("model")), Some(Looks::Model));
        assert_eq!(looks(&at("data")), Some(Looks::Data));
        assert_eq!(looks(&at("run")), Some(Looks::Run));
        assert_eq!(looks(&at("empty")), None);
        assert_eq!(looks(&at("gone.jsonl")), None);
    }
}
