//! Export to a Hugging Face model folder, written under a temporary name and renamed when complete.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use randori_formats::{
    Dtype, INDEX, Layout,
    safetensors::{TensorSpec, Writer},
};
use serde_json::{Value, json};

use crate::{
    Error, OnTensor, Result, Rounding, Tensors,
    config::config_json,
    stacked::{Unit, units},
};

/// A file beside the weights, copied unchanged.
#[derive(Debug, Clone)]
pub enum Companion {
    /// This model folder's files for tokenizer, chat template and generation, where present.
    Folder(PathBuf),
    /// A file with this name and content.
    File(String, Vec<u8>),
}

/// Options of a folder export.
#[derive(Debug, Clone)]
pub struct FolderOptions {
    /// Dtype of every tensor.
    pub dtype: Dtype,
    /// Seed of stochastic rounding of updated tensors, which keeps the update's mean; bf16 only.
    pub stochastic: Option<u64>,
    /// Maximum size of a weight file, in bytes; a larger tensor gets a file of its own.
    pub shard_bytes: u64,
}

impl Default for FolderOptions {
    fn default() -> Self {
        FolderOptions {
            dtype: Dtype::Bf16,
            stochastic: None,
            shard_bytes: 5_000_000_000,
        }
    }
}

/// Summary of what was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Weight files, in order.
    pub files: Vec<String>,
    /// Number of tensors.
    pub tensors: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Files of a tokenizer, a chat template, or generation settings.
const COPIED: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
];

/// Writes a whole model as a Hugging Face folder: merged in f32 one tensor at a time, then rounded.
/// `on_tensor` is called with every tensor before it is written, `progress` with (bytes done, bytes
/// in all).
///
/// # Errors
/// The folder exists, the adapter does not fit the base, a number is beyond f16, the disk is full;
/// nothing is left behind then.
pub fn folder(
    tensors: &dyn Tensors,
    companions: &[Companion],
    out: &Path,
    options: &FolderOptions,
    on_tensor: &mut OnTensor,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    refuse_taken(out)?;
    if options.stochastic.is_some() && options.dtype != Dtype::Bf16 {
        return Err(Error::rule(
            "stochastic rounding is for bf16 output: f32 and f16 keep small updates by themselves",
        ));
    }
    tensors.check()?;
    let dialect = tensors.family().dialect;
    let units = units(tensors.list(), dialect.stacks)?;
    let alone = |unit: &Unit| {
        let shape = unit.shape.clone();
        vec![TensorSpec::dense(&unit.name, shape, options.dtype)]
    };
    let plan = Layout::new(units.iter().map(alone).collect(), options.shard_bytes);

    let config = config_json(&tensors.config(), &dialect, options.dtype)?;
    let draft = Draft::begin(out, companions, &config, &plan)?;
    let from = Outgoing {
        tensors,
        units: &units,
        options,
    };
    let report = weights(&from, &plan, &draft, on_tensor, progress)?;
    draft.publish(out)?;
    Ok(report)
}

/// What is written, and how.
struct Outgoing<'a> {
    tensors: &'a dyn Tensors,
    /// In the order in which they are written.
    units: &'a [Unit],
    options: &'a FolderOptions,
}

impl Outgoing<'_> {
    /// A weight's values, rounded.
    fn values(&self, name: &str, on_tensor: &mut OnTensor) -> Result<Vec<f32>> {
        let merged = self.tensors.read(name)?;
        // unchanged tensors need no stochastic rounding
        let seed = self.options.stochastic;
        let rounding = match seed.filter(|_| merged.base.is_some()) {
            Some(seed) => Rounding::Stochastic { seed },
            None => Rounding::Nearest(self.options.dtype),
        };
        on_tensor(name, &merged, &|values| rounding.values(name, values))?;
        let mut values = merged.weight.flatten_all()?.to_vec1::<f32>()?;
        drop(merged);
        rounding.apply(name, &mut values)?;
        Ok(values)
    }
}

fn weights(
    from: &Outgoing,
    plan: &Layout,
    draft: &Draft,
    on_tensor: &mut OnTensor,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let (mut done, mut count, dtype) = (0, 0, from.options.dtype);
    let mut coming = from.units.iter();
    for (file, specs) in &plan.files {
        let mut writer = Writer::create(&draft.dir.join(file), specs.iter().flatten())?;
        for (t, unit) in specs.iter().flatten().zip(coming.by_ref()) {
            for names in unit.weights.chunks(unit.at_once()) {
                if let [name] = names
                    && unit.is_plain()
                {
                    for part in from.values(name, on_tensor)?.chunks(1 << 16) {
                        writer.write(&dtype.encode(name, part)?)?;
                    }
                    continue;
                }
                let encoded = |name: &String| -> Result<Vec<u8>> {
                    Ok(dtype.encode(name, &from.values(name, on_tensor)?)?)
                };
                let parts = names.iter().map(encoded).collect::<Result<Vec<_>>>()?;
                writer.write(&unit.joined(&parts, dtype.width() as usize))?;
            }
            count += 1;
            done += t.bytes;
            progress(done, plan.total);
        }
        writer.finish()?;
    }
    let files = plan.files.iter().map(|(file, _)| file.clone()).collect();
    Ok(Report {
        files,
        tensors: count,
        bytes: plan.total,
    })
}

/// Refuses a path that exists; replacing it is the caller's decision.
pub(crate) fn refuse_taken(out: &Path) -> Result<()> {
    match fs::symlink_metadata(out).is_ok() {
        true => Err(Error::rule(format!(
            "{} is there already; choose another place",
            out.display()
        ))),
        false => Ok(()),
    }
}

/// Special token ids for `generate()`, if the model has no generation settings.
fn generation(config: &Value) -> Value {
    let mut settings = json!({"_from_model_config": true});
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            settings[key] = id.clone();
        }
    }
    settings
}

/// A folder under its temporary name; removed on drop unless published.
pub(crate) struct Draft {
    pub(crate) dir: PathBuf,
}

impl Draft {
    /// Creates the folder with all files but the weights.
    pub(crate) fn begin(
        out: &Path,
        companions: &[Companion],
        config: &Value,
        plan: &Layout,
    ) -> Result<Self> {
        let dir = partial(out)?;
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(Error::io(&dir))?; // left by an export that was killed
        }
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        let draft = Self { dir };
        for companion in companions {
            draft.add(companion)?;
        }
        if !draft.dir.join("generation_config.json").exists() {
            draft.json("generation_config.json", &generation(config))?;
        }
        draft.json("config.json", config)?;
        if let Some(index) = &plan.index {
            draft.json(INDEX, index)?;
        }
        Ok(draft)
    }

    fn add(&self, companion: &Companion) -> Result<()> {
        match companion {
            Companion::File(name, bytes) => self.write(name, bytes),
            Companion::Folder(from) => COPIED
                .iter()
                .map(|name| (name, from.join(name)))
                .try_for_each(|(name, path)| {
                    if path.exists() {
                        self.write(name, &fs::read(&path).map_err(Error::io(&path))?)
                    } else {
                        Ok(())
                    }
                }),
        }
    }

    fn json(&self, name: &str, value: &Value) -> Result<()> {
        self.write(name, format!("{value:#}\n").as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let mut file = File::create(&path).map_err(Error::io(&path))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(Error::io(&path))
    }

    /// Renames the folder to `out`.
    pub(crate) fn publish(self, out: &Path) -> Result<()> {
        refuse_taken(out)?;
        fs::rename(&self.dir, out).map_err(Error::io(out))?;
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            // syncs the rename where the system allows it
            let _ = File::open(parent).and_then(|d| d.sync_all());
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // after `publish` no folder has this name
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// `models/mine` -> `models/.mine.partial.tmp`, a temporary name used by nothing else
fn partial(out: &Path) -> Result<PathBuf> {
    let name = out
        .file_name()
        .ok_or_else(|| Error::rule(format!("{} names no folder to write", out.display())))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".partial.tmp");
    Ok(out.with_file_name(hidden))
}
