//! Both files of an adapter, which are written together, and what makes its tensors a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use candle_core::Tensor;
use serde_json::Value;

use super::{
    tensors,
    update::{PARTS, projections, split},
};
use crate::{Error, LoraSpec, Result, saved_by};

/// File name of the settings.
pub const CONFIG: &str = "adapter_config.json";
/// File name of the tensors.
pub const MODEL: &str = "adapter_model.safetensors";

/// Writes both files.
pub(super) fn written(
    dir: &Path,
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    config: &Value,
) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    tensors::write(&dir.join(MODEL), spec, params)?;
    let text = serde_json::to_string_pretty(config).map_err(|e| Error::rule(e.to_string()))?;
    tensors::write_atomic(&dir.join(CONFIG), (text + "\n").as_bytes())
}

/// Returns the projections after checking that each has all its tensors, with shapes that fit, and
/// that all other tensors are modules to save.
pub(crate) fn complete(
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    place: &str,
) -> Result<BTreeSet<String>> {
    for name in params.keys() {
        if let Some((projection, part)) = split(name) {
            let needs: &[&str] = if spec.dora { &PARTS } else { &PARTS[..2] };
            if let Some(other) = needs
                .iter()
                .find(|other| !params.contains_key(&format!("{projection}.{other}")))
            {
                return Err(Error::rule(format!(
                    "{place} has {name} but not {projection}.{other}"
                )));
            }
            if !needs.contains(&part) {
                return Err(Error::rule(format!(
                    "{place} has {name}, but its settings do not say use_dora"
                )));
            }
        } else if !spec.owns(name) {
            return Err(Error::rule(format!(
                "{place}: {name} is no adapter tensor (names end in lora_A or lora_B) and modules_to_save does not name its module"
            )));
        }
    }
    for module in &spec.modules_to_save {
        let saved = |name: &String| {
            let owner = name.rsplit_once('.').map_or(name.as_str(), |(m, _)| m);
            split(name).is_none() && saved_by(module, owner)
        };
        if !params.keys().any(saved) {
            return Err(Error::rule(format!(
                "{place} has no tensor of {module}, which modules_to_save names"
            )));
        }
    }
    let found = projections(params);
    if found.is_empty() {
        return Err(Error::rule(format!("{place} holds no adapter tensors")));
    }
    for (name, t) in params {
        check_shape(spec, params, name, t, place)?;
    }
    let stackable = spec.stackable(found.iter().map(String::as_str));
    stackable.map_err(|e| Error::rule(format!("{place}: {e}")))?;
    Ok(found)
}

fn check_shape(
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    name: &str,
    t: &Tensor,
    place: &str,
) -> Result<()> {
    let Some((projection, part)) = split(name) else {
        return Ok(());
    };
    let rank = spec.rank_of(projection);
    let outputs = params
        .get(&format!("{projection}.lora_B"))
        .and_then(|b| b.dims().first().copied());
    let (fits, want) = match part {
        "lora_A" => (t.dims().len() == 2 && t.dims()[0] == rank, "(rank, inputs)"),
        "lora_B" => (
            t.dims().len() == 2 && t.dims()[1] == rank,
            "(outputs, rank)",
        ),
        _ => (
            t.dims().len() == 1 && t.dims().first().copied() == outputs,
            "(outputs)",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(Error::rule(format!(
        "{place}: {name} must have the shape {want} with rank {rank}, not {:?}",
        t.dims()
    )))
}
