//! mlx-lm's adapter folder: `adapter_config.json` and `adapters.safetensors`.
//!
//! mlx-lm computes `x·lora_a·lora_b`, so its matrices are A and B transposed. It has one rank and
//! one factor for a whole adapter: smaller updates are padded with zeros and other factors go into
//! B, which changes no product.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use candle_core::{DType, Tensor};
use serde_json::{Value, json};

use crate::{
    Error, LoraSpec, Projection, Result, Targets, finite,
    peft::{self, CONFIG, complete, config, json as typed, tensors},
};

/// File name of the tensors.
pub const MODEL: &str = "adapters.safetensors";
/// mlx-lm's names of the parts, and ours.
const PARTS: [(&str, &str); 3] = [
    ("lora_a", "lora_A"),
    ("lora_b", "lora_B"),
    ("m", "lora_magnitude_vector"),
];
/// What mlx-lm puts before the names of a model's text part.
const TEXT_PART: &str = "language_model.";

/// Whether the adapter in this folder is mlx-lm's rather than PEFT's.
pub fn is_in(dir: &Path) -> bool {
    dir.join(MODEL).exists() && !dir.join(peft::MODEL).exists()
}

/// Writes an adapter; `params` as [`peft::save`] takes them. `projections` are all those of the
/// base, which mlx-lm counts layers of from the end; `base_name` is its name or path.
///
/// # Errors
/// What mlx-lm's adapters cannot hold: modules trained in full or replaced, experts, a head that
/// shares the embedding's weight. Names or shapes that do not fit the settings, or a file that
/// cannot be written.
pub fn save(
    dir: &Path,
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    projections: &[Projection],
    base_name: &str,
) -> Result<()> {
    spec.check()?;
    let pairs = complete(spec, params, "the adapter to save")?;
    refuse_inexpressible(spec, params, &pairs, projections)?;
    let rank = pairs.iter().map(|p| spec.rank_of(p)).max();
    let rank = rank.unwrap_or(spec.rank);
    let factor = common_factor(spec, &pairs);
    let mut all = HashMap::new();
    for name in &pairs {
        let Some(update) = spec.update(params, name) else {
            continue; // `complete` found all parts
        };
        let missing = rank - update.a.dim(0)?;
        let a = update.a.to_dtype(DType::F32)?;
        let a = a.pad_with_zeros(0, 0, missing)?.t()?.contiguous()?;
        let b = update.b.to_dtype(DType::F32)?;
        let mut b = b.pad_with_zeros(1, 0, missing)?.t()?.contiguous()?;
        if update.scale != factor {
            b = (b * (update.scale / factor))?;
        }
        let parts = [Some(a), Some(b), update.magnitude];
        for ((theirs, _), tensor) in PARTS.into_iter().zip(parts) {
            let tensor = tensor.map(|t| t.to_dtype(DType::F32)).transpose()?;
            all.extend(tensor.map(|t| (format!("{name}.{theirs}"), t)));
        }
    }
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let metadata = HashMap::from([("format".to_string(), "mlx".to_string())]);
    let bytes = safetensors::serialize(all, Some(metadata))
        .map_err(|e| Error::rule(format!("the adapter cannot be written: {e}")))?;
    tensors::write_atomic(&dir.join(MODEL), &bytes)?;
    let (keys, layers) = reach(&pairs, projections);
    let settings = json!({
        "fine_tune_type": if spec.dora { "dora" } else { "lora" },
        "model": base_name,
        "num_layers": layers,
        "lora_parameters": {
            "rank": rank,
            "scale": factor,
            "dropout": config::shortest(spec.dropout),
            "keys": keys,
        },
    });
    let text = serde_json::to_string_pretty(&settings).map_err(|e| Error::rule(e.to_string()))?;
    tensors::write_atomic(&dir.join(CONFIG), (text + "\n").as_bytes())
}

fn refuse_inexpressible(
    spec: &LoraSpec,
    params: &BTreeMap<String, Tensor>,
    pairs: &BTreeSet<String>,
    projections: &[Projection],
) -> Result<()> {
    if let Some(whole) = params.keys().find(|name| !peft::is_update(name)) {
        return Err(Error::rule(format!(
            "mlx-lm's adapters hold updates only, and {whole} is trained in full or replaced: export the player merged"
        )));
    }
    if let Some(saved) = spec.modules_to_save.first() {
        return Err(Error::rule(format!(
            "mlx-lm's adapters hold updates only, and modules_to_save names {saved}: export the player merged"
        )));
    }
    if let Some(expert) = pairs.iter().find(|p| p.contains(".experts.")) {
        return Err(Error::rule(format!(
            "mlx-lm stacks the experts of a layer, for which adapters are not written: the update of {expert} can be \
             exported merged or as a PEFT adapter"
        )));
    }
    let tied = projections
        .iter()
        .find(|p| p.weight != p.name && p.names().any(|name| pairs.contains(name)));
    match tied {
        Some(head) => Err(Error::rule(format!(
            "{} shares the embedding's weight, and mlx-lm would update both: export the player merged or as a PEFT adapter",
            head.name
        ))),
        None => Ok(()),
    }
}

/// The factor of all updates; 1 where they have several.
fn common_factor(spec: &LoraSpec, pairs: &BTreeSet<String>) -> f64 {
    let mut factors = pairs.iter().map(|p| spec.scale_of(p));
    match factors.next() {
        Some(first) if factors.all(|factor| factor == first) => first,
        _ => 1.0,
    }
}

/// Number of the layer that a module lies in, and its name in there.
fn in_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.split_once(".layers.")?.1.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// The names of updated modules within their layers, and how many layers, counted from the last
/// one, have any. mlx-lm makes an update of each such module there; what the file has nothing for
/// stays at 0.
fn reach(pairs: &BTreeSet<String>, projections: &[Projection]) -> (BTreeSet<String>, usize) {
    let layers = projections.iter().filter_map(|p| in_layer(&p.name));
    let layers = layers.map(|(layer, _)| layer + 1).max().unwrap_or(1);
    let first = pairs.iter().filter_map(|p| in_layer(p)).map(|(l, _)| l);
    let first = first.min().unwrap_or(layers - 1);
    let keys = pairs
        .iter()
        .map(|p| in_layer(p).map_or(p.as_str(), |(_, key)| key).to_string());
    (keys.collect(), layers.saturating_sub(first).max(1))
}

/// Reads an adapter, as [`peft::load`] does, whose targets are the full names of its projections.
///
/// # Errors
/// A missing or damaged file; a model trained in full, updates of embeddings or of stacked experts;
/// a name that is not mlx-lm's; a value that is not finite; an incomplete pair; a shape that does
/// not fit the rank. Each names the file.
pub fn load(dir: &Path) -> Result<(LoraSpec, BTreeMap<String, Tensor>)> {
    let path = dir.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let stored: Value = serde_json::from_str(&text)
        .map_err(|e| Error::rule(format!("{}: not JSON: {e}", path.display())))?;
    let mut spec =
        settings(&stored).map_err(|what| Error::rule(format!("{}: {what}", path.display())))?;
    let path = dir.join(MODEL);
    let place = path.display().to_string();
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let params = read(&bytes, &place)?;
    let magnitude = params.keys().find(|name| name.ends_with(PARTS[2].1));
    if let (Some(name), false) = (magnitude, spec.dora) {
        return Err(Error::rule(format!(
            "{place} has {name}, but the fine_tune_type of {CONFIG} is not \"dora\""
        )));
    }
    let pairs = peft::projections(&params);
    spec.targets = Targets::Names(pairs.into_iter().collect());
    complete(&spec, &params, &place)?;
    Ok((spec, params))
}

/// The settings; targets follow from the tensors.
fn settings(stored: &Value) -> std::result::Result<LoraSpec, String> {
    let stored = stored.as_object().ok_or("it must be a JSON object")?;
    let kind = stored.get("fine_tune_type").unwrap_or(&Value::Null);
    let dora = match kind.as_str() {
        None if kind.is_null() => false,
        Some("lora") => false,
        Some("dora") => true,
        _ => {
            return Err(format!(
                "fine_tune_type must be \"lora\" or \"dora\", not {kind}: a model trained in full is written by mlx_lm.fuse"
            ));
        }
    };
    let given = stored.get("lora_parameters").and_then(Value::as_object);
    let given = given.ok_or("lora_parameters must be an object with rank and scale")?;
    let needed = |key: &str| -> std::result::Result<&Value, String> {
        let value = given.get(key).filter(|v| !v.is_null());
        value.ok_or_else(|| format!("lora_parameters has no {key}"))
    };
    let rank = typed::count("rank", needed("rank")?)?;
    let scale = typed::number("scale", needed("scale")?)?;
    let spec = LoraSpec {
        rank,
        alpha: scale * rank as f64,
        dropout: typed::or(given, "dropout", 0.0, typed::number)? as f32,
        dora,
        ..LoraSpec::default()
    };
    spec.check().map_err(|e| e.to_string())?;
    Ok(spec)
}

fn read(bytes: &[u8], place: &str) -> Result<BTreeMap<String, Tensor>> {
    let file = safetensors::SafeTensors::deserialize(bytes)
        .map_err(|e| Error::rule(format!("{place} is damaged or no safetensors file: {e}")))?;
    let mut params = BTreeMap::new();
    for (name, view) in file.tensors() {
        let wrong = |why: &str| Err(Error::rule(format!("{place}: {name} {why}")));
        let bare = name.strip_prefix(TEXT_PART).unwrap_or(&name);
        let part = bare.rsplit_once('.').and_then(|(module, part)| {
            let known = PARTS.into_iter().find(|(theirs, _)| *theirs == part)?;
            Some((module, known.1))
        });
        let Some((module, part)) = part else {
            return wrong("does not fit; mlx-lm's names are PROJECTION.lora_a, .lora_b and .m");
        };
        if module.ends_with("embed_tokens") {
            return wrong(
                "is an update of the embedding: fuse it with mlx_lm.fuse and load the model",
            );
        }
        let tensor = tensors::in_f32(&view, &name, place)?;
        let tensor = match tensor.rank() {
            1 => tensor,
            2 => tensor.t()?.contiguous()?,
            _ => {
                return wrong("is of stacked experts: fuse it with mlx_lm.fuse and load the model");
            }
        };
        let own = format!("{module}.{part}");
        finite(&own, &tensor).map_err(|e| Error::rule(format!("{place}: {e}")))?;
        if params.insert(own.clone(), tensor).is_some() {
            return Err(Error::rule(format!("{place} has two tensors for {own}")));
        }
    }
    Ok(params)
}
