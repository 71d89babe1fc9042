//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT loads a file with wrong tensor names as the bare base model, with no more than a warning. Here a name that does
//! not fit, and a missing half of a pair, are errors.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::{Error, LoraSpec, Result, Targets, targets::is_glob};

/// File name of the settings.
pub const CONFIG: &str = "adapter_config.json";
/// File name of the tensors.
pub const MODEL: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Writes an adapter. `params` are `{projection}.lora_A` (r, in) and `{projection}.lora_B` (out, r); `base_name` is the
/// model's name or path as PEFT should find it.
///
/// Files are written under temporary names and renamed, the settings last.
///
/// # Errors
/// Names or shapes that do not fit the settings, or a file that cannot be written.
pub fn save(
    dir: &Path,
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    base_name: &str,
) -> Result<()> {
    spec.check()?;
    let pairs = pairs(params, "the adapter to save")?;
    check_ranks(spec, params, "the adapter to save")?;
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let tensors: HashMap<String, Tensor> = params
        .iter()
        .map(|(name, t)| {
            Ok((
                format!("{PREFIX}{name}.weight"),
                t.to_dtype(DType::F32)?.contiguous()?,
            ))
        })
        .collect::<Result<_>>()?;
    let bytes = to_bytes(tensors)?;
    write_atomic(&dir.join(MODEL), &bytes)?;
    let config = config(spec, &pairs, base_name);
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::rule(e.to_string()))?;
    write_atomic(&dir.join(CONFIG), (text + "\n").as_bytes())
}

/// Reads an adapter: its settings, and its tensors by our names (`{projection}.lora_A`, `.lora_B`), in f32.
///
/// # Errors
/// A file that is missing or damaged; settings that we cannot honour (DoRA, rank patterns, …); a tensor name that is not
/// `base_model.model.{projection}.lora_{A,B}.weight`; half a pair; a shape that does not fit the rank. Each names the file.
pub fn load(dir: &Path) -> Result<(LoraSpec, BTreeMap<String, Tensor>)> {
    let path = dir.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let config: Value = serde_json::from_str(&text)
        .map_err(|e| Error::rule(format!("{}: not JSON: {e}", path.display())))?;
    let spec = spec(&config, &path)?;
    let path = dir.join(MODEL);
    let place = path.display().to_string();
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let params = from_bytes(&bytes, &place)?;
    let pairs = pairs(&params, &place)?;
    check_ranks(&spec, &params, &place)?;
    if let Some(stray) = pairs.iter().find(|p| !spec.wants(p)) {
        return Err(Error::rule(format!(
            "{place} adapts {stray}, which the target_modules of {CONFIG} do not cover"
        )));
    }
    Ok((spec, params))
}

/// Holds an adapter's tensors against the projections of a base, each (name, inputs, outputs).
///
/// # Errors
/// The first wanted projection without a pair, the first tensor of an unknown projection, the first shape that does not fit.
pub fn fits(
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    projections: &[(String, usize, usize)],
) -> Result<()> {
    let have = pairs(params, "the adapter")?;
    for (name, inputs, outputs) in projections.iter().filter(|(name, ..)| spec.wants(name)) {
        let (a, b) = match (
            params.get(&format!("{name}.lora_A")),
            params.get(&format!("{name}.lora_B")),
        ) {
            (Some(a), Some(b)) => (a, b),
            _ => {
                return Err(Error::rule(format!(
                    "the adapter has no {name}.lora_A, which its targets ask for"
                )));
            }
        };
        let want = ([spec.rank, *inputs], [*outputs, spec.rank]);
        if a.dims() != want.0 || b.dims() != want.1 {
            return Err(Error::rule(format!(
                "{name}: the base wants A {:?} and B {:?}, the adapter has {:?} and {:?}",
                want.0,
                want.1,
                a.dims(),
                b.dims()
            )));
        }
    }
    match have
        .iter()
        .find(|p| !projections.iter().any(|(name, ..)| name == *p))
    {
        Some(stray) => Err(Error::rule(format!(
            "the adapter has {stray}.lora_A, but the base has no projection {stray}"
        ))),
        None => Ok(()),
    }
}

fn config(spec: &LoraSpec, pairs: &BTreeSet<String>, base_name: &str) -> Value {
    let last = |name: &String| name.rsplit('.').next().unwrap_or(name).to_string();
    let targets = match &spec.targets {
        Targets::Regex(text) => json!(text),
        // PEFT has no globs: the whole names say the same
        Targets::Names(names) if names.iter().any(|n| is_glob(n)) => json!(pairs),
        Targets::Names(names) => json!(names),
        Targets::AllLinear => json!(pairs.iter().map(last).collect::<BTreeSet<_>>()),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": spec.rank,
        "lora_alpha": number(spec.alpha),
        "lora_dropout": shortest(spec.dropout),
        "target_modules": targets,
        "bias": "none",
        "use_rslora": spec.rslora,
        "use_dora": false,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
    })
}

/// 0.1, not 0.10000000149011612.
fn shortest(v: f32) -> f64 {
    v.to_string().parse().unwrap_or(f64::from(v))
}

/// PEFT declares lora_alpha a whole number; a fractional one is kept.
fn number(alpha: f64) -> Value {
    if alpha.fract() == 0.0 && alpha.abs() < 1e15 {
        json!(alpha as i64)
    } else {
        json!(alpha)
    }
}

fn spec(config: &Value, path: &Path) -> Result<LoraSpec> {
    let place = path.display();
    let bad = |what: String| Error::rule(format!("{place}: {what}"));
    let kind = config
        .get("peft_type")
        .and_then(Value::as_str)
        .unwrap_or("");
    if kind != "LORA" {
        return Err(bad(format!("peft_type must be \"LORA\", not {kind:?}")));
    }
    for key in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"] {
        if config.get(key).and_then(Value::as_bool).unwrap_or(false) {
            return Err(bad(format!("{key} is not supported")));
        }
    }
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "exclude_modules",
    ] {
        let set = match config.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if set {
            return Err(bad(format!("{key} is not supported")));
        }
    }
    if let Some(bias) = config
        .get("bias")
        .and_then(Value::as_str)
        .filter(|b| *b != "none")
    {
        return Err(bad(format!("bias must be \"none\", not {bias:?}")));
    }
    let rank = config
        .get("r")
        .and_then(Value::as_u64)
        .ok_or_else(|| bad("r must be a whole number".into()))?;
    let alpha = config
        .get("lora_alpha")
        .and_then(Value::as_f64)
        .ok_or_else(|| bad("lora_alpha must be a number".into()))?;
    let targets = config
        .get("target_modules")
        .and_then(|t| serde_json::from_value::<Targets>(t.clone()).ok())
        .ok_or_else(|| bad("target_modules must be a list of names or a text".into()))?;
    let spec = LoraSpec {
        rank: usize::try_from(rank).map_err(|e| bad(e.to_string()))?,
        alpha,
        rslora: config
            .get("use_rslora")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        dropout: config
            .get("lora_dropout")
            .and_then(Value::as_f64)
            .unwrap_or(0.0) as f32,
        targets,
    };
    spec.check().map_err(|e| bad(e.to_string()))?;
    Ok(spec)
}

/// The projections, each of which must have both halves and nothing else.
fn pairs(params: &BTreeMap<String, Tensor>, place: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for name in params.keys() {
        let (projection, other) = match (name.strip_suffix(".lora_A"), name.strip_suffix(".lora_B"))
        {
            (Some(p), _) => (p, "lora_B"),
            (_, Some(p)) => (p, "lora_A"),
            _ => {
                return Err(Error::rule(format!(
                    "{place}: {name} is no adapter tensor (names end in lora_A or lora_B)"
                )));
            }
        };
        if !params.contains_key(&format!("{projection}.{other}")) {
            return Err(Error::rule(format!(
                "{place} has {name} but not {projection}.{other}"
            )));
        }
        found.insert(projection.to_string());
    }
    if found.is_empty() {
        return Err(Error::rule(format!("{place} holds no adapter tensors")));
    }
    Ok(found)
}

fn check_ranks(spec: &LoraSpec, params: &BTreeMap<String, Tensor>, place: &str) -> Result<()> {
    for (name, t) in params {
        let axis = usize::from(name.ends_with(".lora_B"));
        if t.dims().len() != 2 || t.dims()[axis] != spec.rank {
            let want = if axis == 0 {
                "(rank, inputs)"
            } else {
                "(outputs, rank)"
            };
            return Err(Error::rule(format!(
                "{place}: {name} must have the shape {want} with rank {}, not {:?}",
                spec.rank,
                t.dims()
            )));
        }
    }
    Ok(())
}

fn to_bytes(tensors: HashMap<String, Tensor>) -> Result<Vec<u8>> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| Error::rule(format!("the adapter cannot be written: {e}")))
}

fn from_bytes(bytes: &[u8], place: &str) -> Result<BTreeMap<String, Tensor>> {
    let file = safetensors::SafeTensors::deserialize(bytes)
        .map_err(|e| Error::rule(format!("{place} is damaged or no safetensors file: {e}")))?;
    let mut params = BTreeMap::new();
    for (name, view) in file.tensors() {
        let short = name
            .strip_prefix(PREFIX)
            .and_then(|n| n.strip_suffix(".weight"))
            .filter(|n| n.ends_with(".lora_A") || n.ends_with(".lora_B"))
            .ok_or_else(|| {
                Error::rule(format!(
                    "{place}: the tensor name {name} does not fit; PEFT's are {PREFIX}PROJECTION.lora_A.weight and .lora_B.weight"
                ))
            })?;
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => {
                return Err(Error::rule(format!(
                    "{place}: {name} is {other:?}; adapters are F32, F16 or BF16"
                )));
            }
        };
        let t = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?
            .to_dtype(DType::F32)?;
        params.insert(short.to_string(), t);
    }
    Ok(params)
}

fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("partial");
    let mut file = fs::File::create(&temporary).map_err(Error::io(&temporary))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(Error::io(&temporary))?;
    fs::rename(&temporary, path).map_err(Error::io(path))
}
