//! What transformers would obey of a model besides what is read here, in silence too: an adapter
//! that lies beside the weights, keys of the configuration that any class obeys. Refused, since
//! the model would be another one.

use std::path::Path;

use randori_formats::UNSHARDED;
use randori_kernels::{Error, Result};
use serde_json::Value;

/// By this file in a model's folder or repository transformers finds an adapter.
pub(super) const ADAPTER: &str = "adapter_config.json";

/// Refuses a folder with an adapter beside the model's configuration.
///
/// # Errors
/// The file, and how the adapter is played.
pub(super) fn refuse_adapter(dir: &Path) -> Result<()> {
    let path = dir.join(ADAPTER);
    match path.exists() {
        true => Err(adapter_error(&path.display().to_string())),
        false => Ok(()),
    }
}

/// The error about an adapter beside a model.
pub(super) fn adapter_error(place: &str) -> Error {
    Error::rule(format!(
        "{place}: an adapter beside the model, which transformers would play too: put the adapter's files into a folder of their own and name that in adapter.init, or take {ADAPTER} away to play the model without it"
    ))
}

/// Refuses keys of a configuration that transformers 5.24 obeys whatever the architecture is, or
/// fails at, and that nothing here computes. A key whose value is null counts as absent.
///
/// # Errors
/// The key and its value.
pub(super) fn refuse_keys(config: &Value) -> Result<()> {
    let given = |key: &str| config.get(key).filter(|value| !value.is_null());
    let refuse = |key: &str, value: &Value, why: &str| {
        Err(Error::rule(format!("config.json: {key} is {value}: {why}")))
    };
    if let Some(value) = given("is_causal").filter(|v| **v != Value::Bool(true)) {
        let why = "only what reads from left to right is supported";
        return refuse("is_causal", value, why);
    }
    if let Some(value) = given("transformers_weights").filter(|v| v.as_str() != Some(UNSHARDED)) {
        let why = format!(
            "transformers reads the weights there, and only {UNSHARDED} or shards with their index are read here: rename the file and take the key away"
        );
        return refuse("transformers_weights", value, &why);
    }
    // sizes of heads: an architecture that does not read them finds other shapes than the file's
    let sizes = ["head_dim", "num_key_value_heads"];
    let sized = |one: &Value| {
        let one = one.as_object();
        one.is_some_and(|one| one.keys().all(|key| sizes.contains(&key.as_str())))
    };
    let only_sizes = |value: &Value| {
        let layers = value.as_object();
        layers.is_some_and(|layers| layers.values().all(sized))
    };
    let parts = ["text_config", "decoder", "generator"];
    let (layers, part) = (
        given("per_layer_config").filter(|v| !only_sizes(v)),
        parts.into_iter().find(|key| given(key).is_some()),
    );
    if layers.is_some() {
        return Err(Error::rule(
            "config.json has per_layer_config: layers whose settings differ are not supported",
        ));
    }
    if let Some(key) = part {
        return Err(Error::rule(format!(
            "config.json has {key}: a model of several parts is not supported"
        )));
    }
    if let Some(value) = given("quantization_config") {
        // bitsandbytes' older files say no method
        let named = ["quant_method", "load_in_4bit", "load_in_8bit"]
            .iter()
            .any(|key| {
                let said = value.get(key);
                said.is_some_and(|said| !said.is_null() && *said != Value::Bool(false))
            });
        if !named {
            let why = "it names no quant_method; take the key away where the weights are dense";
            return refuse("quantization_config", value, why);
        }
    }
    Ok(())
}
