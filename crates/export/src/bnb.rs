//! A bitsandbytes 4-bit checkpoint: the folder that transformers' `save_pretrained` writes of a model loaded in NF4.
//!
//! The blocks' projections are quantised as `qlora` does it, with bitsandbytes' own bytes; embedding, head, norms and biases
//! stay dense, as transformers leaves them. Files are written one tensor at a time, so every size is known beforehand: the
//! JSON of a projection's `quant_state` is filled up with spaces, which also keeps the data aligned.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use candle_core::Tensor;
use half::{bf16, f16};
use randori_engine::weights::Dtype;
use randori_qlora::{Nf4Parts, Nf4Scales, QuantMatrix};
use serde_json::{Map, Value, json};

use crate::{
    Companion, Error, Result, Tensors,
    config::{config_json, dtype_name},
    fidelity::Each,
    folder::{Draft, generation, refuse_taken},
};

/// How a checkpoint is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BnbOptions {
    /// Quantise the scales too (bitsandbytes' double quantisation).
    pub double: bool,
    /// Of what is not quantised, and what transformers will compute in.
    pub dtype: Dtype,
    /// Largest weight file.
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

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BnbReport {
    /// Weight files, in order.
    pub files: Vec<String>,
    /// Weights, however many tensors the format makes of them.
    pub tensors: usize,
    /// Those of them that are in 4 bits.
    pub quantised: usize,
    /// All weight bytes.
    pub bytes: u64,
}

/// Writes `tensors` as a bitsandbytes folder. `each` sees every weight before it is written, with a function that takes
/// values of its shape through the format; `progress` hears of bytes done and bytes in all.
///
/// # Errors
/// A folder that is there already, a value that is not finite or beyond f16, what `each` refuses, a full disk; nothing is
/// left behind then.
pub fn bnb(
    tensors: &dyn Tensors,
    companions: &[Companion],
    out: &Path,
    options: &BnbOptions,
    each: &mut Each,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BnbReport> {
    refuse_taken(out)?;
    tensors.check()?;
    let weights: Vec<Planned> = planned(tensors.list(), options);
    let quantised = weights.iter().filter(|w| w.quantised).count();
    let files = files(&weights, options.shard_bytes.max(1));
    let draft = Draft::begin(out)?;
    for companion in companions {
        draft.add(companion)?;
    }
    let config = config(&tensors.config(), options)?;
    if !draft.dir.join("generation_config.json").exists() {
        draft.json("generation_config.json", &generation(&config))?;
    }
    draft.json("config.json", &config)?;
    let total = weights.iter().map(Planned::bytes).sum();
    if files.len() > 1 {
        draft.json("model.safetensors.index.json", &index(&files, total))?;
    }
    let mut done = 0;
    for (file, group) in &files {
        let mut writer = Writer::create(&draft.dir.join(file), group)?;
        for weight in *group {
            let merged = tensors.read(&weight.name)?;
            each(&weight.name, &merged, &|values| {
                through(weight, values, options)
            })?;
            writer.write(&bytes(weight, &merged.weight, options)?)?;
            done += weight.bytes();
            progress(done, total);
        }
        writer.finish()?;
    }
    draft.publish(out)?;
    Ok(BnbReport {
        files: files.into_iter().map(|(name, _)| name).collect(),
        tensors: weights.len(),
        quantised,
        bytes: total,
    })
}

/// `config.json` as transformers writes it for such a model.
fn config(base: &Value, options: &BnbOptions) -> Result<Value> {
    let mut config = config_json(base, options.dtype)?;
    config["quantization_config"] = json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": dtype_name(options.dtype),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": options.double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    });
    Ok(config)
}

/// Weights that share a scale, and scales that do.
const BLOCK: usize = 64;
const NESTED: usize = 256;
/// Room for the JSON of `quant_state`, which has at most about 220 bytes.
const STATE: usize = 256;

/// A weight to come.
struct Planned {
    name: String,
    shape: Vec<usize>,
    quantised: bool,
    /// The tensors it becomes, in the order of their bytes.
    parts: Vec<Part>,
}

struct Part {
    name: String,
    tag: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

impl Planned {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.bytes).sum()
    }
}

/// Quantised weights first: their parts are multiples of 8 bytes together, so every tensor begins aligned.
fn planned(list: Vec<(String, Vec<usize>)>, options: &BnbOptions) -> Vec<Planned> {
    let plan = |(name, shape): (String, Vec<usize>)| {
        let quantised = shape.len() == 2 && name.contains(".layers.") && name.ends_with(".weight");
        let count: usize = shape.iter().product();
        let parts = if quantised {
            quantised_parts(&name, count, options.double)
        } else {
            let (tag, width) = match options.dtype {
                Dtype::F32 => ("F32", 4),
                Dtype::Bf16 => ("BF16", 2),
                Dtype::F16 => ("F16", 2),
            };
            vec![Part {
                name: name.clone(),
                tag,
                shape: shape.clone(),
                bytes: width * count as u64,
            }]
        };
        Planned {
            name,
            shape,
            quantised,
            parts,
        }
    };
    let mut all: Vec<Planned> = list.into_iter().map(plan).collect();
    all.sort_by(|a, b| (!a.quantised, &a.name).cmp(&(!b.quantised, &b.name)));
    all
}

fn quantised_parts(name: &str, count: usize, double: bool) -> Vec<Part> {
    let part = |suffix: &str, tag: &'static str, shape: Vec<usize>| Part {
        name: format!("{name}{suffix}"),
        tag,
        bytes: (if tag == "F32" { 4 } else { 1 }) * shape.iter().product::<usize>() as u64,
        shape,
    };
    let blocks = count.div_ceil(BLOCK);
    let mut parts = vec![part(".quant_map", "F32", vec![16])];
    if double {
        let nested = blocks.div_ceil(NESTED);
        parts.push(part(".nested_quant_map", "F32", vec![256]));
        parts.push(part(".nested_absmax", "F32", vec![nested]));
    } else {
        parts.push(part(".absmax", "F32", vec![blocks]));
    }
    parts.push(part("", "U8", vec![count.div_ceil(2), 1]));
    if double {
        parts.push(part(".absmax", "U8", vec![blocks]));
    }
    let so_far = parts.iter().map(|p| p.bytes).sum::<u64>() as usize;
    let state = (so_far + STATE).next_multiple_of(8) - so_far;
    parts.push(part(".quant_state.bitsandbytes__nf4", "U8", vec![state]));
    parts
}

/// Which weights go into which file: at most `limit` bytes each (a larger weight gets its own), parts never apart.
fn files(weights: &[Planned], limit: u64) -> Vec<(String, &[Planned])> {
    let (mut groups, mut first, mut size) = (Vec::new(), 0, 0);
    for (i, weight) in weights.iter().enumerate() {
        if size > 0 && size + weight.bytes() > limit {
            groups.push(&weights[first..i]);
            (first, size) = (i, 0);
        }
        size += weight.bytes();
    }
    groups.push(&weights[first..]);
    let count = groups.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    groups
        .into_iter()
        .enumerate()
        .map(|(i, g)| (name(i), g))
        .collect()
}

fn index(files: &[(String, &[Planned])], total: u64) -> Value {
    let parts = files.iter().flat_map(|(file, group)| {
        let parts = group.iter().flat_map(|w| &w.parts);
        parts.map(move |p| (p.name.clone(), json!(file)))
    });
    let map: Map<String, Value> = parts.collect();
    json!({"metadata": {"total_size": total}, "weight_map": map})
}

/// A weight's bytes, part after part.
fn bytes(weight: &Planned, values: &Tensor, options: &BnbOptions) -> Result<Vec<u8>> {
    if values.dims() != weight.shape {
        return Err(Error::rule(format!(
            "{} has the shape {:?}, {:?} was announced",
            weight.name,
            values.dims(),
            weight.shape
        )));
    }
    if !weight.quantised {
        let values = values.flatten_all()?.to_vec1::<f32>()?;
        return dense(&weight.name, &values, options.dtype);
    }
    let matrix = quantise(&weight.name, values, options.double)?;
    let QuantMatrix::Nf4(matrix) = &matrix else {
        return Err(Error::rule(format!("{} is not in NF4", weight.name)));
    };
    let parts = matrix.parts();
    let mut out = Vec::with_capacity(weight.bytes() as usize);
    let floats = |out: &mut Vec<u8>, v: &[f32]| out.extend(v.iter().flat_map(|v| v.to_le_bytes()));
    floats(&mut out, &parts.levels);
    match &parts.scales {
        Nf4Scales::Plain(scales) => {
            floats(&mut out, scales);
            out.extend(&parts.codes);
        }
        Nf4Scales::Double {
            codes, scales, map, ..
        } => {
            floats(&mut out, &map[..]);
            floats(&mut out, scales);
            out.extend(&parts.codes);
            out.extend(codes);
        }
    }
    out.extend(state(parts, options.dtype).as_bytes());
    let announced = weight.bytes() as usize;
    if out.len() > announced {
        return Err(Error::rule(format!(
            "{} takes {} bytes, {announced} were announced",
            weight.name,
            out.len()
        )));
    }
    out.resize(announced, b' '); // JSON ends in as many spaces as one likes
    Ok(out)
}

/// The JSON that bitsandbytes keeps beside a matrix; `dtype` is what it is dequantised to by default.
fn state(parts: &Nf4Parts, dtype: Dtype) -> String {
    let mut state = json!({
        "quant_type": "nf4",
        "blocksize": parts.block,
        "dtype": dtype_name(dtype),
        "shape": [parts.rows, parts.columns],
    });
    if let Nf4Scales::Double { offset, block, .. } = &parts.scales {
        state["nested_blocksize"] = json!(block);
        state["nested_dtype"] = json!("float32");
        state["nested_offset"] = json!(f64::from(*offset));
    }
    state.to_string()
}

fn quantise(name: &str, values: &Tensor, double: bool) -> Result<QuantMatrix> {
    QuantMatrix::nf4(values, double).map_err(|e| Error::rule(format!("{name}: {e}")))
}

/// Values as a reader of the checkpoint will see them.
fn through(weight: &Planned, values: &[f32], options: &BnbOptions) -> Result<Vec<f32>> {
    if weight.quantised {
        let values =
            Tensor::from_slice(values, weight.shape.as_slice(), &candle_core::Device::Cpu)?;
        let seen = quantise(&weight.name, &values, options.double)?
            .dequantise()
            .map_err(|e| Error::rule(format!("{}: {e}", weight.name)))?;
        return Ok(seen.flatten_all()?.to_vec1()?);
    }
    Ok(values
        .iter()
        .map(|&v| match options.dtype {
            Dtype::F32 => v,
            Dtype::Bf16 => bf16::from_f32(v).to_f32(),
            Dtype::F16 => f16::from_f32(v).to_f32(),
        })
        .collect())
}

fn dense(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>> {
    match dtype {
        Dtype::F32 => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Dtype::Bf16 => Ok(values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect()),
        Dtype::F16 => {
            let beyond = |v: &&f32| v.is_finite() && !f16::from_f32(**v).is_finite();
            if let Some(v) = values.iter().find(beyond) {
                return Err(Error::rule(format!(
                    "{name}: {v} is beyond f16; export as bf16 or f32"
                )));
            }
            Ok(values
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                .collect())
        }
    }
}

/// One file being written; weights must come in the order announced.
struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Writer {
    fn create(path: &Path, weights: &[Planned]) -> Result<Self> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        let mut at = 0;
        for part in weights.iter().flat_map(|w| &w.parts) {
            let end = at + part.bytes;
            header.insert(
                part.name.clone(),
                json!({"dtype": part.tag, "shape": part.shape, "data_offsets": [at, end]}),
            );
            at = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' '); // the data begins aligned
        let out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(Error::io(path))?);
        let mut writer = Self {
            path: path.to_path_buf(),
            out,
        };
        writer.write(&(header.len() as u64).to_le_bytes())?;
        writer.write(&header)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Waits until the file is on disk.
    fn finish(self) -> Result<()> {
        let file = self
            .out
            .into_inner()
            .map_err(|e| Error::io(&self.path)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&self.path))
    }
}
