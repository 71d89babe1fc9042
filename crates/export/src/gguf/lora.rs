//! A LoRA as the GGUF that llama.cpp (`--lora`) and Ollama (`ADAPTER`) put on top of a model.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use candle_core::{DType, Tensor};
use serde_json::Value;

use super::{
    GgufReport, Meta,
    blocks::Kind,
    file::{Coming, Writer},
    model::{ARCHITECTURE, Model},
    names,
};
use crate::{Error, Result};

/// How a GGUF LoRA is written.
#[derive(Debug, Clone)]
pub struct GgufLoraOptions {
    /// Replace a file that is there already.
    pub replace: bool,
    /// `general.name`.
    pub name: String,
}

/// One half of a pair, as the file holds it.
struct Half {
    name: String,
    shape: (usize, usize),
    values: Vec<f32>,
}

/// Writes the LoRA of a Llama or Mistral with this `config`; `params` by PEFT's short names
/// (`model.layers.0.self_attn.q_proj.lora_A` (r, in), `.lora_B` (out, r)), `scale` the factor on B·A·x of a projection.
///
/// llama.cpp scales by alpha / rank of B with one alpha for the whole file. That alpha is scale · rank of the first
/// projection; where others have another (rank and alpha patterns, rsLoRA with several ranks), what is left is folded
/// into their B in f32.
///
/// # Errors
/// DoRA, weights trained in full, an adapter of the embedding or of a tied head, shapes that do not fit the
/// configuration, a file that is there already, a full disk; nothing is left behind then.
pub fn gguf_lora(
    params: &BTreeMap<String, Tensor>,
    config: &Value,
    scale: &dyn Fn(&str) -> f64,
    out: &Path,
    options: &GgufLoraOptions,
) -> Result<GgufReport> {
    let model = Model::new(config)?;
    let projections = projections(params)?;
    let factor = |projection: &str| -> Result<f64> {
        let (rank, _) = tensor(params, projection, "lora_A")?.dims2()?;
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
    write(&halves, alpha as f32, out, options)
}

/// Names of the adapted projections; everything in `params` must belong to one.
fn projections(params: &BTreeMap<String, Tensor>) -> Result<BTreeSet<String>> {
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

fn tensor<'a>(
    params: &'a BTreeMap<String, Tensor>,
    projection: &str,
    half: &str,
) -> Result<&'a Tensor> {
    let name = format!("{projection}.{half}");
    params
        .get(&name)
        .ok_or_else(|| Error::rule(format!("the adapter has no {name}")))
}

/// A as it is; B with its rows in llama.cpp's order, times `ratio`.
fn pair(
    params: &BTreeMap<String, Tensor>,
    model: &Model,
    projection: &str,
    ratio: f64,
) -> Result<[Half; 2]> {
    let (module, place, heads) = names::module(projection)
        .filter(|(module, ..)| !module.ends_with("norm"))
        .ok_or_else(|| {
            Error::rule(format!(
                "{projection} is no projection of a Llama or Mistral, so GGUF's llama has no name for it"
            ))
        })?;
    if module == "token_embd" || (module == "output" && model.tied) {
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
        tensor(params, projection, "lora_A")?,
        tensor(params, projection, "lora_B")?,
    );
    let ((rank, inputs), (outputs, b_rank)) = (a.dims2()?, b.dims2()?);
    let wanted = shape(model, &module);
    let layer = place == usize::MAX || place <= model.layers;
    if rank != b_rank || !layer || wanted.is_some_and(|w| w != (outputs, inputs)) {
        return Err(Error::rule(format!(
            "{projection} has A {:?} and B {:?}, which do not fit the model's configuration",
            a.dims(),
            b.dims()
        )));
    }
    let b = match model.count(heads) {
        None => b.clone(),
        Some(h) => {
            let order = names::stored_rows(outputs, h);
            let order = Tensor::from_slice(&order, outputs, b.device())?;
            b.contiguous()?.index_select(&order, 0)?
        }
    };
    // within f32's rounding of alpha: left alone, so that B's bytes are the player's
    let b = if (ratio - 1.0).abs() < 1e-12 {
        b
    } else {
        (b.to_dtype(DType::F32)? * ratio)?
    };
    let half = |t: &Tensor, which: &str| -> Result<Half> {
        Ok(Half {
            name: format!("{module}.weight.{which}"),
            shape: t.dims2()?,
            values: t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        })
    };
    Ok([half(a, "lora_a")?, half(&b, "lora_b")?])
}

/// (out, in) of a projection; `None` for the head, whose rows the configuration does not tell for sure.
fn shape(model: &Model, module: &str) -> Option<(usize, usize)> {
    let (q, kv) = (
        model.heads * model.head_dim,
        model.kv_heads * model.head_dim,
    );
    Some(match module.rsplit('.').next()? {
        "attn_q" => (q, model.width),
        "attn_k" | "attn_v" => (kv, model.width),
        "attn_output" => (model.width, q),
        "ffn_gate" | "ffn_up" => (model.ffn, model.width),
        "ffn_down" => (model.width, model.ffn),
        _ => return None,
    })
}

fn write(halves: &[Half], alpha: f32, out: &Path, options: &GgufLoraOptions) -> Result<GgufReport> {
    let text = |t: &str| Meta::Text(t.into());
    let metadata = [
        ("general.architecture", text(ARCHITECTURE)),
        ("general.type", text("adapter")),
        ("general.name", text(&options.name)),
        ("general.file_type", Meta::U32(0)),
        ("general.quantization_version", Meta::U32(2)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Meta::F32(alpha)),
    ]
    .map(|(key, value)| (key.to_string(), value));
    let metadata = [&metadata[..3], &[super::tags()], &metadata[3..]].concat();
    let coming = halves
        .iter()
        .map(|h| Coming {
            name: h.name.clone(),
            shape: vec![h.shape.0, h.shape.1],
            kind: Kind::F32.id(),
            bytes: Kind::F32.bytes(h.values.len()),
        })
        .collect();
    let mut writer = Writer::create(out, options.replace, &metadata, coming)?;
    for h in halves {
        writer.begin(&h.name)?;
        writer.write(&Kind::F32.encode(&h.name, &h.values)?)?;
    }
    Ok(GgufReport {
        tensors: halves.len(),
        bytes: writer.publish()?,
        kinds: BTreeMap::from([("F32".to_string(), halves.len())]),
        notes: Vec::new(),
    })
}
