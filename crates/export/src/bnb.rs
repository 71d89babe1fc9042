//! Export to a bitsandbytes 4-bit checkpoint: the folder that transformers' `save_pretrained`
//! writes for a model loaded in NF4.
//!
//! The blocks' projections are quantised to the same bytes as bitsandbytes'; embedding, head, norms
//! and biases stay dense, as in transformers, and so do experts and their routers, which are no
//! linear layers in transformers 5. Files are written one tensor at a time, all sizes
//! being known beforehand.

use std::{collections::BTreeSet, path::Path};

use candle_core::Tensor;
use randori_formats::{
    Dtype, Layout,
    bnb::{self, Nf4Parts, quantization_config},
    safetensors::{TensorSpec, Writer},
};
use randori_qlora::{Nf4Matrix, QuantMatrix};
use serde_json::Value;

use crate::{
    Companion, Error, Result, Tensors,
    config::config_json,
    fidelity::OnTensor,
    folder::{Draft, refuse_taken},
};

/// Options of a bitsandbytes export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BnbOptions {
    /// Quantise the scales too (bitsandbytes' double quantisation).
    pub double: bool,
    /// Dtype of the dense tensors, and compute dtype in transformers.
    pub dtype: Dtype,
    /// Maximum size of a weight file, in bytes.
    pub shard_bytes: u64,
}

impl Default for BnbOptions {
    fn default() -> Self {
        BnbOptions {
            double: true,
            dtype: Dtype::Bf16,
            shard_bytes: 5_000_000_000,
        }
    }
}

/// Summary of what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BnbReport {
    /// Weight files, in order.
    pub files: Vec<String>,
    /// Number of weights; a quantised one is stored as several tensors but counts once.
    pub tensors: usize,
    /// Number of weights in 4 bits.
    pub quantised: usize,
    /// Bytes of all weights.
    pub bytes: u64,
}

/// Writes `tensors` as a bitsandbytes folder. `on_tensor` is called with every weight before it is
/// written and a function that rounds values of its shape to the format; `progress` with (bytes
/// done, bytes in all).
///
/// # Errors
/// The folder exists, a value is not finite or beyond f16, `on_tensor` returns an error, the disk
/// is full; nothing is left behind then.
pub fn bnb(
    tensors: &dyn Tensors,
    companions: &[Companion],
    out: &Path,
    options: &BnbOptions,
    on_tensor: &mut OnTensor,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BnbReport> {
    refuse_taken(out)?;
    tensors.check()?;
    if let Some(stack) = tensors.family().dialect.stacks.first() {
        return Err(Error::rule(format!(
            "a bitsandbytes folder of a model whose {} stacks experts is not written; export a Hugging Face folder",
            stack.stored
        )));
    }
    let weights = planned(tensors.list());
    let units = weights.iter().map(|w| w.parts(options)).collect();
    let layout = Layout::new(units, options.shard_bytes);
    let config = config(tensors, options)?;
    let draft = Draft::begin(out, companions, &config, &layout)?;
    let (mut done, mut coming) = (0, weights.iter());
    for (file, units) in &layout.files {
        let mut writer = Writer::create(&draft.dir.join(file), units.iter().flatten())?;
        for (unit, weight) in units.iter().zip(coming.by_ref()) {
            let merged = tensors.read(&weight.name)?;
            on_tensor(&weight.name, &merged, &|values| {
                through(weight, values, options)
            })?;
            writer.write(&bytes(weight, &merged.weight, options)?)?;
            done += unit.iter().map(|t| t.bytes).sum::<u64>();
            progress(done, layout.total);
        }
        writer.finish()?;
    }
    draft.publish(out)?;
    Ok(BnbReport {
        files: layout.files.into_iter().map(|(name, _)| name).collect(),
        tensors: weights.len(),
        quantised: weights.iter().filter(|w| w.quantised).count(),
        bytes: layout.total,
    })
}

/// `config.json` as transformers writes it for such a model.
fn config(base: &dyn Tensors, options: &BnbOptions) -> Result<Value> {
    let dialect = base.family().dialect;
    let mut config = config_json(&base.config(), &dialect, options.dtype)?;
    config["quantization_config"] = quantization_config(options.double, options.dtype);
    Ok(config)
}

/// A weight to be written.
struct Planned {
    name: String,
    shape: Vec<usize>,
    quantised: bool,
}

impl Planned {
    /// The tensors it is stored as, in the order of their bytes.
    fn parts(&self, options: &BnbOptions) -> Vec<TensorSpec> {
        match self.quantised {
            true => bnb::tensor_specs(&self.name, self.shape.iter().product(), options.double),
            false => vec![TensorSpec::dense(
                &self.name,
                self.shape.clone(),
                options.dtype,
            )],
        }
    }
}

/// Orders the weights, quantised ones first: each has a multiple of 8 bytes in all, so every tensor
/// is aligned.
fn planned(list: Vec<(String, Vec<usize>)>) -> Vec<Planned> {
    const EXPERTS: &str = ".experts.";
    let mixtures = list.iter().filter_map(|(name, _)| name.split_once(EXPERTS));
    let mixtures: BTreeSet<String> = mixtures.map(|(module, _)| module.to_string()).collect();
    let linear = |module: &str| {
        let router = module.strip_suffix(".gate");
        !module.contains(EXPERTS) && !router.is_some_and(|mixture| mixtures.contains(mixture))
    };
    let plan = |(name, shape): (String, Vec<usize>)| Planned {
        quantised: shape.len() == 2
            && name.contains(".layers.")
            && name.strip_suffix(".weight").is_some_and(linear),
        name,
        shape,
    };
    let mut all: Vec<Planned> = list.into_iter().map(plan).collect();
    all.sort_by(|a, b| (!a.quantised, &a.name).cmp(&(!b.quantised, &b.name)));
    all
}

/// A weight's bytes, tensor after tensor.
fn bytes(weight: &Planned, values: &Tensor, options: &BnbOptions) -> Result<Vec<u8>> {
    if values.dims() != weight.shape {
        return Err(Error::rule(format!(
            "{} has the shape {:?}, {:?} was announced",
            weight.name,
            values.dims(),
            weight.shape
        )));
    }
    let (name, values) = (&weight.name, values.flatten_all()?.to_vec1::<f32>()?);
    match weight.quantised {
        true => {
            let parts = quantise(weight, &values, options)?;
            Ok(bnb::bytes(name, &parts, options.dtype)?)
        }
        false => Ok(options.dtype.encode(name, &values)?),
    }
}

fn quantise(weight: &Planned, values: &[f32], options: &BnbOptions) -> Result<Nf4Parts> {
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    Nf4Parts::quantise(rows, columns, values, options.double)
        .map_err(|e| Error::rule(format!("{}: {e}", weight.name)))
}

/// Values as a reader of the checkpoint decodes them.
fn through(weight: &Planned, values: &[f32], options: &BnbOptions) -> Result<Vec<f32>> {
    if weight.quantised {
        let matrix = QuantMatrix::Nf4(Nf4Matrix::from_parts(quantise(weight, values, options)?)?);
        return Ok(matrix.dequantise()?.flatten_all()?.to_vec1()?);
    }
    let mut seen = values.to_vec();
    options.dtype.round(&weight.name, &mut seen)?;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers 5.24 quantises linear layers; experts are one parameter, the router is none.
    #[test]
    fn experts_and_routers_stay_dense() {
        let matrix = |name: &str| (format!("model.layers.0.{name}.weight"), vec![4, 4]);
        let names = [
            "self_attn.q_proj",
            "mlp.gate",
            "mlp.experts.0.up_proj",
            "mlp.experts.1.up_proj",
            "mlp.shared_expert.up_proj",
            "other.gate",
        ];
        let all = planned(names.map(matrix).to_vec());
        let quantised = all.iter().filter(|w| w.quantised).map(|w| w.name.as_str());
        let wanted = [
            "mlp.shared_expert.up_proj",
            "other.gate",
            "self_attn.q_proj",
        ];
        let wanted = wanted.map(|name| matrix(name).0);
        assert_eq!(quantised.collect::<Vec<_>>(), wanted);
    }
}
