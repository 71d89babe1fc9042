//! Quantised formats of Hugging Face folders that are read and not written: GPTQ, AWQ, FP8,
//! compressed-tensors, and gpt-oss's MXFP4.
//!
//! What `quantization_config` of `config.json` names is read, by its names; where it is silent,
//! says something else, or the tensors contradict it, the model is refused. A projection's tensors
//! become one [`Packed`] matrix of its true shape.
mod awq;
#[cfg(test)]
mod checks;
mod codes;
mod compressed;
mod fp8;
mod gptq;
mod grid;
mod matrix;
mod module;
mod mxfp4;
mod number;
mod scales;
mod settings;
mod supposed;

use serde_json::Value;

use crate::{Index, Result, bnb};
pub use matrix::{Exact, Packed, Reader};
pub use number::E2M1_LEVELS;
use settings::Settings;
pub use supposed::Supposed;

/// Joins the tensors of every quantised projection, bitsandbytes' included, into one entry of the
/// index, and checks them against the configuration. The answer is what whoever opened the model
/// should be told.
///
/// # Errors
/// A format that cannot be read, by what names it; tensors that are missing or do not fit; a
/// configuration that disagrees or does not say what must be known.
pub fn join(index: &mut Index, config: &Value) -> Result<Option<String>> {
    let section = config.get("quantization_config").and_then(Value::as_object);
    let method = section.and_then(|keys| keys.get("quant_method")?.as_str());
    let (Some(keys), Some(method)) = (section, method) else {
        return bnb::join(index, config).map(|()| None);
    };
    let settings = Settings::new(method, keys);
    let activations = match method {
        "gptq" => gptq::join(index, &settings).map(|()| false)?,
        "awq" => awq::join(index, &settings).map(|()| false)?,
        "fp8" | "fbgemm_fp8" => fp8::join(index, &settings).map(|()| true)?,
        "compressed-tensors" => compressed::join(index, &settings)?,
        "mxfp4" => mxfp4::join(index, &settings).map(|()| false)?,
        _ => bnb::join(index, config).map(|()| false)?,
    };
    Ok(activations.then(|| {
        format!(
            "config.json's quantization_config ({method}) quantises activations too: here the \
             weights alone are, and activations, keys and values are computed as they are"
        )
    }))
}
