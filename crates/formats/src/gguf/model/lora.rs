//! LoRA adapters as GGUF files, which llama.cpp (`--lora`) and Ollama (`ADAPTER`) apply to a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use randori_sdk::{dialect::Size, seam::Family};
use serde_json::Value;

use super::{
    GgufReport,
    config::Model,
    names::{self, Named},
    plan::about,
};
use crate::{
    Dtype, Error, Result,
    gguf::{self, Kind, TensorSpec},
};

/// Options of a GGUF LoRA.
#[derive(Debug, Clone)]
pub struct GgufLoraOptions {
    /// Replace an existing file.
    pub replace: bool,
    /// Value of `general.name`.
    pub name: String,
}

/// One tensor of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f32>,
}

impl Param {
    /// The shape as (rows, columns).
    fn matrix(&self, name: &str) -> Result<(usize, usize)> {
        match self.shape[..] {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(Error::rule(format!(
                "{name} is no matrix but {:?}",
                self.shape
            ))),
        }
    }
}

/// Writes the LoRA of a model of this family with this `config`. `params` have PEFT's short names
/// (`model.layers.0.self_attn.q_proj.lora_A` (r, in), `.lora_B` (out, r)); `scale` returns the
/// factor on B·A·x of a projection.
///
/// llama.cpp scales by alpha / rank of B with one alpha for the whole file. That alpha is scale ·
/// rank of the first projection; where another projection's differs (rank and alpha patterns,
/// rsLoRA with several ranks), the ratio is folded into its B in f32.
///
/// # Errors
/// DoRA, weights trained in full, an adapter of the embedding or of a tied head, shapes that do not
/// fit the configuration, an existing file, a full disk; nothing is left behind then.
pub fn write_lora(
    params: &BTreeMap<String, Param>,
    config: &Value,
    family: &Family,
    scale: &dyn Fn(&str) -> f64,
    out: &Path,
    options: &GgufLoraOptions,
) -> Result<GgufReport> {
    let model = Model::new(config, family)?;
    let projections = projections(params)?;
    let factor = |projection: &str| -> Result<f64> {
        let (rank, _) = half(params, projection, "lora_A")?.matrix(projection)?;
        let alpha = scale(projection) * rank as f64;
        if alpha.is_finite() && alpha != 0.0 && (alpha as f32).is_normal() {
            Ok(alpha)
        } else {
            Err(Error::rule(format!(
                "{projection} has the scale {}, which llama.cpp cannot apply",
                scale(projection)
            )))
        }
    };
    let first = projections.iter().next();
    let alpha = first.map_or(Ok(1.0), |p| factor(p))?;
    let mut halves = Vec::new();
    for projection in &projections {
        let ratio = factor(projection)? / alpha;
        halves.extend(pair(params, &model, projection, ratio)?);
    }
    write(model.gguf.architecture, &halves, alpha as f32, out, options)
}

/// Names of the adapted projections; refuses a tensor that belongs to none.
fn projections(params: &BTreeMap<String, Param>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for name in params.keys() {
        let half = name
            .strip_suffix(".lora_A")
            .or_else(|| name.strip_suffix(".lora_B"));
        match half {
            Some(projection) => found.insert(projection.to_string()),
            None if name.contains("magnitude") => {
                return Err(Error::rule(format!(
                    "{name} belongs to DoRA, which a GGUF LoRA cannot express; export the merged model as gguf"
                )));
            }
            None => {
                return Err(Error::rule(format!(
                    "{name} was trained in full (modules_to_save), which a GGUF LoRA cannot express; export the merged model as gguf"
                )));
            }
        };
    }
    if found.is_empty() {
        return Err(Error::rule("there is no adapter to write as a GGUF LoRA"));
    }
    Ok(found)
}

fn half<'a>(
    params: &'a BTreeMap<String, Param>,
    projection: &str,
    half: &str,
) -> Result<&'a Param> {
    let name = format!("{projection}.{half}");
    params
        .get(&name)
        .ok_or_else(|| Error::rule(format!("the adapter has no {name}")))
}

/// A unchanged; B with its rows in llama.cpp's order, times `ratio`.
fn pair(
    params: &BTreeMap<String, Param>,
    model: &Model,
    projection: &str,
    ratio: f64,
) -> Result<[(TensorSpec, Vec<u8>); 2]> {
    let named = names::module(&model.gguf, projection)
        .filter(|named| !named.module.stored.ends_with("norm"))
        .ok_or_else(|| {
            Error::rule(format!(
                "{projection} is no projection that GGUF's {} has a name for",
                model.gguf.architecture
            ))
        })?;
    let Named {
        name,
        position,
        expert,
        module,
    } = named;
    if expert.is_some() {
        return Err(Error::rule(format!(
            "an adapter of {projection} cannot be a GGUF LoRA, since GGUF stacks all experts of a layer; export the merged \
             model as gguf"
        )));
    }
    if name == "token_embd" || (name == "output" && model.tied) {
        return Err(Error::rule(format!(
            "an adapter of {projection} cannot be a GGUF LoRA{}; export the merged model as gguf",
            if model.tied {
                ", since head and embedding are one tensor"
            } else {
                ""
            }
        )));
    }
    let (a, b) = (
        half(params, projection, "lora_A")?,
        half(params, projection, "lora_B")?,
    );
    let ((rank, inputs), (outputs, b_rank)) = (a.matrix(projection)?, b.matrix(projection)?);
    let is = |size: Size, n: usize| model.size(size).is_none_or(|size| size == n);
    let fits = is(module.rows, outputs) && is(module.columns, inputs);
    let layer = position == usize::MAX || position <= model.layers;
    if rank != b_rank || !layer || !fits {
        return Err(Error::rule(format!(
            "{projection} has A {:?} and B {:?}, which do not fit the model's configuration",
            a.shape, b.shape
        )));
    }
    let mut turned = match model.permuted(module) {
        None => b.values.clone(),
        Some(h) => names::stored_rows(outputs, h)
            .into_iter()
            .flat_map(|row| &b.values[row as usize * rank..][..rank])
            .copied()
            .collect(),
    };
    // a ratio within f32's rounding of 1 is skipped, so that B's bytes are the player's
    if (ratio - 1.0).abs() >= 1e-12 {
        // + 0 removes minus zeros
        turned.iter_mut().for_each(|v| *v = *v * ratio as f32 + 0.0);
    }
    let stored = |half: &str, shape: [usize; 2], values: &[f32]| -> Result<(TensorSpec, Vec<u8>)> {
        let name = format!("{name}.weight.{half}");
        let coming = TensorSpec::new(&name, &shape, Kind::Dense(Dtype::F32));
        let bytes = Dtype::F32.encode(&coming.name, values)?;
        Ok((coming, bytes))
    };
    Ok([
        stored("lora_a", [rank, inputs], &a.values)?,
        stored("lora_b", [outputs, rank], &turned)?,
    ])
}

fn write(
    architecture: &str,
    halves: &[(TensorSpec, Vec<u8>)],
    alpha: f32,
    out: &Path,
    options: &GgufLoraOptions,
) -> Result<GgufReport> {
    let mut metadata = about(architecture, "adapter", &options.name, 0);
    metadata.extend([
        ("adapter.type".to_string(), gguf::Value::Text("lora".into())),
        (
            "adapter.lora.alpha".into(),
            gguf::Value::Float(alpha.into()),
        ),
    ]);
    Ok(GgufReport {
        tensors: halves.len(),
        bytes: gguf::write(out, options.replace, &metadata, halves)?,
        kinds: BTreeMap::from([("F32".to_string(), halves.len())]),
        notes: Vec::new(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use randori_sdk::{Dialect, dialect::Gguf};
    use serde_json::json;

    use super::*;
    use crate::{ByteSource, gguf::header::Header};

    #[test]
    fn a_file_holds_the_halves_and_one_alpha() {
        let config = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 64});
        let half = |rows: usize, columns: usize| Param {
            values: (0..rows * columns).map(|i| i as f32 - 3.0).collect(),
            shape: vec![rows, columns],
        };
        let (q, down) = (
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.down_proj",
        );
        let params = BTreeMap::from([
            (format!("{q}.lora_A"), half(2, 8)),
            (format!("{q}.lora_B"), half(8, 2)),
            (format!("{down}.lora_A"), half(4, 12)),
            (format!("{down}.lora_B"), half(8, 4)),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("lora.gguf");
        let options = GgufLoraOptions {
            replace: false,
            name: "small".into(),
        };
        // down is first by name, so alpha is 2 · 4; q's is 1 · 2, a quarter of it
        let scale = |projection: &str| if projection == q { 1.0 } else { 2.0 };
        let dialect = Dialect {
            gguf: Some(Gguf::LLAMA),
            ..Dialect::NONE
        };
        let family = Family::new("llama", dialect);
        let report = write_lora(&params, &config, &family, &scale, &out, &options).unwrap();
        assert_eq!(
            (report.tensors, report.bytes),
            (4, std::fs::metadata(&out).unwrap().len())
        );
        let source = ByteSource::open(&out).unwrap();
        let header = Header::read(&source).unwrap();
        assert_eq!(header.float("adapter.lora.alpha").unwrap(), Some(8.0));
        let read = |name: &str| {
            let stored = &header.tensors[name];
            let values = stored.numbers(name, &source).unwrap();
            (stored.shape.clone(), values)
        };
        let same = |param: &str| (params[param].shape.clone(), params[param].values.clone());
        assert_eq!(
            read("blk.0.attn_q.weight.lora_a"),
            same(&format!("{q}.lora_A"))
        );
        assert_eq!(
            read("blk.0.ffn_down.weight.lora_a"),
            same(&format!("{down}.lora_A"))
        );
        assert_eq!(
            read("blk.0.ffn_down.weight.lora_b"),
            same(&format!("{down}.lora_B"))
        );
        let (shape, turned) = read("blk.0.attn_q.weight.lora_b");
        let given = &params[&format!("{q}.lora_B")].values;
        let rows = names::stored_rows(8, 2).into_iter();
        let wanted: Vec<f32> = rows
            .flat_map(|row| [given[2 * row as usize], given[2 * row as usize + 1]])
            .map(|v| v * 0.25)
            .collect();
        assert_eq!((shape, turned), (vec![8, 2], wanted));
    }
}
