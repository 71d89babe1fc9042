//! Plan of a model's GGUF file: metadata and tensors, before any value is read.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use serde_json::Value;

use super::{
    config::Model,
    names::{self, Heads, ROPE_FACTORS},
    quant::{GgufQuant, Role},
};
use crate::{
    Dtype, Error, Result,
    gguf::{self, GgufTokenizer, Kind, TensorSpec, Writer},
};

/// Options of a GGUF model file.
#[derive(Debug, Clone)]
pub struct GgufOptions {
    /// Format of the matrices. In 4-bit files the head is Q6_K; rows that blocks of 256 do not
    /// divide get Q5_0 for Q4_K and Q8_0 for Q6_K, as in llama.cpp.
    pub quant: GgufQuant,
    /// Replace an existing file.
    pub replace: bool,
    /// Value of `general.name`.
    pub name: String,
}

/// Summary of what was written.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufReport {
    /// Number of tensors.
    pub tensors: usize,
    /// Size of the file.
    pub bytes: u64,
    /// Number of tensors by ggml format.
    pub kinds: BTreeMap<String, usize>,
    /// Remarks for the user, in whole sentences.
    pub notes: Vec<String>,
}

const EMBEDDING: &str = "token_embd.weight";

/// A tensor of the plan.
#[derive(Debug)]
pub struct Planned {
    /// Hugging Face's name.
    pub hf: String,
    /// Its name, shape and format in the file.
    pub spec: TensorSpec,
    heads: Option<usize>,
    position: usize,
}

impl Planned {
    /// The model's row for every stored one; `None` if not permuted.
    pub fn order(&self) -> Option<Vec<u32>> {
        self.heads
            .map(|heads| names::stored_rows(self.spec.shape[0], heads))
    }
}

/// Planned contents of a model's file.
#[derive(Debug)]
pub struct Plan {
    /// Tensors: embedding first, layers in order.
    pub tensors: Vec<Planned>,
    metadata: Vec<(String, gguf::Value)>,
    divisors: Option<Vec<f32>>,
    notes: Vec<String>,
}

impl Plan {
    /// Plans the file of a model with this `config` and these tensors (Hugging Face's names and
    /// shapes). Where the embedding has more rows than the tokenizer has tokens, tokens are added.
    ///
    /// # Errors
    /// A model that its GGUF architecture cannot express, a tensor that is missing or unknown, more
    /// tokens than rows.
    pub fn new(
        config: &Value,
        list: Vec<(String, Vec<usize>)>,
        tokenizer: Option<&GgufTokenizer>,
        options: &GgufOptions,
    ) -> Result<Plan> {
        let mut model = Model::new(config)?;
        let tensors = planned(list, &model, options.quant)?;
        let embedding = tensors.iter().find(|t| t.spec.name == EMBEDDING);
        let rows = embedding.map_or(0, |t| t.spec.shape[0]);
        let mut metadata = about(
            model.dialect.architecture,
            "model",
            &options.name,
            options.quant.file_type(),
        );
        metadata.extend(model.keys(rows));
        if let Some(tokenizer) = tokenizer {
            metadata.extend(tokenizer.padded(rows)?.keys());
        }
        let mut notes = std::mem::take(&mut model.notes);
        notes.extend(other_blocks(&tensors, options.quant));
        Ok(Plan {
            tensors,
            metadata,
            divisors: model.rope_divisors(),
            notes,
        })
    }

    /// Creates the file; the plan's tensors must follow in order.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn create(&self, out: &Path, replace: bool) -> Result<Writer> {
        let mut coming: Vec<TensorSpec> = self.tensors.iter().map(|t| t.spec.clone()).collect();
        if let Some(divisors) = &self.divisors {
            coming.insert(0, factors(divisors));
        }
        let mut writer = Writer::create(out, replace, &self.metadata, coming)?;
        if let Some(divisors) = &self.divisors {
            writer.begin(ROPE_FACTORS)?;
            writer.write(&Dtype::F32.encode(ROPE_FACTORS, divisors)?)?;
        }
        Ok(writer)
    }

    /// Bytes of the tensors that [`Plan::create`] itself writes, and of all tensors.
    pub fn bytes(&self) -> (u64, u64) {
        let begun = self.divisors.as_ref().map_or(0, |d| factors(d).bytes());
        let tensors = self.tensors.iter().map(|t| t.spec.bytes());
        (begun, begun + tensors.sum::<u64>())
    }

    /// The report of a written file with this size.
    pub fn report(self, bytes: u64) -> GgufReport {
        let mut kinds = BTreeMap::new();
        let divisors = self.divisors.map(|d| factors(&d).kind);
        let of_tensors = self.tensors.iter().map(|t| t.spec.kind);
        for kind in divisors.into_iter().chain(of_tensors) {
            *kinds.entry(kind.name().to_string()).or_default() += 1;
        }
        GgufReport {
            tensors: kinds.values().sum(),
            bytes,
            kinds,
            notes: self.notes,
        }
    }
}

fn factors(divisors: &[f32]) -> TensorSpec {
    TensorSpec::new(ROPE_FACTORS, &[divisors.len()], Kind::Dense(Dtype::F32))
}

/// Plans every tensor's position and format, embedding first, layers in order; refuses an
/// incomplete model.
fn planned(
    list: Vec<(String, Vec<usize>)>,
    model: &Model,
    quant: GgufQuant,
) -> Result<Vec<Planned>> {
    let own_head = list.iter().any(|(name, _)| name == "lm_head.weight");
    if !model.tied && !own_head {
        return Err(Error::rule(
            "the model has no lm_head.weight, and its configuration does not tie it to the embedding",
        ));
    }
    let mut plan = Vec::with_capacity(list.len());
    for (hf, shape) in list {
        if hf.ends_with("rotary_emb.inv_freq") {
            continue; // old checkpoints store what the config determines
        }
        let Some(named) = model.dialect.named(&hf) else {
            return Err(Error::rule(format!(
                "{hf} is no tensor that GGUF's {} has a name for",
                model.dialect.architecture
            )));
        };
        let heads = model.permuted(named.heads);
        check_shape(&hf, &shape, model, named.heads)?;
        let role = match (shape.len(), hf.as_str()) {
            (1, _) => Role::Vector,
            (_, "lm_head.weight") => Role::Output,
            (_, "model.embed_tokens.weight") if !own_head => Role::Output,
            _ => Role::Matrix,
        };
        let columns = shape[1..].iter().product();
        let spec = TensorSpec::new(&named.name, &shape, quant.choose(role, columns));
        plan.push(Planned {
            hf,
            spec,
            heads,
            position: named.position,
        });
    }
    plan.sort_by(|a, b| (a.position, &a.spec.name).cmp(&(b.position, &b.spec.name)));
    complete(&plan, model)?;
    Ok(plan)
}

fn check_shape(hf: &str, shape: &[usize], model: &Model, heads: Heads) -> Result<()> {
    let rows = model.count(heads).map(|h| h * model.head_dim);
    let fits = matches!(shape.len(), 1 | 2)
        && shape.iter().all(|n| *n > 0)
        && rows.is_none_or(|r| shape[0] == r)
        && (hf != "model.embed_tokens.weight" || shape.get(1) == Some(&model.width));
    if fits {
        Ok(())
    } else {
        Err(Error::rule(format!(
            "{hf} has the shape {shape:?}, which its configuration does not allow"
        )))
    }
}

fn complete(plan: &[Planned], model: &Model) -> Result<()> {
    let there: HashSet<&str> = plan.iter().map(|t| t.spec.name.as_str()).collect();
    let layers = (0..model.layers).flat_map(|l| {
        let parts = model.dialect.parts();
        parts.map(move |(_, part, _)| format!("blk.{l}.{part}.weight"))
    });
    let mut wanted = [EMBEDDING.into(), "output_norm.weight".into()]
        .into_iter()
        .chain(layers);
    if let Some(missing) = wanted.find(|name: &String| !there.contains(name.as_str())) {
        let hf = names::hf_name(&missing).unwrap_or(missing);
        return Err(Error::rule(format!("the model has no {hf}")));
    }
    match plan
        .iter()
        .find(|t| t.position != usize::MAX && t.position > model.layers)
    {
        Some(beyond) => Err(Error::rule(format!(
            "{} belongs to no layer: the configuration has {}",
            beyond.hf, model.layers
        ))),
        None => Ok(()),
    }
}

/// For each format that was not asked for, one remark on how many tensors have it and why.
fn other_blocks(plan: &[Planned], quant: GgufQuant) -> Vec<String> {
    let mut found: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for t in plan.iter().map(|t| &t.spec).filter(|t| t.shape.len() == 2) {
        let roomy = quant.choose(Role::Matrix, 256);
        let logits = quant.choose(Role::Output, 256);
        if t.kind != roomy && t.kind != logits {
            *found.entry((t.kind.name(), t.shape[1])).or_default() += 1;
        }
    }
    found
        .into_iter()
        .map(|((kind, columns), n)| {
            let block = if kind == "F16" { 32 } else { 256 };
            let are = if n == 1 { "matrix is" } else { "matrices are" };
            format!("{n} {are} {kind}: rows of {columns} do not divide into blocks of {block}")
        })
        .collect()
}

/// The metadata of a model with this `config` and number of embedding rows, without a tokenizer's.
///
/// # Errors
/// A model that its GGUF architecture cannot express.
pub fn keys(config: &Value, rows: usize) -> Result<Vec<(String, gguf::Value)>> {
    let model = Model::new(config)?;
    let file_type = GgufQuant::F32.file_type();
    let mut keys = about(model.dialect.architecture, "model", "", file_type);
    keys.extend(model.keys(rows));
    Ok(keys)
}

/// The `general.*` keys.
pub(super) fn about(
    architecture: &str,
    what: &str,
    name: &str,
    file_type: u32,
) -> Vec<(String, gguf::Value)> {
    let text = |t: &str| gguf::Value::Text(t.into());
    let tags = ["spin", "self-play", "randori"].map(str::to_string);
    [
        ("general.architecture", text(architecture)),
        ("general.type", text(what)),
        ("general.name", text(name)),
        // the program that wrote the file, in GGUF's own key for it
        ("general.tags", gguf::Value::Texts(tags.into())),
        ("general.file_type", gguf::Value::Int(file_type.into())),
        ("general.quantization_version", gguf::Value::Int(2)),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into()
}
