//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT loads a file with wrong tensor names as the bare base model, with only a warning. Here an
//! unknown name and an incomplete pair are errors.
pub(crate) mod config;
mod fields;
pub(crate) mod json;
mod stacked;
pub(crate) mod tensors;
mod turns;
mod update;
mod whole;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use candle_core::Tensor;
use serde_json::Value;

use crate::{Error, LoraSpec, Projection, Result, finite};

pub use stacked::as_in_base;
pub use turns::{deal_out, save_dealt};
pub use update::projections;
use update::split;
pub(crate) use whole::complete;
use whole::written;
pub use whole::{CONFIG, MODEL};

/// File name of the tensors before safetensors.
const PICKLE: &str = "adapter_model.bin";

/// Writes an adapter. `params` are `{projection}.lora_A` (r, in) and `{projection}.lora_B` (out,
/// r), with DoRA `{projection}.lora_magnitude_vector` (out), and every tensor of the modules
/// trained in full (`lm_head.weight`) or replaced; `base_name` is the model's name or path for
/// PEFT.
///
/// Files are written under temporary names and renamed, the settings last.
///
/// # Errors
/// Names or shapes that do not fit the settings, or a file that cannot be written.
pub fn save(
    dir: &Path,
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    base_name: &str,
) -> Result<()> {
    spec.check()?;
    let pairs = complete(spec, params, "the adapter to save")?;
    written(dir, spec, params, &config::write(spec, &pairs, base_name))
}

/// Reads an adapter: its settings, and its tensors under our names (as [`save`] takes them), in
/// f32.
///
/// # Errors
/// A missing or damaged file, or PEFT's older pickle; unsupported settings; a tensor name that is
/// not PEFT's; a value that is not finite; an incomplete pair; a shape that does not fit the rank.
/// Each names the file.
pub fn load(dir: &Path) -> Result<(LoraSpec, BTreeMap<String, Tensor>)> {
    let path = dir.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| Error::rule(format!("{}: not JSON: {e}", path.display())))?;
    let bad = |what: String| Error::rule(format!("{}: {what}", path.display()));
    let (mut spec, layers, parameters) = config::read(&json).map_err(bad)?;
    let path = dir.join(MODEL);
    let place = path.display().to_string();
    if !path.exists() && dir.join(PICKLE).exists() {
        return Err(Error::rule(format!(
            "{}: a pickle, which runs code when it is read, so it is not read: load it in peft and save_pretrained it again, which writes {MODEL}",
            dir.join(PICKLE).display()
        )));
    }
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let mut params = tensors::read(&bytes, &place)?;
    for (name, tensor) in &params {
        finite(name, tensor).map_err(|e| Error::rule(format!("{place}: {e}")))?;
    }
    if !parameters.is_empty() {
        stacked::apply(&parameters, &mut spec, &mut params)
            .map_err(|what| Error::rule(format!("{place}: {what}")))?;
    }
    // PEFT saves copies of the embeddings under their own names and loads them into the base
    let copies = params.keys().filter(|n| !is_update(n) && !spec.owns(n));
    spec.replaced = copies.cloned().collect();
    let pairs = complete(&spec, &params, &place)?;
    if let Some(stray) = pairs.iter().find(|p| !spec.wants(p)) {
        return Err(Error::rule(format!(
            "{place} adapts {stray}, which the target_modules of {CONFIG} do not cover"
        )));
    }
    if let Some(layers) = layers {
        config::narrow_to(&mut spec, &layers, &pairs)
            .map_err(|what| Error::rule(format!("{place}: {what}")))?;
    }
    Ok((spec, params))
}

/// Checks an adapter's tensors against the projections of a base.
///
/// # Errors
/// The first target projection without a pair, the first tensor of an unknown projection, the first
/// shape that does not fit.
pub fn check_fit(
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    projections: &[Projection],
) -> Result<()> {
    let have = complete(spec, params, "the adapter")?;
    for p in projections.iter().filter(|p| spec.adapts(p)) {
        let Projection {
            name,
            inputs,
            outputs,
            ..
        } = p;
        let Some(update) = spec.update(params, name) else {
            return Err(Error::rule(format!(
                "the adapter has no {name}.lora_A, which its targets ask for"
            )));
        };
        let rank = spec.rank_of(name);
        let want = ([rank, *inputs], [*outputs, rank]);
        if update.a.dims() != want.0 || update.b.dims() != want.1 {
            return Err(Error::rule(format!(
                "{name}: the base wants A {:?} and B {:?}, the adapter has {:?} and {:?}",
                want.0,
                want.1,
                update.a.dims(),
                update.b.dims()
            )));
        }
    }
    // of experts' there are thousands
    let known: BTreeSet<&str> = projections.iter().map(|p| p.name.as_str()).collect();
    match have.iter().find(|p| !known.contains(p.as_str())) {
        Some(stray) => Err(Error::rule(format!(
            "the adapter has {stray}.lora_A, but the base has no projection {stray}"
        ))),
        None => Ok(()),
    }
}

/// Whether this tensor is part of an update, rather than of a module trained in full.
pub fn is_update(name: &str) -> bool {
    split(name).is_some()
}
