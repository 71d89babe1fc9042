//! `config.json` in both of transformers' spellings: v4 reads `rope_theta`, `rope_scaling` and
//! `torch_dtype`, v5 `rope_parameters` and `dtype`. Where its own spelling is missing, either
//! silently takes 10,000 for theta.

use randori_formats::Dtype;
use randori_sdk::Dialect;
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// Derives an exported model's configuration from the base's. transformers' class is the base's, or
/// that of its family's dialect, or else by its usual rule.
///
/// # Errors
/// The configuration is no object or has no `model_type`.
pub fn config_json(base: &Value, dialect: &Dialect, dtype: Dtype) -> Result<Value> {
    let Value::Object(mut config) = base.clone() else {
        return Err(Error::rule("the model's configuration is no JSON object"));
    };
    let name = dtype.torch_name();
    config.insert("torch_dtype".into(), json!(name));
    config.insert("dtype".into(), json!(name));
    config.remove("quantization_config"); // the export is dense
    rope(&mut config, &kinds_of_layers(dialect));
    if !config.get("architectures").is_some_and(Value::is_array) {
        let kind = config.get("model_type").and_then(Value::as_str);
        let kind =
            kind.ok_or_else(|| Error::rule("the model's configuration has no model_type"))?;
        let class = match dialect.class {
            "" => kind.split(['_', '-']).map(capitalised).collect::<String>() + "ForCausalLM",
            class => class.to_string(),
        };
        config.insert("architectures".into(), json!([class]));
    }
    Ok(Value::Object(config))
}

/// What a family's class means by absent rotary keys of each kind of layers, where v5 has a section
/// for each; empty where it has one for all.
fn kinds_of_layers(dialect: &Dialect) -> Map<String, Value> {
    let defaults: Value = serde_json::from_str(dialect.defaults).unwrap_or_default();
    let sections = defaults.get("rope_parameters").and_then(Value::as_object);
    let mut kinds = sections.cloned().unwrap_or_default();
    kinds.retain(|_, section| section.is_object());
    for section in kinds.values_mut() {
        if section.get("rope_type").is_none() {
            section["rope_type"] = json!("default");
        }
    }
    kinds
}

/// Completes one spelling from the other. Where both were present, the base's loading has made v5's
/// consistent. `kinds` is what [`kinds_of_layers`] found: v4's keys are those of layers that see
/// everything.
fn rope(config: &mut Map<String, Value>, kinds: &Map<String, Value>) {
    let mut parameters = match config.get("rope_parameters") {
        // keyed by layer type (Gemma 3): v4 has no spelling for it
        Some(Value::Object(p)) if p.values().any(Value::is_object) => return,
        Some(Value::Object(p)) => p.clone(),
        // v4 of what v5 keys by layer type (Gemma 3): transformers reads it, beside no section only
        _ if config.contains_key("rope_local_base_freq") => return,
        // nothing said: a family may mean more by that than plain frequencies (Ministral 3)
        _ if !config.contains_key("rope_theta") && !said(config.get("rope_scaling")) => return,
        _ => {
            let mut p = match config.get("rope_scaling") {
                Some(Value::Object(scaling)) => scaling.clone(),
                _ => Map::new(),
            };
            // v4's older name of the rope type
            if let Some(kind) = p.remove("type") {
                p.entry("rope_type").or_insert(kind);
            }
            p.entry("rope_type").or_insert(json!("default"));
            if let Some(theta) = config.get("rope_theta") {
                p.entry("rope_theta").or_insert(theta.clone());
            }
            p
        }
    };
    if let Some(theta) = parameters.get("rope_theta") {
        config.insert("rope_theta".into(), theta.clone());
    }
    let default = parameters.get("rope_type").is_none_or(|t| t == "default");
    let mut scaling = parameters.clone();
    scaling.remove("rope_theta");
    config.insert(
        "rope_scaling".into(),
        if default {
            Value::Null
        } else {
            Value::Object(scaling)
        },
    );
    if !kinds.is_empty() {
        let mut nested = kinds.clone();
        nested.insert("full_attention".into(), Value::Object(parameters));
        parameters = nested;
    }
    config.insert("rope_parameters".into(), Value::Object(parameters));
}

/// Whether a section is there and not empty.
fn said(section: Option<&Value>) -> bool {
    section.is_some_and(|s| s.as_object().is_some_and(|s| !s.is_empty()))
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}
