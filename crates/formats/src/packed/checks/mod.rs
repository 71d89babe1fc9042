//! Matrices of every format against the packages that own them (fixtures/packed.py says which), and
//! the refusal of whatever a configuration says otherwise or not at all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod compressed;
mod floats;
mod refusals;
mod values;

use serde_json::{Value, json};

use super::join;
use crate::{ByteSource, Index, Stored, safetensors};

const GOLDEN: &[u8] = include_bytes!("../../../tests/fixtures/packed.safetensors");
const CONFIGS: &str = include_str!("../../../tests/fixtures/packed.json");

/// A model of one matrix.
struct Case {
    config: Value,
    index: Index,
    /// Its values, by the package that owns the format.
    values: Vec<f32>,
}

fn names() -> Vec<String> {
    let configs: Value = serde_json::from_str(CONFIGS).unwrap();
    configs.as_object().unwrap().keys().cloned().collect()
}

fn case(name: &str) -> Case {
    edited(name, &[])
}

/// A case in which bytes of tensors, by name and place, are others.
fn edited(name: &str, edits: &[(&str, usize, u8)]) -> Case {
    let read = |bytes: &[u8]| {
        let mut index = Index::default();
        let source = ByteSource::memory("packed.safetensors", bytes.to_vec());
        safetensors::add(&mut index, source).unwrap();
        index
    };
    let (mut bytes, plain) = (GOLDEN.to_vec(), read(GOLDEN));
    for (tensor, at, byte) in edits {
        let start = plain.tensors[&format!("{name}/{tensor}")].start as usize;
        bytes[start + at] = *byte;
    }
    let (mut index, prefix) = (read(&bytes), format!("{name}/"));
    let own = std::mem::take(&mut index.tensors).into_iter();
    let own = own.filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t)));
    index.tensors = own.collect();
    let values = index.tensors.remove("values").expect(name);
    let values = values.numbers(name, &index.files[0]).unwrap();
    let configs: Value = serde_json::from_str(CONFIGS).unwrap();
    Case {
        config: json!({"quantization_config": configs[name]}),
        index,
        values,
    }
}

fn bytes(index: &Index, stored: &Stored) -> Vec<u8> {
    let source = index.source_of(stored).unwrap();
    source.read(stored.start, stored.len).unwrap()
}
