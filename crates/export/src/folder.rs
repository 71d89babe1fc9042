//! A Hugging Face model folder, written under a temporary name and renamed when it is whole.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use randori_engine::{Base, Player, weights::Dtype};
use serde_json::{Value, json};

use crate::{
    Error, Result, Survival,
    config::config_json,
    merge::{Sums, merged},
    shards::{Coming, Layout, Writer, layout},
};

/// What stands beside the weights and is copied as it is.
#[derive(Debug, Clone)]
pub enum Companion {
    /// The files of this model folder that concern tokenizer, template and generation, where it has them.
    Folder(PathBuf),
    /// A file of this name.
    File(String, Vec<u8>),
}

/// How a folder is written.
#[derive(Clone)]
pub struct FolderOptions {
    /// Of every tensor.
    pub dtype: Dtype,
    /// Largest weight file.
    pub shard_bytes: u64,
    /// Merge onto this base rather than the player's own (the unquantised original of a quantised one).
    pub onto: Option<Arc<Base>>,
    /// Replace a folder that is there already.
    pub replace: bool,
}

impl Default for FolderOptions {
    fn default() -> Self {
        FolderOptions {
            dtype: Dtype::Bf16,
            shard_bytes: 5_000_000_000,
            onto: None,
            replace: false,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Weight files, in order.
    pub files: Vec<String>,
    /// Tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Over the whole update; `None` where the player changed nothing.
    pub survived: Option<Survival>,
    /// The tensor of which the smallest share is kept.
    pub worst: Option<(String, Survival)>,
}

/// Files that make a tokenizer, a chat template, or generation settings.
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

/// Writes the player's whole model as a Hugging Face folder: merged in f32 one tensor at a time, then rounded.
/// `progress` hears of bytes done and bytes in all.
///
/// # Errors
/// A folder that is there already, an adapter that does not fit the base, a number beyond f16, a full disk; nothing is
/// left behind then.
pub fn folder(
    player: &Player,
    companions: &[Companion],
    out: &Path,
    options: &FolderOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    if !options.replace && out.exists() {
        return Err(Error::rule(format!(
            "{} is there already; choose another place or ask to replace it",
            out.display()
        )));
    }
    let base = options.onto.as_deref().unwrap_or(&player.base);
    no_stray(player, base)?;
    let mut tensors: Vec<Coming> = base
        .weights
        .iter()
        .map(|(name, w)| Coming {
            name: name.clone(),
            shape: w.shape(),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let plan = layout(tensors, options.dtype, options.shard_bytes.max(1));

    let draft = Draft::begin(out)?;
    for companion in companions {
        draft.add(companion)?;
    }
    let config = config_json(&base.config, options.dtype)?;
    if !draft.dir.join("generation_config.json").exists() {
        draft.json("generation_config.json", &generation(&config))?;
    }
    draft.json("config.json", &config)?;
    if let Some(index) = &plan.index {
        draft.json("model.safetensors.index.json", index)?;
    }
    let report = weights(player, &plan, &draft, options, progress)?;
    draft.publish(out)?;
    Ok(report)
}

fn weights(
    player: &Player,
    plan: &Layout,
    draft: &Draft,
    options: &FolderOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let (mut done, mut all, mut tensors) = (0, Sums::default(), 0);
    let mut worst: Option<(String, Survival)> = None;
    for (file, group) in &plan.files {
        let mut writer = Writer::create(&draft.dir.join(file), group, options.dtype)?;
        for t in group {
            let m = merged(player, options.onto.as_deref(), &t.name)?;
            let values = m.weight.flatten_all()?.to_vec1::<f32>()?;
            if let Some(base) = m.base {
                let mut sums = Sums::default();
                for (b, v) in base
                    .flatten_all()?
                    .to_vec1::<f32>()?
                    .into_iter()
                    .zip(&values)
                {
                    sums.add(b, *v, options.dtype);
                }
                all = all.plus(&sums);
                if let Some(s) = sums
                    .survival()
                    .filter(|s| worst.as_ref().is_none_or(|(_, w)| s.kept < w.kept))
                {
                    worst = Some((t.name.clone(), s));
                }
            }
            writer.write(&t.name, &values)?;
            tensors += 1;
            done += t.bytes(options.dtype);
            progress(done, plan.total);
        }
        writer.finish()?;
    }
    let files = plan.files.iter().map(|(file, _)| file.clone()).collect();
    Ok(Report {
        files,
        tensors,
        bytes: plan.total,
        survived: all.survival(),
        worst,
    })
}

/// An adapter of another model must not be dropped in silence.
fn no_stray(player: &Player, base: &Base) -> Result<()> {
    let known = |name: &str| {
        let weight = match name.rsplit_once('.') {
            Some((projection, _)) if randori_lora::peft::is_update(name) => {
                format!("{projection}.weight")
            }
            _ => name.to_string(),
        };
        base.weights.contains_key(&weight)
    };
    match player.params.keys().find(|name| !known(name)) {
        Some(stray) => Err(Error::rule(format!(
            "the player has {stray}, which belongs to no weight of the base"
        ))),
        None => Ok(()),
    }
}

/// Special ids for `generate()`, where the model brings no settings of its own.
fn generation(config: &Value) -> Value {
    let mut settings = json!({"_from_model_config": true});
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(key).filter(|id| !id.is_null()) {
            settings[key] = id.clone();
        }
    }
    settings
}

/// The folder under its temporary name; removed again unless published.
struct Draft {
    dir: PathBuf,
    published: std::cell::Cell<bool>,
}

impl Draft {
    fn begin(out: &Path) -> Result<Self> {
        let dir = beside(out, "partial")?;
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(Error::io(&dir))?; // of an export that was killed
        }
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        Ok(Self {
            dir,
            published: std::cell::Cell::new(false),
        })
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

    /// Gives the folder its name. What stood there is moved aside first and removed last, so that a kill at any moment
    /// leaves one of the two whole.
    fn publish(self, out: &Path) -> Result<()> {
        let old = beside(out, "replaced")?;
        if out.exists() {
            if old.exists() {
                fs::remove_dir_all(&old).map_err(Error::io(&old))?; // of an export that was killed
            }
            fs::rename(out, &old).map_err(Error::io(out))?;
        }
        fs::rename(&self.dir, out).map_err(Error::io(out))?;
        self.published.set(true);
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            // makes the rename durable where the system allows it
            let _ = File::open(parent).and_then(|d| d.sync_all());
        }
        if old.exists() {
            fs::remove_dir_all(&old).map_err(Error::io(&old))?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published.get() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// `models/mine` -> `models/mine.partial`
fn beside(out: &Path, suffix: &str) -> Result<PathBuf> {
    let name = out
        .file_name()
        .ok_or_else(|| Error::rule(format!("{} names no folder to write", out.display())))?;
    let mut name: OsString = name.to_os_string();
    name.push(format!(".{suffix}"));
    Ok(out.with_file_name(name))
}
