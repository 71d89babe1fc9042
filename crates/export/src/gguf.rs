//! Export to GGUF, for llama.cpp and Ollama: a model, or a LoRA for such a model.

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Tensor};
use randori_formats::gguf::{
    GgufTokenizer, Kind,
    model::{GgufLoraOptions, GgufOptions, GgufReport, Param, Plan, Planned, write_lora},
};
use randori_sdk::{dialect::Values, seam::Family};
use serde_json::Value;

use crate::{Error, Result, fidelity::OnTensor, merge::Tensors};

/// Number of values converted at once, approximately.
const CHUNK: usize = 4 << 20;

/// Writes a model as a GGUF file, one tensor at a time, with this tokenizer; tokens are added where
/// the embedding has more rows.
///
/// `on_tensor` is called with every tensor under its Hugging Face name, its values, and a function
/// that rounds values of that tensor (whole rows) to those the file holds; `progress` with (bytes
/// done, bytes in all).
///
/// # Errors
/// The family's GGUF architecture cannot express the model, a tensor is missing or unknown, a
/// number is beyond f16, the file exists, the disk is full, or `on_tensor` returns an error;
/// nothing is left behind then.
pub fn gguf(
    tensors: &dyn Tensors,
    tokenizer: Option<&GgufTokenizer>,
    out: &Path,
    options: &GgufOptions,
    on_tensor: &mut OnTensor,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<GgufReport> {
    tensors.check()?;
    let (config, family) = (tensors.config(), tensors.family());
    let plan = Plan::new(&config, &family, tensors.list(), tokenizer, options)?;
    let (mut done, total) = plan.bytes();
    let mut writer = plan.create(out, options.replace)?;
    for t in &plan.tensors {
        writer.begin(&t.spec.name)?;
        let kind = t.spec.kind;
        for name in &t.parts {
            let merged = tensors.read(name)?;
            if merged.weight.dims() != t.shape {
                return Err(Error::rule(format!(
                    "{name} was announced as {:?} and is {:?}",
                    t.shape,
                    merged.weight.dims()
                )));
            }
            let form = Form::of(t);
            on_tensor(name, &merged, &|values| {
                round_trip(kind, name, values, &form)
            })?;
            in_stored_order(t, &merged.weight, &mut |values| {
                let bytes = encode(kind, name, &form.stored(values))?;
                done += bytes.len() as u64;
                progress(done, total);
                Ok(writer.write(&bytes)?)
            })?;
        }
    }
    let bytes = writer.publish()?;
    Ok(plan.report(bytes))
}

/// Writes the LoRA of a model of this family with this `config`. `params` have PEFT's short names
/// (`model.layers.0.self_attn.q_proj.lora_A` (r, in), `.lora_B` (out, r)); `scale` returns the
/// factor on B·A·x of a projection.
///
/// # Errors
/// As [`write_lora`].
pub fn gguf_lora(
    params: &BTreeMap<String, Tensor>,
    config: &Value,
    family: &Family,
    scale: &dyn Fn(&str) -> f64,
    out: &Path,
    options: &GgufLoraOptions,
) -> Result<GgufReport> {
    let mut adapter = BTreeMap::new();
    for (name, t) in params {
        let param = Param {
            shape: t.dims().to_vec(),
            values: values(t)?,
        };
        adapter.insert(name.clone(), param);
    }
    Ok(write_lora(&adapter, config, family, scale, out, options)?)
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Encodes values (whole rows).
fn encode(kind: Kind, name: &str, values: &[f32]) -> Result<Vec<u8>> {
    kind.check(name, values)?;
    match kind {
        Kind::Dense(dtype) => Ok(dtype.encode(name, values)?),
        Kind::Block(block) => Ok(randori_qlora::encode(block, values)?),
    }
}

/// How a file holds the values of whole rows.
struct Form {
    values: Values,
    /// The order of a row's columns: the model's number for each of the file's, and the reverse.
    columns: Option<[Vec<u32>; 2]>,
}

impl Form {
    fn of(t: &Planned) -> Self {
        let columns = t.order.filter(|order| order.columns);
        Form {
            values: t.values,
            columns: columns.map(|order| [order.of_model(), order.of_file()]),
        }
    }

    fn stored(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.values != Values::Same {
            values.iter_mut().for_each(|v| *v = self.values.stored(*v));
        }
        match &self.columns {
            Some([of_model, _]) => picked(&values, of_model),
            None => values,
        }
    }

    fn own(&self, mut stored: Vec<f32>) -> Vec<f32> {
        if self.values != Values::Same {
            let own = |v: f32| self.values.own(v).unwrap_or(f32::NAN);
            stored.iter_mut().for_each(|v| *v = own(*v));
        }
        match &self.columns {
            Some([_, of_file]) => picked(&stored, of_file),
            None => stored,
        }
    }
}

/// Each row with its columns in this order.
fn picked(values: &[f32], columns: &[u32]) -> Vec<f32> {
    let rows = values.chunks_exact(columns.len().max(1));
    rows.flat_map(|row| columns.iter().map(move |column| row[*column as usize]))
        .collect()
}

/// Rounds values (whole rows) to those the file holds, by encoding and decoding them.
fn round_trip(kind: Kind, name: &str, values: &[f32], form: &Form) -> Result<Vec<f32>> {
    let bytes = match form {
        Form {
            values: Values::Same,
            columns: None,
        } => encode(kind, name, values)?,
        form => encode(kind, name, &form.stored(values.to_vec()))?,
    };
    let held = match kind {
        Kind::Dense(dtype) => dtype.values(&bytes),
        Kind::Block(block) => randori_qlora::decode(block, &bytes)?,
    };
    Ok(form.own(held))
}

/// Calls `write` with the tensor's values in the file's row order, some whole rows at a time.
fn in_stored_order(
    t: &Planned,
    weight: &Tensor,
    write: &mut dyn FnMut(Vec<f32>) -> Result<()>,
) -> Result<()> {
    let rows = t.shape[0];
    let columns: usize = t.shape[1..].iter().product();
    let step = (CHUNK / columns.max(1)).clamp(1, rows);
    let order = t.order.filter(|order| !order.columns);
    let order = order.map(|order| order.of_model());
    for first in (0..rows).step_by(step) {
        let n = step.min(rows - first);
        let part = match &order {
            None => weight.narrow(0, first, n)?,
            Some(order) => {
                let ids = Tensor::from_slice(&order[first..first + n], n, weight.device())?;
                weight.contiguous()?.index_select(&ids, 0)?
            }
        };
        write(values(&part)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use randori_formats::{Dtype, gguf::Block};

    use super::*;

    #[test]
    fn the_blocks_rows_fall_back_to_are_those_of_llama_cpp() {
        let theirs = include_str!("../tests/fixtures/blocks.json");
        let theirs: serde_json::Value = serde_json::from_str(theirs).unwrap_or_default();
        let numbers: Vec<f32> = randori_lora::splitmix(7, "golden", 1024)
            .map(|u| (u - 0.5) as f32)
            .collect();
        for block in [Block::Q4_0, Block::Q5_0, Block::Q5_1, Block::Q8_0] {
            let ours = encode(Kind::Block(block), "w", &numbers).unwrap_or_default();
            let ours: String = ours.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(theirs[block.name()]["bytes"], ours);
        }
    }

    #[test]
    fn what_f16_cannot_say_is_an_error() {
        for (kind, value, fine) in [
            (Kind::Dense(Dtype::F16), 7e4, false),
            (Kind::Dense(Dtype::F16), f32::INFINITY, true),
            (Kind::Block(Block::Q8_0), 7e4, false),
            (Kind::Block(Block::Q4K), f32::NAN, false),
            (Kind::Dense(Dtype::Bf16), 7e4, true),
            (Kind::Dense(Dtype::F32), f32::NAN, true),
        ] {
            let mut values = vec![0.5f32; 256];
            values[7] = value;
            assert_eq!(
                encode(kind, "w", &values).is_ok(),
                fine,
                "{kind:?} of {value}"
            );
            let form = Form {
                values: Values::Same,
                columns: None,
            };
            assert_eq!(
                round_trip(kind, "w", &values, &form).is_ok(),
                fine,
                "{kind:?} of {value}"
            );
        }
    }
}
