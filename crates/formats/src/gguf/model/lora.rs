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
    let (mut halves, mut stacks) = (Vec::new(), BTreeMap::new());
    for projection in &projections {
        let named = named(&model, projection)?;
        // llama.cpp divides by the rank of both matrices of an expert that lie in one
        let two = !named.module.beside.is_empty();
        let ratio = f64::from(1 + u8::from(two)) * factor(projection)? / alpha;
        let pair = pair(params, &model, projection, &named, ratio)?;
        match named.expert {
            None => halves.extend(pair),
            Some(expert) => {
                let stack: &mut Vec<Expert> = stacks.entry(named.name).or_default();
                stack.push((expert, two.then_some(named.second), projection, pair));
            }
        }
    }
    for experts in stacks.into_values() {
        halves.extend(stacked(in_one(experts)?)?);
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

/// A and B as they are written.
type Pair = [(TensorSpec, Vec<u8>); 2];

/// An expert's number, which of two matrices in one it is (`None`: it is in a tensor by itself),
/// its projection, and A and B.
type Expert<'a> = (usize, Option<bool>, &'a String, Pair);

/// Sorts the updates of experts, and makes one of two whose matrices lie in one: A (2r, in) has the
/// second's below the first's, B (2 out, 2r) the two on its diagonal.
fn in_one(mut experts: Vec<Expert>) -> Result<Vec<Expert>> {
    experts.sort_by_key(|(expert, second, ..)| (*expert, *second));
    let mut whole = Vec::with_capacity(experts.len());
    let mut all = experts.into_iter().peekable();
    while let Some((expert, second, projection, pair)) = all.next() {
        let Some(second) = second else {
            whole.push((expert, second, projection, pair));
            continue;
        };
        let other = all.next_if(|(of, later, ..)| *of == expert && *later == Some(true));
        let pair = match other {
            Some((.., other)) if !second => on_diagonal(pair, other),
            _ => None,
        };
        let pair = pair.ok_or_else(|| {
            Error::rule(format!(
                "{projection} lies in one tensor of GGUF with another matrix of its expert, which has no update of the \
                 same rank: export the merged model as gguf"
            ))
        })?;
        whole.push((expert, None, projection, pair));
    }
    Ok(whole)
}

/// The update of two matrices, one below the other; `None`: their ranks differ.
fn on_diagonal(first: Pair, second: Pair) -> Option<Pair> {
    let [(mut a, mut a_bytes), (mut b, b_bytes)] = first;
    let [(second_a, second_a_bytes), (second_b, second_b_bytes)] = second;
    let rank = *b.shape.last().filter(|rank| **rank > 0)?;
    if second_b.shape.last() != Some(&rank) {
        return None;
    }
    let (row, none) = (4 * rank, vec![0; 4 * rank]);
    let upper = b_bytes.chunks_exact(row).flat_map(|row| [row, &none]);
    let lower = second_b_bytes
        .chunks_exact(row)
        .flat_map(|row| [&none, row]);
    let diagonal = upper.chain(lower).flatten().copied().collect();
    a_bytes.extend(second_a_bytes);
    a.shape[0] += second_a.shape[0];
    b.shape = vec![b.shape[0] + second_b.shape[0], 2 * rank];
    Some([(a, a_bytes), (b, diagonal)])
}

/// Stacks the updates of all experts of a layer: A (experts, r, in), B (experts, out, r).
fn stacked(experts: Vec<Expert>) -> Result<Pair> {
    let shapes = |pair: &Pair| pair.each_ref().map(|(spec, _)| spec.shape.clone());
    let first = experts.first().map(|(.., pair)| shapes(pair));
    for (wanted, (expert, _, projection, pair)) in experts.iter().enumerate() {
        if *expert != wanted || Some(shapes(pair)) != first {
            return Err(Error::rule(format!(
                "{projection} is not expert {wanted}, or has another rank than the first: a GGUF LoRA stacks all experts of \
                 a layer; export the merged model as gguf"
            )));
        }
    }
    let count = experts.len();
    let mut all = experts.into_iter().map(|(.., pair)| pair);
    let Some(mut stack) = all.next() else {
        return Err(Error::rule("a stack of no experts"));
    };
    for pair in all {
        for ((_, whole), (_, bytes)) in stack.iter_mut().zip(pair) {
            whole.extend(bytes);
        }
    }
    for (spec, _) in &mut stack {
        spec.shape.insert(0, count);
    }
    Ok(stack)
}

/// A projection by llama.cpp's name; refuses what is none, and a tied head.
fn named(model: &Model, projection: &str) -> Result<Named> {
    let named = names::module(&model.gguf, projection)
        .filter(|named| !named.module.stored.ends_with("norm"))
        .ok_or_else(|| {
            Error::rule(format!(
                "{projection} is no projection that GGUF's {} has a name for",
                model.gguf.architecture
            ))
        })?;
    let name = named.name.as_str();
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
    if named.module.not_adapted {
        return Err(Error::rule(format!(
            "llama.cpp does not apply updates to {projection} of GGUF's {} as they were trained; train without it, or export the merged model as gguf",
            model.gguf.architecture
        )));
    }
    Ok(named)
}

/// A with its columns and B with its rows in llama.cpp's order, B times `ratio`.
fn pair(
    params: &BTreeMap<String, Param>,
    model: &Model,
    projection: &str,
    named: &Named,
    ratio: f64,
) -> Result<Pair> {
    let Named {
        name,
        position,
        module,
        ..
    } = named;
    let (a, b) = (
        half(params, projection, "lora_A")?,
        half(params, projection, "lora_B")?,
    );
    let ((rank, inputs), (outputs, b_rank)) = (a.matrix(projection)?, b.matrix(projection)?);
    let is = |size: Size, n: usize| model.size(size, named.layer()).is_none_or(|size| size == n);
    let fits = is(module.rows, outputs) && is(module.columns, inputs);
    let layer = *position == usize::MAX || *position <= model.layers;
    if rank != b_rank || !layer || !fits {
        return Err(Error::rule(format!(
            "{projection} has A {:?} and B {:?}, which do not fit the model's configuration",
            a.shape, b.shape
        )));
    }
    let order = model.heads.order(module, &[outputs, inputs]);
    let order = order.map_err(|what| Error::rule(format!("{projection} {what}")))?;
    let (columns, rows) = match order {
        Some(order) if order.columns => (Some(order.of_model()), None),
        order => (None, order.map(|order| order.of_model())),
    };
    let a_values = match columns {
        None => a.values.clone(),
        Some(columns) => (a.values.chunks(inputs))
            .flat_map(|row| columns.iter().map(move |column| row[*column as usize]))
            .collect(),
    };
    let mut turned = match rows {
        None => b.values.clone(),
        Some(rows) => (rows.iter())
            .flat_map(|row| &b.values[*row as usize * rank..][..rank])
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
        stored("lora_a", [rank, inputs], &a_values)?,
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
    use randori_sdk::{
        Dialect,
        dialect::{Gguf, Module},
    };
    use serde_json::json;

    use super::*;
    use crate::{ByteSource, Swap, gguf::header::Header};

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
        let rows = Swap::turned(8, 2).unwrap().of_model().into_iter();
        let wanted: Vec<f32> = rows
            .flat_map(|row| [given[2 * row as usize], given[2 * row as usize + 1]])
            .map(|v| v * 0.25)
            .collect();
        assert_eq!((shape, turned), (vec![8, 2], wanted));
    }

    /// llama.cpp takes A as (experts, r, in) and B as (experts, out, r).
    #[test]
    fn updates_of_experts_are_stacked() {
        const MODULES: &[&[Module]] = &[&[Module::new("mlp.experts.{}.up_proj", "ffn_up_exps")]];
        let dialect = Dialect {
            gguf: Some(Gguf {
                modules: MODULES,
                ..Gguf::LLAMA
            }),
            ..Dialect::NONE
        };
        let family = Family::new("mixture", dialect);
        let config = json!({"model_type": "mixture", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 64});
        let half = |rows: usize, columns: usize, first: f32| Param {
            values: (0..rows * columns).map(|i| first + i as f32).collect(),
            shape: vec![rows, columns],
        };
        let expert = |e: usize| format!("model.layers.0.mlp.experts.{e}.up_proj");
        let mut params = BTreeMap::new();
        for e in 0..11 {
            let first = 100.0 * e as f32;
            params.insert(format!("{}.lora_A", expert(e)), half(1, 8, first));
            params.insert(format!("{}.lora_B", expert(e)), half(3, 1, first));
        }
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("lora.gguf");
        let options = GgufLoraOptions {
            replace: true,
            name: "small".into(),
        };
        let written = |params: &BTreeMap<String, Param>| {
            write_lora(params, &config, &family, &|_| 2.0, &out, &options)
        };
        written(&params).unwrap();
        let source = ByteSource::open(&out).unwrap();
        let header = Header::read(&source).unwrap();
        for (half, shape, each) in [("lora_a", [11, 1, 8], 8), ("lora_b", [11, 3, 1], 3)] {
            let name = format!("blk.0.ffn_up_exps.weight.{half}");
            let stored = &header.tensors[&name];
            assert_eq!(stored.shape, shape);
            let numbers = stored.numbers(&name, &source).unwrap();
            // experts in the order of their numbers, not of their names
            let wanted = (0..11).flat_map(|e| (0..each).map(move |i| (100 * e + i) as f32));
            assert_eq!(numbers, wanted.collect::<Vec<_>>());
        }
        params.remove(&format!("{}.lora_A", expert(2)));
        params.remove(&format!("{}.lora_B", expert(2)));
        let error = written(&params).unwrap_err().to_string();
        assert!(
            error.contains("experts.3.up_proj is not expert 2"),
            "{error}"
        );
    }
}
