//! The text part of a model of several parts (vision, audio), as its family's dialect says where it
//! lies: its configuration and its tensors become those of a model of text alone.

use std::collections::BTreeMap;

use randori_formats::Index;
use randori_kernels::{Error, Result};
use randori_sdk::{Dialect, seam::Family};
use serde_json::{Map, Value, json};

/// Keys that count from the whole model's configuration, whatever its text part says.
const OF_THE_WHOLE: [&str; 2] = ["tie_word_embeddings", "quantization_config"];
/// Keys that the text part has from the whole model where it lacks them.
const INHERITED: [&str; 5] = [
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "dtype",
];
const TIED: &str = "tie_word_embeddings";

/// Makes a configuration that of its text part, and names the family of this; one of a model of
/// text alone stays as it is, but that it says whether its head is tied where its class's default
/// is that it is.
pub(super) fn settle<'f>(
    config: &mut Value,
    families: &'f [Family],
    notes: &mut Vec<String>,
) -> Option<&'f Family> {
    let name = config.get("model_type").and_then(Value::as_str)?.to_owned();
    let whole = families.iter().find_map(|family| {
        let key = key(&family.dialect);
        let known = family.dialect.wholes.contains(&name.as_str());
        let text = config.get(key).filter(|_| known)?.as_object()?;
        let own = text.get("model_type").and_then(Value::as_str);
        own.is_none_or(|own| own == family.name)
            .then(|| (family, text.clone()))
    });
    let family = match whole {
        Some((family, text)) => {
            notes.push(format!(
                "the model is of several parts ({name}): its text part ({}) is played and exported, without the others",
                family.name
            ));
            *config = Value::Object(text_part(config, text, family));
            family
        }
        None => families.iter().find(|family| family.name == name)?,
    };
    let defaults: Value = serde_json::from_str(family.dialect.defaults).unwrap_or_default();
    if config.get(TIED).is_none()
        && let Some(tied) = defaults.get(TIED)
    {
        config[TIED] = tied.clone();
    }
    Some(family)
}

/// Where the text part's configuration lies.
fn key(dialect: &Dialect) -> &'static str {
    match dialect.text {
        "" => "text_config",
        key => key,
    }
}

fn text_part(whole: &Value, mut text: Map<String, Value>, family: &Family) -> Map<String, Value> {
    text.insert("model_type".into(), json!(family.name));
    text.insert("architectures".into(), json!([family.dialect.class]));
    for key in INHERITED {
        if let (None, Some(value)) = (text.get(key), whole.get(key)) {
            text.insert(key.into(), value.clone());
        }
    }
    for key in OF_THE_WHOLE {
        if let Some(value) = whole.get(key) {
            text.insert(key.into(), value.clone());
        }
    }
    text
}

/// Gives tensors the names that they have in a model of text alone.
///
/// # Errors
/// Two tensors of one name.
pub(super) fn rename(index: &mut Index, dialect: &Dialect) -> Result<()> {
    if dialect.prefixes.is_empty() {
        return Ok(());
    }
    let mut renamed = BTreeMap::new();
    for (stored, tensor) in std::mem::take(&mut index.tensors) {
        let name = dialect.plain(&stored).into_owned();
        if renamed.insert(name.clone(), tensor).is_some() {
            return Err(Error::rule(format!(
                "the model has two tensors that are {name} of its text part, one of them {stored}"
            )));
        }
    }
    index.tensors = renamed;
    Ok(())
}
