//! `adapter_model.safetensors`: conversion between PEFT's tensor names and ours.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Device, Tensor};

use crate::{Error, LoraSpec, Result};

const PREFIX: &str = "base_model.model.";
const BASE_LAYER: &str = "base_layer";
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// Which of a PEFT wrapper's names a tensor was stored under; of several the first variant wins.
///
/// With a resized vocabulary PEFT writes a trained embedding or head under both names, with equal
/// values, and loads the bare one into the wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum StoredAs {
    /// The name that PEFT loads: `lm_head.weight`, `lm_head.base_layer.weight`.
    Bare,
    /// The name within the wrapper: `lm_head.modules_to_save.weight`.
    Wrapped,
}

pub(super) fn write(path: &Path, spec: &LoraSpec, params: &BTreeMap<String, Tensor>) -> Result<()> {
    let named = |name: &String| {
        if name.ends_with(".lora_A") || name.ends_with(".lora_B") {
            return format!("{PREFIX}{name}.weight");
        }
        // beneath an update, PEFT's wrapper stores the weight under another name
        let below = name.rsplit_once('.').filter(|(module, _)| {
            spec.replaced.contains(name) && params.contains_key(&format!("{module}.lora_A"))
        });
        match below {
            Some((module, part)) => format!("{PREFIX}{module}.{BASE_LAYER}.{part}"),
            None => format!("{PREFIX}{name}"),
        }
    };
    let tensors: HashMap<String, Tensor> = params
        .iter()
        .map(|(name, t)| Ok((named(name), t.to_dtype(DType::F32)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| Error::rule(format!("the adapter cannot be written: {e}")))?;
    write_atomic(path, &bytes)
}

pub(super) fn read(bytes: &[u8], place: &str) -> Result<BTreeMap<String, Tensor>> {
    let file = safetensors::SafeTensors::deserialize(bytes)
        .map_err(|e| Error::rule(format!("{place} is damaged or no safetensors file: {e}")))?;
    let mut all: BTreeMap<(String, StoredAs), Tensor> = BTreeMap::new();
    for (name, view) in file.tensors() {
        let own = ours(&name).map_err(|why| Error::rule(format!("{place}: {name} {why}")))?;
        let Some((own, found)) = own else {
            continue;
        };
        let t = in_f32(&view, &name, place)?;
        if all.insert((own.clone(), found), t).is_some() {
            return Err(Error::rule(format!("{place} has two tensors for {own}")));
        }
    }
    let mut params = BTreeMap::new();
    for ((own, _), t) in all {
        params.entry(own).or_insert(t); // the first variant of StoredAs wins
    }
    Ok(params)
}

/// A stored tensor in f32.
///
/// # Errors
/// Numbers that are no floats.
pub(crate) fn in_f32(
    view: &safetensors::tensor::TensorView,
    name: &str,
    place: &str,
) -> Result<Tensor> {
    let dtype = match view.dtype() {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::F16 => DType::F16,
        safetensors::Dtype::BF16 => DType::BF16,
        other => {
            return Err(Error::rule(format!(
                "{place}: {name} is {other:?}; adapters are F32, F16 or BF16"
            )));
        }
    };
    let stored = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
    Ok(stored.to_dtype(DType::F32)?)
}

/// Maps `base_model.model.lm_head.weight` and `….lm_head.base_layer.weight` to `lm_head.weight`,
/// `….q_proj.lora_A.weight` to `….q_proj.lora_A`; the base's own copy
/// (`….lm_head.original_module.weight`), which the wrapper does not use, to `None`.
///
/// # Errors
/// What is wrong with the name.
fn ours(name: &str) -> std::result::Result<Option<(String, StoredAs)>, String> {
    let strange = || {
        Err(format!(
            "does not fit; PEFT's names are {PREFIX}PROJECTION.lora_A.weight and .lora_B.weight, those of modules_to_save, and copies of embeddings"
        ))
    };
    let Some(name) = name.strip_prefix(PREFIX) else {
        return strange();
    };
    for (part, what) in [
        (
            ".lora_embedding_",
            "is an update of an embedding, which is looked up and not multiplied",
        ),
        (".token_adapter.", "holds trained rows of an embedding"),
        (".lora_B.bias", "is a bias of B (lora_bias)"),
    ] {
        if name.contains(part) {
            return Err(format!(
                "{what}: that is not supported; merge the adapter with peft and load the merged model"
            ));
        }
    }
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    if bare.ends_with(MAGNITUDE) {
        return Ok(Some((bare.to_string(), StoredAs::Bare))); // older files append `.weight`
    }
    if bare.ends_with(".lora_A") || bare.ends_with(".lora_B") {
        return if bare != name {
            Ok(Some((bare.to_string(), StoredAs::Bare)))
        } else {
            strange()
        };
    }
    let found = match name.contains(".modules_to_save.") {
        true => StoredAs::Wrapped,
        false => StoredAs::Bare,
    };
    // names within the wrappers, which PEFT writes for resized embeddings and some tools always
    let plain = name
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
        .replace(&format!(".{BASE_LAYER}."), ".");
    let ends = plain.ends_with(".weight") || plain.ends_with(".bias");
    if ends && !plain.contains("lora_") {
        let unused = plain.contains(".original_module.");
        Ok((!unused).then_some((plain, found)))
    } else {
        strange()
    }
}

pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("partial");
    let mut file = fs::File::create(&temporary).map_err(Error::io(&temporary))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io(&temporary))?;
    fs::rename(&temporary, path).map_err(Error::io(path))
}
