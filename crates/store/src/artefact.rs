//! What a stage leaves behind: a file or a folder that saves and loads itself.

use std::path::Path;

use randori_core::Signals;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{BoxError, json};

/// Something that a stage makes and a later one reads. Three required methods, no context: what is
/// loaded must stand on its own (an adapter's tensors, not the base they go with).
pub trait Artefact: Sized {
    /// Its file or folder in the place where `stage` happens: `generated.jsonl`, `adapter`.
    fn file_name(stage: &str) -> String;

    /// Writes it to `path`, where nothing is yet; makes the folder, if it is one. The store takes
    /// care of the rest: fsync, rename, hash, mark.
    fn save(&self, path: &Path) -> Result<(), BoxError>;

    /// Reads it back, equal to what was saved.
    fn load(path: &Path) -> Result<Self, BoxError>;
}

/// Any value as `STAGE.json`.
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

/// A list of values as `STAGE.jsonl`, one a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T>(pub Vec<T>);

impl<T: Serialize + DeserializeOwned> Artefact for Rows<T> {
    fn file_name(stage: &str) -> String {
        format!("{stage}.jsonl")
    }

    fn save(&self, path: &Path) -> Result<(), BoxError> {
        json::save_rows(path, &self.0)
    }

    fn load(path: &Path) -> Result<Self, BoxError> {
        Ok(Rows(json::read_rows(path)?))
    }
}

/// An iteration's signals as `STAGE.json`; what was not measured is `null`.
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

/// Signals as a JSON object, in reading order; `pairs` is a whole number, NaN is `null`.
pub fn signals_json(signals: &Signals) -> Value {
    let number = |(name, value): (&str, f64)| match name {
        "pairs" => (name.to_owned(), signals.pairs.into()),
        _ => (name.to_owned(), value.into()),
    };
    Value::Object(signals.entries().into_iter().map(number).collect())
}
