//! `randori new plugin`: a crate that builds, passes its tests, and loads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::outbox;
use crate::shell::quoted;
use crate::watch::Watch;

/// What a new plugin offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginKind {
    /// An architecture of models.
    Architecture,
    /// A loss over pairs.
    Loss,
    /// A step of sampling.
    Sampler,
}

/// A crate to write.
#[derive(Clone, Debug)]
pub struct NewPlugin {
    /// Its name: letters, digits and `_`, as in recipes.
    pub name: String,
    /// What it offers.
    pub kind: PluginKind,
    /// The folder of `randori-sdk` (`crates/sdk` of a clone); `None`: cargo fetches the repository.
    pub sdk: Option<PathBuf>,
    /// The folder to write.
    pub out: PathBuf,
}

const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Writes the crate.
///
/// # Errors
/// A name that no crate can have, an SDK that is not there, a folder that is taken.
pub fn new_plugin(asked: &NewPlugin, watch: &dyn Watch) -> Result<()> {
    check_name(&asked.name)?;
    let files = files(asked)?;
    if std::fs::symlink_metadata(&asked.out).is_ok() {
        bail!(
            "{} is there already; nothing was written",
            asked.out.display()
        );
    }
    outbox::refuse_parent(&asked.out, None)?;
    write(&files, &asked.out).with_context(|| asked.out.display().to_string())?;
    let written = files.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    result!(watch, "{}: {}", asked.out.display(), written.join(", "));
    for line in next(asked) {
        watch.note(line);
    }
    Ok(())
}

/// Writes the files into a folder beside, which is renamed to `out` when all are there.
fn write(files: &[(&str, String)], out: &Path) -> Result<()> {
    let beside = out.parent().filter(|above| !above.as_os_str().is_empty());
    let fresh = tempfile::tempdir_in(beside.unwrap_or(Path::new(".")))?;
    let folder = fresh.path().join("crate");
    for (name, text) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(std::fs::rename(folder, out)?)
}

fn check_name(name: &str) -> Result<()> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(letter) {
        true => Ok(()),
        false => bail!(
            "a plugin's name must be small letters, digits and _, with a letter first, got {name:?}"
        ),
    }
}

/// The commands that come next.
fn next(asked: &NewPlugin) -> Vec<String> {
    let library = format!(
        "target/release/{}randori_plugin_{}{}",
        std::env::consts::DLL_PREFIX,
        asked.name,
        std::env::consts::DLL_SUFFIX
    );
    let check = match asked.kind {
        PluginKind::Architecture => format!(
            "randori plugins check {} --against config.json --plugin {library}",
            asked.name
        ),
        PluginKind::Loss | PluginKind::Sampler => {
            format!("randori plugins --plugin {library}")
        }
    };
    let folder = quoted(&asked.out.display().to_string());
    vec![
        format!("cd {folder}"),
        "cargo test && cargo build --release".into(),
        check,
    ]
}

fn files(asked: &NewPlugin) -> Result<Vec<(&'static str, String)>> {
    let source = match asked.kind {
        PluginKind::Architecture => include_str!("../templates/architecture.rs"),
        PluginKind::Loss => include_str!("../templates/loss.rs"),
        PluginKind::Sampler => include_str!("../templates/sampler.rs"),
    };
    let named = |text: &str| {
        let text = text.replace("my_plugin", &asked.name);
        text.replace("MyPlugin", &camel(&asked.name))
    };
    let mut files = vec![
        ("Cargo.toml", manifest(asked)?),
        (".gitignore", "/target\n".into()),
        ("src/lib.rs", named(source)),
    ];
    if asked.kind == PluginKind::Architecture {
        let config = include_str!("../templates/config.json");
        files.push(("config.json", named(config)));
    }
    Ok(files)
}

/// The crate's `Cargo.toml`; a workspace of its own, wherever it lies.
fn manifest(asked: &NewPlugin) -> Result<String> {
    let name = &asked.name;
    let sdk = match &asked.sdk {
        None => format!("git = \"{REPOSITORY}\""),
        Some(path) => {
            let found = path.canonicalize().and_then(|path| {
                let manifest = path.join("Cargo.toml");
                std::fs::metadata(manifest).map(|_| path)
            });
            let path = found.with_context(|| format!("--sdk {}", path.display()))?;
            let text = path.to_str().context("--sdk: its path is not UTF-8")?;
            format!("path = {}", toml_edit::Value::from(text))
        }
    };
    Ok(format!(
        r#"[package]
name = "randori-plugin-{name}"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"] # the plugin; and for tests

[dependencies]
randori-sdk = {{ {sdk} }}

[profile.release]
panic = "unwind" # "abort" is refused

[workspace]
"#
    ))
}

/// `my_plugin` as Rust writes a type: `MyPlugin`.
fn camel(name: &str) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates() {
        for (name, right) in [("mine", true), ("a_2", true), ("", false), ("2a", false)] {
            assert_eq!(check_name(name).is_ok(), right, "{name}");
        }
        for name in ["Mine", "my-own", "a/b", "_a", "é"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(camel("my_own_2"), "MyOwn2");
    }
}
