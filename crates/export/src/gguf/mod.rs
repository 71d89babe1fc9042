//! A model as one GGUF file, for llama.cpp and Ollama; and a LoRA as the GGUF that they put on top of one.
mod blocks;
mod file;
mod lora;
mod model;
mod names;
mod rope;

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use candle_core::{DType, Tensor};

pub use file::Meta;
pub use lora::{GgufLoraOptions, gguf_lora};

use crate::{Error, Result, fidelity::Each, merge::Tensors};
use blocks::{Kind, Role};
use file::{Coming, Writer};
use model::{ARCHITECTURE, Model};
use names::{Heads, PARTS};

/// How a GGUF's matrices are written; norms and biases are F32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufQuant {
    /// 4 bytes a weight, nothing lost.
    F32,
    /// 2 bytes a weight.
    F16,
    /// 2 bytes a weight.
    Bf16,
    /// 8.5 bits a weight.
    Q8_0,
    /// 4.5 bits a weight, one scale for 32.
    Q4_0,
    /// 4.5 bits a weight, scales and offsets for 32 in blocks of 256.
    Q4K,
    /// 6.6 bits a weight, in blocks of 256.
    Q6K,
}

const QUANTS: [(&str, GgufQuant); 7] = [
    ("f32", GgufQuant::F32),
    ("f16", GgufQuant::F16),
    ("bf16", GgufQuant::Bf16),
    ("q8_0", GgufQuant::Q8_0),
    ("q4_0", GgufQuant::Q4_0),
    ("q4_k", GgufQuant::Q4K),
    ("q6_k", GgufQuant::Q6K),
];

impl fmt::Display for GgufQuant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = QUANTS.iter().find(|(_, q)| q == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for GgufQuant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = QUANTS.iter().find(|(n, _)| n.eq_ignore_ascii_case(text));
        found.map(|(_, q)| *q).ok_or_else(|| {
            let names: Vec<&str> = QUANTS.iter().map(|(n, _)| *n).collect();
            Error::rule(format!(
                "{text:?} is no GGUF quantisation; {} are",
                names.join(", ")
            ))
        })
    }
}

impl GgufQuant {
    /// llama.cpp's number for a file that is mostly of this kind (`general.file_type`).
    fn file_type(self) -> u32 {
        match self {
            GgufQuant::F32 => 0,
            GgufQuant::F16 => 1,
            GgufQuant::Q4_0 => 2,
            GgufQuant::Q8_0 => 7,
            GgufQuant::Q4K => 14, // Q4_K_S: no layer gets more bits than the others
            GgufQuant::Q6K => 18,
            GgufQuant::Bf16 => 32,
        }
    }
}

/// How a GGUF is written.
#[derive(Debug, Clone)]
pub struct GgufOptions {
    /// Of the matrices. In 4-bit files the one that makes the logits is Q6_K; rows that blocks of 256 do not divide get
    /// Q5_0 for Q4_K and Q8_0 for Q6_K, as in llama.cpp.
    pub quant: GgufQuant,
    /// Replace a file that is there already.
    pub replace: bool,
    /// `general.name`.
    pub name: String,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufReport {
    /// Tensors.
    pub tensors: usize,
    /// Of the file.
    pub bytes: u64,
    /// How many tensors have which of ggml's formats.
    pub kinds: BTreeMap<String, usize>,
    /// What the user should know, in whole sentences.
    pub notes: Vec<String>,
}

/// About so many values are converted at once.
const CHUNK: usize = 4 << 20;

/// A tensor of the plan.
struct Planned {
    hf: String,
    gguf: String,
    shape: Vec<usize>,
    kind: Kind,
    heads: Option<usize>,
    place: usize,
}

/// Writes a model as a GGUF file, one tensor at a time; `vocabulary` are the tokenizer's keys, to which tokens are added
/// where the embedding has more rows.
///
/// `each` hears of every tensor by Hugging Face's name, with its values and a function that says what the file holds of
/// values of that tensor (whole rows). `progress` hears of bytes done and bytes in all.
///
/// # Errors
/// A model that GGUF's `llama` cannot express, a tensor that is missing or unknown, a number beyond f16, a file that is
/// there already, a full disk, or what `each` says; nothing is left behind then.
pub fn gguf(
    tensors: &dyn Tensors,
    vocabulary: &[(String, Meta)],
    out: &Path,
    options: &GgufOptions,
    each: &mut Each,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<GgufReport> {
    tensors.check()?;
    let mut model = Model::new(&tensors.config())?;
    let plan = plan(tensors, &model, options.quant)?;
    let rows = plan
        .iter()
        .find(|t| t.gguf == "token_embd.weight")
        .map_or(0, |t| t.shape[0]);
    let metadata = metadata(&model, rows, vocabulary, options)?;
    let divisors = model.rope_divisors();

    let mut coming: Vec<Coming> = plan.iter().map(coming).collect();
    if let Some(divisors) = &divisors {
        coming.insert(0, factors(divisors.len()));
    }
    let total = coming.iter().map(|t| t.bytes).sum();
    let mut kinds = BTreeMap::new();
    let count = coming.len();
    let mut writer = Writer::create(out, options.replace, &metadata, coming)?;
    let mut done = 0;
    if let Some(divisors) = &divisors {
        writer.begin(ROPE_FACTORS)?;
        writer.write(&Kind::F32.encode(ROPE_FACTORS, divisors)?)?;
        done += Kind::F32.bytes(divisors.len());
        *kinds.entry(Kind::F32.name().to_string()).or_default() += 1;
    }
    for t in &plan {
        let merged = tensors.read(&t.hf)?;
        if merged.weight.dims() != t.shape {
            return Err(Error::rule(format!(
                "{} was announced as {:?} and is {:?}",
                t.hf,
                t.shape,
                merged.weight.dims()
            )));
        }
        each(&t.hf, &merged, &|values| t.kind.held(&t.hf, values))?;
        writer.begin(&t.gguf)?;
        in_stored_order(t, &merged.weight, &mut |values| {
            let bytes = t.kind.encode(&t.hf, &values)?;
            done += bytes.len() as u64;
            progress(done, total);
            writer.write(&bytes)
        })?;
        *kinds.entry(t.kind.name().to_string()).or_default() += 1;
    }
    let bytes = writer.publish()?;
    let mut notes = std::mem::take(&mut model.notes);
    notes.extend(other_blocks(&plan, options.quant));
    Ok(GgufReport {
        tensors: count,
        bytes,
        kinds,
        notes,
    })
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

fn factors(n: usize) -> Coming {
    Coming {
        name: ROPE_FACTORS.into(),
        shape: vec![n],
        kind: Kind::F32.id(),
        bytes: Kind::F32.bytes(n),
    }
}

fn coming(t: &Planned) -> Coming {
    Coming {
        name: t.gguf.clone(),
        shape: t.shape.clone(),
        kind: t.kind.id(),
        bytes: t.kind.bytes(t.shape.iter().product()),
    }
}

/// Every tensor with its place and format, embedding first, layers in order; a complete Llama or an error.
fn plan(tensors: &dyn Tensors, model: &Model, quant: GgufQuant) -> Result<Vec<Planned>> {
    let list = tensors.list();
    let own_head = list.iter().any(|(name, _)| name == "lm_head.weight");
    if !model.tied && !own_head {
        return Err(Error::rule(
            "the model has no lm_head.weight, and its configuration does not tie it to the embedding",
        ));
    }
    let mut plan = Vec::with_capacity(list.len());
    for (hf, shape) in list {
        if hf.ends_with("rotary_emb.inv_freq") {
            continue; // old checkpoints keep what the configuration says
        }
        let Some(named) = names::named(&hf) else {
            return Err(Error::rule(format!(
                "{hf} is no tensor of a Llama or Mistral, so GGUF's llama has no name for it"
            )));
        };
        let heads = model.count(named.heads);
        check_shape(&hf, &shape, model, named.heads)?;
        let role = match (shape.len(), hf.as_str()) {
            (1, _) => Role::Vector,
            (_, "lm_head.weight") => Role::Output,
            (_, "model.embed_tokens.weight") if !own_head => Role::Output,
            _ => Role::Matrix,
        };
        let columns = shape[1..].iter().product();
        plan.push(Planned {
            kind: Kind::choose(quant, role, columns),
            gguf: named.name,
            place: named.place,
            hf,
            shape,
            heads,
        });
    }
    plan.sort_by(|a, b| (a.place, &a.gguf).cmp(&(b.place, &b.gguf)));
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
    let there: std::collections::HashSet<&str> = plan.iter().map(|t| t.gguf.as_str()).collect();
    let layers =
        (0..model.layers).flat_map(|l| PARTS.map(|(_, part, _)| format!("blk.{l}.{part}.weight")));
    let mut wanted = ["token_embd.weight".into(), "output_norm.weight".into()]
        .into_iter()
        .chain(layers);
    if let Some(missing) = wanted.find(|name: &String| !there.contains(name.as_str())) {
        let hf = randori_engine::weights::hf_name(&missing).unwrap_or(missing);
        return Err(Error::rule(format!("the model has no {hf}")));
    }
    match plan
        .iter()
        .find(|t| t.place != usize::MAX && t.place > model.layers)
    {
        Some(beyond) => Err(Error::rule(format!(
            "{} belongs to no layer: the configuration has {}",
            beyond.hf, model.layers
        ))),
        None => Ok(()),
    }
}

/// Says once for each format that was not asked for, how many tensors have it and why.
fn other_blocks(plan: &[Planned], quant: GgufQuant) -> Vec<String> {
    let mut found: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for t in plan.iter().filter(|t| t.shape.len() == 2) {
        let roomy = Kind::choose(quant, Role::Matrix, 256);
        let logits = Kind::choose(quant, Role::Output, 256);
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

/// Says who wrote the file, in GGUF's own key for it.
fn tags() -> (String, Meta) {
    let tags = ["spin", "self-play", "randori"].map(str::to_string);
    ("general.tags".into(), Meta::Texts(tags.into()))
}

fn metadata(
    model: &Model,
    rows: usize,
    vocabulary: &[(String, Meta)],
    options: &GgufOptions,
) -> Result<Vec<(String, Meta)>> {
    let mut all = vec![
        (
            "general.architecture".to_string(),
            Meta::Text(ARCHITECTURE.into()),
        ),
        ("general.type".into(), Meta::Text("model".into())),
        ("general.name".into(), Meta::Text(options.name.clone())),
        tags(),
        (
            "general.file_type".into(),
            Meta::U32(options.quant.file_type()),
        ),
        ("general.quantization_version".into(), Meta::U32(2)),
    ];
    all.extend(model.keys(rows)?);
    for (key, value) in vocabulary {
        all.push((key.clone(), padded(key, value, rows)?));
    }
    let mut keys: Vec<&str> = all.iter().map(|(k, _)| k.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(Error::rule(format!(
            "the metadata key {} is there twice",
            twice[0]
        ))),
        None => Ok(all),
    }
}

/// llama.cpp insists on one token for each row of the embedding: rows without a token get one that text never makes.
fn padded(key: &str, value: &Meta, rows: usize) -> Result<Meta> {
    const UNUSED: i32 = 5;
    let mut value = value.clone();
    let have = match (key, &mut value) {
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)) => {
            let have = tokens.len();
            tokens.extend((have..rows).map(|id| format!("[PAD{id}]")));
            have
        }
        ("tokenizer.ggml.token_type", Meta::Ints(types)) => {
            let have = types.len();
            types.resize(rows.max(have), UNUSED);
            have
        }
        ("tokenizer.ggml.scores", Meta::Floats(scores)) => {
            let have = scores.len();
            let least = scores.iter().copied().fold(0.0, f32::min);
            scores.resize(rows.max(have), least - 1.0);
            have
        }
        _ => rows,
    };
    if have > rows {
        return Err(Error::rule(format!(
            "the tokenizer has {have} tokens, but the embedding {rows} rows: llama.cpp needs as many"
        )));
    }
    Ok(value)
}

/// The tensor's values as they stand in the file, some whole rows at a time.
fn in_stored_order(
    t: &Planned,
    weight: &Tensor,
    each: &mut dyn FnMut(Vec<f32>) -> Result<()>,
) -> Result<()> {
    let rows = t.shape[0];
    let columns: usize = t.shape[1..].iter().product();
    let step = (CHUNK / columns.max(1)).clamp(1, rows);
    let order = t.heads.map(|h| names::stored_rows(rows, h));
    for first in (0..rows).step_by(step) {
        let n = step.min(rows - first);
        let part = match &order {
            None => weight.narrow(0, first, n)?,
            Some(order) => {
                let ids = Tensor::from_slice(&order[first..first + n], n, weight.device())?;
                weight.contiguous()?.index_select(&ids, 0)?
            }
        };
        each(part.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)?;
    }
    Ok(())
}
