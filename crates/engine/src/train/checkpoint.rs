//! A trainer on disk: `trainer.json` (settings, step) beside one safetensors file (parameters and moments, f32).
//!
//! The tensors are written first, under a name with their step; renaming `trainer.json` over the old one is the
//! moment the checkpoint changes. A kill at any point leaves the old checkpoint or the new one.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Tensor;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::{
    TrainSettings, Trainer,
    optim::{Moments, with_floats},
};
use crate::{Error, Player, Result, player::Params};

const MANIFEST: &str = "trainer.json";
/// Of [`Manifest`] and the tensor names.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: usize,
    num_tokens: u64,
    subject: Option<String>,
    settings: TrainSettings,
    /// File name of the tensors.
    tensors: String,
}

impl Trainer {
    /// Writes parameters, moments and step into `dir` (made if need be), replacing an older checkpoint there in one
    /// rename.
    ///
    /// # Errors
    /// Whatever the file system says, naming the file; the older checkpoint then still stands.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
        let tensors = format!("state-{:08}.safetensors", self.step);
        let manifest = Manifest {
            format: FORMAT,
            step: self.step,
            num_tokens: self.num_tokens,
            subject: self.subject.clone(),
            settings: self.settings.clone(),
            tensors: tensors.clone(),
        };
        let views = self.views()?;
        replace(&dir.join(&tensors), |temporary| {
            safetensors::serialize_to_file(views, None, temporary).map_err(|e| match e {
                safetensors::SafeTensorError::IoError(source) => io(temporary, source),
                other => Error::rule(format!("{}: {other}", temporary.display())),
            })
        })?;
        let json = serde_json::to_string_pretty(&manifest).map_err(|e| {
            Error::rule(format!(
                "the trainer's state cannot be written as JSON: {e}"
            ))
        })?;
        replace(&dir.join(MANIFEST), |temporary| {
            let mut file = fs::File::create(temporary).map_err(|source| io(temporary, source))?;
            file.write_all(json.as_bytes())
                .map_err(|source| io(temporary, source))
        })?;
        forget(dir, &tensors);
        Ok(())
    }

    /// Goes on from a checkpoint: `player` says what base and parameters to expect (a fresh one with the same
    /// adapter), `settings` must be those it was saved with.
    ///
    /// # Errors
    /// A missing or damaged file, other settings (the first difference is named), or parameters that do not fit the
    /// player.
    pub fn load(dir: &Path, player: Player, settings: TrainSettings) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let json = fs::read(&path).map_err(|source| io(&path, source))?;
        let manifest: Manifest = serde_json::from_slice(&json)
            .map_err(|e| Error::rule(format!("{}: not a trainer's state: {e}", path.display())))?;
        if manifest.format != FORMAT {
            let (found, path) = (manifest.format, path.display());
            return Err(Error::rule(format!(
                "{path}: format {found}; this program reads format {FORMAT}"
            )));
        }
        same_settings(&path, &manifest.settings, &settings)?;
        let mut trainer = Trainer::new(player, settings)?;
        let (params, moments) = read(&dir.join(&manifest.tensors), &trainer, manifest.step)?;
        trainer.player.params = Arc::new(params);
        trainer.moments = moments;
        trainer.step = manifest.step;
        trainer.num_tokens = manifest.num_tokens;
        trainer.subject = manifest.subject;
        Ok(trainer)
    }

    /// Everything to be written, by its name in the file.
    fn views(&self) -> Result<BTreeMap<String, Floats<'_>>> {
        let mut views = BTreeMap::new();
        for (name, param) in self.player.params.iter() {
            let shape = param.dims().to_vec();
            let values = Cow::Owned(with_floats(param, |w| w.to_vec())?);
            for (prefix, moments) in [
                ("first", &self.moments.first),
                ("second", &self.moments.second),
            ] {
                if let Some(values) = moments.get(name) {
                    let values = Cow::Borrowed(values.as_slice());
                    views.insert(
                        format!("{prefix}.{name}"),
                        Floats {
                            shape: shape.clone(),
                            values,
                        },
                    );
                }
            }
            views.insert(format!("param.{name}"), Floats { shape, values });
        }
        Ok(views)
    }
}

/// An f32 array as safetensors wants it.
struct Floats<'a> {
    shape: Vec<usize>,
    values: Cow<'a, [f32]>,
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for value in self.values.iter() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.into()
    }
    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Writes a file under a temporary name, makes it durable, and renames it to `path`; on an error nothing is left.
fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let finish = || -> Result<()> {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&temporary)
            .map_err(|source| io(&temporary, source))?;
        file.sync_all().map_err(|source| io(&temporary, source))?;
        fs::rename(&temporary, path).map_err(|source| io(path, source))?;
        // the rename itself is durable once the folder is; only Unix lets a folder be opened
        #[cfg(unix)]
        if let Some(folder) = path.parent() {
            fs::File::open(folder)
                .and_then(|f| f.sync_all())
                .map_err(|source| io(folder, source))?;
        }
        Ok(())
    };
    write(&temporary).and_then(|()| finish()).inspect_err(|_| {
        // the first error is the one to report
        let _ = fs::remove_file(&temporary);
    })
}

/// Removes tensors of older checkpoints. A failure costs space only, so it is not an error.
fn forget(dir: &Path, keep: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let old = name
            .to_str()
            .is_some_and(|n| n.starts_with("state-") && n.contains(".safetensors") && n != keep);
        if old {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Names the first setting that differs.
fn same_settings(path: &Path, saved: &TrainSettings, now: &TrainSettings) -> Result<()> {
    if saved == now {
        return Ok(());
    }
    let json = |settings| serde_json::to_value(settings).unwrap_or_default();
    let (saved, now) = (json(saved), json(now));
    let differing = saved.as_object().and_then(|fields| {
        fields
            .iter()
            .find(|(key, value)| now.get(key) != Some(value))
    });
    let path = path.display();
    Err(Error::rule(match differing {
        Some((key, value)) => {
            let now = now.get(key).cloned().unwrap_or_default();
            format!(
                "{path}: saved with {key} = {value}, resumed with {now}; a run is resumed with its own settings"
            )
        }
        None => format!("{path}: saved with other settings"),
    }))
}

/// Reads parameters and moments and checks them against the trainer's player.
fn read(path: &Path, trainer: &Trainer, step: usize) -> Result<(Params, Moments)> {
    let file = fs::File::open(path).map_err(|source| io(path, source))?;
    // SAFETY: a checkpoint's tensors are never written in place: they are replaced by renaming another file over
    // them, which leaves the mapped one as it is.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|source| io(path, source))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::rule(format!("{}: {e}", path.display())))?;
    let mut unread: HashMap<String, _> = file.tensors().into_iter().collect();
    let mut take = |name: String, shape: &[usize]| -> Result<Vec<f32>> {
        let view = unread
            .remove(&name)
            .ok_or_else(|| Error::rule(format!("{}: `{name}` is missing", path.display())))?;
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            let (dtype, found, path) = (view.dtype(), view.shape(), path.display());
            return Err(Error::rule(format!(
                "{path}: `{name}` is {dtype:?} {found:?}, the player's is F32 {shape:?}"
            )));
        }
        Ok(view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    };
    let (mut params, mut moments) = (Params::new(), Moments::default());
    let keeps = trainer.settings.optimizer.moments();
    for (name, param) in trainer.player.params.iter() {
        let shape = param.dims();
        params.insert(
            name.clone(),
            Tensor::from_vec(take(format!("param.{name}"), shape)?, shape, param.device())?,
        );
        // before the first step there are no moments
        if step > 0 && keeps.0 {
            moments
                .first
                .insert(name.clone(), take(format!("first.{name}"), shape)?);
        }
        if step > 0 && keeps.1 {
            moments
                .second
                .insert(name.clone(), take(format!("second.{name}"), shape)?);
        }
    }
    match unread.keys().min() {
        Some(name) => Err(Error::rule(format!(
            "{}: `{name}` belongs to no parameter of the player",
            path.display()
        ))),
        None => Ok((params, moments)),
    }
}
