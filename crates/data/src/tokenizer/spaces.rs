//! Tokenizers that add a space before text. A response continues the prompt, so that space must not
//! come between them (" answer" would get two spaces, or the first word another token than the
//! model writes).

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as Core};

use crate::{Error, Result};

/// Where a tokenizer adds a leading space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeadingSpace {
    /// Nowhere.
    Never,
    /// At the start of the whole text.
    Start,
    /// At the start and after every special token.
    Segments,
}

impl LeadingSpace {
    /// Determines it from a tokenizer's normalizer and pre-tokenizer.
    pub(super) fn of(core: &Core) -> Self {
        let parts = [
            core.get_normalizer()
                .and_then(|n| serde_json::to_value(n).ok()),
            core.get_pre_tokenizer()
                .and_then(|p| serde_json::to_value(p).ok()),
        ];
        let mut found = Self::Never;
        for part in parts.into_iter().flatten() {
            visit(&part, &mut |step| {
                let here = match (
                    kind(step),
                    step.get("prepend_scheme").and_then(Value::as_str),
                ) {
                    ("Prepend", _) => Self::Segments,
                    ("ByteLevel", _) if step["add_prefix_space"] == true => Self::Segments,
                    ("Metaspace", Some("first")) => Self::Start,
                    ("Metaspace", Some("never")) => Self::Never,
                    ("Metaspace", Some(_)) => Self::Segments,
                    _ => Self::Never,
                };
                if here != Self::Never && found != Self::Segments {
                    found = here;
                }
            });
        }
        found
    }
}

/// A copy of a tokenizer that reads spelt special tokens as plain text, and adds a leading space
/// only if `keep_space`.
pub(super) fn verbatim(core: &Core, keep_space: bool) -> Result<Core> {
    let mut copy = core.clone();
    if !keep_space {
        if let Some(normalizer) = core.get_normalizer() {
            let changed =
                without_space(serde_json::to_value(normalizer).map_err(Error::tokenizer)?);
            let changed = match changed {
                Value::Null => None,
                some => Some(
                    serde_json::from_value::<tokenizers::NormalizerWrapper>(some)
                        .map_err(Error::tokenizer)?,
                ),
            };
            copy.with_normalizer(changed).map_err(Error::tokenizer)?;
        }
        if let Some(pre) = core.get_pre_tokenizer() {
            let changed = without_space(serde_json::to_value(pre).map_err(Error::tokenizer)?);
            copy.with_pre_tokenizer(Some(
                serde_json::from_value::<tokenizers::PreTokenizerWrapper>(changed)
                    .map_err(Error::tokenizer)?,
            ));
        }
    }
    if let ModelWrapper::Unigram(_) = core.get_model() {
        copy.with_model(without_special(core)?);
    }
    copy.set_encode_special_tokens(true);
    Ok(copy)
}

/// The unigram model of a tokenizer without its special tokens. They are pieces like any other, so
/// that a spelt one would be found once more; a space before them keeps them out of text, since
/// none reaches the model.
fn without_special(core: &Core) -> Result<ModelWrapper> {
    let mut model = serde_json::to_value(core.get_model()).map_err(Error::tokenizer)?;
    for (id, token) in core.get_added_tokens_decoder() {
        let entry = model["vocab"].get_mut(id as usize);
        if let Some(piece) = entry.and_then(|entry| entry.get_mut(0))
            && token.special
            && *piece == token.content.as_str()
        {
            *piece = format!(" {}", token.content).into();
        }
    }
    serde_json::from_value(model).map_err(Error::tokenizer)
}

/// A step without the space it adds; null for a step that did nothing else.
fn without_space(mut step: Value) -> Value {
    match kind(&step) {
        "Prepend" => return Value::Null,
        "Metaspace" => step["prepend_scheme"] = "never".into(),
        "ByteLevel" => step["add_prefix_space"] = false.into(),
        "Sequence" => {
            for list in ["normalizers", "pretokenizers"] {
                if let Some(Value::Array(steps)) = step.get_mut(list) {
                    *steps = std::mem::take(steps)
                        .into_iter()
                        .map(without_space)
                        .filter(|s| !s.is_null())
                        .collect();
                }
            }
        }
        _ => {}
    }
    step
}

/// The steps of a normalizer or pre-tokenizer, with sequences flattened; empty for null.
pub(super) fn steps(part: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers"]
        .iter()
        .find_map(|list| part.get(*list).and_then(Value::as_array));
    match inner {
        Some(list) => list.iter().flat_map(steps).collect(),
        None if part.is_null() => Vec::new(),
        None => vec![part],
    }
}

fn visit(step: &Value, each: &mut dyn FnMut(&Value)) {
    each(step);
    for list in ["normalizers", "pretokenizers"] {
        for inner in step
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            visit(inner, each);
        }
    }
}

/// A step's type; empty if it has none.
pub(super) fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or("")
}
