//! Which plugins may run: those that the user named on the command line, and those whose bytes the
//! user trusted before. A recipe cannot decide that: it may have been downloaded, with the plugin
//! beside it.
//!
//! `$XDG_CONFIG_HOME/randori/trusted/` (without that variable `~/.config/randori/trusted/`, on
//! Windows under `%APPDATA%`) holds a file for each plugin that is trusted: its name is the SHA-256
//! of the plugin's bytes, its text where the plugin lay. Removing the file ends the trust.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use randori_store::Disk;

use crate::request::Request;
use crate::watch::Watch;

/// Answers for each plugin outside the folders of the program whether it may run.
pub struct Trust {
    /// The files that the command line names, itself or by their folder; resolved.
    named: Vec<PathBuf>,
    /// `--trust`
    grant: bool,
    /// Where the recipe names its plugins.
    place: String,
    watch: Arc<dyn Watch>,
    folder: Result<PathBuf, String>,
}

impl Trust {
    /// As the command line says, for plugins that the recipe names at `place`.
    pub fn new(request: &Request, place: String) -> Trust {
        let files = request
            .plugins
            .iter()
            .flat_map(|path| match fs::read_dir(path) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(_) => vec![path.clone()],
            });
        Trust {
            named: files.filter_map(|path| path.canonicalize().ok()).collect(),
            grant: request.trust,
            place,
            watch: request.watch.clone(),
            folder: folder(),
        }
    }

    /// Whether the plugin in `file`, whose bytes have this SHA-256, may run.
    ///
    /// # Errors
    /// The reason why not, and what to do.
    pub fn ask(&self, file: &Path, sha256: &str) -> Result<(), String> {
        if self.grant {
            return self.remember(file, sha256);
        }
        if self.named.iter().any(|named| named == file) {
            return Ok(());
        }
        let known = self.folder.as_ref().map_err(Clone::clone)?;
        if known.join(sha256).is_file() {
            return private(known);
        }
        let what = match changed(known, file) {
            true => "it is not what was trusted: it has changed since",
            false => "it was never trusted",
        };
        Err(format!(
            "{} (plugins.paths) names it, and {what}. Loading a plugin runs its code with all your rights. If you \
             know what it is, give the same command once with --trust, which remembers it by its SHA-256 ({sha256})",
            self.place
        ))
    }

    fn remember(&self, file: &Path, sha256: &str) -> Result<(), String> {
        let folder = self.folder.as_ref().map_err(Clone::clone)?;
        let record = folder.join(sha256);
        if record.is_file() {
            return private(folder);
        }
        make(folder).map_err(|e| format!("--trust cannot make {}: {e}", folder.display()))?;
        private(folder)?;
        let place = format!("{}\n", file.display());
        let written = Disk::new().write(&record, place.as_bytes());
        written.map_err(|e| format!("--trust: {e}"))?;
        self.watch.say(format!(
            "trusted: {} (remembered as {})",
            file.display(),
            record.display()
        ));
        Ok(())
    }
}

/// Where trust is kept.
fn folder() -> Result<PathBuf, String> {
    let absolute = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let home = || env::home_dir().map(|home| home.join(".config"));
    let windows = || absolute("APPDATA").filter(|_| cfg!(windows));
    let config = absolute("XDG_CONFIG_HOME").or_else(windows).or_else(home);
    config
        .map(|config| config.join("randori").join("trusted"))
        .ok_or_else(|| {
            "neither XDG_CONFIG_HOME nor HOME says where trusted plugins are remembered".to_string()
        })
}

/// Whether other bytes of the same file are trusted.
fn changed(folder: &Path, file: &Path) -> bool {
    let place = format!("{}\n", file.display());
    let records = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut texts = records.filter_map(|record| fs::read_to_string(record.path()).ok());
    texts.any(|text| text == place)
}

/// Makes the folder, open to its owner alone.
fn make(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Refuses a folder to which others may write: they could trust in the user's name.
#[cfg(unix)]
fn private(folder: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(folder).map_or(0, |meta| meta.permissions().mode());
    match mode & 0o022 {
        0 => Ok(()),
        0o020 if randori_host::group_is_owners_alone(folder) => Ok(()),
        _ => Err(format!(
            "others than you can write to {}, so what it says of trust is not sure to be yours; run: chmod go-w {0}",
            folder.display()
        )),
    }
}

#[cfg(not(unix))]
fn private(_folder: &Path) -> Result<(), String> {
    Ok(())
}
