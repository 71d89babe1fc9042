//! Loads a plugin's shared library and finds its descriptor.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use libloading::Library;
use randori_sdk::abi;

use crate::{
    Ask, Error, Result,
    frozen::Frozen,
    info::{self, Functions, PluginInfo},
    trust,
};

/// Libraries of this process by the SHA-256 of their bytes: the same bytes are loaded once.
static LOADED: Mutex<BTreeMap<String, &'static Library>> = Mutex::new(BTreeMap::new());

/// Checks and loads one plugin, and reads its descriptor. It is never unloaded, so pointers into it
/// stay valid. The bytes that are hashed and passed to `ask` are the bytes that are loaded, even if
/// the file changes meanwhile.
pub(crate) fn load(file: &Path, ask: &mut Ask) -> Result<(PluginInfo, Vec<Functions>)> {
    let trust::Admitted { path, own } = trust::check(file)?;
    let refuse = |reason: String| Error::Plugin {
        path: path.clone(),
        reason,
    };
    let frozen = Frozen::read(&path).map_err(|e| refuse(e.to_string()))?;
    let sha256 = trust::sha256(frozen.bytes());
    if !own {
        ask(&path, &sha256).map_err(refuse)?;
    }
    let library = library(frozen, &sha256, &path).map_err(refuse)?;
    let descriptor = descriptor(library, &path).map_err(refuse)?;
    // SAFETY: by its symbol's name this is a descriptor of interface 1, and the library is never
    // unloaded.
    let (mut info, functions) = unsafe { info::read(descriptor, &path) }.map_err(refuse)?;
    info.sha256 = sha256;
    Ok((info, functions))
}

fn library(
    frozen: Frozen,
    sha256: &str,
    path: &Path,
) -> std::result::Result<&'static Library, String> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&library) = loaded.get(sha256) {
        return Ok(library);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = frozen
        .file(&name)
        .map_err(|e| format!("its bytes could not be kept for loading: {e}"))?;
    let library = open(copy.path()).map_err(|e| chain(&e))?;
    copy.keep();
    // dropping it would unload it
    let library: &'static Library = Box::leak(Box::new(library));
    loaded.insert(sha256.to_owned(), library);
    Ok(library)
}

#[cfg(unix)]
fn open(path: &Path) -> std::result::Result<Library, libloading::Error> {
    use libloading::os::unix;
    // NOW: a missing symbol is an error here and not a crash later. LOCAL: two plugins' symbols
    // never meet.
    // SAFETY: running a trusted plugin's initialisers is what loading means.
    unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_LOCAL).map(Into::into) }
}

#[cfg(not(unix))]
fn open(path: &Path) -> std::result::Result<Library, libloading::Error> {
    // SAFETY: running a trusted plugin's initialisers is what loading means.
    unsafe { Library::new(path) }
}

/// Finds the constant `randori_plugin_v1_<crate name>`; the crate's name is the file's.
fn descriptor(
    library: &'static Library,
    path: &Path,
) -> std::result::Result<*const abi::Plugin, String> {
    let krate = crate_name(path);
    let find = |major: u32| {
        let symbol = format!("randori_plugin_v{major}_{krate}");
        // SAFETY: only the symbol's address is taken.
        unsafe { library.get::<*const abi::Plugin>(&*symbol) }.map(|symbol| *symbol)
    };
    let failure = match find(abi::MAJOR) {
        Ok(descriptor) => return Ok(descriptor),
        Err(failure) => failure,
    };
    let other = (0..abi::MAJOR + 16).find(|&major| find(major).is_ok());
    Err(match other {
        Some(major) => format!(
            "it was built for plugin interface {major}, this program has interface {}: rebuild it against this version's randori-sdk",
            abi::MAJOR
        ),
        None => format!(
            "it is no Randori plugin, or its file was renamed (the name must stay its crate's): {}",
            chain(&failure)
        ),
    })
}

fn crate_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.strip_prefix("lib").unwrap_or(&stem).replace('-', "_")
}

/// An error's text with its sources': libloading's own says only that `dlopen` failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Reads the descriptor of a plugin that is linked into the program.
pub(crate) fn read_linked(plugin: &'static abi::Plugin) -> Result<(PluginInfo, Vec<Functions>)> {
    let path = PathBuf::new();
    // SAFETY: a descriptor made by `plugin!` in this very program.
    unsafe { info::read(plugin, &path) }.map_err(|reason| Error::Plugin { path, reason })
}
