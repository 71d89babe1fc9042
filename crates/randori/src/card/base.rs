//! The base of a player as somebody else finds it: on the hub, in a folder, in a GGUF file, or only
//! by way of Randori.

use std::path::{Component, Path, PathBuf};

use randori_engine::hub::is_commit;
use serde_json::json;

use crate::model_files::hub_id;
use crate::recipe::Recipe;
use crate::session::short;
use crate::shell::quoted;

/// Where a base comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A repository of the hub, at a commit where one is known.
    Hub {
        /// `org/name`
        repo: String,
        /// The commit.
        commit: Option<String>,
    },
    /// A Hugging Face folder of this machine.
    Folder(PathBuf),
    /// A GGUF file of this machine.
    Gguf(PathBuf),
    /// A model inside the program, as a recipe names it.
    Builtin(String),
    /// Weights that Randori draws.
    Random,
}

impl Base {
    /// The base of a recipe.
    pub fn of(recipe: &Recipe) -> Base {
        let text = &recipe.model.source.0;
        if text.starts_with("builtin:") {
            return Base::Builtin(text.clone());
        }
        if text.starts_with("random:") {
            return Base::Random;
        }
        if let Some((repo, revision)) = hub_id(recipe) {
            let commit = Some(revision).filter(|revision| is_commit(revision));
            return Base::Hub { repo, commit };
        }
        let path = recipe.path(text);
        match path.is_dir() {
            true => Base::Folder(path),
            false => Base::Gguf(path),
        }
    }

    /// Its name, without a folder of this machine.
    pub fn name(&self) -> String {
        match self {
            Base::Hub { repo, .. } => repo.clone(),
            Base::Folder(path) | Base::Gguf(path) => short(&path.to_string_lossy()),
            Base::Builtin(name) => name.clone(),
            Base::Random => "random weights".into(),
        }
    }

    /// What `from_pretrained` is given, in a program that runs in `folder`; one that only Randori
    /// has lies in `base` there ([`Base::command`]).
    pub fn arguments(&self, folder: &Path) -> String {
        match self {
            Base::Hub { repo, commit } => {
                let revision = commit.iter().map(|c| format!(", revision={}", json!(c)));
                json!(repo).to_string() + &revision.collect::<String>()
            }
            Base::Folder(path) => json!(path_from(folder, path)).to_string(),
            Base::Gguf(path) => {
                let whole = path_from(folder, path);
                let (above, file) = whole.rsplit_once('/').unwrap_or((".", &whole));
                format!("{}, gguf_file={}", json!(above), json!(file))
            }
            Base::Builtin(_) | Base::Random => json!("base").to_string(),
        }
    }

    /// The command that writes the base in the form that `to` says, to `out`.
    pub fn command(&self, to: &str, out: &str) -> String {
        let recipe = match self {
            Base::Builtin(name) => quoted(name),
            _ => format!("recipe.toml --set {}", quoted("adapter.init=[]")),
        };
        format!("randori export {recipe} {to} --out {out}")
    }

    /// Whether the base is a path of the machine on which the card is written.
    pub fn is_local(&self) -> bool {
        matches!(self, Base::Folder(_) | Base::Gguf(_))
    }
}

/// How a path is written in `folder`, which need not be there yet, as the folder above it must.
pub fn path_from(folder: &Path, path: &Path) -> String {
    let from = folder.canonicalize().unwrap_or_else(|_| whole(folder));
    let to = whole(path);
    let shared = from.components().zip(to.components());
    let shared = shared.take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return to.display().to_string();
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let steps = up.chain(to.components().skip(shared));
    let steps: Vec<_> = steps.map(|one| one.as_os_str().to_string_lossy()).collect();
    match steps.is_empty() {
        true => ".".into(),
        false => steps.join("/"),
    }
}

/// A path from the root; its last part stays as it is, though it may be a link.
fn whole(path: &Path) -> PathBuf {
    let Some(name) = path.file_name() else {
        return path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    };
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new(".")).canonicalize();
    above.map_or_else(|_| path.to_path_buf(), |above| above.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_named_as_from_pretrained_finds_it() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for folder in ["models/smol", "runs"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("models/smol/m.gguf"), "GGUF").unwrap();
        let (folder, gguf) = (
            Base::Folder(at("models/smol")),
            Base::Gguf(at("models/smol/m.gguf")),
        );
        // one folder that is to be made, one that is there
        let made = folder.arguments(&at("runs/adapter"));
        assert_eq!(made, "\"../../models/smol\"");
        assert_eq!(folder.arguments(&at("runs")), "\"../models/smol\"");
        assert_eq!(
            gguf.arguments(&at("runs")),
            "\"../models/smol\", gguf_file=\"m.gguf\""
        );
        assert_eq!(
            gguf.arguments(&at("models/smol")),
            "\".\", gguf_file=\"m.gguf\""
        );
        assert_eq!(
            (folder.name(), gguf.name()),
            ("smol".into(), "m.gguf".into())
        );

        let of = |source: &str| {
            let set = [format!("model.source={source}")];
            Base::of(&Recipe::without_file(&set).unwrap())
        };
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let hub = of(&format!("org/name@{commit}"));
        assert_eq!(
            hub.arguments(home.path()),
            format!("\"org/name\", revision=\"{commit}\"")
        );
        assert_eq!(of("org/name").arguments(home.path()), "\"org/name\"");
        let own = of("builtin:demo");
        assert_eq!(own.arguments(home.path()), "\"base\"");
        assert_eq!(
            own.command("--to hf", "base"),
            "randori export builtin:demo --to hf --out base"
        );
        let random = of("random:config.json");
        assert_eq!(
            random.command("--to hf", "base"),
            "randori export recipe.toml --set 'adapter.init=[]' --to hf --out base"
        );
        assert_eq!(random.name(), "random weights");
    }
}
