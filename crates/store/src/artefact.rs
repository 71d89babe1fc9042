//! Artefacts: results of a stage, each a file or folder that can be saved and loaded.

use std::path::Path;

use randori_core::Signals;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{BoxError, json};

/// The result of a stage, read by later stages. `load` has no context, so an artefact must be
/// complete in itself (an adapter's tensors, not their base).
pub trait Artefact: Sized {
    /// Name of its file or folder in the stage's folder: `generated.jsonl`, `adapter`.
    fn file_name(stage: &str) -> String;

    /// Writes it to `path`, where nothing exists yet; makes the folder, if it is one. The store
    /// does the rest: fsync, rename, hash, manifest.
    fn save(&self, path: &Path) -> Result<(), BoxError>;

    /// Reads it back, equal to what was saved.
    fn load(path: &Path) -> Result<Self, BoxError>;
}

/// A serialisable value, stored as `STAGE.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Artefact for Json<T> {
    fn file_name(stage: &str) -> String {
        format!("{stage}.json")
    }

    fn save(&self, path: &Path) -> Result<(), BoxError> {
        json::save_json(path, &self.0)
    }

    fn load(path: &Path) -> Result<Self, BoxError> {
        Ok(Json(json::read_json(path)?))
    }
}

/// A list of values, stored as `STAGE.jsonl`, one per line.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonLines<T>(pub Vec<T>);

impl<T: Serialize + DeserializeOwned> Artefact for JsonLines<T> {
    fn file_name(stage: &str) -> String {
        format!("{stage}.jsonl")
    }

    fn save(&self, path: &Path) -> Result<(), BoxError> {
        json::save_rows(path, &self.0)
    }

    fn load(path: &Path) -> Result<Self, BoxError> {
        Ok(JsonLines(json::read_rows(path)?))
    }
}

/// Stored as `STAGE.json`; measures not taken are `null`.
impl Artefact for Signals {
    fn file_name(stage: &str) -> String {
        format!("{stage}.json")
    }

    fn save(&self, path: &Path) -> Result<(), BoxError> {
        json::save_json(path, &signals_json(self))
    }

    fn load(path: &Path) -> Result<Self, BoxError> {
        let values: Map<String, Value> = json::read_json(path)?;
        Ok(Signals::from_entries(values.iter().map(|(name, v)| {
            (name.as_str(), v.as_f64().unwrap_or(f64::NAN))
        })))
    }
}

/// Signals as a JSON object, in reading order: `pairs` is an integer, NaN becomes `null`.
pub fn signals_json(signals: &Signals) -> Value {
    let number = |(name, value): (&str, f64)| match name {
        "pairs" => (name.to_owned(), signals.pairs.into()),
        _ => (name.to_owned(), value.into()),
    };
    Value::Object(signals.entries().into_iter().map(number).collect())
}
