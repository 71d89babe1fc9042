//! bitsandbytes' 4-bit checkpoints: a projection is stored as packed codes with its scales and maps beside it, each a
//! tensor of its own. Here they become one tensor of the projection's true shape.
//!
//! Beside `X.weight` lie `.absmax` and `.quant_map`, with double quantisation `.nested_absmax` and `.nested_quant_map`, and
//! `.quant_state.bitsandbytes__nf4` (or `__fp4`), JSON as bytes.

use std::sync::Arc;

use randori_qlora::{NF4_LEVELS, Nf4Matrix, Nf4Parts, Nf4Scales, QuantMatrix};
use serde::Deserialize;
use serde_json::Value;

use super::index::{Format, Index, Place, Stored};
use crate::{Error, Result};

const STATE: &str = ".quant_state.bitsandbytes__";
/// The JSON of a projection is a few hundred bytes long.
const LONGEST_STATE: u64 = 1 << 16;

/// A matrix in 4 bits: all but its codes, which are the tensor's own bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Four {
    block: usize,
    levels: [f32; 16],
    absmax: Part,
    nested: Option<Nested>,
}

#[derive(Debug, Clone, PartialEq)]
struct Nested {
    absmax: Part,
    map: Arc<[f32; 256]>,
    block: usize,
    offset: f32,
}

/// A tensor that belongs to another; it may lie in another file.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    place: Arc<Place>,
    stored: Stored,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// `quant_state`: numbers that are no tensors.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

impl Four {
    /// Whether its scales are quantised too.
    pub(super) fn double(&self) -> bool {
        self.nested.is_some()
    }

    /// Bytes of the scales of `count` weights.
    pub(super) fn scale_bytes(&self, count: u64) -> u64 {
        let scales = count.div_ceil(self.block.max(1) as u64);
        match &self.nested {
            Some(nested) => scales + 4 * scales.div_ceil(nested.block.max(1) as u64) + 4,
            None => 4 * scales,
        }
    }
}

/// `quantization_config`: what transformers says of the whole model.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Declared {
    quant_method: Option<String>,
    load_in_4bit: bool,
    load_in_8bit: bool,
    bnb_4bit_quant_type: Option<String>,
    bnb_4bit_use_double_quant: Option<bool>,
    llm_int8_skip_modules: Option<Vec<String>>,
}

/// Joins what belongs together, and holds it against the configuration.
///
/// # Errors
/// A quantisation that cannot be read, naming what to do instead; parts that are missing or do not fit; a configuration
/// that says something else.
pub(super) fn join(index: &mut Index, config: &Value) -> Result<()> {
    let declared = declared(config)?;
    eight_bit(index, declared.as_ref())?;
    let states: Vec<String> = index
        .tensors
        .keys()
        .filter(|name| name.contains(STATE))
        .cloned()
        .collect();
    for state in &states {
        let (name, kind) = state.split_once(STATE).unwrap_or((state, ""));
        let joined = Joiner { index, name }
            .join(state, kind)
            .and_then(|four| agrees(declared.as_ref(), name, kind, &four.0).map(|()| four))
            .map_err(|what| Error::rule(format!("{name}: {what}")))?;
        let (four, shape) = joined;
        for part in ["absmax", "quant_map", "nested_absmax", "nested_quant_map"] {
            index.tensors.remove(&format!("{name}.{part}"));
        }
        index.tensors.remove(state);
        if let Some(stored) = index.tensors.get_mut(name) {
            stored.shape = shape;
            stored.format = Format::Four(Box::new(four));
        }
    }
    if declared.is_some_and(|d| d.load_in_4bit) && states.is_empty() {
        return Err(Error::rule(
            "config.json's quantization_config says load_in_4bit, but no tensor of the model is quantised",
        ));
    }
    Ok(())
}

fn declared(config: &Value) -> Result<Option<Declared>> {
    let Some(value) = config.get("quantization_config").filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    let declared = Declared::deserialize(value)
        .map_err(|e| Error::rule(format!("config.json's quantization_config: {e}")))?;
    match declared.quant_method.as_deref() {
        // older files say nothing
        None | Some("bitsandbytes") => Ok(Some(declared)),
        Some(other) => Err(Error::rule(format!(
            "the model is quantised by {other}, which cannot be read; bitsandbytes' 4 bits and GGUF can, and dense weights"
        ))),
    }
}

fn eight_bit(index: &Index, declared: Option<&Declared>) -> Result<()> {
    let scb = index.tensors.keys().find(|name| name.ends_with(".SCB"));
    if scb.is_none() && !declared.is_some_and(|d| d.load_in_8bit) {
        return Ok(());
    }
    let what = scb.map_or("config.json says load_in_8bit".to_string(), |n| {
        format!("it has {n}")
    });
    Err(Error::rule(format!(
        "the model is in bitsandbytes' 8 bits ({what}), which cannot be read; use the dense model it was made from (adapter.kind = \"qlora\" quantises it to 4 bits), a 4-bit checkpoint, or a GGUF file in q8_0"
    )))
}

/// Holds one projection against what the configuration says of all.
fn agrees(
    declared: Option<&Declared>,
    name: &str,
    kind: &str,
    four: &Four,
) -> std::result::Result<(), String> {
    let Some(declared) = declared else {
        return Ok(());
    };
    let says = |what: String| Err(format!("config.json's quantization_config says {what}"));
    if let Some(other) = declared
        .bnb_4bit_quant_type
        .as_deref()
        .filter(|k| *k != kind)
    {
        return says(format!("{other}, but it is stored as {kind}"));
    }
    let double = four.nested.is_some();
    if let Some(said) = declared.bnb_4bit_use_double_quant.filter(|d| *d != double) {
        return says(format!(
            "bnb_4bit_use_double_quant {said}, but its scales are {}",
            if double { "quantised" } else { "plain" }
        ));
    }
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let skipped = |skip: &&String| {
        module == skip.as_str()
            || module.starts_with(&format!("{skip}."))
            || module.ends_with(&format!(".{skip}"))
    };
    let skips = declared.llm_int8_skip_modules.iter().flatten();
    match skips.into_iter().find(skipped) {
        Some(skip) => says(format!(
            "that {skip} is skipped (llm_int8_skip_modules), but it is quantised"
        )),
        None => Ok(()),
    }
}

type Read<T> = std::result::Result<T, String>;

/// Parts of one projection.
struct Joiner<'a> {
    index: &'a Index,
    /// `model.layers.0.self_attn.q_proj.weight`
    name: &'a str,
}

impl Joiner<'_> {
    /// All but the codes, and the true shape.
    fn join(&self, state: &str, kind: &str) -> Read<(Four, Vec<usize>)> {
        let json = self.part(state)?;
        if json.stored.len > LONGEST_STATE {
            return Err(format!("its quant_state is {} bytes long", json.stored.len));
        }
        let state: State = serde_json::from_slice(&json.read()?)
            .map_err(|e| format!("its quant_state is damaged: {e}"))?;
        if state.quant_type != kind || !["nf4", "fp4"].contains(&kind) {
            return Err(format!(
                "its quant_state is called {kind} and says {:?}; nf4 and fp4 can be read",
                state.quant_type
            ));
        }
        let levels: [f32; 16] = self.floats("quant_map")?;
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        if kind == "nf4" && !levels.iter().zip(&NF4_LEVELS).all(near) {
            return Err("its quant_map does not hold NF4's levels".into());
        }
        let codes = self
            .index
            .tensors
            .get(self.name)
            .ok_or("it has a quant_state but no codes")?;
        let count = state
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        if state.shape.len() != 2 || count.map(|n| n.div_ceil(2)) != Some(codes.len) {
            return Err(format!(
                "its quant_state says the shape {:?}, which {} bytes of 4-bit codes do not hold",
                state.shape, codes.len
            ));
        }
        let four = Four {
            block: state.blocksize,
            levels,
            absmax: self.beside("absmax")?,
            nested: self.nested(&state)?,
        };
        Ok((four, state.shape))
    }

    fn nested(&self, state: &State) -> Read<Option<Nested>> {
        let there = self
            .index
            .tensors
            .contains_key(&format!("{}.nested_absmax", self.name));
        match (there, state.nested_blocksize, state.nested_offset) {
            (false, None, None) => Ok(None),
            (true, Some(block), Some(offset)) if offset.is_finite() => Ok(Some(Nested {
                absmax: self.beside("nested_absmax")?,
                map: Arc::new(self.floats("nested_quant_map")?),
                block,
                offset: offset as f32,
            })),
            _ => Err(
                "of nested_absmax, nested_blocksize and nested_offset, which belong together, some are missing".into(),
            ),
        }
    }

    /// `absmax`: the tensor `X.weight.absmax`.
    fn beside(&self, part: &str) -> Read<Part> {
        self.part(&format!("{}.{part}", self.name))
    }

    fn part(&self, name: &str) -> Read<Part> {
        let stored =
            self.index.tensors.get(name).ok_or_else(|| {
                format!("the file lacks {name}, which bitsandbytes keeps beside it")
            })?;
        let place = self.index.files.get(stored.file);
        Ok(Part {
            name: name.to_string(),
            place: place.ok_or("its file is not open")?.clone(),
            stored: stored.clone(),
        })
    }

    fn floats<const N: usize>(&self, part: &str) -> Read<[f32; N]> {
        let part = self.beside(part)?;
        if part.stored.len != 4 * N as u64 {
            return Err(format!(
                "{} has {} bytes, {N} numbers in f32 want {}",
                part.name,
                part.stored.len,
                4 * N
            ));
        }
        let values = part.floats()?;
        if let Some(v) = values.iter().find(|v| !v.is_finite()) {
            return Err(format!("{} holds {v}", part.name));
        }
        Ok(std::array::from_fn(|i| {
            values.get(i).copied().unwrap_or_default()
        }))
    }
}

impl Part {
    fn read(&self) -> Read<Vec<u8>> {
        self.place
            .read(self.stored.start, self.stored.len)
            .map_err(|e| e.to_string())
    }

    fn floats(&self) -> Read<Vec<f32>> {
        if self.stored.format != Format::F32 {
            return Err(format!(
                "{} is stored as {:?}; F32 can be read",
                self.name, self.stored.format
            ));
        }
        let four = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok(self.read()?.chunks_exact(4).map(four).collect())
    }
}

/// The matrix, kept as it is stored.
///
/// # Errors
/// A file that is cut short, parts whose lengths do not fit.
pub(super) fn matrix(
    name: &str,
    stored: &Stored,
    four: &Four,
    place: &Place,
) -> Result<QuantMatrix> {
    let fail = |what: String| Error::rule(format!("{name}: {what}"));
    let scales = match &four.nested {
        None => Nf4Scales::Plain(four.absmax.floats().map_err(fail)?),
        Some(nested) => Nf4Scales::Double {
            codes: four.absmax.read().map_err(fail)?,
            scales: nested.absmax.floats().map_err(fail)?,
            offset: nested.offset,
            map: nested.map.clone(),
            block: nested.block,
        },
    };
    let (rows, columns) = match stored.shape[..] {
        [rows, columns] => (rows, columns),
        _ => return Err(fail(format!("has the shape {:?}", stored.shape))),
    };
    let parts = Nf4Parts {
        rows,
        columns,
        block: four.block,
        levels: four.levels,
        codes: place.read(stored.start, stored.len)?,
        scales,
    };
    Nf4Matrix::from_parts(parts)
        .map(QuantMatrix::Nf4)
        .map_err(|e| fail(e.to_string()))
}
