//! A trainer on disk: `trainer.json` (settings, step) beside one safetensors file (parameters and
//! moments: f32, or codes in u8 with f32 scales).
//!
//! The tensors are written first, under a name with their step; renaming `trainer.json` over the
//! old one is the moment the checkpoint changes. A kill at any point leaves the old checkpoint or
//! the new one.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Tensor;
use randori_kernels::{Error, Result};
use safetensors::{Dtype, SafeTensors, View, tensor::TensorView};
use serde::{Deserialize, Serialize};

use super::{
    moments::{Codes, Moment, Moments, Which},
    optim::with_floats,
    settings::TrainSettings,
    trainer::Trainer,
};
use crate::{params::Params, player::Player};

const MANIFEST: &str = "trainer.json";
/// Of [`Manifest`] and the tensor names.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: usize,
    num_tokens: u64,
    /// Steps in a row without a slope; not in older checkpoints.
    #[serde(default)]
    quiet: usize,
    subject: Option<String>,
    settings: TrainSettings,
    /// File name of the tensors.
    tensors: String,
}

impl Trainer {
    /// Writes parameters, moments and step into `dir` (made if need be), replacing an older
    /// checkpoint there in one rename.
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
            quiet: self.quiet,
            subject: self.subject.clone(),
            settings: self.settings.clone(),
            tensors: tensors.clone(),
        };
        let (params, moments) = (
            self.state.download_params(&self.player.params)?,
            self.state.download_moments()?,
        );
        let moments = if self.step > 0 {
            &*moments
        } else {
            &Moments::default()
        };
        let views = views(&params, moments)?;
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

    /// Goes on from a checkpoint: `player` says what base and parameters to expect (a fresh one
    /// with the same adapter), `settings` must be those it was saved with, but for those that
    /// change memory only (`micro_batch_tokens`, `checkpoint`, `offload_inputs`).
    ///
    /// # Errors
    /// A missing or damaged file, other settings (the first difference is named), or parameters
    /// that do not fit the player.
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
        settings.check()?;
        let mut player = player;
        let path = dir.join(&manifest.tensors);
        let (params, moments) = read(&path, &player, &settings, manifest.step)?;
        player.params = Arc::new(params);
        let mut trainer = Trainer::begin(player, settings, moments)?;
        trainer.step = manifest.step;
        trainer.num_tokens = manifest.num_tokens;
        trainer.quiet = manifest.quiet;
        trainer.subject = manifest.subject;
        Ok(trainer)
    }
}

/// Everything to be written, by its name in the file.
fn views<'a>(params: &Params, moments: &'a Moments) -> Result<BTreeMap<String, Array<'a>>> {
    let mut views = BTreeMap::new();
    for (name, param) in params {
        let shape = param.dims().to_vec();
        for (prefix, moments) in [("first", &moments.first), ("second", &moments.second)] {
            match moments.get(name) {
                Some(Moment::F32(values)) => {
                    let of = Array::floats(&shape, Cow::Borrowed(values.as_slice()));
                    views.insert(format!("{prefix}.{name}"), of);
                }
                Some(Moment::Codes(c)) => {
                    let most = Array::floats(&[c.most.len()], Cow::Borrowed(c.most.as_slice()));
                    views.insert(format!("{prefix}_scales.{name}"), most);
                    let codes = Array {
                        shape: vec![c.codes.len()],
                        values: Values::Bytes(&c.codes),
                    };
                    views.insert(format!("{prefix}.{name}"), codes);
                }
                None => {}
            }
        }
        let values = Cow::Owned(with_floats(param, |w| w.to_vec())?);
        views.insert(format!("param.{name}"), Array::floats(&shape, values));
    }
    Ok(views)
}

/// An array as safetensors wants it.
struct Array<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    Floats(Cow<'a, [f32]>),
    Bytes(&'a [u8]),
}

impl<'a> Array<'a> {
    fn floats(shape: &[usize], values: Cow<'a, [f32]>) -> Self {
        Array {
            shape: shape.to_vec(),
            values: Values::Floats(values),
        }
    }
}

impl View for Array<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::Floats(_) => Dtype::F32,
            Values::Bytes(_) => Dtype::U8,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            Values::Bytes(bytes) => Cow::Borrowed(bytes),
            Values::Floats(values) => {
                let mut bytes = Vec::with_capacity(self.data_len());
                for value in values.iter() {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
                bytes.into()
            }
        }
    }
    fn data_len(&self) -> usize {
        match &self.values {
            Values::Floats(values) => values.len() * 4,
            Values::Bytes(bytes) => bytes.len(),
        }
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Writes a file under a temporary name, makes it durable, and renames it to `path`; on an error
/// nothing is left.
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

/// Names the first setting that differs. Those that change memory only may.
fn same_settings(path: &Path, saved: &TrainSettings, now: &TrainSettings) -> Result<()> {
    let saved = &TrainSettings {
        micro_batch_tokens: now.micro_batch_tokens,
        checkpoint: now.checkpoint,
        offload_inputs: now.offload_inputs,
        ..saved.clone()
    };
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

/// Reads parameters and moments and checks them against the player.
fn read(
    path: &Path,
    player: &Player,
    settings: &TrainSettings,
    step: usize,
) -> Result<(Params, Moments)> {
    let file = fs::File::open(path).map_err(|source| io(path, source))?;
    // SAFETY: a checkpoint's tensors are never written in place: they are replaced by renaming
    // another file over them, which leaves the mapped one as it is.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|source| io(path, source))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::rule(format!("{}: {e}", path.display())))?;
    let mut file = Unread {
        path,
        tensors: file.tensors().into_iter().collect(),
    };
    let (mut params, mut moments) = (Params::new(), Moments::default());
    let optimizer = &settings.optimizer;
    let keeps = optimizer.moments();
    for (name, param) in player.params.iter() {
        let (shape, n) = (param.dims(), param.elem_count());
        let values = file.floats(format!("param.{name}"), shape)?;
        params.insert(
            name.clone(),
            Tensor::from_vec(values, shape, param.device())?,
        );
        // before the first step there are no moments
        if step == 0 {
            continue;
        }
        let mut moment = |prefix: &str, which| match optimizer.in_8_bits(n) {
            true => file.codes(prefix, name, which, n),
            false => {
                let values = file.floats(format!("{prefix}.{name}"), shape)?;
                Ok(Moment::F32(values))
            }
        };
        if keeps.0 {
            let first = moment("first", Which::First)?;
            moments.first.insert(name.clone(), first);
        }
        if keeps.1 {
            let second = moment("second", Which::Second)?;
            moments.second.insert(name.clone(), second);
        }
    }
    match file.tensors.keys().min() {
        Some(name) => Err(Error::rule(format!(
            "{}: `{name}` belongs to no parameter of the player",
            path.display()
        ))),
        None => Ok((params, moments)),
    }
}

/// What a file holds and nobody has taken yet.
struct Unread<'a> {
    path: &'a Path,
    tensors: HashMap<String, TensorView<'a>>,
}

impl Unread<'_> {
    fn take(&mut self, name: String, dtype: Dtype, shape: &[usize]) -> Result<TensorView<'_>> {
        let path = self.path.display();
        let view = self
            .tensors
            .remove(&name)
            .ok_or_else(|| Error::rule(format!("{path}: `{name}` is missing")))?;
        if view.dtype() != dtype || view.shape() != shape {
            let (is, found) = (view.dtype(), view.shape());
            return Err(Error::rule(format!(
                "{path}: `{name}` is {is:?} {found:?}, the player's is {dtype:?} {shape:?}"
            )));
        }
        Ok(view)
    }

    fn floats(&mut self, name: String, shape: &[usize]) -> Result<Vec<f32>> {
        let view = self.take(name, Dtype::F32, shape)?;
        let (words, _) = view.data().as_chunks::<4>();
        Ok(words.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn codes(&mut self, prefix: &str, name: &str, which: Which, n: usize) -> Result<Moment> {
        let (codes, scales) = Codes::lengths(n);
        let most = self.floats(format!("{prefix}_scales.{name}"), &[scales])?;
        let view = self.take(format!("{prefix}.{name}"), Dtype::U8, &[codes])?;
        Ok(Moment::Codes(Codes::new(which, view.data().to_vec(), most)))
    }
}
