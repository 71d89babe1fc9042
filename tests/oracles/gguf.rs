//! Writes a tiny model as a GGUF file: blocks quantised by candle, a Llama's q and k permuted as by
//! llama.cpp's converter.

use std::path::Path;

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use randori_formats::{
    Dtype,
    gguf::{self, Kind, TensorSpec, model},
};

use crate::{
    model::{Shape, Weights, permute, unpermute},
    opened::family,
};

/// Writes the model with every matrix in `kind` (norms in F32); returns the weights that the file
/// really holds: dequantised by candle, rows back in Hugging Face's order.
pub fn write(path: &Path, shape: &Shape, weights: &Weights, kind: Kind) -> Weights {
    let family = family(shape.family);
    let dialect = family.dialect.gguf.unwrap();
    let (mut stored, mut held) = (Vec::new(), Weights::new());
    let mut add = |name: &str, tensor: &Tensor, kind: Kind| {
        let quantised = QTensor::quantize(tensor, of_candle(kind)).unwrap();
        let bytes = quantised.data().unwrap().into_owned();
        stored.push((TensorSpec::new(name, tensor.dims(), kind), bytes));
        quantised.dequantize(&Device::Cpu).unwrap()
    };
    let dense = Kind::Dense(Dtype::F32);
    for (name, tensor) in weights {
        let heads = match name {
            _ if shape.family.starts_with("qwen") => None,
            n if n.ends_with("q_proj.weight") => Some(shape.heads),
            n if n.ends_with("k_proj.weight") => Some(shape.kv_heads),
            _ => None,
        };
        let as_stored = heads.map_or(tensor.clone(), |h| permute(tensor, h));
        let kind = if tensor.rank() == 1 { dense } else { kind };
        let back = add(&model::gguf_name(&dialect, name).unwrap(), &as_stored, kind);
        let back = heads.map_or(back.clone(), |h| unpermute(&back, h));
        held.insert(name.clone(), back);
    }
    if let Some(divisors) = rope_divisors(shape) {
        let n = divisors.len();
        let tensor = Tensor::from_vec(divisors, n, &Device::Cpu).unwrap();
        add(model::ROPE_FACTORS, &tensor, dense);
    }
    let keys = model::keys(&shape.config(), family, shape.vocab).unwrap();
    gguf::write(path, false, &keys, &stored).unwrap();
    held
}

fn of_candle(kind: Kind) -> GgmlDType {
    match kind {
        Kind::Dense(Dtype::F32) => GgmlDType::F32,
        Kind::Dense(Dtype::F16) => GgmlDType::F16,
        Kind::Dense(Dtype::Bf16) => GgmlDType::BF16,
        Kind::Block(block) => randori_qlora::dtype(block).unwrap(),
    }
}

/// Divisors of the frequencies, which llama.cpp stores in place of Llama 3's parameters.
fn rope_divisors(shape: &Shape) -> Option<Vec<f32>> {
    let l = shape.llama3?;
    let divisor = |i: usize| {
        let frequency = shape.theta.powf(-2.0 * i as f64 / shape.head_dim as f64);
        let wave = 2.0 * std::f64::consts::PI / frequency;
        let original = l.original as f64;
        if wave < original / l.high {
            1.0
        } else if wave > original / l.low {
            l.factor
        } else {
            let smooth = (original / wave - l.low) / (l.high - l.low);
            1.0 / ((1.0 - smooth) / l.factor + smooth)
        }
    };
    Some((0..shape.head_dim / 2).map(|i| divisor(i) as f32).collect())
}
