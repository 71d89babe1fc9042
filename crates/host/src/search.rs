//! The search path of plugins, and which files count as plugins.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{Error, Result};

/// Folders to search and files to load. The working directory and model folders are never searched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// Folders in which every plugin is loaded.
    pub dirs: Vec<PathBuf>,
    /// Plugins named by the user; each replaces a folder's plugin of the same file name.
    pub files: Vec<PathBuf>,
}

impl SearchPath {
    /// The binary's own folder (with its `deps` when cargo built it there) and
    /// `$PREFIX/lib/randori/plugins`, where the binary is `$PREFIX/bin/randori`. Only folders that
    /// exist.
    pub fn standard() -> Self {
        let mut dirs = own_folders();
        dirs.extend(installed());
        SearchPath {
            dirs,
            files: Vec::new(),
        }
    }

    /// The plugin files of this path; those named by the user come last.
    pub(crate) fn plugins(&self) -> Result<Vec<PathBuf>> {
        let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
        for dir in &self.dirs {
            for (name, file) in plugins_of(dir)? {
                let chosen = match found.get(&name) {
                    Some(other) if resolved(other) == resolved(&file) => continue, // a link
                    Some(other) => choose(other, &file)?,
                    None => file,
                };
                found.insert(name, chosen);
            }
        }
        for file in &self.files {
            if let Some(name) = file.file_name() {
                found.remove(&*name.to_string_lossy());
            }
        }
        // a file under two names is one plugin
        let mut seen = BTreeSet::new();
        let all = found.into_values().chain(self.files.iter().cloned());
        Ok(all.filter(|file| seen.insert(resolved(file))).collect())
    }
}

/// The file's path with links resolved.
fn resolved(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

/// The binary's folder and, in a cargo target directory, `deps` beside it: `cargo test` leaves
/// plugins only there.
pub(crate) fn own_folders() -> Vec<PathBuf> {
    let Some(own) = env::current_exe()
        .ok()
        .and_then(|exe| exe.canonicalize().ok())
        .and_then(|exe| exe.parent().map(Path::to_owned))
    else {
        return Vec::new();
    };
    let deps = own.join("deps");
    // an example lies in `examples`, a sibling of `deps`
    let sibling = own
        .ends_with("examples")
        .then(|| own.with_file_name("deps"));
    let cargo = [Some(deps), sibling].into_iter().flatten();
    let cargo: Vec<_> = cargo.filter(|dir| dir.is_dir()).collect();
    [vec![own], cargo].concat()
}

fn installed() -> Option<PathBuf> {
    let exe = env::current_exe().ok()?.canonicalize().ok()?;
    let prefix = exe.parent()?.parent()?;
    Some(prefix.join("lib/randori/plugins")).filter(|dir| dir.is_dir())
}

/// Whether a folder is one that [`SearchPath::standard`] names.
pub(crate) fn is_standard(dir: &Path) -> bool {
    own_folders()
        .into_iter()
        .chain(installed())
        .any(|d| d == dir)
}

/// Plugin files of a folder, by file name: `librandori_plugin_*.so` or the system's equivalent,
/// without the tests' `misbehave`.
fn plugins_of(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let refuse = |e| Error::Rule(format!("plugin folder {}: {e}", dir.display()));
    // resolved, so that a folder under two names is one folder
    let entries = dir.canonicalize().and_then(fs::read_dir).map_err(refuse)?;
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_plugin(&name) {
            files.push((name, entry.path()));
        }
    }
    Ok(files)
}

fn is_plugin(file: &str) -> bool {
    let stem = file.strip_prefix("lib").unwrap_or(file);
    let Some((stem, extension)) = stem.rsplit_once('.') else {
        return false;
    };
    let name = stem.strip_prefix("randori_plugin_");
    matches!(extension, "so" | "dylib" | "dll") && name.is_some_and(|name| name != "misbehave")
}

/// Chooses between two files of one name: the newer, if they are in the binary's folder and its
/// `deps`; any other double is refused, since neither should silently win.
fn choose(a: &Path, b: &Path) -> Result<PathBuf> {
    let own = own_folders();
    let is_own = |file: &Path| {
        file.parent()
            .is_some_and(|dir| own.iter().any(|o| o == dir))
    };
    if !(is_own(a) && is_own(b)) {
        return Err(Error::Rule(format!(
            "the same plugin lies in two folders: {} and {}; remove one or name the one you want",
            a.display(),
            b.display()
        )));
    }
    let age = |file: &Path| {
        let modified = fs::metadata(file).and_then(|meta| meta.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    Ok(if age(b) > age(a) { b } else { a }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_files_are_known_by_name() {
        for (file, is) in [
            ("librandori_plugin_llama.so", true),
            ("librandori_plugin_llama.dylib", true),
            ("randori_plugin_llama.dll", true),
            ("librandori_plugin_misbehave.so", false),
            ("librandori_plugin_llama.rlib", false),
            ("librandori_plugin_llama.so.d", false),
            ("librandori_plugin_llama", false),
            ("libllama.so", false),
        ] {
            assert_eq!(is_plugin(file), is, "{file}");
        }
    }
}
