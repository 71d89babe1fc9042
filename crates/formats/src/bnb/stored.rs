//! A 4-bit projection in a checkpoint: packed codes, with scales and maps in tensors of their own.
//!
//! Beside `X.weight` are `.absmax` and `.quant_map`, with double quantisation `.nested_absmax` and
//! `.nested_quant_map`, and `.quant_state.bitsandbytes__nf4` (or `__fp4`), JSON as bytes. Reading
//! joins them into one tensor of the projection's true shape. When writing, sizes must be known
//! before values, so the JSON is padded with spaces, which also keeps the following tensors
//! aligned.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    BLOCK, Bnb4, NESTED, NF4_LEVELS, Nf4Parts, Nf4Scales,
    declared::{Declared, refuse_eight_bit},
    matrix::Nested,
};
use crate::{
    Dtype, Error, Format, Index, Result,
    auxiliary::{AuxTensor, Read},
    safetensors::TensorSpec,
};

const STATE: &str = ".quant_state.bitsandbytes__";
/// Maximum length of a projection's JSON; real ones have a few hundred bytes.
const LONGEST_STATE: u64 = 1 << 16;
/// Padded length of the JSON we write, which has at most about 220 bytes.
const ROOM: usize = 256;

/// `quant_state`: the settings that are not tensors.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// Joins every 4-bit projection's tensors into one entry of the index, and checks them against the
/// configuration.
///
/// # Errors
/// An unsupported quantisation, naming what to do instead; tensors that are missing or do not fit;
/// a configuration that disagrees.
pub fn join(index: &mut Index, config: &Value) -> Result<()> {
    let declared = Declared::of(config)?;
    refuse_eight_bit(index, declared.as_ref())?;
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
            .and_then(|four| match &declared {
                Some(declared) => declared.agrees(name, kind, &four.0).map(|()| four),
                None => Ok(four),
            })
            .map_err(|what| Error::rule(format!("{name}: {what}")))?;
        let (four, shape) = joined;
        for part in ["absmax", "quant_map", "nested_absmax", "nested_quant_map"] {
            index.tensors.remove(&format!("{name}.{part}"));
        }
        index.tensors.remove(state);
        if let Some(stored) = index.tensors.get_mut(name) {
            stored.shape = shape;
            stored.format = Format::Bnb4(Box::new(four));
        }
    }
    if declared.is_some_and(|d| d.load_in_4bit) && states.is_empty() {
        return Err(Error::rule(
            "config.json's quantization_config says load_in_4bit, but no tensor of the model is quantised",
        ));
    }
    Ok(())
}

/// Joins the tensors of one projection.
struct Joiner<'a> {
    index: &'a Index,
    /// Name of the weight: `model.layers.0.self_attn.q_proj.weight`
    name: &'a str,
}

impl Joiner<'_> {
    /// Reads all but the codes, and the true shape.
    fn join(&self, state: &str, kind: &str) -> Read<(Bnb4, Vec<usize>)> {
        let json = self.part(state)?;
        if json.len > LONGEST_STATE {
            return Err(format!("its quant_state is {} bytes long", json.len));
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
        let four = Bnb4 {
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

    /// Looks up an auxiliary tensor: `absmax` is `X.weight.absmax`.
    fn beside(&self, part: &str) -> Read<AuxTensor> {
        self.part(&format!("{}.{part}", self.name))
    }

    fn part(&self, name: &str) -> Read<AuxTensor> {
        let found = self.index.auxiliary(name);
        found.ok_or_else(|| format!("the file lacks {name}, which bitsandbytes keeps beside it"))
    }

    fn floats<const N: usize>(&self, part: &str) -> Read<[f32; N]> {
        let part = self.beside(part)?;
        if part.len != 4 * N as u64 {
            return Err(format!(
                "{} has {} bytes, {N} numbers in f32 want {}",
                part.name,
                part.len,
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

/// The tensors in which a matrix of `count` weights is stored, in the order of their bytes: in all
/// a multiple of 8 bytes.
pub fn tensor_specs(name: &str, count: usize, double: bool) -> Vec<TensorSpec> {
    let floats = |part: &str, n| TensorSpec::dense(&format!("{name}{part}"), vec![n], Dtype::F32);
    let bytes = |part: &str, shape: Vec<usize>| TensorSpec {
        name: format!("{name}{part}"),
        tag: "U8",
        bytes: shape.iter().product::<usize>() as u64,
        shape,
    };
    let blocks = count.div_ceil(BLOCK);
    let codes = bytes("", vec![count.div_ceil(2), 1]);
    let mut parts = vec![floats(".quant_map", 16)];
    if double {
        parts.extend([
            floats(".nested_quant_map", 256),
            floats(".nested_absmax", blocks.div_ceil(NESTED)),
            codes,
            bytes(".absmax", vec![blocks]),
        ]);
    } else {
        parts.extend([floats(".absmax", blocks), codes]);
    }
    let so_far = parts.iter().map(|p| p.bytes).sum::<u64>() as usize;
    let state = (so_far + ROOM).next_multiple_of(8) - so_far;
    parts.push(bytes(&format!("{STATE}nf4"), vec![state]));
    parts
}

/// The bytes of the tensors of [`tensor_specs`], one after another; `dtype` is the dtype to which
/// readers dequantise by default.
///
/// # Errors
/// Components with more bytes than declared.
pub fn bytes(name: &str, parts: &Nf4Parts, dtype: Dtype) -> Result<Vec<u8>> {
    let double = matches!(parts.scales, Nf4Scales::Double { .. });
    let coming = tensor_specs(name, parts.rows * parts.columns, double);
    let announced = coming.iter().map(|p| p.bytes).sum::<u64>() as usize;
    let mut out = Vec::with_capacity(announced);
    let floats = |out: &mut Vec<u8>, v: &[f32]| out.extend(v.iter().flat_map(|v| v.to_le_bytes()));
    let mut state = json!({
        "quant_type": "nf4",
        "blocksize": parts.block,
        "dtype": dtype.torch_name(),
        "shape": [parts.rows, parts.columns],
    });
    floats(&mut out, &parts.levels);
    match &parts.scales {
        Nf4Scales::Plain(scales) => {
            floats(&mut out, scales);
            out.extend(&parts.codes);
        }
        Nf4Scales::Double {
            codes,
            scales,
            map,
            offset,
            block,
        } => {
            floats(&mut out, &map[..]);
            floats(&mut out, scales);
            out.extend(&parts.codes);
            out.extend(codes);
            state["nested_blocksize"] = json!(block);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(f64::from(*offset));
        }
    }
    out.extend(state.to_string().as_bytes());
    if out.len() > announced {
        return Err(Error::rule(format!(
            "{name} takes {} bytes, {announced} were announced",
            out.len()
        )));
    }
    out.resize(announced, b' '); // JSON may end in spaces
    Ok(out)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod tests {
    use super::*;
    use crate::{ByteSource, bnb::quantization_config, safetensors};

    #[test]
    fn a_matrix_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        for (rows, columns, double) in [(3, 7, false), (64, 64, true), (130, 384, true)] {
            let count = rows * columns;
            let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin() * 0.1).collect();
            let parts = Nf4Parts::quantise(rows, columns, &values, double).unwrap();
            let (name, path) = ("m.layers.0.w.weight", dir.path().join("x.safetensors"));
            let mut writer =
                safetensors::Writer::create(&path, &tensor_specs(name, count, double)).unwrap();
            writer
                .write(&bytes(name, &parts, Dtype::Bf16).unwrap())
                .unwrap();
            writer.finish().unwrap();
            let mut index = Index::default();
            safetensors::add(&mut index, ByteSource::open(&path).unwrap()).unwrap();
            let config = json!({"quantization_config": quantization_config(double, Dtype::Bf16)});
            join(&mut index, &config).unwrap();
            assert_eq!(index.tensors.len(), 1);
            let stored = &index.tensors[name];
            let Format::Bnb4(four) = &stored.format else {
                panic!("{:?}", stored.format);
            };
            let codes = index.source_of(stored).unwrap();
            let codes = codes.read(stored.start, stored.len).unwrap();
            assert_eq!(four.parts(name, &stored.shape, codes).unwrap(), parts);
            assert_eq!(four.double(), double);
            let held = stored.len + four.scale_bytes(count as u64);
            assert_eq!(held as usize, parts.bytes());
        }
    }
}
