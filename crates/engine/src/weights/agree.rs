//! Where `config.json` disagrees with itself or with the tensors beside it: settled once, when a
//! checkpoint is opened, as transformers settles it, so that whoever asks afterwards (architecture,
//! adapters, exports) gets one answer.

use randori_formats::{Dtype, Index, Stored};
use randori_kernels::Result;
use serde_json::{Map, Value, json};

use super::convert;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const TIED: &str = "tie_word_embeddings";
/// About so many bytes of two tensors are compared at a time.
const PIECE: u64 = 4 << 20;

/// Settles whether the head is the embedding, where the configuration says that it is (transformers
/// 5.24):
///
/// - only one of both stored: it serves as both;
/// - both stored and equal: tied;
/// - both stored and different: the file's own head counts, `tie_word_embeddings` becomes false,
///   and a note says so.
///
/// Afterwards the configuration says what holds, and of a tied model the index has the embedding
/// alone.
pub(super) fn head(config: &mut Value, index: &mut Index, notes: &mut Vec<String>) -> Result<()> {
    if config.get(TIED).and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    match (index.tensors.get(EMBEDDING), index.tensors.get(HEAD)) {
        (None, Some(head)) => {
            let shared = head.clone();
            index.tensors.remove(HEAD);
            index.add(EMBEDDING.to_string(), shared)?;
        }
        (Some(embedding), Some(head)) if same(index, embedding, head)? => {
            index.tensors.remove(HEAD);
        }
        (Some(_), Some(head)) => {
            notes.push(format!(
                "config.json says {TIED}, but {} has a {HEAD} of other values than {EMBEDDING}: the file's own head is \
                 used, and the model is not tied (set {TIED} to false to be rid of this note)",
                index.source_of(head)?.name
            ));
            config[TIED] = Value::Bool(false);
        }
        _ => {}
    }
    Ok(())
}

/// Whether two tensors hold the same values, whatever their formats.
fn same(index: &Index, a: &Stored, b: &Stored) -> Result<bool> {
    if a.shape != b.shape {
        return Ok(false);
    }
    let (here, there) = (index.source_of(a)?, index.source_of(b)?);
    let alike = |a: &Stored, b: &Stored| {
        a.format == b.format
            && a.order == b.order
            && a.columns == b.columns
            && (a.factor, a.values) == (b.factor, b.values)
    };
    if alike(a, b) && a.len == b.len {
        for first in (0..a.len).step_by(PIECE as usize) {
            let n = PIECE.min(a.len - first);
            if here.read(a.start + first, n)? != there.read(b.start + first, n)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let values = |name, stored, place| -> Result<Vec<f32>> {
        let dense = convert::dense(name, stored, place, Dtype::F32)?;
        Ok(dense.flatten_all()?.to_vec1()?)
    };
    Ok(values(EMBEDDING, a, here)? == values(HEAD, b, there)?)
}

/// Settles what a configuration says twice about its rotary embedding (transformers 5.24):
/// `rope_scaling` (v4) goes before `rope_parameters` (v5), a theta inside the section that counts
/// before the one beside it, and an original length beside the sections before the one inside.
/// Where the two disagree a note says which counts, and the configuration then has what counts in
/// both.
pub(super) fn rope(config: &mut Value, notes: &mut Vec<String>) {
    const THETA: &str = "rope_theta";
    const LENGTH: &str = "original_max_position_embeddings";
    let section = |key: &str| {
        let section = config.get(key).and_then(Value::as_object);
        section.filter(|s| !s.is_empty())
    };
    let beside = |key: &str| config.get(key).and_then(Value::as_f64);
    let (v4, v5) = (section("rope_scaling"), section("rope_parameters"));
    let (name, counts) = match (v4, v5) {
        (Some(v4), _) => ("rope_scaling", v4),
        (None, Some(v5)) => ("rope_parameters", v5),
        (None, None) => return,
    };
    let meant = meaning(counts, beside(THETA));
    if [v4, v5]
        .into_iter()
        .flatten()
        .any(|s| s.values().any(Value::is_object))
    {
        return; // keyed by layer type: the architecture reads or refuses it
    }
    for key in [THETA, LENGTH] {
        let inside = counts.get(key).and_then(Value::as_f64);
        if let (Some(inside), Some(beside)) = (inside, beside(key))
            && inside != beside
        {
            let which = if key == THETA { inside } else { beside };
            notes.push(format!(
                "config.json has {key} {beside} beside {name}, and {inside} in it: {which} counts, as in transformers"
            ));
        }
    }
    if meant.get("rope_type") == Some(&json!("default")) && meant.contains_key("factor") {
        notes.push(format!(
            "{name} of config.json has a factor but no rope_type: frequencies stay as they are, as in transformers"
        ));
    }
    if let (Some(_), Some(v5)) = (v4, v5)
        && meaning(v5, beside(THETA)) != meant
    {
        notes.push(
            "config.json has rope_scaling beside rope_parameters, which says something else: rope_scaling counts, as in \
             transformers"
                .to_string(),
        );
        config["rope_parameters"] = Value::Object(meant.clone());
        config[THETA] = meant[THETA].clone();
    }
}

/// A section's keys in one spelling, with the theta that goes with them; numbers as f64.
fn meaning(section: &Map<String, Value>, beside: Option<f64>) -> Map<String, Value> {
    let mut meant: Map<String, Value> = section
        .iter()
        .filter(|(key, value)| *key != "type" && !value.is_null())
        .map(|(key, value)| {
            (
                key.clone(),
                value.as_f64().map_or(value.clone(), |v| json!(v)),
            )
        })
        .collect();
    let kind = section.get("type").cloned().unwrap_or(json!("default"));
    meant.entry("rope_type").or_insert(kind);
    let theta = beside.unwrap_or(10_000.0);
    meant.entry("rope_theta").or_insert(json!(theta));
    meant
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_sections_that_disagree_are_settled_and_said() {
        let said = |config: Value| {
            let (mut settled, mut notes) = (config, Vec::new());
            rope(&mut settled, &mut notes);
            (settled, notes)
        };
        let linear = json!({"type": "linear", "factor": 4});
        let v5 = json!({"rope_type": "default", "rope_theta": 500000.0});
        let (settled, notes) = said(json!({"rope_scaling": linear, "rope_parameters": v5}));
        let meant = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0});
        assert_eq!(settled["rope_parameters"], meant);
        assert!(
            notes.len() == 1 && notes[0].contains("rope_scaling counts"),
            "{notes:?}"
        );
        for agreeing in [
            json!({"rope_scaling": null, "rope_parameters": v5}),
            json!({"rope_scaling": {}, "rope_parameters": v5, "rope_theta": 500000}),
            json!({"rope_scaling": linear, "rope_theta": 500000, "rope_parameters":
                {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}}),
            json!({}),
        ] {
            assert_eq!(said(agreeing.clone()), (agreeing, Vec::new()));
        }
        let (_, notes) = said(json!({"rope_theta": 10000, "rope_parameters": v5}));
        assert!(
            notes.len() == 1 && notes[0].contains("500000 in it: 500000 counts"),
            "{notes:?}"
        );
        let (_, notes) = said(json!({"rope_parameters": {"factor": 4, "rope_theta": 10000.0}}));
        assert!(
            notes.len() == 1 && notes[0].contains("a factor but no rope_type"),
            "{notes:?}"
        );
    }
}
