//! `adapter_config.json` and [`LoraSpec`].

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{LoraSpec, Targets, targets::is_glob};

type Read<T> = std::result::Result<T, String>;

/// Settings whose effect we do not have: true, or anything but empty, is refused.
const UNKNOWN: [&str; 9] = [
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
];
/// Ways to begin that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ) take the start out of the base's
/// weights, so that the file alone does not say what the model computes.
const HARMLESS_STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

pub(super) fn write(spec: &LoraSpec, pairs: &BTreeSet<String>, base_name: &str) -> Value {
    let last = |name: &String| name.rsplit('.').next().unwrap_or(name).to_string();
    // PEFT has no globs: the whole names say the same
    let names = |targets: &Targets| match targets {
        Targets::Regex(text) => json!(text),
        Targets::Names(names) if names.iter().any(|n| is_glob(n)) => json!(pairs),
        Targets::Names(names) => json!(names),
        Targets::AllLinear => json!(pairs.iter().map(last).collect::<BTreeSet<_>>()),
    };
    // an excluding glob is in the names already
    let excluding = spec.exclude.as_ref().filter(|e| match e {
        Targets::Names(names) => !names.iter().any(|n| is_glob(n)),
        _ => true,
    });
    let targets = match (&spec.exclude, excluding) {
        (Some(_), None) => json!(pairs),
        _ => names(&spec.targets),
    };
    let ranks: Map<String, Value> = spec
        .rank_pattern
        .iter()
        .map(|(key, rank)| (key.clone(), json!(rank)))
        .collect();
    let alphas: Map<String, Value> = spec
        .alpha_pattern
        .iter()
        .map(|(key, alpha)| (key.clone(), number(*alpha)))
        .collect();
    let saved = (!spec.modules_to_save.is_empty()).then_some(&spec.modules_to_save);
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": spec.rank,
        "lora_alpha": number(spec.alpha),
        "lora_dropout": shortest(spec.dropout),
        "target_modules": targets,
        "exclude_modules": excluding.map(names),
        "bias": "none",
        "use_rslora": spec.rslora,
        "use_dora": spec.dora,
        "modules_to_save": saved,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
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

/// The settings, and the layers they are limited to, if any.
pub(super) fn read(config: &Value) -> Read<(LoraSpec, Option<Vec<u64>>)> {
    let kind = config
        .get("peft_type")
        .and_then(Value::as_str)
        .unwrap_or("");
    if kind != "LORA" {
        return Err(format!("peft_type must be \"LORA\", not {kind:?}"));
    }
    supported(config)?;
    let rank = config.get("r").and_then(Value::as_u64);
    let rank = rank.ok_or("r must be a whole number")?;
    let alpha = config.get("lora_alpha").and_then(Value::as_f64);
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    let spec = LoraSpec {
        rank: usize::try_from(rank).map_err(|e| e.to_string())?,
        alpha: alpha.ok_or("lora_alpha must be a number")?,
        rslora: flag("use_rslora"),
        dropout: config
            .get("lora_dropout")
            .and_then(Value::as_f64)
            .unwrap_or(0.0) as f32,
        targets: targets(config, "target_modules")?
            .ok_or("target_modules must be a list of names or a text")?,
        exclude: targets(config, "exclude_modules")?,
        rank_pattern: pattern(config, "rank_pattern", |v| {
            v.as_u64().and_then(|r| usize::try_from(r).ok())
        })?,
        alpha_pattern: pattern(config, "alpha_pattern", Value::as_f64)?,
        dora: flag("use_dora"),
        modules_to_save: match config.get("modules_to_save") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => serde_json::from_value(list.clone())
                .map_err(|_| "modules_to_save must be a list of names")?,
        },
    };
    spec.check().map_err(|e| e.to_string())?;
    let layers = match config.get("layers_to_transform") {
        None | Some(Value::Null) => None,
        Some(Value::Number(n)) => n.as_u64().map(|n| vec![n]),
        Some(list) => Some(
            serde_json::from_value::<Vec<u64>>(list.clone())
                .map_err(|_| "layers_to_transform must be a list of layer numbers")?,
        )
        .filter(|l| !l.is_empty()),
    };
    Ok((spec, layers))
}

fn supported(config: &Value) -> Read<()> {
    let set = |key: &str| match config.get(key) {
        None | Some(Value::Null) | Some(Value::Bool(false)) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if let Some(key) = UNKNOWN.iter().find(|key| set(key)) {
        return Err(format!("{key} is not supported"));
    }
    if let Some(start) = config.get("init_lora_weights").and_then(Value::as_str)
        && !HARMLESS_STARTS.contains(&start)
    {
        return Err(format!(
            "init_lora_weights {start:?} changed the base's weights; convert the adapter to a plain LoRA first (save_pretrained with path_initial_model_for_weight_conversion)"
        ));
    }
    match config
        .get("bias")
        .and_then(Value::as_str)
        .filter(|b| *b != "none")
    {
        Some(bias) => Err(format!("bias must be \"none\", not {bias:?}")),
        None => Ok(()),
    }
}

fn targets(config: &Value, key: &str) -> Read<Option<Targets>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) if list.is_empty() && key != "target_modules" => Ok(None),
        Some(value) => serde_json::from_value::<Targets>(value.clone())
            .map(Some)
            .map_err(|_| format!("{key} must be a list of names or a text")),
    }
}

fn pattern<T>(
    config: &Value,
    key: &str,
    value: impl Fn(&Value) -> Option<T>,
) -> Read<Vec<(String, T)>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, v)| {
                let v = value(v).ok_or_else(|| format!("{key}: {name} has {v}, not a number"))?;
                Ok((name.clone(), v))
            })
            .collect(),
        Some(other) => Err(format!(
            "{key} must map patterns to numbers, not be {other}"
        )),
    }
}

/// With `layers_to_transform` the targets are what the file holds, in just those layers.
pub(super) fn narrow_to(spec: &mut LoraSpec, layers: &[u64], pairs: &BTreeSet<String>) -> Read<()> {
    let layer = |name: &str| name.split('.').find_map(|part| part.parse::<u64>().ok());
    if let Some(stray) = pairs
        .iter()
        .find(|p| !layer(p).is_some_and(|l| layers.contains(&l)))
    {
        return Err(format!(
            "{stray} is in none of the layers of layers_to_transform"
        ));
    }
    if let Some(missing) = layers
        .iter()
        .find(|l| !pairs.iter().any(|p| layer(p) == Some(**l)))
    {
        return Err(format!(
            "it has nothing for layer {missing}, which layers_to_transform names"
        ));
    }
    spec.targets = Targets::Names(pairs.iter().cloned().collect());
    Ok(())
}
