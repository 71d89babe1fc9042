//! The rules for files that may be loaded, and the hash by which a plugin is trusted and recorded
//! in a run's manifest.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{Error, Result, search};

/// A file whose place and mode permit loading.
pub(crate) struct Admitted {
    /// Its path, links resolved.
    pub path: PathBuf,
    /// Whether it is beside the binary or where plugins are installed: then it is loaded without
    /// asking.
    pub own: bool,
}

/// Checks a plugin's place and mode. Rules, since a plugin is native code:
/// - never from the working directory (a downloaded archive must not bring code that runs by being
///   entered), unless that is the binary's own folder;
/// - never from a folder that holds a model;
/// - never writable by anybody but its owner: its group may write it only if nobody else is in it.
pub(crate) fn check(file: &Path) -> Result<Admitted> {
    let refuse = |reason: String| Error::Plugin {
        path: file.to_owned(),
        reason,
    };
    let path = file.canonicalize().map_err(|e| refuse(e.to_string()))?;
    if !path.is_file() {
        return Err(refuse("a plugin is a file".into()));
    }
    // the rules hold for the resolved folder and for the one that was named
    let named = file.parent().and_then(|dir| {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        dir.canonicalize().ok()
    });
    let mut own = false;
    for dir in [path.parent().map(Path::to_owned), named]
        .into_iter()
        .flatten()
    {
        if search::is_standard(&dir) {
            own = true;
            continue;
        }
        if env::current_dir().and_then(|cwd| cwd.canonicalize()).ok() == Some(dir.clone()) {
            return Err(refuse(
                "plugins are never loaded from the working directory; move it to another folder and name it by its path"
                    .into(),
            ));
        }
        if let Some(model) = model_in(&dir) {
            return Err(refuse(format!(
                "plugins are never loaded from a model's folder, and this one holds {model}; move it elsewhere"
            )));
        }
    }
    writable(&path).map_or(Ok(()), |reason| Err(refuse(reason)))?;
    Ok(Admitted { path, own })
}

/// The file that shows that a folder holds a model, if any.
fn model_in(dir: &Path) -> Option<String> {
    let is_model = |name: &str| {
        matches!(
            name,
            "config.json" | "tokenizer.json" | "adapter_config.json"
        ) || name.ends_with(".safetensors")
            || name.ends_with(".gguf")
    };
    let names = fs::read_dir(dir).ok()?.flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| is_model(name))
}

/// The bit of a mode that lets a file's group write.
#[cfg(unix)]
const GROUP: u32 = 0o020;
/// The bit that lets everybody write.
#[cfg(unix)]
const WORLD: u32 = 0o002;

#[cfg(unix)]
fn writable(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    const STICKY: u32 = 0o1000;
    let mode = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    // Beside the binary, whoever can write the binary gains nothing by writing a plugin.
    let binary = match env::current_exe() {
        Ok(exe) if path.parent().is_some_and(search::is_standard) => mode(&exe) & GROUP,
        _ => 0,
    };
    let folder = path.parent().map_or(0, mode);
    if folder & WORLD != 0 && folder & STICKY == 0 {
        return Some(format!(
            "its folder is writable by everybody (mode {:03o}), so anyone may have put it there; run: chmod o-w {}",
            folder & 0o777,
            path.parent().unwrap_or(path).display()
        ));
    }
    let who = writers(mode(path) & !binary, || crate::group_is_owners_alone(path))?;
    Some(format!(
        "it is writable by {who} (mode {:03o}), so it may not be what its owner put there; run: chmod go-w {}",
        mode(path) & 0o777,
        path.display()
    ))
}

/// Who besides its owner may write a file of this mode; `alone` tells whether its group is the
/// owner alone.
#[cfg(unix)]
fn writers(mode: u32, alone: impl FnOnce() -> bool) -> Option<&'static str> {
    match mode & (GROUP | WORLD) {
        0 => None,
        GROUP if alone() => None,
        GROUP => Some("its group"),
        _ => Some("everybody"),
    }
}

#[cfg(not(unix))]
fn writable(_path: &Path) -> Option<String> {
    None
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_write_only_if_it_is_the_owner_alone() {
        for (mode, shared, alone) in [
            (0o100755, None, None),
            (0o100644, None, None),
            (0o100775, Some("its group"), None),
            (0o100664, Some("its group"), None),
            (0o100757, Some("everybody"), Some("everybody")),
            (0o100666, Some("everybody"), Some("everybody")),
        ] {
            assert_eq!(writers(mode, || false), shared, "{mode:o}");
            assert_eq!(writers(mode, || true), alone, "{mode:o}");
        }
    }
}
