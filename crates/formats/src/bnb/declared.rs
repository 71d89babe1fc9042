//! `quantization_config` of `config.json`, which describes the whole model's quantisation.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Bnb4;
use crate::{Dtype, Error, Index, Result};

/// The keys that decide how weights are decoded.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Declared {
    quant_method: Option<String>,
    pub(super) load_in_4bit: bool,
    load_in_8bit: bool,
    pub(super) bnb_4bit_quant_type: Option<String>,
    pub(super) bnb_4bit_use_double_quant: Option<bool>,
    pub(super) llm_int8_skip_modules: Option<Vec<String>>,
}

/// The `quantization_config` of a model whose blocks are in NF4, with `dtype` for the rest.
pub fn quantization_config(double: bool, dtype: Dtype) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": dtype.torch_name(),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

impl Declared {
    /// Reads the configuration's section; `None` if it has none.
    pub(super) fn of(config: &Value) -> Result<Option<Declared>> {
        let Some(value) = config.get("quantization_config").filter(|v| !v.is_null()) else {
            return Ok(None);
        };
        let declared = Declared::deserialize(value)
            .map_err(|e| Error::rule(format!("config.json's quantization_config: {e}")))?;
        match declared.quant_method.as_deref() {
            // older files do not name the method
            None | Some("bitsandbytes") => Ok(Some(declared)),
            Some(other) => Err(Error::rule(format!(
                "the model is quantised by {other}, which cannot be read; bitsandbytes' 4 bits, gptq, awq, fp8, fbgemm_fp8, compressed-tensors, mxfp4 and GGUF can, and dense weights"
            ))),
        }
    }

    /// Checks that one projection's format agrees with the configuration.
    pub(super) fn agrees(
        &self,
        name: &str,
        kind: &str,
        four: &Bnb4,
    ) -> std::result::Result<(), String> {
        let says = |what: String| Err(format!("config.json's quantization_config says {what}"));
        if let Some(other) = self.bnb_4bit_quant_type.as_deref().filter(|k| *k != kind) {
            return says(format!("{other}, but it is stored as {kind}"));
        }
        let double = four.double();
        if let Some(said) = self.bnb_4bit_use_double_quant.filter(|d| *d != double) {
            return says(format!(
                "bnb_4bit_use_double_quant {said}, but its scales are {}",
                if double { "quantised" } else { "plain" }
            ));
        }
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let mut skips = self.llm_int8_skip_modules.iter().flatten();
        match skips.find(|skip| is_skipped(module, skip)) {
            Some(skip) => says(format!(
                "that {skip} is skipped (llm_int8_skip_modules), but it is quantised"
            )),
            None => Ok(()),
        }
    }
}

/// Whether a list of modules to be left dense has this one: by its name, or by how that begins or
/// ends.
pub(crate) fn is_skipped(module: &str, skip: &str) -> bool {
    module == skip
        || module.starts_with(&format!("{skip}."))
        || module.ends_with(&format!(".{skip}"))
}

/// Refuses the 8-bit format, whether the configuration or a tensor shows it.
pub(super) fn refuse_eight_bit(index: &Index, declared: Option<&Declared>) -> Result<()> {
    let scb = index.tensors.keys().find(|name| name.ends_with(".SCB"));
    if scb.is_none() && !declared.is_some_and(|d| d.load_in_8bit) {
        return Ok(());
    }
    let what = scb.map_or("config.json says load_in_8bit".to_string(), |n| {
        format!("it has {n}")
    });
    Err(Error::rule(format!(
        "the model is in bitsandbytes' 8 bits ({what}), which cannot be read; use the dense model it was made from (adapter.kind = \"qlora\" quantises it to 4 bits), a 4-bit checkpoint, or a GGUF file in q8_0"
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_we_write_is_read_as_4_bits() {
        for double in [false, true] {
            let config = json!({"quantization_config": quantization_config(double, Dtype::Bf16)});
            let declared = Declared::of(&config).unwrap().unwrap();
            assert!(declared.load_in_4bit && !declared.load_in_8bit);
            assert_eq!(declared.bnb_4bit_quant_type.as_deref(), Some("nf4"));
            assert_eq!(declared.bnb_4bit_use_double_quant, Some(double));
            assert!(refuse_eight_bit(&Index::default(), Some(&declared)).is_ok());
        }
    }
}
