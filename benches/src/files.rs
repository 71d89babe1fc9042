//! The benched model as files: a Hugging Face folder, or a GGUF as llama.cpp's converter makes
//! them.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Tensor};
use randori_engine::{Base, Weight};
use randori_formats::{
    Dtype,
    gguf::{self, Block, Kind, TensorSpec, model},
};
use randori_sdk::{Dialect, dialect::Gguf, seam::Family};

use crate::{VOCAB, config};

fn tensors(base: &Base) -> impl Iterator<Item = (&String, &Tensor)> {
    base.weights.iter().map(|(name, weight)| match weight {
        Weight::Dense(tensor) => (name, tensor),
        _ => panic!(
            "{name} is {}; the files are written from dense weights",
            weight.format()
        ),
    })
}

/// Writes `config.json` and `model.safetensors` in `dtype`.
pub fn folder(dir: &Path, base: &Base, dtype: DType) {
    std::fs::write(dir.join("config.json"), config().to_string()).unwrap();
    let all: HashMap<&str, Tensor> = tensors(base)
        .map(|(name, t)| (name.as_str(), t.to_dtype(dtype).unwrap()))
        .collect();
    candle_core::safetensors::save(&all, dir.join("model.safetensors")).unwrap();
}

/// Writes a GGUF with matrices in `block`, but for the embedding, which is in Q8_0 as llama.cpp's
/// presets have it. (Rows of q and k are not permuted: they are random anyway; whoever reads the
/// file undoes the permutation all the same.)
pub fn gguf(path: &Path, base: &Base, block: Block) {
    let quantised = |(name, t): (&String, &Tensor)| {
        let kind = match name.as_str() {
            _ if t.rank() == 1 => Kind::Dense(Dtype::F32),
            "model.embed_tokens.weight" => Kind::Block(Block::Q8_0),
            _ => Kind::Block(block),
        };
        let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
        let bytes = match kind {
            Kind::Dense(dtype) => dtype.encode(name, &values).unwrap(),
            Kind::Block(block) => randori_qlora::encode(block, &values).unwrap(),
        };
        let name = model::gguf_name(&Gguf::LLAMA, name).unwrap();
        (TensorSpec::new(&name, t.dims(), kind), bytes)
    };
    let all: Vec<_> = tensors(base).map(quantised).collect();
    let dialect = Dialect {
        gguf: Some(Gguf::LLAMA),
        ..Dialect::NONE
    };
    let keys = model::keys(&config(), &Family::new("llama", dialect), VOCAB).unwrap();
    gguf::write(path, true, &keys, &all).unwrap();
}
