//! `adapter_model.safetensors`: PEFT's tensor names and ours.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

const PREFIX: &str = "base_model.model.";
const MAGNITUDE: &str = ".lora_magnitude_vector";

pub(super) fn write(path: &Path, params: &BTreeMap<String, Tensor>) -> Result<()> {
    let named = |name: &String| {
        let update = name.ends_with(".lora_A") || name.ends_with(".lora_B");
        format!("{PREFIX}{name}{}", if update { ".weight" } else { "" })
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
    let mut params = BTreeMap::new();
    for (name, view) in file.tensors() {
        let own = ours(&name).ok_or_else(|| {
            Error::rule(format!(
                "{place}: the tensor name {name} does not fit; PEFT's are {PREFIX}PROJECTION.lora_A.weight and .lora_B.weight, and those of modules_to_save"
            ))
        })?;
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
        let t = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?
            .to_dtype(DType::F32)?;
        params.insert(own, t);
    }
    Ok(params)
}

/// `base_model.model.lm_head.weight` -> `lm_head.weight`, `….q_proj.lora_A.weight` -> `….q_proj.lora_A`.
fn ours(name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX)?;
    if name.contains("lora_embedding_") {
        return None; // updates of embeddings are looked up, not multiplied
    }
    let bare = name.strip_suffix(".weight").unwrap_or(name);
    if bare.ends_with(MAGNITUDE) {
        return Some(bare.to_string()); // older files have `.weight` behind it
    }
    if bare.ends_with(".lora_A") || bare.ends_with(".lora_B") {
        return (bare != name).then(|| bare.to_string());
    }
    // the wrapper's own names, which some tools write
    let plain = name
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".");
    (plain.ends_with(".weight") || plain.ends_with(".bias"))
        .then_some(plain)
        .filter(|n| !n.contains("lora_") && !n.contains("base_layer"))
}

pub(super) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("partial");
    let mut file = fs::File::create(&temporary).map_err(Error::io(&temporary))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io(&temporary))?;
    fs::rename(&temporary, path).map_err(Error::io(path))
}
