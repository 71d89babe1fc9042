//! Loads a plugin's shared library and finds its descriptor.

use std::path::{Path, PathBuf};

use libloading::Library;
use randori_sdk::abi;

use crate::{
    Error, Result,
    info::{self, Functions, PluginInfo},
    trust,
};

/// Checks, loads and lists one plugin. It stays loaded: what came out of it may live for ever.
pub(crate) fn load(file: &Path) -> Result<(PluginInfo, Vec<Functions>)> {
    let path = trust::check(file)?;
    let sha256 = trust::sha256(&path)?;
    let refuse = |reason: String| Error::Plugin {
        path: path.clone(),
        reason,
    };
    let library = open(&path).map_err(|e| refuse(chain(&e)))?;
    // dropping it would unload it
    let library: &'static Library = Box::leak(Box::new(library));
    let descriptor = descriptor(library, &path).map_err(refuse)?;
    // SAFETY: by its symbol's name this is a descriptor of interface 1, and the library is never unloaded.
    let (mut info, functions) = unsafe { info::read(descriptor, &path) }.map_err(refuse)?;
    info.sha256 = sha256;
    Ok((info, functions))
}

#[cfg(unix)]
fn open(path: &Path) -> std::result::Result<Library, libloading::Error> {
    use libloading::os::unix;
    // NOW: a missing symbol is an error here and not a crash later. LOCAL: two plugins' symbols never meet.
    // SAFETY: running a trusted plugin's initialisers is what loading means.
    unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_LOCAL).map(Into::into) }
}

#[cfg(not(unix))]
fn open(path: &Path) -> std::result::Result<Library, libloading::Error> {
    // SAFETY: running a trusted plugin's initialisers is what loading means.
    unsafe { Library::new(path) }
}

/// The constant `randori_plugin_v1_<crate name>`, the crate's name being the file's.
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

/// An error with its sources: libloading's own text says only that `dlopen` failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Lists a plugin that is linked into the program.
pub(crate) fn linked(plugin: &'static abi::Plugin) -> Result<(PluginInfo, Vec<Functions>)> {
    let path = PathBuf::new();
    // SAFETY: a descriptor made by `plugin!` in this very program.
    unsafe { info::read(plugin, &path) }.map_err(|reason| Error::Plugin { path, reason })
}
